"""Generated from `proto/serving/v1` by `make proto`; do not edit. Stubs only: importing them imports no server.

Reading guide
    values      typed runs of values
    features    FeatureService
    embeddings  EmbeddingService
    snapshots   SnapshotService
    errors      error details in the wire form of google.rpc
"""

__all__: tuple[str, ...] = ()
