"""Projects to start from.

Reading guide
    demo       the whole platform on a seeded sample or on real data: `hedgerow demo`
    starter    the small project that `hedgerow init` writes
    scaffold   new folders that appear whole or not at all
"""

__all__: tuple[str, ...] = ()
