"""What a release would cost and how good it would be, before anything is read or spent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from typing import Any

from governance.canonical import decimal_text
from governance.errors import AccountUnknown
from governance.ledger import Balance
from governance.privacy import PrivacyLoss
from governance.settings import Account, Settings
from pipelines.calibration import Calibration, calibrate
from pipelines.compiled import definition_sha256
from pipelines.definitions import PrivacyUnit, PublicPartitions, Signal, UnitKind, span_text
from pipelines.measurements import Output, OutputKind, Recipe, recipe_of

__all__ = ["GROUP_SIZES", "ExpectedError", "SignalPlan", "plan_signal"]

GROUP_SIZES = (10, 100, 1_000, 10_000)
_MEAN_ABSOLUTE = math.sqrt(2 / math.pi)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedError:
    """What to expect of one column in a partition of `units` privacy units that each give one row.

    Attributes:
        column: the released column.
        units: group size.
        relative: expected absolute error over the true value; of a sum, when values average the middle of the
            interval's magnitude; of a mean, over the interval's width (1 at most).
    """

    column: str
    units: int
    relative: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalPlan:
    """A signal with its noise, price and protection. A pure function of the definition and the settings.

    Attributes:
        signal: the definition.
        definition_sha256: hash of its compiled form.
        recipe: measurements and outputs.
        calibration: scales, threshold, loss.
        account: who pays.
        protects: one sentence for a person.
        errors: expected relative error at `GROUP_SIZES`.
        selected: group size → probability of being released; empty for public partitions.
    """

    signal: Signal
    definition_sha256: str
    recipe: Recipe
    calibration: Calibration
    account: Account
    protects: str
    errors: tuple[ExpectedError, ...]
    selected: tuple[tuple[int, float], ...]

    @property
    def loss(self) -> PrivacyLoss:
        """What one window costs."""
        return self.calibration.loss

    def affordable(self, balance: Balance) -> int | None:
        """How many more windows the account can pay; None: free of charge."""
        remaining, loss = balance.remaining, self.loss
        pairs = ((remaining.rho, loss.rho), (remaining.delta, loss.delta))
        # In fractions: a quotient of decimals is rounded, and would promise a window that the ledger refuses.
        return min((int(Fraction(left) / Fraction(price)) for left, price in pairs if price), default=None)

    def to_json(self, balance: Balance) -> dict[str, Any]:
        """The plan as JSON, with what remains of its account."""
        calibration, remaining = self.calibration, balance.remaining
        return {
            "signal": self.signal.name,
            "version": self.signal.version,
            "definition_sha256": self.definition_sha256,
            "privacy_unit": self.signal.privacy_unit.label,
            "relation": "add_remove_one",
            "protects": self.protects,
            "measurements": [
                {
                    "name": mechanism.measure.name,
                    "kind": str(mechanism.measure.kind),
                    "l0": mechanism.measure.l0,
                    "linf": mechanism.measure.linf * mechanism.measure.grid_step,
                    "l2": mechanism.measure.l2 * mechanism.measure.grid_step,
                    "grid_step": mechanism.measure.grid_step,
                    "mechanism": mechanism.name,
                    "noise_stddev": mechanism.noise_stddev,
                    "rho": mechanism.rho,
                }
                for mechanism in calibration.mechanisms
            ],
            "aggregates": [
                {
                    "name": output.name,
                    "measurements": [name for name in (output.measure, output.count) if name],
                    "mechanism": calibration.mechanism(output.measure).name,
                    "noise_stddev": noise_stddev(output, calibration),
                }
                for output in self.recipe.outputs
            ],
            "selection": {
                "kind": "public" if calibration.threshold is None else "private",
                "threshold": calibration.threshold,
                "delta": float(calibration.selection_delta),
                "release_probability": [{"units": units, "probability": p} for units, p in self.selected],
            },
            "expected_relative_error": [
                {"column": error.column, "units": error.units, "relative": error.relative} for error in self.errors
            ],
            "rho": float(self.loss.rho),
            "delta": float(self.loss.delta),
            "epsilon": calibration.epsilon,
            "epsilon_delta": calibration.epsilon_delta,
            "loss": self.loss.to_json(),
            "account": {
                "name": self.account.name,
                "cap": balance.cap.to_json(),
                "remaining": {"rho": decimal_text(remaining.rho), "delta": decimal_text(remaining.delta)},
                "windows_left": self.affordable(balance),
            },
        }


def plan_signal(signal: Signal, settings: Settings) -> SignalPlan:
    """Plans one release of a signal.

    Raises:
        AccountUnknown: hedgerow.toml has no account for the signal's dataset and privacy unit.
        DefinitionError: the budget cannot be met.
    """
    account = settings.account(signal.source.name, signal.privacy_unit.label)
    if account is None:
        known = tuple(account.name for account in settings.accounts)
        raise AccountUnknown(f"{signal.source.name}/{signal.privacy_unit.label}", known)
    recipe = recipe_of(signal)
    # An account whose cap lets epsilon pass 30 promises nothing that a distance of 1e-34 could spoil.
    composed = min(30.0, account.cap.epsilon(settings.reporting_delta))
    calibration = calibrate(signal, recipe, settings.reporting_delta, composed)
    return SignalPlan(
        signal=signal,
        definition_sha256=definition_sha256(signal),
        recipe=recipe,
        calibration=calibration,
        account=account,
        protects=protection(signal, calibration),
        errors=tuple(
            ExpectedError(column=output.name, units=units, relative=_relative_error(output, calibration, units))
            for output in recipe.outputs
            for units in GROUP_SIZES
        ),
        selected=_selected(recipe, calibration),
    )


def noise_stddev(output: Output, calibration: Calibration) -> float | None:
    """Standard deviation of a column's noise in its own units; None for a mean, where it depends on the row."""
    return None if output.kind is OutputKind.MEAN else calibration.mechanism(output.measure).noise_stddev


