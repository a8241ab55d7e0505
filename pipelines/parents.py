"""Hierarchies: a signal whose public keys are what another one released."""

from __future__ import annotations

from collections.abc import Mapping

from governance.errors import DefinitionError, ReleaseMissing
from governance.release import KEYED_SAMPLER, Manifest, ReleaseStore
from pipelines.definitions import NonNegative, PublicPartitions, ReleasedColumn, Signal
from pipelines.windows import Span

__all__ = ["parents_first", "parents_of", "released_domains"]


def parent_names(signal: Signal) -> tuple[tuple[str, int], ...]:
    """(name, version) of every signal whose release this one reads."""
    domains = [(domain.signal, domain.version) for domain in released_domains(signal).values()]
    steps = [(step.signal, step.version) for step in signal.post_processing if not isinstance(step, NonNegative)]
    return tuple(dict.fromkeys((*domains, *steps)))


def released_domains(signal: Signal) -> Mapping[str, ReleasedColumn]:
    """The keys whose values another signal released."""
    if not isinstance(signal.partitions, PublicPartitions):
        return {}
    return {key: d for key, d in signal.partitions.domains.items() if isinstance(d, ReleasedColumn)}


def parents_first(signals: tuple[Signal, ...]) -> tuple[Signal, ...]:
    """The signals so that each comes after those whose releases it reads; else in the given order.

    Raises:
        DefinitionError: they read each other's releases in a circle.
    """
    named = {(signal.name, signal.version): signal for signal in signals}
    ordered: dict[str, Signal] = {}

    def visit(signal: Signal, below: tuple[str, ...]) -> None:
        if signal.name in below:
            raise DefinitionError(
                signal.identity, f"partitions: reads its own keys through {' -> '.join(below)}; break the circle"
            )
        for name in parent_names(signal):
            parent = named.get(name)
            if parent is not None:
                visit(parent, (*below, signal.name))
        ordered.setdefault(signal.name, signal)

    for signal in signals:
        visit(signal, ())
    return tuple(ordered.values())


def parents_of(signal: Signal, span: Span, store: ReleaseStore) -> Mapping[str, Manifest]:
    """`<signal>/v<version>` → each parent's newest release whose window ends no later than `span`, its files checked.

    Raises:
        ReleaseMissing: there is none.
        ReleaseCorrupt: its files are not what its manifest says.
    """
    found = {}
    for name, version in parent_names(signal):
        prefix = f"{name}/v{version}/"
        manifests = (store.load(release_id) for release_id in store.ids() if release_id.startswith(prefix))
        candidates = [m for m in manifests if m.window_end is not None and m.window_end <= span.end]
        candidates = [m for m in candidates if m.guarantee.sampler == KEYED_SAMPLER]
        if not candidates:
            raise ReleaseMissing(
                f"{signal.identity}: reads {name} v{version}, which has no release that ends by {span.end:%Y-%m-%d}; "
                "run it first"
            )
        newest = max(candidates, key=lambda manifest: manifest.window.end)
        store.verify_files(newest)
        found[f"{name}/v{version}"] = newest
    return found
