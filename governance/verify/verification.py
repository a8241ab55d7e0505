"""Puts the checks together: entries, signed heads, replay, releases."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from governance.verify.entries import RowChecker, Source, read_export, read_sqlite
from governance.verify.findings import Finding, Problem, Severity
from governance.verify.heads import TreeHead, fingerprint, head_lines
from governance.verify.merkle import EMPTY_ROOT, Frontier
from governance.verify.releases import check_releases
from governance.verify.replay import Replay, replay

__all__ = ["Verification", "read_source", "verify"]

SCHEMA = "hedgerow.ledger-verification/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was verified and what was found.

    Attributes:
        findings: everything found, failures first.
        entries: how many entries there are.
        root: the Merkle root that they give, hex.
        key: `fingerprint` of the public key that heads were checked with.
        heads: signed heads that fit the entries.
        books: what the entries add up to.
        releases: releases that hold; None if no folder was given.
    """

    findings: tuple[Finding, ...]
    entries: int
    root: str
    key: str
    heads: int
    books: Replay
    releases: int | None

    @property
    def holds(self) -> bool:
        """Whether there is no failure."""
        return all(finding.severity is not Severity.FAILURE for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The machine-readable result."""
        return {
            "schema": SCHEMA,
            "holds": self.holds,
            "findings": [finding.to_json() for finding in self.findings],
            "entries": self.entries,
            "root": self.root,
            "key": self.key,
            "heads": self.heads,
            "releases": self.releases,
            "refused": self.books.refused,
            "accounts": {
                name: {
                    **account.stated(None),
                    "periods": {
                        period: {"spent": sums.spent.to_json(), "held": sums.held.to_json()}
                        for period, sums in sorted(account.periods.items())
                    },
                }
                for name, account in self.books.accounts.items()
            },
            "cap_changes": list(self.books.cap_changes),
        }


def read_source(path: Path) -> Source:
    """Reads an export (`*.jsonl`) or an SQLite database."""
    return read_export(path) if path.suffix == ".jsonl" else read_sqlite(path)


def verify(
    source: Source,
    *,
    key: Ed25519PublicKey,
    head_files: Sequence[Path],
    releases: Path | None = None,
    roles: Mapping[str, str] | None = None,
) -> Verification:
    """Re-derives everything from the entries, and compares.

    Args:
        source: the entries.
        key: the ledger's public key.
        head_files: published heads, the ledger's own file and any witness's.
        releases: the folder of releases; None: they are not looked at.
        roles: public keys (hex) of the roles that may change caps; None: as the entries name them.
    """
    heads = _Heads(key)
    heads.stored(source)
    for path in head_files:
        heads.read(path)
    checker, tree = RowChecker(), _Tree(heads.sizes)

    def entries() -> Iterator[Mapping[str, Any]]:
        """One pass over the rows: each is checked, joins the tree, and goes on to the replay."""
        for row in source.rows:
            entry = checker.check(row)
            tree.add(entry.leaf)
            if entry.value is not None:
                yield entry.value

    books = replay(entries(), roles)
    fitting = heads.compare(tree)
    findings = [*source.findings, *checker.findings, *checker.places(), *books.findings, *heads.findings]

    sound = None
    if releases is not None:
        sound, found = check_releases(releases, books.runs)
        findings += found
    return Verification(
        findings=tuple(sorted(findings, key=lambda finding: finding.severity is not Severity.FAILURE)),
        entries=tree.size,
        root=tree.root.hex(),
        key=heads.key_name,
        heads=fitting,
        books=books,
        releases=sound,
    )


@dataclass(frozen=True, slots=True)
class _Placed:
    """A rightly signed head and where it was found."""

    head: TreeHead
    where: str


class _Tree:
    """The tree of the entries so far, with its roots at the sizes that heads were signed for.

    Attributes:
        frontier: of all leaves.
        roots: by size.
    """

    def __init__(self, sizes: frozenset[int]) -> None:
        self._sizes = sizes
        self.frontier = Frontier()
        self.roots: dict[int, bytes] = {0: EMPTY_ROOT}

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return self.frontier.size

    @property
    def root(self) -> bytes:
        """The root over all of them."""
        return self.frontier.root

    def add(self, leaf: bytes) -> None:
        """Appends a leaf."""
        self.frontier = self.frontier.append(leaf)
        if self.frontier.size in self._sizes:
            self.roots[self.frontier.size] = self.frontier.root


class _Heads:
    """Collects heads, throws out what the key did not sign, and holds the rest against the entries."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        self.key_name = fingerprint(key)
        self.findings: list[Finding] = []
        self._placed: list[_Placed] = []
        self._newest: dict[str, int] = {}
        self._stored: TreeHead | None = None
        self._frontier: object = None
        self._has_store = False
        self._sound: set[TreeHead] = set()

    def stored(self, source: Source) -> None:
        """Takes the head in the database."""
        self._has_store = any(row.digest is not None for row in source.rows)
        self._frontier = source.frontier
        if source.signed_head is not None:
            where = f"{source.name}: head"
            head = self._parse(source.signed_head, where)
            if head is not None and self._signed(head, where):
                self._placed.append(_Placed(head, where))
                self._stored = head

    def read(self, path: Path) -> None:
        """Takes a file of heads.

        Newest first: a head that the one after it names by its hash needs no signature of its own to be checked.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            message = f"The published heads cannot be read ({error.strerror})."
            self._find(Problem.UNREADABLE, path.name, message)
            return
        lines = head_lines(data)
        taken: list[_Placed] = []
        vouched = ""
        for number in range(len(lines), 0, -1):
            line, where = lines[number - 1], f"{path}:{number}"
            head = self._parse(line.decode("utf-8", errors="replace"), where)
            if head is None:
                vouched = ""
                continue
            if hashlib.sha256(line).hexdigest() == vouched or self._signed(head, where):
                taken.append(_Placed(head, where))
                vouched = head.previous
            else:
                vouched = ""
        last = 0
        for placed in reversed(taken):
            if placed.head.size <= last:
                self._find(Problem.FORK, placed.where, f"It goes back from {last} entries to {placed.head.size}.")
            last = max(last, placed.head.size)
        self._newest[str(path)] = last
        self._placed += reversed(taken)

    def _parse(self, line: object, where: str) -> TreeHead | None:
        """A head of this ledger, not yet trusted."""
        try:
            head = TreeHead.from_line(line if isinstance(line, str) else "")
        except ValueError:
            self._find(Problem.HEAD_FORGED, where, "It is not a tree head.")
            return None
        if head.key != self.key_name:
            self._find(Problem.HEAD_FOREIGN, where, f"It is signed for the key {head.key[:16]}, another ledger's.")
            return None
        return head

    def _signed(self, head: TreeHead, where: str) -> bool:
        """Whether the ledger's key signed it."""
        if head not in self._sound and not head.is_signed_by(self._key):
            self._find(Problem.HEAD_FORGED, where, f"The ledger's key did not sign it (size {head.size}).")
            return False
        self._sound.add(head)
        return True

    @property
    def sizes(self) -> frozenset[int]:
        """The sizes of all trusted heads."""
        return frozenset(placed.head.size for placed in self._placed)

    def compare(self, tree: _Tree) -> int:
        """Holds all heads against the entries; returns how many of them these give."""
        size = tree.size
        fitting = [placed for placed in self._placed if tree.roots.get(placed.head.size, b"").hex() == placed.head.root]
        self._beyond(size)
        self._differing(tree.roots, fitting)
        newest = max((placed.head.size for placed in fitting), default=0)
        if newest < size and all(placed.head.size < size for placed in self._placed):
            which = f"entry {size}" if newest + 1 == size else f"entries {newest + 1} to {size}"
            self._find(Problem.ENTRIES_UNSIGNED, which, "No signed head covers it: anybody may have written it.")
        if self._has_store and size and self._stored is None:
            self._find(Problem.HEAD_FORGED, "head", "The database lacks its own signed head.")
        elif self._has_store and self._frontier != tree.frontier.text:
            self._find(Problem.HEAD_FORGED, "head", "The frontier stored in the database is not the entries'.")
        for path, last in self._newest.items():
            if last < newest:
                message = f"It ends at {last} of {newest} signed entries: a crash, a full disk, or lines were removed."
                self._find(Problem.HEAD_UNPUBLISHED, path, message, Severity.NOTICE)
        return len(fitting)

    def _beyond(self, size: int) -> None:
        """Heads that cover more than there is."""
        beyond = [placed for placed in self._placed if placed.head.size > size]
        if beyond:
            newest = max(beyond, key=lambda placed: placed.head.size)
            self._find(
                Problem.LEDGER_TRUNCATED,
                f"entries {size + 1} to {newest.head.size}",
                f"They are gone: the head signed at {newest.head.at} ({newest.where}) covers {newest.head.size} "
                f"entries, the ledger has {size}.",
            )

    def _differing(self, roots: Mapping[int, bytes], fitting: Sequence[_Placed]) -> None:
        """Heads whose entries are not the ones here: a second history if others fit, else an edit."""
        newest_fitting = max((placed.head.size for placed in fitting), default=0)
        differing = sorted(
            (p for p in self._placed if p.head.size in roots and roots[p.head.size].hex() != p.head.root),
            key=lambda placed: placed.head.size,
        )
        forked = [placed for placed in differing if placed.head.size <= newest_fitting]
        for placed in forked[:3]:
            message = f"The key signed this head of {placed.head.size} entries, and others that contradict it."
            self._find(Problem.FORK, placed.where, message)
        edited = next((placed for placed in differing if placed.head.size > newest_fitting), None)
        if edited is not None:
            before = max((p.head.size for p in fitting if p.head.size < edited.head.size), default=0)
            which = (
                f"entry {edited.head.size}" if before + 1 == edited.head.size else f"{before + 1} to {edited.head.size}"
            )
            message = f"It is not what the head signed at {edited.head.at} ({edited.where}) covers."
            self._find(Problem.ENTRY_EDITED, which if which.startswith("entry") else f"an entry in {which}", message)
        by_size: dict[int, str] = {}
        for placed in self._placed:
            if by_size.setdefault(placed.head.size, placed.head.root) != placed.head.root and placed not in forked:
                message = f"The key signed two different trees of {placed.head.size} entries."
                self._find(Problem.FORK, placed.where, message)

    def _find(self, problem: Problem, subject: str, message: str, severity: Severity = Severity.FAILURE) -> None:
        self.findings.append(Finding(problem=problem, subject=subject, message=message, severity=severity))
