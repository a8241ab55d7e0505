"""Hierarchies: a signal whose public keys are what another one released."""

from __future__ import annotations

from collections.abc import Mapping

from governance.errors import DefinitionError, ReleaseMissing
from governance.release import KEYED_SAMPLER, Manifest, ReleaseStore, WindowReference
from pipelines.definitions import NonNegative, PublicPartitions, ReleasedColumn, Signal
from pipelines.windows import Span

__all__ = ["parents_first", "parents_of", "released_domains"]


def parent_names(signal: Signal) -> tuple[tuple[str, int], ...]:
    """(name, version) of every signal whose release this one reads."""
    domains = [(domain.signal, domain.version) for domain in released_domains(signal).values()]
    return tuple(dict.fromkeys((*domains, *_compared(signal))))


def _compared(signal: Signal) -> tuple[tuple[str, int], ...]:
    """(name, version) of every signal whose values post-processing holds this one's against."""
    return tuple((step.signal, step.version) for step in signal.post_processing if not isinstance(step, NonNegative))


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
    """`<signal>/v<version>` → each parent's release, its files checked.

    Of a parent whose keys are read, that is the newest whose window ends no later than `span`: public keys may be older
    than what is counted. Of one whose values are compared by a post-processing step, it is the release of the very same
    window: children of one week do not add up to what their parent counted in another.

    Raises:
        ReleaseMissing: there is none.
        ReleaseCorrupt: its files are not what its manifest says.
    """
    found = {}
    for name, version in parent_names(signal):
        prefix = f"{name}/v{version}/"
        manifests = [store.load(release_id) for release_id in store.ids() if release_id.startswith(prefix)]
        noisy = [m for m in manifests if m.guarantee.sampler == KEYED_SAMPLER]
        if (name, version) in _compared(signal):
            same = WindowReference(start=span.start.isoformat(), end=span.end.isoformat())
            there = [m for m in noisy if m.window == same]
            lacking = (
                f"whose release of the same window, {span.start:%Y-%m-%d} to {span.end:%Y-%m-%d}, post-processing "
                "needs and which has none; run it first for that window, or give both signals the same window"
            )
        else:
            there = [m for m in noisy if m.window_end is not None and m.window_end <= span.end]
            lacking = f"which has no release that ends by {span.end:%Y-%m-%d}; run it first"
        if not there:
            raise ReleaseMissing(f"{signal.identity}: reads {name} v{version}, {lacking}")
        newest = max(there, key=lambda manifest: manifest.window.end)
        store.verify_files(newest)
        found[f"{name}/v{version}"] = newest
    return found
