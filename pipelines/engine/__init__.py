"""Spark: from raw events to a noisy table, in one pass.

Reading guide
    session    one quiet Spark session
    places     where tables lie, and which of them share files
    tables     parquet files, their columns and fingerprints
    inputs     what a signal reads, checked by footers
    layout     events laid out by person
    scan       which row groups each task reads
    rows       from raw Arrow rows to unit, key and codes
    kernel     bounds the contributions of whole units; it is told bounds, and uses hashing, contributions and sums
    exchange   numbered Spark tasks, and packed tables exchanged between them
    tasks      what they do: split, bound and sum
    bounding   the kernel on Spark: exact sums for each key
    first_round, noisy, outputs   selection, noise (keyed by blocks) and released columns
    post_processing   free steps on released values
    writing    from exact sums to released files, on Spark
    release    all of it in order

Everything before `noisy` is exact and private; what `noisy` gives is the release.
"""

__all__: tuple[str, ...] = ()
