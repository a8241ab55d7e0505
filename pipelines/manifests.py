"""What a manifest says: pure functions from plans and definitions to the parts of `governance.release.Manifest`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from governance.canonical import decimal_text
from governance.release import PUBLIC_SAMPLER, Column, Guarantee, Measurement, SignalReference
from governance.settings import Settings
from pipelines.compiled import compile_definition, definition_sha256
from pipelines.definitions import ClipNorm, ConsistentWith, Definition, NonNegative, ShrinkTo, Signal
from pipelines.noise import NoiseSource
from pipelines.plan import SignalPlan, unit_in_words
from pipelines.recipes import UNCERTAIN, OutputKind, ReleasedColumnType, not_negative

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["code_versions", "guarantee_of", "public_guarantee", "released_columns", "signal_reference"]


def signal_reference(definition: Definition) -> SignalReference:
    """Names the definition and carries it whole."""
    is_signal = isinstance(definition, Signal)
    return SignalReference(
        name=definition.name,
        version=definition.version,
        owner=definition.owner,
        purpose=str(definition.purpose),
        description=definition.description,
        kind="signal" if is_signal else "content_embedding",
        entity=definition.entity.name if isinstance(definition, Signal) else definition.key.removesuffix("_id"),
        ttl_seconds=int(definition.ttl.total_seconds()) if isinstance(definition, Signal) else 0,
        definition_sha256=definition_sha256(definition),
        definition=compile_definition(definition),
    )


def released_columns(plan: SignalPlan, schema: pa.Schema) -> tuple[Column, ...]:
    """Describes the released columns."""
    names = {"int64": "int64", "double": "float64", "string": "string", "date32[day]": "date"}
    types = {field.name: names.get(str(field.type), "") for field in schema}
    keys = tuple(
        Column(name=key, type=types[key], role="key", description=f"{plan.signal.entity.name} key")
        for key in plan.signal.entity.keys
    )
    return (*keys, *(_column(column, plan, types[column.name]) for column in plan.recipe.columns))


def _column(column: ReleasedColumnType, plan: SignalPlan, kind: str) -> Column:
    output = column.output
    if output is None:
        of = column.name.removesuffix(UNCERTAIN)
        return Column(name=column.name, type=kind, role="uncertainty", description=f"Half-width of {of}, at 95 %")
    taken_over = {
        name
        for step in plan.signal.post_processing
        if isinstance(step, ConsistentWith) and step.exactly
        for name in step.columns
    }
    told = output.linear and output.name not in taken_over
    return Column(
        name=column.name,
        type=kind or f"vector<float32>[{column.dimension}]",
        role="feature",
        description=output.description,
        # What a step makes add up to a parent's value has the parent's noise too; least squares only lowers the noise.
        noise_stddev=plan.calibration.stddev(output) if told else None,
        half_width=plan.calibration.half_width(output) if told else None,
    )


def guarantee_of(plan: SignalPlan, source: NoiseSource) -> Guarantee:
    """What the release promises, as planned, and with which noise source."""
    signal, calibration = plan.signal, plan.calibration
    return Guarantee(
        variant="pure DP" if calibration.pure else "zCDP",
        unit=signal.privacy_unit.label,
        relation=str(signal.privacy_unit.relation),
        protects=plan.protects,
        bounds=_bounds(signal),
        measurements=tuple(
            Measurement(
                name=mechanism.measure.name,
                grid_step=mechanism.measure.grid_step,
                l0=mechanism.measure.l0,
                coordinates=mechanism.measure.changed,
                linf=mechanism.measure.linf,
                l2=mechanism.measure.l2,
                mechanism=mechanism.name,
                noise_stddev=mechanism.noise_stddev,
                rho=repr(mechanism.rho),
            )
            for mechanism in calibration.mechanisms
        ),
        selection="public" if calibration.threshold is None else "private",
        threshold=plan.threshold,
        selection_delta=decimal_text(calibration.selection_delta),
        sampler_delta=decimal_text(calibration.sampler_delta),
        rho=decimal_text(calibration.loss.rho),
        delta=decimal_text(calibration.loss.delta),
        epsilon=calibration.epsilon,
        epsilon_delta=calibration.epsilon_delta,
        sampler=source.label,
        post_processing=_post_processing(plan),
    )


def _bounds(signal: Signal) -> dict[str, object]:
    bounds, unit_is = signal.bounds, unit_in_words(signal.privacy_unit)
    if isinstance(bounds, ClipNorm):
        limits: dict[str, object] = {"kind": "clip_norm", "l2": bounds.l2}
        return limits | {"max_partitions": bounds.max_partitions, "unit_is": unit_is}
    return {
        "kind": "keep_random",
        "max_partitions": bounds.max_partitions,
        "max_rows_per_partition": bounds.max_rows_per_partition,
        "unit_is": unit_is,
    }


_STEPS = {
    OutputKind.MEAN: "a noisy sum over a noisy count, clamped to its interval",
    OutputKind.VARIANCE: "from noisy sums and a noisy count, clamped to what its interval allows",
    OutputKind.QUANTILE: "read off a noisy tree of counts made consistent by least squares",
    OutputKind.TOP: "ranked by noisy counts",
}


def _post_processing(plan: SignalPlan) -> tuple[str, ...]:
    """The free steps after the noise, in words."""
    steps = [f"{output.name} is {_STEPS[output.kind]}" for output in plan.recipe.outputs if output.kind in _STEPS]
    for step in plan.signal.post_processing:
        match step:
            case NonNegative(columns=columns):
                steps.append(f"negative values of {', '.join(columns or not_negative(plan.recipe))} are raised to zero")
            case ConsistentWith(signal=parent, version=version, columns=columns, exactly=exactly):
                how = "made to add up to" if exactly else "moved by least squares towards"
                if plan.signal.may_lack_children(step):
                    how = "lowered by least squares where they add up to more than"
                steps.append(f"{', '.join(columns)} are {how} what {parent} v{version} released")
            case ShrinkTo(signal=parent, version=version, columns=columns):
                steps.append(f"{', '.join(columns)} are shrunk towards {parent} v{version} by their noise")
    selecting = plan.recipe.units
    if selecting is not None and any(term.measure == selecting for o in plan.recipe.outputs for term in o.terms):
        steps.append(
            "the draw that selects a key is also released: counts near the threshold are a little too high on average"
        )
    return tuple(steps)


def code_versions() -> dict[str, str]:
    """Versions of what computes a release."""

    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "source tree"

    return {
        "hedgerow": of("hedgerow"),
        "pyspark": of("pyspark"),
        "pyarrow": of("pyarrow"),
        "python": platform.python_version(),
    }


def public_guarantee(settings: Settings) -> Guarantee:
    """The guarantee of a release from public inputs: nothing personal was read."""
    return Guarantee(
        variant="public inputs",
        unit="",
        relation="",
        protects="No personal data was read: the vectors come from public catalogue facts alone.",
        bounds={},
        measurements=(),
        selection="public",
        threshold=None,
        selection_delta="0",
        sampler_delta="0",
        rho="0",
        delta="0",
        epsilon=0.0,
        epsilon_delta=settings.reporting_delta,
        sampler=PUBLIC_SAMPLER,
    )
