"""A gRPC server of our own, for unary calls and streams of answers: HTTP/2 in Python, without a thread between.

Why: grpcio's server needs 0.3 ms of processor time for an empty call, most of it between its core's threads and
Python's; this one 0.05 to 0.08 (docs/adr/0015-front.md). It takes the handlers and interceptors that grpcio's server
takes, so the two can be compared call by call, and the tests do.

Reading guide
    frames      numbers of HTTP/2, and the frames that a server writes
    headers     HPACK blocks, each decoded once
    methods     what answers a path, and how
    call        one call, as its handler sees it (`grpc.ServicerContext`)
    bodies      messages within DATA, and what they may not be
    refusals    calls that end unseen, and what their callers are told
    connection  frames in, and what they say of the connection
    streams     header blocks and DATA in, calls out; what a peer may not do
    sender      answers in, frames out, as the peer's windows allow
    dispatch    on the loop or on a thread; what is refused
    server      listening, TLS, draining

Not served: streams of requests (but for reflection), HTTP/1, h2c by upgrade, compressed answers, server push.
"""

from serving.front.dispatch import Dispatcher
from serving.front.methods import QUICK, MethodTable, handlers_of
from serving.front.server import Front
from serving.front.streams import Limits

__all__ = ["QUICK", "Dispatcher", "Front", "Limits", "MethodTable", "handlers_of"]
