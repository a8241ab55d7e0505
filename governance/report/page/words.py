"""Numbers, times and terms as people read them. The exact value always goes along, as a tooltip or in full."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

from governance.canonical import decimal_text
from governance.privacy import PrivacyLoss
from governance.release import Guarantee, WindowReference
from governance.report.page.markup import Markup, element, join

__all__ = [
    "amount",
    "bounds_in_words",
    "count",
    "day",
    "digest",
    "epsilon",
    "fraction",
    "moment",
    "percent",
    "plural",
    "relation_in_words",
    "remaining_in_words",
    "share",
    "size",
    "threshold_in_words",
    "window",
]

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_RELATIONS = {
    "add_remove_one": "add or remove one",
    "replace_one": "replace one",
}


def fraction(value: Decimal | float | str, digits: int = 4, rounding: str = ROUND_HALF_EVEN) -> str:
    """A number to some significant digits: plain from 0.0001 to a million, else as `1.2 × 10⁻⁹`."""
    number = value if isinstance(value, Decimal) else Decimal(str(value))
    if number == 0:
        return "0"
    place = number.adjusted() - digits + 1
    number = number.quantize(Decimal(1).scaleb(place), rounding=rounding)
    exponent = number.adjusted()
    if -4 <= exponent < 6:
        return f"{Decimal(decimal_text(number)):,f}".replace(",", "\u202f").replace("-", "−")
    mantissa = decimal_text(number.scaleb(-exponent)).replace("-", "−")
    return f"{mantissa}\u202f×\u202f10{str(exponent).translate(_SUPERSCRIPTS)}"


def amount(value: Decimal | str) -> Markup:
    """A rho or delta, with its exact text as tooltip."""
    exact = value if isinstance(value, str) else decimal_text(value)
    return element("span", fraction(exact), class_="amount", title=exact)


def epsilon(value: float | None) -> Markup:
    """An epsilon, rounded up: it is an upper bound."""
    if value is None:
        return element("span", "none", title="no finite epsilon at the reporting delta")
    return element("span", fraction(value, 3, ROUND_CEILING), class_="amount", title=repr(value))


def count(value: int) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{value:,}".replace(",", "\u202f")


def plural(number: int, one: str, many: str = "") -> str:
    """A number with its noun: `1 release`, `3 releases`."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def size(value: int) -> str:
    """A file's size."""
    for unit, step in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= step:
            return f"{value / step:.1f} {unit}"
    return f"{value} B"


def share(part: Decimal, whole: Decimal) -> float:
    """Part of a whole, from 0; a part of nothing is 1, nothing of nothing 0."""
    if whole == 0:
        return 1.0 if part > 0 else 0.0
    return max(0.0, float(part / whole))


def percent(value: float, rounding: str = ROUND_HALF_EVEN) -> str:
    """A share as percent: whole, or one digit below ten; never 0 for something nor 100 for less than all."""
    number = Decimal(repr(value * 100))
    if number in (0, 100):
        return f"{number:.0f}\u202f%"
    step = Decimal(1) if 10 <= number < 99 else Decimal("0.1")
    shown = number.quantize(step, rounding=rounding)
    if shown == 0:
        return "under 0.1\u202f%"
    if shown == 100 and number < 100:
        return "over 99.9\u202f%"
    return f"{shown}\u202f%"


def _parse(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None


def day(value: datetime) -> str:
    """`3 Nov 2025`."""
    return f"{value.day} {value:%b %Y}"


def moment(text: str, *, seconds: bool = False) -> Markup:
    """A point in time in UTC; a text that is none is shown as it is."""
    value = _parse(text)
    if value is None:
        return join(text)
    clock = f"{value:%H:%M:%S}" if seconds else f"{value:%H:%M}"
    return element("time", f"{day(value)}, {clock} UTC", datetime=text, title=text)


def window(reference: WindowReference) -> Markup:
    """A window of whole days as its first and last day; others with their times."""
    start, end = _parse(reference.start), _parse(reference.end)
    if start is None or end is None:
        return join("snapshot")
    if start.time() == end.time() == datetime.min.time():
        last = end - timedelta(days=1)
        if last <= start:
            shown = day(start)
        elif (start.year, start.month) == (last.year, last.month):
            shown = f"{start.day} – {day(last)}"
        elif start.year == last.year:
            shown = f"{start.day} {start:%b} – {day(last)}"
        else:
            shown = f"{day(start)} – {day(last)}"
    else:
        shown = f"{day(start)} {start:%H:%M} – {day(end)} {end:%H:%M} UTC"
    return element("span", shown, title=f"from {reference.start} to before {reference.end}")


def digest(value: str | None, *, whole: bool = False) -> Markup:
    """A hash: its first twelve digits with the rest as tooltip, or whole and wrapping."""
    if not value:
        return join("none")
    if whole:
        return element("code", value, class_="hash")
    scheme, _, digits = value.rpartition(":")
    shown = f"{scheme}:{digits[:12]}" if scheme else digits[:12]
    return element("code", f"{shown}…" if len(digits) > 12 else value, class_="hash", title=value)


def relation_in_words(guarantee: Guarantee) -> str:
    """The neighboring relation with its unit: `add or remove one user_id`."""
    if not guarantee.unit:
        return "none: public inputs"
    return f"{_RELATIONS.get(guarantee.relation, guarantee.relation.replace('_', ' '))} {guarantee.unit}"


def bounds_in_words(guarantee: Guarantee) -> str:
    """The contribution bounds as a sentence where they are of the usual kind, else as names and values."""
    bounds = dict(guarantee.bounds)
    if not bounds:
        return ""
    partitions, rows = bounds.pop("max_partitions", None), bounds.pop("max_rows_per_partition", None)
    parts = []
    if isinstance(partitions, int):
        parts.append(f"at most {plural(partitions, 'partition')} per {guarantee.unit or 'unit'}")
    if isinstance(rows, int):
        parts.append(f"at most {plural(rows, 'row')} in each")
    kind = bounds.pop("kind", None)
    parts += [f"{name.replace('_', ' ')} {value}" for name, value in sorted(bounds.items())]
    sentence = ", ".join(parts)
    return f"{sentence} ({str(kind).replace('_', ' ')})" if kind else sentence


def threshold_in_words(guarantee: Guarantee) -> str:
    """The threshold of private selection: a count of units as it is, a weight to four digits."""
    threshold = guarantee.threshold
    if threshold is None:
        return ""
    return count(threshold) if isinstance(threshold, int) else fraction(threshold)


def remaining_in_words(remaining: PrivacyLoss, cap: PrivacyLoss) -> str:
    """What is left of an account, rounded down."""
    rho, delta = share(remaining.rho, cap.rho), share(remaining.delta, cap.delta)
    return f"{percent(rho, ROUND_FLOOR)} of rho and {percent(delta, ROUND_FLOOR)} of delta"
