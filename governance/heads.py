"""Publishes signed tree heads to files outside the database: the ledger's own, and any number of witness folders.

Each file is append-only, one head a line (`governance.verify.heads`). Before anything is recorded, every file is held
against the database: a file that is ahead means that entries were lost, one that contradicts it means another history.
After a transaction its head is appended to every file that lacks it, so a crash in between is made good by the next
operation. Nothing is recorded while a witness cannot be written.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from governance.errors import ConfigError, LedgerCorrupt, LedgerError
from governance.files import sync_directory, write_atomic
from governance.keys import public_key_pem
from governance.verify.heads import TreeHead

__all__ = ["HEADS_FILE", "PUBLIC_KEY_FILE", "HeadFiles"]

HEADS_FILE = "ledger-heads.jsonl"
PUBLIC_KEY_FILE = "ledger.pub"
_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class HeadFiles:
    """Folders that heads are published to.

    Attributes:
        own: the ledger's own folder; made if absent.
        witnesses: folders that must be there: an unmounted disk must not look like an empty witness.
    """

    own: Path
    witnesses: tuple[Path, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file of heads, the ledger's own first."""
        return tuple(folder / HEADS_FILE for folder in (self.own, *self.witnesses))

    def newest(self) -> tuple[tuple[Path, TreeHead], ...]:
        """The newest head of every file that has one.

        Raises:
            LedgerCorrupt: a file's last line is not a head.
            LedgerError: a file cannot be read.
        """
        found = ((path, _newest(path)) for path in self.paths)
        return tuple((path, head) for path, head in found if head is not None)

    def check(self, ledger: str, head: TreeHead | None, newest: tuple[tuple[Path, TreeHead], ...]) -> None:
        """Returns if `head` may be built upon: no file is ahead of it or contradicts it, and every witness is there.

        Args:
            ledger: its name, for messages.
            head: the newest in the database.
            newest: what `newest` gave, before `head` was read or under the database's lock.

        Raises:
            LedgerCorrupt: the database is older than what was published, or another history.
            ConfigError: a witness folder is not there, or holds another ledger's heads.
        """
        size = head.size if head is not None else 0
        for folder in self.witnesses:
            if not folder.is_dir():
                raise ConfigError(
                    f"{folder}: no such witness folder, so nothing was recorded; mount or make it, or take it out of "
                    "[ledger] witnesses"
                )
        for path, published in newest:
            if head is not None and published.key != head.key:
                raise ConfigError(f"{path}: holds the heads of another ledger; name another witness folder")
            if published.size > size:
                raise LedgerCorrupt(
                    f"{ledger}: has {size} entries, but the head published in {path} covers {published.size}; the "
                    "ledger is older than what was published (an old backup, or cut short), and going on would forget "
                    "what was spent; restore the newest ledger"
                )
            if published.size == size and head is not None and published.root != head.root:
                raise LedgerCorrupt(
                    f"{ledger}: is another history than the one published in {path}; run 'hedgerow ledger verify' and "
                    "restore the ledger that the published heads cover"
                )

    def publish(self, head: TreeHead, key: Ed25519PublicKey) -> None:
        """Appends a head to every file that does not have it or a newer one; also the public key where it is missing.

        Raises:
            LedgerError: a file cannot be written; the entries are recorded all the same, and the next operation
                publishes.
        """
        for path in self.paths:
            try:
                _append(path, head)
                public = path.with_name(PUBLIC_KEY_FILE)
                if not public.exists():
                    write_atomic(public, public_key_pem(key))
            except OSError as error:
                raise LedgerError(
                    f"{path}: the head of {head.size} entries cannot be published ({error.strerror}); the entries are "
                    "recorded; free or mend that disk, and the next operation publishes it"
                ) from None


def _newest(path: Path) -> TreeHead | None:
    """The last whole line of a file of heads; None if it is absent or empty.

    Raises:
        LedgerCorrupt: the line is not a head.
    """
    try:
        with path.open("rb") as stream:
            head, _ = _last(stream)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LedgerError(f"{path}: the published heads cannot be read ({error.strerror})") from None
    except ValueError:
        raise LedgerCorrupt(
            f"{path}: its last line is not a tree head; restore the file from a witness or a backup"
        ) from None
    return head


def _last(stream: BinaryIO) -> tuple[TreeHead | None, int]:
    """The last whole line and where it ends."""
    end = stream.seek(0, os.SEEK_END)
    start = max(0, end - _TAIL_BYTES)
    stream.seek(start)
    tail = stream.read(end - start)
    whole, _, cut = tail.rpartition(b"\n")
    end -= len(cut)
    return (TreeHead.from_line(whole.rpartition(b"\n")[2].decode()) if whole else None), end


def _append(path: Path, head: TreeHead) -> None:
    """Appends under a lock; what a crash left of a line is cut off first."""
    made = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        newest, end = _last(stream)
        if newest is not None and newest.size >= head.size:
            return
        stream.truncate(end)
        stream.write(head.to_line().encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    if made:
        sync_directory(path.parent)
