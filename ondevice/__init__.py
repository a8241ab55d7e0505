"""One person's device: it keeps events, computes features and ranks, and none of that leaves it.

Two halves that share no memory. The *core* holds everything personal and has no network code; the *gate* has the
network and holds nothing personal. Between them goes one thing, in one direction: a catalogue snapshot, the same for
everyone.

    core    events     one interaction, and many of them in columns
            store      the event store (SQLite, 0600): retention, forgetting
            features   windowed counts and decayed affinities: pure functions
            ranker     int8 search, tag affinity and released popularity: pure functions
            snapshot   what the core takes from the gate: only what the pinned key signed, never an older one
            device     the core as one object
    both    parcel     a signed snapshot as bytes
    gate    gate       downloads the snapshot, in a process of its own; the only network code
    shell   sync       starts the gate and hands its parcel to the core
            cli        `hedgerow device`

What is promised, and why it holds
    Nothing about the person leaves the device. The core cannot send: no module of it, nor any module they import,
    brings network code, and it ranks inside an empty network namespace. The gate can send but has nothing to tell:
    its process gets the server's address and a timeout, never the store's path or a handle on it, and its one request
    is an empty message. So what a server receives is a function of the address, the gate's code and the time,
    whatever the events are.

    Out of scope here: that a server sees the device's network address and when it downloads; that whoever controls
    the operating system or reads the disk reads the store (0600, not encrypted yet); and that a screen shows a
    ranking.

Importing this package imports nothing else, so that the gate's process never loads the core.
"""

__all__: tuple[str, ...] = ()
