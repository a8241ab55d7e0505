"""Two drawings, as inline SVG without scripts: a budget bar, and cumulative spend over time.

Lines and areas stretch with the page; every label is HTML beside the drawing, so text keeps its size on any screen.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from governance.report.document import AccountRecord, Spend
from governance.report.page.markup import Markup, element, join, table
from governance.report.page.words import amount, day, fraction, moment, percent, share

__all__ = ["budget_bar", "spend_chart", "spend_table"]

_WIDTH, _HEIGHT = 1000, 200
_QUANTITIES: tuple[tuple[str, Callable[[Spend], Decimal], Callable[[AccountRecord], Decimal]], ...] = (
    ("rho", lambda spend: spend.spent.rho, lambda account: account.cap.rho),
    ("delta", lambda spend: spend.spent.delta, lambda account: account.cap.delta),
)


def budget_bar(name: str, *, spent: Decimal, held: Decimal, cap: Decimal) -> Markup:
    """A bar from nothing to the cap: spent, then held, then what remains."""
    spent_share, held_share = min(1.0, share(spent, cap)), min(1.0, share(held, cap))
    held_share = min(held_share, 1.0 - spent_share)
    remaining = max(Decimal(0), cap - spent - held)
    label = f"{name}: {percent(spent_share)} of the cap spent, {percent(held_share)} held, {fraction(remaining)} left"
    drawing = element(
        "svg",
        element("title", label),
        element("rect", class_="bar-cap", width="100%", height="100%"),
        element("rect", class_=f"bar-{name}", width=_of_hundred(spent_share), height="100%"),
        element("rect", class_="bar-held", x=_of_hundred(spent_share), width=_of_hundred(held_share), height="100%"),
        class_="bar",
        role="img",
        aria_label=label,
    )
    return element(
        "div",
        element(
            "div",
            element("span", name, class_="bar-name"),
            element(
                "span",
                join(amount(spent), " of ", amount(cap), " spent"),
                join(element("span", class_="swatch"), amount(held), " held") if held else None,
                class_="bar-figures",
            ),
            class_="bar-head",
        ),
        drawing,
        class_="budget",
    )


def spend_chart(account: AccountRecord, until: str) -> Markup:
    """Cumulative spend of rho and delta as shares of their caps, with the cap line, and the same as a table.

    Args:
        account: an account that was opened.
        until: where the time axis ends, ISO 8601.
    """
    start = datetime.fromisoformat(account.opened_at or until)
    end = max(datetime.fromisoformat(until), start + timedelta(seconds=1))
    top = max([1.0, *(share(read(s), cap(account)) for _, read, cap in _QUANTITIES for s in account.history[-1:])])
    label = _summary(account, start, end)
    drawing = element(
        "svg",
        element("title", label),
        *(_line("grid", 0, _y(level / 4, top), _WIDTH, _y(level / 4, top)) for level in range(4)),
        _line("cap", 0, _y(1.0, top), _WIDTH, _y(1.0, top), "the cap: 100 %"),
        *(
            part
            for name, read, cap in reversed(_QUANTITIES)
            for part in _series(
                name,
                [(datetime.fromisoformat(s.at), share(read(s), cap(account)), s) for s in account.history],
                start,
                end,
                top,
            )
        ),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )
    ticks = [top, top * 0.75, top * 0.5, top * 0.25, 0]
    axis = [element("span", percent(tick) if tick else "0") for tick in ticks]
    middle = start + (end - start) / 2
    return element(
        "figure",
        element("figcaption", "Spend over time, as share of the cap"),
        element(
            "div",
            element("span", _key("rho"), "rho"),
            element("span", _key("delta"), "delta"),
            element("span", _key("cap"), "cap"),
            class_="legend",
            aria_hidden="true",
        ),
        element("div", *axis, class_="axis-y", aria_hidden="true"),
        element("div", drawing, class_="plot"),
        element(
            "div",
            *(element("span", tick) for tick in _time_labels(start, middle, end)),
            class_="axis-x",
            aria_hidden="true",
        ),
        class_="chart",
    )


def spend_table(account: AccountRecord) -> Markup:
    """Every draw of an account, newest first."""
    rows = [
        (moment(s.at), s.subject, amount(s.loss.rho), amount(s.loss.delta), amount(s.spent.rho), amount(s.spent.delta))
        for s in reversed(account.history)
    ]
    head = ("drawn", "release", "rho", "delta", "rho in all", "delta in all")
    return table(f"Every draw from {account.name}", head, rows, numbers=frozenset({2, 3, 4, 5}))


def _series(
    name: str, points: list[tuple[datetime, float, Spend]], start: datetime, end: datetime, top: float
) -> list[Markup]:
    """A step line from nothing, its area, and a mark with a tooltip at each draw."""
    x, y = 0.0, _y(0.0, top)
    path, marks = [f"M{x:g} {y:g}"], []
    for at, level, spend in points:
        x, y = _x(at, start, end), _y(level, top)
        path.append(f"H{x:.1f}V{y:.2f}")
        told = f"{day(at)}, {at:%H:%M} UTC: {name} at {percent(level)} of the cap after {spend.subject}"
        marks.append(element("path", element("title", told), class_=f"mark-{name}", d=f"M{x:.1f} {y:.2f}h.01"))
    line = "".join(path) + f"H{_WIDTH}"
    return [
        element("path", class_=f"area-{name}", d=f"{line}V{_HEIGHT}H0Z"),
        element("path", class_=f"line-{name}", d=line),
        *marks,
    ]


def _summary(account: AccountRecord, start: datetime, end: datetime) -> str:
    spent = account.spent
    return (
        f"Account {account.name} from {day(start)} to {day(end)}: {len(account.history)} draws; "
        f"rho rose to {percent(share(spent.rho, account.cap.rho))} of its cap, "
        f"delta to {percent(share(spent.delta, account.cap.delta))}."
    )


def _x(at: datetime, start: datetime, end: datetime) -> float:
    return min(1.0, max(0.0, (at - start) / (end - start))) * _WIDTH


def _y(level: float, top: float) -> float:
    return _HEIGHT - min(level / top, 1.0) * _HEIGHT


def _line(name: str, x1: float, y1: float, x2: float, y2: float, title: str = "") -> Markup:
    path = f"M{x1:g} {y1:g}L{x2:g} {y2:g}"
    return element("path", element("title", title) if title else None, class_=name, d=path)


def _key(name: str) -> Markup:
    """A legend's sample of a line."""
    line = element("path", class_=name if name == "cap" else f"line-{name}", d="M0 5H22")
    return element("svg", line, viewBox="0 0 22 10", class_="key")


def _of_hundred(value: float) -> str:
    return f"{value * 100:.3f}%"


def _time_labels(*moments: datetime) -> list[str]:
    """Days where the axis spans days, else clock times with the day at the start."""
    span = moments[-1] - moments[0]
    utc = [at.astimezone(UTC) for at in moments]
    if span >= timedelta(days=2):
        return [day(at) for at in utc]
    clock = "%H:%M" if span >= timedelta(minutes=5) else "%H:%M:%S"
    return [f"{day(utc[0])}, {utc[0]:{clock}}", f"{utc[1]:{clock}}", f"{utc[2]:{clock}} UTC"]
