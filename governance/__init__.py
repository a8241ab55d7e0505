"""The ground floor: what a release is, what it cost, and who may read it.

Reading guide
    errors        the one error tree
    settings      hedgerow.toml as a frozen value
    privacy       zCDP losses and their conversion to epsilon
    ledger        the append-only record of every spend
    balances      its values, and the arithmetic of an account
    recording     one transaction of it
    reservations  what an account can carry
    caps          cap changes, signed by a role
    storage       where entries are stored: SQLite or PostgreSQL
    heads         signed tree heads, published outside the database
    keys          signing keys of this installation
    migration     from the ledger's first format
    verify        verifies a ledger without the rest of the platform
    recovery      what is done with runs that a crash left unfinished
    release       manifests and the store of published releases
    policy        which releases may be made and read: rules, one decision function
    disclosure    one document per release, registry entries
    lineage       OpenLineage events
    canonical     canonical JSON and hashes
    files         atomic writes and locks
    accounting    what accounts have lost, by period, window and release
    report        what a compliance reviewer reads
    doctor        what the machine must have

Nothing here knows Spark, Feast, FAISS or gRPC.
"""

__all__: tuple[str, ...] = ()
