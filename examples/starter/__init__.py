"""The small project that `hedgerow init` writes.

Reading guide
    project/   the template: hedgerow.toml, one signal, a README
    sample     its invented events
    cli        `hedgerow init`
"""

__all__: tuple[str, ...] = ()
