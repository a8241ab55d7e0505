"""The audit log: who read which views, for what and by which rule; never an entity id, a value or a token.

One line of JSON a call, in the order in which calls ended. A thread of its own writes them, a hundredth of a second's
at a time, so that no call waits for the disk. What cannot be written is kept and tried again, and meanwhile the log is
not `ready`: the gate then lets no further call in, because a read without a line is one that nobody can account for. So
what is kept stays bounded, and no line of a call that was let in is lost while the process lives.

Several processes may write one file: each writes whole lines, one process at a time, and takes back what it could write
in part only. The file is opened for each turn, so it may be moved away (logrotate) without a signal.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from governance.errors import ConfigError

__all__ = ["AuditLog", "AuditRecord"]

_LOG: Final = logging.getLogger("hedgerow.serving")
_MOST_WAITING: Final = 10_000
_LINES: Final = 1_000
"""Of one turn."""
_GATHER_SECONDS: Final = 0.01
_RETRY_SECONDS: Final = 0.25
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
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(self._opened())
        except OSError as error:
            raise ConfigError(f"{path}: the audit log cannot be written ({error.strerror}); correct [audit]") from None
        self._records: deque[tuple[datetime, AuditRecord]] = deque()
        self._failing = False
        self._closing = threading.Event()
        self._come = threading.Event()
        self._writer = threading.Thread(target=self._write_all, name="audit", daemon=True)
        self._writer.start()

    @property
    def waiting(self) -> int:
        """Records that are not in the file yet."""
        return len(self._records)

    @property
    def ready(self) -> bool:
        """Whether further calls may be let in: the file takes what is written, and not too much waits for it."""
        return not self._failing and len(self._records) < _MOST_WAITING

    def write(self, record: AuditRecord) -> None:
        """Takes one record. Never waits: how many come is bounded by the calls that are let in, see `ready`."""
        self._records.append((datetime.now(UTC), record))
        if not self._come.is_set():
            self._come.set()

    def close(self) -> None:
        """Writes what was taken, as far as the file takes it. Idempotent."""
        self._closing.set()
        self._come.set()
        self._writer.join()

    def _write_all(self) -> None:
        while True:
            last = self._closing.is_set()
            self._come.wait()
            self._closing.wait(_GATHER_SECONDS)
            self._come.clear()
            self._write_waiting()
            if last:
                break
            if self._closing.is_set():
                self._come.set()
            elif self._failing:
                self._closing.wait(_RETRY_SECONDS)
                self._come.set()
        if self._records:
            _LOG.error("%s: the audit log was closed without %d lines", self._path, len(self._records))

    def _write_waiting(self) -> None:
        """Writes records until there are none, or the file does not take them."""
        records = self._records
        while records:
            taken = [records[place] for place in range(min(len(records), _LINES))]
            try:
                self._append("".join(_line(*one) for one in taken).encode())
            except Exception as error:  # noqa: BLE001 - whatever it is, no call goes on unrecorded
                if not self._failing:
                    reason = error.strerror if isinstance(error, OSError) else type(error).__name__
                    text = "%s: the audit log cannot be written (%s); calls are refused until it can"
                    _LOG.error(text, self._path, reason)
                self._failing = True
                return
            for _ in taken:
                records.popleft()
            if self._failing:
                _LOG.warning("%s: the audit log is written again", self._path)
            self._failing = False

    def _append(self, lines: bytes) -> None:
        """Adds lines to the file, all or none.

        Raises:
            OSError: none were added.
        """
        file = self._opened()
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            before = os.fstat(file).st_size
            try:
                rest = memoryview(lines)
                while rest:
                    rest = rest[os.write(file, rest) :]
            except OSError:
                with suppress(OSError):  # a device has no end to set
                    os.ftruncate(file, before)
                raise
        finally:
            os.close(file)

    def _opened(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


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
