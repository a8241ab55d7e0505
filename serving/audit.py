"""The audit log: who read which views, for what and by which rule; never an entity id, a value or a token.

One line of JSON a call, in the order in which calls ended. Lines are written by a thread of their own, so that a call
does not wait for the disk; when the file cannot keep up, calls do wait: no line is dropped while the process lives.
"""

from __future__ import annotations

import json
import queue
import re
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from governance.errors import ConfigError

__all__ = ["AuditLog", "AuditRecord"]

_MOST_WAITING: Final = 10_000
_NAME: Final = re.compile(r"[\w .:/@=,-]{0,200}")
_PURPOSE: Final = re.compile(r"[a-z_-]{0,64}")  # a purpose has no digits, an id has


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One call.

    Attributes:
        caller: its authenticated name; empty where nobody was.
        purpose: as the call stated it.
        method: `package.Service/Method`.
        resources: views, spaces or the catalogue that it asked for.
        rows: how many entities or queries.
        rule: which rule let it pass; empty where none did.
        code: the status that it ended with.
        seconds: from its beginning on a thread to its end.
    """

    caller: str
    purpose: str
    method: str
    resources: tuple[str, ...]
    rows: int
    rule: str
    code: str
    seconds: float


class AuditLog:
    """Appends records to a file. Use from many threads; `close` writes what is left.

    Args:
        path: the file, made with mode 0600 where it is not there.

    Raises:
        ConfigError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            self._stream = path.open("a", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: the audit log cannot be written ({error.strerror}); correct [audit]") from None
        self._records: queue.Queue[tuple[datetime, AuditRecord] | None] = queue.Queue(_MOST_WAITING)
        self._writer = threading.Thread(target=self._write_all, name="audit", daemon=True)
        self._writer.start()

    def write(self, record: AuditRecord) -> None:
        """Takes one record."""
        self._records.put((datetime.now(UTC), record))

    def close(self) -> None:
        """Writes what was taken, and closes the file. Idempotent."""
        if self._writer.is_alive():
            self._records.put(None)
            self._writer.join()
            self._stream.close()

    def _write_all(self) -> None:
        while (taken := self._records.get()) is not None:
            self._stream.write(_line(*taken))
            if self._records.empty():
                self._stream.flush()


def _line(at: datetime, record: AuditRecord) -> str:
    return (
        json.dumps(
            {
                "time": at.isoformat(timespec="milliseconds"),
                "caller": _told(record.caller, _NAME),
                "purpose": _told(record.purpose, _PURPOSE),
                "method": record.method,
                "resources": record.resources,
                "rows": record.rows,
                "rule": record.rule,
                "code": record.code,
                "milliseconds": round(record.seconds * 1000, 3),
            },
            separators=(",", ":"),
        )
        + "\n"
    )


def _told(text: str, form: re.Pattern[str]) -> str:
    """What a caller says of itself, if it has the form of a name."""
    return text if form.fullmatch(text) else "(not a name)"
