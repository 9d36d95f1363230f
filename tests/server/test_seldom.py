"""What is said over and over is said once in a while, and nothing is uncounted."""

from __future__ import annotations

from ftpy.server.seldom import MOST_THINGS, Seldom


def test_a_thing_is_said_at_once_and_then_with_how_often_it_was() -> None:
    now = [0.0]
    seldom = Seldom(10, clock=lambda: now[0])
    assert [seldom.due("a") for _ in range(5)] == [1, 0, 0, 0, 0]
    assert seldom.due("b") == 1
    now[0] = 9.9
    assert seldom.due("a") == 0
    now[0] = 10.0
    assert seldom.due("a") == 6
    assert seldom.due("a") == 0


def test_things_that_are_told_apart_are_bounded() -> None:
    seldom = Seldom(10, clock=lambda: 0.0)
    for number in range(3 * MOST_THINGS):
        assert seldom.due(number) == 1
    assert len(seldom._said) <= MOST_THINGS and len(seldom._times) <= MOST_THINGS
