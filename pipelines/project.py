"""The definitions of a project folder: `hedgerow.toml` beside `signals/*.py`, one definition a file.

Files whose names start with an underscore are helpers to import from (`from _sources import PLAYS`).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from governance.errors import ConfigError, DefinitionError, HedgerowError, UnknownSignal
from governance.settings import Settings
from pipelines.definitions import ContentEmbedding, Definition, Signal

__all__ = ["Project", "load_project"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """Everything that a project defines, in the order of its files.

    Attributes:
        settings: from hedgerow.toml.
        signals: differentially private signals.
        embeddings: item vectors from public facts.
    """

    settings: Settings
    signals: tuple[Signal, ...]
    embeddings: tuple[ContentEmbedding, ...]

    @property
    def definitions(self) -> tuple[Definition, ...]:
        """Signals, then embeddings."""
        return (*self.signals, *self.embeddings)

    def select(self, names: tuple[str, ...]) -> tuple[Definition, ...]:
        """The newest version of each named definition, or every one if no name is given.

        Raises:
            UnknownSignal: a name that nothing defines.
        """
        known = tuple(dict.fromkeys(definition.name for definition in self.definitions))
        for name in names:
            if name not in known:
                raise UnknownSignal(name, known)
        newest = {name: max(d.version for d in self.definitions if d.name == name) for name in known}
        return tuple(
            definition
            for definition in self.definitions
            if (not names or definition.name in names) and definition.version == newest[definition.name]
        )


def load_project(settings: Settings) -> Project:
    """Executes the project's definition files and collects what they define.

    Raises:
        ConfigError: no signals folder, or no definition in it.
        DefinitionError: a file that cannot be executed, or two definitions of one name and version.
    """
    folder = settings.signals_dir
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; put one definition a file there, or run 'hedgerow init DIR'")
    found: dict[tuple[str, int], Definition] = {}
    with _importable(folder):
        for path in sorted(folder.glob("*.py")):
            if path.name.startswith("_"):
                continue
            for definition in _definitions(path):
                same = found.setdefault((definition.name, definition.version), definition)
                if same is not definition:
                    raise DefinitionError(
                        definition.identity, f"defined twice, the second time in {path.name}; keep one or raise version"
                    )
    if not found:
        raise ConfigError(f"{folder}: no Signal or ContentEmbedding in any *.py; add one, or run 'hedgerow init DIR'")
    return Project(
        settings=settings,
        signals=tuple(d for d in found.values() if isinstance(d, Signal)),
        embeddings=tuple(d for d in found.values() if isinstance(d, ContentEmbedding)),
    )


def _definitions(path: Path) -> Iterator[Definition]:
    spec = importlib.util.spec_from_file_location(f"hedgerow_project_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise DefinitionError(path.name, "cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except HedgerowError:
        raise
    except Exception as error:  # noqa: BLE001 - a project file may fail in any way
        # A project's file may fail in any way; the person needs the file, the line and the reason, not our stack.
        line = _line_in(path, error)
        raise DefinitionError(path.name, f"line {line}: {type(error).__name__}: {error}") from None
    for value in vars(module).values():
        if isinstance(value, Signal | ContentEmbedding):
            yield value


def _line_in(path: Path, error: BaseException) -> int | str:
    if isinstance(error, SyntaxError):
        return error.lineno or "?"
    line: int | str = "?"
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Lets the files import their `_helpers`, and forgets those afterwards so that projects do not mix."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            origin = getattr(sys.modules[name], "__file__", None)
            if origin and Path(origin).parent == folder:
                del sys.modules[name]
