"""What `hedgerow serve` logs: lines of text or JSON on stderr, and the same line not again and again."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

__all__ = ["JsonLines", "Seldom", "log_to_stderr"]

_INTERVAL_SECONDS: Final = 10.0
_REMEMBERED: Final = 100


class Seldom(logging.Filter):
    """Lets a message pass once in an interval: with the online store away, every request would say so.

    Args:
        interval_seconds: how long the same message is held back after it passed.
        clock: monotonic seconds.
    """

    def __init__(
        self, interval_seconds: float = _INTERVAL_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._interval = interval_seconds
        self._clock = clock
        self._passed: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record passes."""
        text, now = record.getMessage(), self._clock()
        if now - self._passed.get(text, -self._interval) < self._interval:
            return False
        if len(self._passed) >= _REMEMBERED:
            self._passed.clear()
        self._passed[text] = now
        return True


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message. Of an exception only its kind is told."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0]:
            line["exception"] = record.exc_info[0].__name__
        return json.dumps(line, ensure_ascii=False)


def log_to_stderr(form: str = "text") -> None:
    """Warnings of everything and what the server itself has to say, on stderr.

    Args:
        form: `"text"` or `"json"`.
    """
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if form == "json" else text)
    handler.addFilter(Seldom())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("hedgerow").setLevel(logging.INFO)
