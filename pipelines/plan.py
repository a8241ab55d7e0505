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
from pipelines.definitions import KeepRandom, PrivacyUnit, PublicPartitions, Relation, Signal, UnitKind, span_text
from pipelines.measurements import WEIGHTS
from pipelines.recipes import Output, OutputKind, Recipe, recipe_of

__all__ = ["GROUP_SIZES", "ExpectedError", "SignalPlan", "plan_signal", "relative_error"]

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

    @property
    def threshold(self) -> float | None:
        """Smallest noisy unit count, or weight, that is released: whole where whole units count; None: public keys."""
        steps, units = self.calibration.threshold, self.recipe.units
        if steps is None or units is None:
            return None
        step = self.recipe.measure(units).grid_step
        return steps if step == 1 else steps * step

    @property
    def by_weight(self) -> bool:
        """Whether keys are selected by units' weight, not by their count."""
        return self.recipe.units is not None and self.recipe.measure(self.recipe.units).kind in WEIGHTS

    @property
    def threshold_text(self) -> str:
        """The threshold as people read it: `144`, `22.3`; empty for public keys."""
        if self.threshold is None:
            return ""
        return f"{self.threshold:,}" if isinstance(self.threshold, int) else f"{self.threshold:,.1f}"

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
            "relation": str(self.signal.privacy_unit.relation),
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
                    "measurements": list(output.measurements),
                    "mechanism": calibration.mechanism(output.measure).name,
                    "noise_stddev": calibration.stddev(output) if output.linear else None,
                    "half_width": calibration.half_width(output) if output.linear else None,
                }
                for output in self.recipe.outputs
            ],
            "selection": {
                "kind": "public" if calibration.threshold is None else "private",
                "threshold": self.threshold,
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
            ExpectedError(column=output.name, units=units, relative=relative_error(output, calibration, units))
            for output in recipe.outputs
            for units in GROUP_SIZES
        ),
        selected=_selected(signal, recipe, calibration),
    )


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
    if unit.relation is Relation.REPLACE_ONE:
        whose = "event" if unit.kind is UnitKind.EVENT else "person"
        span = "" if unit.per is None else f" in any one {span_text(unit.per)}"
        return f"Hides what the rows of any one {whose} ({columns}){span} say, whatever they are replaced by"
    if unit.kind is UnitKind.EVENT:
        return f"Hides any one event ({columns}), though not a person's activity as a whole"
    if unit.per is None:
        return f"Hides everything any one person ({columns}) did in the window, and whether they were in it at all"
    if unit.per == timedelta(days=1):
        return f"Hides everything any one person ({columns}) did on any one day"
    return f"Hides everything any one person ({columns}) did in any one {span_text(unit.per)}"


def relative_error(output: Output, calibration: Calibration, units: int, budget: float = 1.0) -> float:
    """Expected absolute error over the true value, where each unit gives one row of middling size.

    Args:
        output: the column.
        calibration: the noise.
        units: privacy units in the group.
        budget: how many times the planned rho.
    """
    error = _MEAN_ABSOLUTE * calibration.stddev(output) / units / math.sqrt(budget)
    if output.kind in (OutputKind.MEAN, OutputKind.VARIANCE):
        return min(1.0, error / output.scale)
    if output.kind is OutputKind.QUANTILE:
        return min(1.0, error)
    # Of a sum, when values average the middle of the interval's magnitude; of a count, of its only value.
    typical = output.scale / 2 if calibration.mechanism(output.measure).measure.interval is not None else output.scale
    return error / typical


def _selected(signal: Signal, recipe: Recipe, calibration: Calibration) -> tuple[tuple[int, float], ...]:
    selecting = calibration.selecting
    if recipe.units is None or selecting is None:
        return ()
    measure = recipe.measure(recipe.units)
    # A unit of a weighted selection is taken to have as many keys as the bounds keep.
    each = 1 / measure.grid_step
    if measure.kind in WEIGHTS and isinstance(signal.bounds, KeepRandom):
        each /= math.sqrt(signal.bounds.max_partitions)
    return tuple(
        (units, 0.5 * math.erfc((selecting.threshold - 0.5 - units * each) / (selecting.noise.stddev * math.sqrt(2))))
        for units in GROUP_SIZES
    )
