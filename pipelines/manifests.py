"""What a manifest says: pure functions from plans and definitions to the parts of `governance.release.Manifest`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from governance.canonical import decimal_text
from governance.release import PUBLIC_SAMPLER, Column, Guarantee, Measurement, SignalReference
from governance.settings import Settings
from pipelines.compiled import compile_definition, definition_sha256
from pipelines.definitions import Definition, Signal
from pipelines.measurements import OutputKind
from pipelines.noise import NoiseSource
from pipelines.plan import SignalPlan, noise_stddev, unit_in_words

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


def released_columns(plan: SignalPlan, types: dict[str, str]) -> tuple[Column, ...]:
    """Describes the released columns; `types` are Spark's names of the column types."""
    names = {"bigint": "int64", "double": "float64", "string": "string", "date": "date"}
    keys = tuple(
        Column(name=key, type=names[types[key]], role="key", description=f"{plan.signal.entity.name} key")
        for key in plan.signal.entity.keys
    )
    features = tuple(
        Column(
            name=output.name,
            type="int64" if output.kind is OutputKind.INTEGER else "float64",
            role="feature",
            description=output.description,
            noise_stddev=noise_stddev(output, plan.calibration),
        )
        for output in plan.recipe.outputs
    )
    return (*keys, *features)


def guarantee_of(plan: SignalPlan, source: NoiseSource) -> Guarantee:
    """What the release promises, as planned, and with which noise source."""
    signal, calibration = plan.signal, plan.calibration
    means = tuple(
        f"{output.name} is a noisy sum over a noisy count, clamped to its interval"
        for output in plan.recipe.outputs
        if output.kind is OutputKind.MEAN
    )
    return Guarantee(
        variant="pure DP" if calibration.pure else "zCDP",
        unit=signal.privacy_unit.label,
        relation="add_remove_one",
        protects=plan.protects,
        bounds={
            "kind": "keep_random",
            "max_partitions": signal.bounds.max_partitions,
            "max_rows_per_partition": signal.bounds.max_rows_per_partition,
            "unit_is": unit_in_words(signal.privacy_unit),
        },
        measurements=tuple(
            Measurement(
                name=mechanism.measure.name,
                grid_step=mechanism.measure.grid_step,
                l0=mechanism.measure.l0,
                linf=mechanism.measure.linf,
                l2=mechanism.measure.l2,
                mechanism=mechanism.name,
                noise_stddev=mechanism.noise_stddev,
                rho=repr(mechanism.rho),
            )
            for mechanism in calibration.mechanisms
        ),
        selection="public" if calibration.threshold is None else "private",
        threshold=calibration.threshold,
        selection_delta=decimal_text(calibration.selection_delta),
        sampler_delta=decimal_text(calibration.sampler_delta),
        rho=decimal_text(calibration.loss.rho),
        delta=decimal_text(calibration.loss.delta),
        epsilon=calibration.epsilon,
        epsilon_delta=calibration.epsilon_delta,
        sampler=source.label,
        post_processing=means,
    )


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
