"""What failures cost their source: how much, for how long, whom it spares, and how little it costs us."""

from __future__ import annotations

import logging
import random

import pytest

from ftpy.config.server import Penalties
from ftpy.server.penalties import KNOWN_DAYS, KNOWN_SECONDS, OPEN_SECONDS, Offenders, is_exempt

SETTINGS = Penalties(denied_seconds=5, protocol_seconds=10, late_seconds=7, threshold_seconds=20, most_seconds=60)
HERE = "192.0.2.7"


class Clock:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def let_pass(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def offenders(clock: Clock) -> Offenders:
    return Offenders(SETTINGS, most_sources=4, clock=clock)


def fail(offenders: Offenders, times: int, source: str = HERE) -> None:
    for _ in range(times):
        offenders.add(source, "denied")


def owed(offenders: Offenders) -> dict[str, float]:
    """Seconds by source."""
    return {penalty.source: round(penalty.seconds, 3) for penalty in offenders.penalties()}


def test_failures_up_to_the_threshold_are_free(offenders: Offenders) -> None:
    fail(offenders, 4)
    assert not offenders.refuses(HERE)
    fail(offenders, 1)
    assert offenders.refuses(HERE)


def test_every_offence_costs_what_the_settings_say(offenders: Offenders) -> None:
    offenders.add("192.0.2.1", "denied")
    offenders.add("192.0.2.2", "protocol")
    offenders.add("192.0.2.3", "late")
    assert owed(offenders) == {"192.0.2.1": 5, "192.0.2.2": 10, "192.0.2.3": 7}


def test_an_offence_of_no_seconds_costs_nothing(clock: Clock) -> None:
    offenders = Offenders(Penalties(denied_seconds=0), clock=clock)
    fail(offenders, 1000)
    assert owed(offenders) == {}


def test_a_second_that_passes_is_a_second_forgiven(offenders: Offenders, clock: Clock) -> None:
    fail(offenders, 6)
    clock.let_pass(9.9)
    assert offenders.refuses(HERE)
    clock.let_pass(0.2)
    assert not offenders.refuses(HERE)
    fail(offenders, 1)
    assert offenders.refuses(HERE)
    clock.let_pass(25)
    assert owed(offenders) == {}


def test_a_penalty_grows_to_its_cap_and_no_further(offenders: Offenders, clock: Clock) -> None:
    fail(offenders, 1000)
    clock.let_pass(59.9)
    assert offenders.refuses(HERE)
    clock.let_pass(0.2)
    assert not offenders.refuses(HERE)


def test_a_source_pays_only_for_itself(offenders: Offenders) -> None:
    fail(offenders, 1000)
    assert not offenders.refuses("192.0.2.8")


def test_who_authenticates_owes_nothing(offenders: Offenders) -> None:
    fail(offenders, 4)
    offenders.forgive(HERE)
    fail(offenders, 4)
    assert not offenders.refuses(HERE)


@pytest.mark.parametrize("seed", range(20))
def test_one_of_three_tries_gets_in_from_a_known_source_whatever_else_comes_from_there(seed: int) -> None:
    clock, chance = Clock(), random.Random(seed)
    offenders = Offenders(SETTINGS, clock=clock)
    offenders.forgive(HERE)

    def hammer(seconds: float) -> None:
        until = clock.now + seconds
        while clock.now < until:
            if not offenders.refuses(HERE):
                fail(offenders, 1)
            clock.let_pass(0.003)

    refused = 0
    for _ in range(30):
        hammer(chance.uniform(0, 10))
        tries = [offenders.refuses(HERE)]
        for wait in (0.5, 1.0):  # what the client waits (client/lines.py), give or take a fifth
            hammer(wait * chance.uniform(0.8, 1.2))
            tries.append(offenders.refuses(HERE))
        assert not all(tries)
        refused += sum(tries)
    assert refused  # or this proves nothing


def test_a_known_source_is_refused_a_third_of_the_time_while_it_is_hammered(offenders: Offenders, clock: Clock) -> None:
    offenders.forgive(HERE)
    fail(offenders, 5)
    refused = 0
    for _ in range(9000):
        if offenders.refuses(HERE):
            refused += 1
        else:
            fail(offenders, 1)
        clock.let_pass(0.01)
    assert refused / 9000 == pytest.approx(KNOWN_SECONDS / (KNOWN_SECONDS + OPEN_SECONDS), abs=0.02)


def test_a_source_is_known_for_a_while_only(offenders: Offenders, clock: Clock) -> None:
    offenders.forgive(HERE)
    clock.let_pass(KNOWN_DAYS * 86_400 + 1)
    fail(offenders, 6)
    clock.let_pass(KNOWN_SECONDS + 0.1)
    assert offenders.refuses(HERE)
    offenders.remember(HERE)
    clock.let_pass(60)
    fail(offenders, 1000)
    clock.let_pass(KNOWN_SECONDS + 0.1)
    assert not offenders.refuses(HERE)


def test_known_sources_are_bounded_and_the_longest_unseen_goes(offenders: Offenders, clock: Clock) -> None:
    for number in (1, 2, 3, 4, 1, 5):
        offenders.forgive(f"192.0.2.{number}")
    for number in (1, 2):
        fail(offenders, 1000, f"192.0.2.{number}")
    clock.let_pass(KNOWN_SECONDS + 0.1)
    assert not offenders.refuses("192.0.2.1") and offenders.refuses("192.0.2.2")


def test_a_full_table_keeps_what_is_owed_longest(offenders: Offenders) -> None:
    for number, times in enumerate((10, 3, 8, 6)):
        fail(offenders, times, f"192.0.2.{number}")
    fail(offenders, 2, "192.0.2.9")  # owes less than any: not held
    assert sorted(owed(offenders).values()) == [15, 30, 40, 50]
    offenders.add("192.0.2.10", "protocol")
    assert "192.0.2.10" not in owed(offenders)
    fail(offenders, 1, "192.0.2.1")  # who is in it is held to account as ever
    assert owed(offenders)["192.0.2.1"] == 20


def test_who_has_many_sources_pushes_out_no_penalty_and_grows_no_table(clock: Clock) -> None:
    offenders = Offenders(SETTINGS, most_sources=100, clock=clock)
    fail(offenders, 12)
    for number in range(20_000):
        fail(offenders, 2, f"2001:db8:{number // 65536:x}:{number % 65536:x}::/64")
        clock.let_pass(0.0005)
    assert offenders.refuses(HERE)
    assert len(offenders._debts) == 100 and len(offenders._by_end) <= 2 * 100 + 1024 + 1


def test_debts_that_have_passed_make_room(offenders: Offenders, clock: Clock) -> None:
    for number in range(4):
        fail(offenders, 1, f"192.0.2.{number}")
    clock.let_pass(5.1)
    fail(offenders, 1, "192.0.2.9")
    assert owed(offenders) == {"192.0.2.9": 5}


@pytest.mark.parametrize(
    ("source", "networks", "exempt"),
    [
        ("127.0.0.1", ("127.0.0.0/8", "::1/128"), True),
        ("192.0.2.7", ("127.0.0.0/8", "::1/128"), False),
        ("192.0.2.7", ("192.0.2.0/24",), True),
        ("2001:db8:1:2::/64", ("2001:db8::/32",), True),
        ("2001:db8:1:2::/64", ("2001:db8:1:2::/64",), True),
        ("2001:db8:1:2::/64", ("2001:db8:1:2::1/128",), False),
        ("2001:db8:1:2::/64", ("0.0.0.0/0",), False),
        ("unix", (), True),
    ],
)
def test_exempt_are_sources_that_lie_in_a_network(source: str, networks: tuple[str, ...], exempt: bool) -> None:
    assert is_exempt(source, networks) is exempt


def test_an_exempt_source_owes_nothing(clock: Clock) -> None:
    offenders = Offenders(Penalties(), clock=clock)
    fail(offenders, 100, "127.0.0.1")
    assert owed(offenders) == {}


def test_a_penalty_is_said_once_and_at_its_end_with_a_count(
    offenders: Offenders, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ftpy.server")
    fail(offenders, 5)
    for _ in range(1000):
        assert offenders.refuses(HERE)
    clock.let_pass(30)
    assert not offenders.refuses(HERE)
    assert [(record.event, record.fields) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("source-refused", {"source": HERE, "seconds": 5}),
        ("source-forgiven", {"source": HERE, "refused": 1000}),
    ]


def test_a_penalty_that_refused_nobody_is_not_worth_a_word(
    offenders: Offenders, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ftpy.server")
    fail(offenders, 5)
    clock.let_pass(30)
    assert owed(offenders) == {} and caplog.records == []
