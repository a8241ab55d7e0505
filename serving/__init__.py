"""Answers from releases over gRPC: features, vectors, nearest neighbors and catalogue snapshots.

Reading guide
    v1          generated protobuf and gRPC code; the interface is documented in proto/serving/v1
    client      what a recommendation model uses (numpy, grpcio and protobuf only)
    columns     numpy arrays in and out of messages
    index       vector spaces: built at publish, mapped by the server; the only user of FAISS
    publish     one publication: views, spaces, catalogue
    state       what one publication serves, whole and immutable
    services    the three gRPC services
    server      the process around them: health, reflection, reload, drain
    cli         `hedgerow publish` and `hedgerow serve`

Nothing is imported here, so that a client installs and imports neither Feast nor FAISS.
"""

__all__: tuple[str, ...] = ()
