"""Releases as features: Feast is the system of record, hedgerow plugs its own online store into it.

Reading guide
    publication   what is in force: the record that publishing writes last and serving reads first
    online        the newest rows by key, in columns
    catalogue     the signed snapshot that every device downloads

Importing any of these is cheap: Feast and pyarrow are imported where they are first used.
"""

__all__: tuple[str, ...] = ()
