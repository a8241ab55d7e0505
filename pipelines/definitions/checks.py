"""Checks that every definition uses: what, found, allowed."""

from __future__ import annotations

import math
import re
from datetime import timedelta

from governance.errors import DefinitionError

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")

_CENTURY = timedelta(days=36_525)


def check_name(subject: str, what: str, name: object) -> None:
    """A name of lower-case letters, digits and underscores."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DefinitionError(
            subject,
            f"{what}: found {name!r}, allowed: a lower-case letter, then letters, digits, underscores (63 at most)",
        )


def check_column(subject: str, what: str, column: object) -> None:
    """A column's name."""
    if not isinstance(column, str) or not column or column.startswith("__"):
        raise DefinitionError(subject, f"{what}: found {column!r}, allowed: a column's name (not starting with '__')")


def check_number(subject: str, what: str, value: object, *, above: float, most: float = math.inf) -> None:
    """A finite number in `(above, most]`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise DefinitionError(subject, f"{what}: found {value!r}, allowed: a finite number")
    if not above < value <= most:
        upper = "" if math.isinf(most) else f" and at most {most:g}"
        raise DefinitionError(subject, f"{what}: found {value!r}, allowed: greater than {above:g}{upper}")


def check_whole(subject: str, what: str, value: object, *, least: int, most: int) -> None:
    """A whole number in `[least, most]`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise DefinitionError(subject, f"{what}: found {value!r}, allowed: a whole number from {least} to {most:,}")


def check_texts(subject: str, owner: object, description: object) -> None:
    """An owner and a description that say something."""
    for what, text in (("owner", owner), ("description", description)):
        if not isinstance(text, str) or not text.strip():
            raise DefinitionError(subject, f"{what}: empty; say it in a few words")


def check_kind(subject: str, what: str, value: object, *kinds: type) -> None:
    """An instance of one of these classes. A plain string is no member of an enum, though it compares equal to one."""
    if not isinstance(value, kinds):
        allowed = " or ".join(kind.__name__ for kind in kinds)
        raise DefinitionError(subject, f"{what}: found {type(value).__name__}, allowed: {allowed}")


def check_table(subject: str, table: object) -> None:
    """A path, as text."""
    if not isinstance(table, str) or not table.strip():
        raise DefinitionError(subject, f"table: found {table!r}, allowed: a parquet file or folder, as text")


def check_span(subject: str, what: str, value: object, *, least: timedelta) -> None:
    """A length of time in whole seconds, a century at most."""
    if not isinstance(value, timedelta) or not least <= value <= _CENTURY or value.microseconds:
        found = str(value) if isinstance(value, timedelta) else repr(value)
        raise DefinitionError(
            subject, f"{what}: found {found}, allowed: whole seconds, from {least} to {_CENTURY.days} days"
        )


def names_of(value: object) -> tuple[str, ...]:
    """Column names: a single one may be given bare."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, tuple | list) else ()
