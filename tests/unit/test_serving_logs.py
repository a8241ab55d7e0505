"""The same line is not logged again and again."""

from __future__ import annotations

import logging

from serving.logs import Seldom


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("hedgerow.serving", logging.WARNING, __file__, 1, "%s", (text,), None)


def test_a_message_passes_once_in_an_interval() -> None:
    now = [0.0]
    seldom = Seldom(10, clock=lambda: now[0])
    assert [seldom.filter(record("a")) for _ in range(3)] == [True, False, False]
    assert seldom.filter(record("b"))
    now[0] = 9.9
    assert not seldom.filter(record("a"))
    now[0] = 10.0
    assert seldom.filter(record("a"))
    assert not seldom.filter(record("a"))


def test_many_different_messages_do_not_pile_up() -> None:
    seldom = Seldom(10, clock=lambda: 0.0)
    assert all(seldom.filter(record(str(number))) for number in range(1000))
    assert len(seldom._passed) <= 100
