"""Answers from releases over gRPC: features, vectors, nearest neighbors and catalogue snapshots.

Reading guide
    v1              generated protobuf and gRPC code; the interface is documented in proto/serving/v1
    limits          how large a request may be
    problems        what can be wrong with a call, and its form on the wire
    wire, columns   the wire form written around arrays; arrays in and out of messages

  for callers (grpcio, protobuf and numpy only)
    client, async_client    what a recommendation model uses
    channel, messages       how they connect; arguments as requests
    answers                 what they give: numpy columns, masks, release ids

  what is served
    index           vector spaces on disk and their search; the only user of FAISS
    spaces          vector spaces from releases, built at publish
    publish         one publication: spaces, views, catalogue, then the record that puts them in force
    state, watch    what one publication serves, opened and verified; the one in force
    plans           what a selection of features means in a publication; requests read from their bytes
    space_plans     the same for a space
    feature_answers columns and runs of bytes as an answer
    features, embeddings, recommendation, snapshots    the methods, as functions of a publication and a request

  the server around them
    config          how to run, from a file
    front           HTTP/2 and gRPC: a package by itself, which knows nothing of the rest
    calls           from those functions to gRPC methods, statuses and error details
    quick           which requests are answered where they are read
    admission       bounded queues, threads, and who is refused when there is too much to do
    gate, access, tokens, tls, audit    who calls, what they may read, and the line about it afterwards
    metrics, traces, logs               what can be seen from outside
    server          one process: health, reflection, drain
    supervisor      several processes on one port
    cli             `hedgerow publish` and `hedgerow serve`

Nothing is imported here, so that a client installs and imports neither Feast nor FAISS.
"""

__all__: tuple[str, ...] = ()
