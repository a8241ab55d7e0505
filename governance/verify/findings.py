"""What verification can find, each by name."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Problem", "Severity"]


class Severity(StrEnum):
    """How much a finding weighs."""

    FAILURE = "failure"
    """The record is not what was signed, or breaks the ledger's rules."""
    NOTICE = "notice"
    """Nothing contradicts the record, but somebody should know: a crash leaves it, or evidence is thinner than it could
    be."""


class Problem(StrEnum):
    """The names of findings."""

    UNREADABLE = "unreadable"
    """A file that cannot be read as what it should be."""
    DATABASE_DAMAGED = "database_damaged"
    """SQLite's own integrity check fails."""
    SCHEMA_CHANGED = "schema_changed"
    """Tables, indexes or the append-only triggers are not the ledger's."""
    INDEX_CHANGED = "index_changed"
    """The columns that entries are looked up by say something else than the entry."""
    ENTRY_MALFORMED = "entry_malformed"
    """An entry that the ledger cannot have written: wrong type, form or fields."""
    ENTRY_EDITED = "entry_edited"
    """An entry, or one of a named range, is not what was recorded."""
    ENTRY_DELETED = "entry_deleted"
    """An entry is gone from the middle."""
    ENTRIES_REORDERED = "entries_reordered"
    """Entries stand in another order than their numbers."""
    LEDGER_TRUNCATED = "ledger_truncated"
    """The newest entries are gone: a signed head covers more than there is."""
    ENTRIES_UNSIGNED = "entries_unsigned"
    """Entries that no signed head covers."""
    HEAD_FORGED = "head_forged"
    """A tree head whose signature is not the ledger's key's."""
    HEAD_FOREIGN = "head_foreign"
    """A tree head of another ledger."""
    HEAD_UNPUBLISHED = "head_unpublished"
    """The newest head in the database has not reached some published file: a crash, or a full disk there."""
    FORK = "fork"
    """The key signed two histories."""
    PROOF_WRONG = "proof_wrong"
    """A proof that does not prove what it says."""
    STEP_OUT_OF_ORDER = "step_out_of_order"
    """A run's entries break RESERVE, DRAW, COMMIT or RELEASE."""
    RUN_REUSED = "run_reused"
    """One run id with two bodies."""
    BALANCE_WRONG = "balance_wrong"
    """The balance that an entry states is not what the entries add up to."""
    OVERSPENT = "overspent"
    """A reservation was granted that did not fit under the cap."""
    CAP_CHANGED = "cap_changed"
    """A cap differs from the one that was opened or lawfully changed."""
    CAP_CHANGE_FORGED = "cap_change_forged"
    """A cap change that the named role did not sign."""
    RELEASE_UNCOMMITTED = "release_uncommitted"
    """A release on disk that the ledger never committed."""
    RELEASE_MISSING = "release_missing"
    """The ledger committed it, and it is not on disk."""
    MANIFEST_CHANGED = "manifest_changed"
    """A manifest that is not the committed one."""
    MANIFEST_CONTRADICTS = "manifest_contradicts"
    """A committed manifest that states another run, account or loss than the ledger."""
    FILE_CHANGED = "file_changed"
    """A data file that is not the one that the manifest names."""
    FILE_MISSING = "file_missing"
    """A data file that the manifest names is gone."""
    FILE_ADDED = "file_added"
    """A file in a release that its manifest does not name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        problem: its name.
        subject: which entry, file, account or release.
        message: one sentence.
        severity: whether it fails the verification.
    """

    problem: Problem
    subject: str
    message: str
    severity: Severity = Severity.FAILURE

    def to_json(self) -> dict[str, str]:
        """Plain JSON."""
        return {
            "severity": str(self.severity),
            "problem": str(self.problem),
            "subject": self.subject,
            "message": self.message,
        }
