"""A thread's time by activity: it adds up, the innermost counts, and only who is measured is."""

from __future__ import annotations

import threading
import time

import pytest

from ftpy import timing
from ftpy.timing import DISK, HASHING, Moving, Stopwatch


@pytest.fixture
def stopwatch() -> Stopwatch:
    """This thread's, for the time of a test."""
    stopwatch = Stopwatch()
    timing.attach(stopwatch)
    yield stopwatch
    timing.attach(None)


def work(seconds: float) -> None:
    """Keep the processor at work."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_the_seconds_add_up_and_the_innermost_counts(stopwatch: Stopwatch) -> None:
    began = stopwatch._since
    with DISK:
        time.sleep(0.02)
        with HASHING:
            time.sleep(0.05)
        time.sleep(0.02)
    spent = stopwatch.lap()
    assert spent["hashing"] >= 0.05 and spent["disk"] >= 0.04
    assert sum(spent.values()) == pytest.approx(stopwatch._since - began)
    assert spent["other"] == pytest.approx(sum(spent.values()) - spent["hashing"] - spent["disk"])


def test_an_activity_that_fails_is_over(stopwatch: Stopwatch) -> None:
    with pytest.raises(OSError, match="no"), DISK:
        raise OSError("no")
    before = stopwatch.lap()["disk"]
    time.sleep(0.01)
    assert stopwatch.lap()["disk"] == before


def test_waiting_is_told_from_the_processors_work(stopwatch: Stopwatch) -> None:
    def move() -> int:
        work(0.03)
        time.sleep(0.06)
        return 5

    assert Moving("sending", "encryption")(move) == 5
    spent = stopwatch.lap()
    assert spent["encryption"] >= 0.03 and spent["sending"] >= 0.055  # to go to sleep is work, too


def test_nothing_is_measured_without_a_stopwatch() -> None:
    assert timing.measuring() is None
    with DISK:
        assert timing.measuring() is None
    assert Moving("sending", "copying")(lambda: 3) == 3


def test_what_another_thread_does_for_this_one_counts_and_what_others_do_does_not(stopwatch: Stopwatch) -> None:
    measured: list[Stopwatch | None] = []

    def busy(lent: Stopwatch | None) -> None:
        timing.attach(lent)
        measured.append(timing.measuring())
        with DISK:
            time.sleep(0.03)

    with timing.lent() as mine:
        assert timing.measuring() is None
        threads = [threading.Thread(target=busy, args=(watch,)) for watch in (mine, None)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert timing.measuring() is stopwatch
    assert measured.count(stopwatch) == measured.count(None) == 1 and stopwatch.lap()["disk"] >= 0.03
