"""Keeps data out of error messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from governance.errors import EngineError, HedgerowError

__all__ = ["no_data_in_errors"]


@contextmanager
def no_data_in_errors(subject: str) -> Iterator[None]:
    """Turns whatever Spark raises into an `EngineError` that names the kind of failure and no data.

    Spark's messages quote rows and values (a cast that fails quotes the text), so none of them may pass, nor the
    exception they came with.
    """
    failure = None
    try:
        yield
    except HedgerowError:
        raise
    except Exception as error:  # noqa: BLE001 - the point: nothing may pass
        condition = getattr(error, "getCondition", lambda: None)()
        failure = condition if isinstance(condition, str) else type(error).__name__
    if failure is not None:
        raise EngineError(
            f"{subject}: the engine failed ({failure}); details are withheld because they may quote data; "
            "check the input's types, memory and disk, and run again"
        )
