"""Where the ledger's entries are stored: SQLite by default, PostgreSQL by URL, one behaviour.

Reading guide
    store      the interface and the statements that both share
    sqlite     one file, WAL, `synchronous=FULL`
    postgres   a server, by URL

A store knows rows, not what they mean: kinds, balances and the tree are the ledger's. Each store lets one writer in at
a time, keeps or loses a transaction whole, and refuses to change or delete an entry.
"""

from governance.storage.store import EntryStore, StoredEntry, StoredHead

__all__ = ["EntryStore", "StoredEntry", "StoredHead"]
