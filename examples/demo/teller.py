"""Announces the demo's acts on a terminal, shows their progress and keeps their seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.rule import Rule
from rich.status import Status

from pipelines.results import Stage

__all__ = ["ReleaseBar", "Teller"]

_WORDS = {
    Stage.RESERVE: "reserving its privacy loss",
    Stage.CHECK: "checking the input",
    Stage.DRAW: "recording the draw",
    Stage.WRITE: "bounding, summing, adding noise",
    Stage.PUBLISH: "publishing whole",
    Stage.COMMIT: "committing to the ledger",
    Stage.DONE: "done",
}


class Teller:
    """Tells acts to a console.

    Attributes:
        seconds: stage → how long it took.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}

    @contextmanager
    def act(self, stage: str, title: str) -> Iterator[Status]:
        """Shows a spinner while an act lasts."""
        with self._timed(stage, title), self.console.status(f"{stage} …") as status:
            yield status

    @contextmanager
    def releases(self, stage: str, title: str, total: int) -> Iterator[ReleaseBar]:
        """Shows a bar with a step for each release while an act lasts."""
        columns = (SpinnerColumn(), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
        words = TextColumn("{task.description}")
        with self._timed(stage, title), Progress(*columns, words, console=self.console, transient=True) as progress:
            yield ReleaseBar(progress, total)

    @contextmanager
    def _timed(self, stage: str, title: str) -> Iterator[None]:
        self.console.print()
        self.console.print(Rule(title, align="left", style="green"))
        started = time.monotonic()
        yield
        self.seconds[stage] = round(time.monotonic() - started, 3)


class ReleaseBar:
    """The progress of `pipelines.run` as a bar."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("starting Spark", total=total)

    def stage(self, subject: str, stage: Stage) -> None:
        """See `pipelines.results.Progress`."""
        step = 1 if stage is Stage.DONE else 0
        self._progress.update(self._task, advance=step, description=f"{subject}: {_WORDS[stage]}")
