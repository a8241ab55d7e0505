"""Expected-error curves of a plan, over the budget and over group size: as numbers, and drawn with characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.plan import SignalPlan, relative_error

__all__ = ["Curve", "budget_curves", "draw", "group_curves"]

BUDGETS = tuple(10 ** (i / 5 - 1) for i in range(11))
"""A tenth of the budget to ten times it."""

GROUPS = tuple(round(10 ** (i / 4)) for i in range(2, 22))
"""Three units to about 180,000."""

TYPICAL_GROUP = 1000
_MARKS = "ox+*#@%&"


@dataclass(frozen=True, slots=True)
class Curve:
    """Expected relative error of a column at some x."""

    column: str
    points: tuple[tuple[float, float], ...]


def budget_curves(plan: SignalPlan, units: int = TYPICAL_GROUP) -> tuple[Curve, ...]:
    """Each column's expected relative error in a group of `units`, over the rho of a release.

    Gaussian noise falls with the root of rho, and so does Laplace noise, for rho grows with epsilon squared.
    """
    rho = float(plan.loss.rho)
    return tuple(
        Curve(
            output.name,
            tuple((rho * times, relative_error(output, plan.calibration, units, times)) for times in BUDGETS),
        )
        for output in plan.recipe.outputs
    )


def group_curves(plan: SignalPlan) -> tuple[Curve, ...]:
    """Each column's expected relative error at the planned budget, over the number of privacy units in the group."""
    return tuple(
        Curve(output.name, tuple((float(n), relative_error(output, plan.calibration, n)) for n in GROUPS))
        for output in plan.recipe.outputs
    )


def draw(curves: Sequence[Curve], x_label: str, *, width: int = 56, height: int = 9) -> str:
    """Curves on logarithmic axes, one mark for each column: at most eight, told apart by shape.

    Args:
        curves: what to draw.
        x_label: what x is.
        width: columns of the plot, without the axis.
        height: rows of the plot.
    """
    shown = [curve for curve in curves if all(y > 0 for _, y in curve.points)][: len(_MARKS)]
    if not shown:
        return ""
    xs = [math.log10(x) for curve in shown for x, _ in curve.points]
    ys = [math.log10(min(y, 10.0)) for curve in shown for _, y in curve.points]
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    grid = [[" "] * width for _ in range(height)]
    for mark, curve in reversed(list(zip(_MARKS, shown, strict=False))):
        for x, y in curve.points:
            column = round((math.log10(x) - left) / max(right - left, 1e-9) * (width - 1))
            row = round((high - math.log10(min(y, 10.0))) / max(high - low, 1e-9) * (height - 1))
            grid[row][column] = mark
    labels = {0: high, height // 2: (high + low) / 2, height - 1: low}
    lines = [
        f"{_percent(10 ** labels[row]) if row in labels else '':>8} |{''.join(cells).rstrip()}"
        for row, cells in enumerate(grid)
    ]
    lines.append(" " * 9 + "+" + "-" * width)
    ends = f"{10**left:.3g}", f"{10**right:.3g}"
    middle = x_label.center(width - len(ends[0]) - len(ends[1]))
    lines.append(" " * 10 + ends[0] + middle + ends[1])
    lines.append(" " * 10 + "  ".join(f"{mark} {curve.column}" for mark, curve in zip(_MARKS, shown, strict=False)))
    return "\n".join(lines)


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.2g} %" if ratio < 1 else f"{100 * ratio:.0f} %"
