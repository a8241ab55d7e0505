"""Releases as features: Feast is the system of record, hedgerow plugs its own online store into it.

Reading guide
    publication       what is in force: the record that publishing writes last and serving reads first
    committed         which releases may be published
    views             manifests → feature views and services
    publish           writes Feast's registry, offline and online rows
    feast_repository  the generated Feast repository
    column_types      the types of released columns, here, in Arrow and in Feast
    released          a release's rows as columns, and in Feast's types
    rows              one packed row per (view, entity): the codec of stores and snapshots
    snapshots         each view's newest release as a mapped file
    freshness         what time it is for a project, and which rows are too old
    online            the newest rows by key, in SQLite or Redis
    reading           answers: from snapshots, and from the online store for views that take pushes
    catalogue         the signed snapshot that every device downloads

Importing any of these is cheap: Feast and pyarrow are imported where they are first used.
"""

__all__: tuple[str, ...] = ()
