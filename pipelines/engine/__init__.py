"""Spark: from raw events to a noisy table, in one pass.

Reading guide
    session    one quiet Spark session
    tables     parquet files, their columns and fingerprints
    inputs     what a signal reads, checked
    bounding   contribution bounds: one row for each (unit, partition), at most L0 of a unit
    aggregate  integer sums for each partition, public partitions filled in
    noisy      noise, selection and outputs, on aggregated rows only

Everything is a lazy DataFrame until `pipelines.run` writes it.
"""

__all__: tuple[str, ...] = ()
