"""Answers from releases over gRPC: features, vectors, nearest neighbors and catalogue snapshots.

Reading guide
    v1          generated protobuf and gRPC code; the interface is documented in proto/serving/v1
    client      what a recommendation model uses (numpy, grpcio and protobuf only)
    answers     what the client gives: numpy columns, masks, release ids
    columns     numpy arrays in and out of messages
    limits      how large a request may be
    problems    what can be wrong with a call, and its form on the wire
    index       a vector space on disk and its search; the only user of FAISS
    spaces      vector spaces from releases, built at publish
    publish     one publication: spaces, views, catalogue, then the record that puts them in force
    state       what one publication serves: opened, verified, immutable
    provenance  which release a served row comes from
    features, embeddings, snapshots    the methods of the three services, as functions of a state and a request
    calls       from those functions to gRPC methods, statuses and error details
    server      the process around them: health, reflection, reload, drain
    logs        what the serving process writes to stderr
    cli         `hedgerow publish` and `hedgerow serve`

Nothing is imported here, so that a client installs and imports neither Feast nor FAISS.
"""

__all__: tuple[str, ...] = ()