def protection(signal: Signal, calibration: Calibration) -> str:
    """What is protected, in one sentence."""
    odds = f"within a factor of {_factor(calibration.epsilon)} (epsilon {calibration.epsilon:.2f})"
    public = isinstance(signal.partitions, PublicPartitions)
    exception = (
        ""
        if public and calibration.loss.delta < 1e-20 and calibration.pure
        else (f", except with a probability of {calibration.epsilon_delta:g}")
    )
    return f"{_hidden(signal.privacy_unit)}: what is released is as likely with it as without it, {odds}{exception}."


def _factor(epsilon: float) -> str:
    factor = math.exp(min(epsilon, 700))
    return f"{factor:.2f}" if factor < 100 else f"{factor:.3g}"


def unit_in_words(unit: PrivacyUnit) -> str:
    """What one unit is: `one person`, `one person's day`, `one event`."""
    if unit.kind is UnitKind.EVENT:
        return "one event"
    return "one person" if unit.per is None else f"one person's {span_text(unit.per)}"


def _hidden(unit: PrivacyUnit) -> str:
    columns = " and ".join(unit.columns)
    if unit.kind is UnitKind.EVENT:
        return f"Hides any one event ({columns}), though not a person's activity as a whole"
    if unit.per is None:
        return f"Hides everything any one person ({columns}) did in the window, and whether they were in it at all"
    if unit.per == timedelta(days=1):
        return f"Hides everything any one person ({columns}) did on any one day"
    return f"Hides everything any one person ({columns}) did in any one {span_text(unit.per)}"


def _relative_error(output: Output, calibration: Calibration, units: int) -> float:
    mechanism = calibration.mechanism(output.measure)
    error = _MEAN_ABSOLUTE * mechanism.noise_stddev
    interval = mechanism.measure.interval
    if output.kind is OutputKind.INTEGER or interval is None:
        return error / units
    if output.kind is OutputKind.SCALED:
        typical = max(abs(interval.lower), abs(interval.upper)) / 2
        return error / (units * typical)
    # A mean: the noisy centred sum over the count, and the count's own noise, which weighs by the mean's distance from
    # the centre: a quarter of the width, for a mean halfway to a bound.
    width = interval.upper - interval.lower
    count = calibration.mechanism(output.count or "").noise_stddev
    stddev = math.hypot(mechanism.noise_stddev, count * width / 4) / units
    return min(1.0, _MEAN_ABSOLUTE * stddev / width)


def _selected(recipe: Recipe, calibration: Calibration) -> tuple[tuple[int, float], ...]:
    if recipe.units is None or calibration.threshold is None:
        return ()
    stddev = calibration.mechanism(recipe.units).distribution.stddev
    return tuple(
        (units, 0.5 * math.erfc((calibration.threshold - 0.5 - units) / (stddev * math.sqrt(2))))
        for units in GROUP_SIZES
    )
