"""Who is let in: each limit alone, what counts as one source, and that every place is given back."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest

from ftpy.config.server import Limits, Penalties
from ftpy.server.admission import Admission, source_of
from ftpy.server.penalties import Offenders


def refusal(admission: Admission, connection: int, source: str) -> str | None:
    """Why a connection is not let in."""
    return admission.admit(connection, source)[0]


@pytest.mark.parametrize(
    ("address", "source"),
    [
        (("192.0.2.7", 5), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 5, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:2::1", 5, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:3::1", 5, 0, 0), "2001:db8:1:3::/64"),
        (("::ffff:192.0.2.7", 5, 0, 0), "192.0.2.7"),
        (("fe80::1%eth0", 5, 0, 2), "fe80::/64"),
        ("", "unix"),
        (b"", "unix"),
    ],
)
def test_source_is_what_one_peer_cannot_multiply(address: object, source: str) -> None:
    assert source_of(address) == source


def test_no_more_than_all_connections_are_admitted() -> None:
    admission = Admission(Limits(connections=2))
    assert refusal(admission, 1, "a") is None and refusal(admission, 2, "b") is None
    assert refusal(admission, 3, "c") == "connections"
    admission.leave(1, "a")
    assert refusal(admission, 3, "c") is None
    assert admission.connections == 2


def test_no_more_than_its_share_is_admitted_from_one_address() -> None:
    admission = Admission(Limits(connections_per_address=2))
    assert refusal(admission, 1, "a") is None and refusal(admission, 2, "a") is None
    assert refusal(admission, 3, "a") == "connections_per_address"
    assert refusal(admission, 4, "b") is None
    admission.leave(2, "a")
    assert refusal(admission, 3, "a") is None


def always() -> float:
    """The chance at which one goes as soon as one may, the first of those that may."""
    return 0.0


def never() -> float:
    """The chance at which one goes only when one must, the last of those that may."""
    return 0.999999


def test_no_stranger_goes_up_to_half_the_limit() -> None:
    admission = Admission(Limits(connections_unauthenticated=8), chance=always)
    assert [admission.admit(number, "a")[1] for number in range(5)] == [None] * 5


def test_a_stranger_goes_for_certain_at_the_limit() -> None:
    admission = Admission(Limits(connections_unauthenticated=8), chance=never)
    assert [admission.admit(number, "a")[1] for number in range(9)] == [None] * 8 + [7]


def test_strangers_go_the_more_probably_the_more_there_are() -> None:
    seldom = Random(7)
    shares = []
    for crowd in (50, 60, 70, 80, 90, 100):
        gone = 0
        for _ in range(400):
            admission = Admission(Limits(connections_unauthenticated=100), chance=never)
            for number in range(crowd):
                admission.admit(number, "a")
            admission._chance = seldom.random
            gone += admission.admit(crowd, "a")[1] is not None
        shares.append(gone / 400)
    assert shares == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1], abs=0.08)
    assert (shares[0], shares[-1]) == (0, 1)


def test_any_stranger_of_a_source_may_be_the_one_that_goes() -> None:
    fair = Random(7)
    gone = Counter[int | None]()
    for _ in range(1000):
        admission = Admission(Limits(connections_unauthenticated=4), chance=never)
        for number in range(4):
            admission.admit(number, "a")
        admission._chance = fair.random
        gone[admission.admit(4, "a")[1]] += 1
    assert set(gone) == {0, 1, 2, 3} and min(gone.values()) > 200


def test_who_is_known_goes_for_nobody() -> None:
    admission = Admission(Limits(connections_unauthenticated=2), chance=always)
    admission.admit(1, "a")
    admission.known(1, "alice", None)
    admission.admit(2, "a")
    assert admission.admit(3, "a") == (None, None)
    assert admission.admit(4, "a") == (None, 2)


@pytest.mark.parametrize("chance", [always, never, Random(7).random])
def test_a_flood_pushes_out_only_its_own_strangers(chance: Callable[[], float]) -> None:
    admission = Admission(Limits(connections_unauthenticated=4), chance=chance)
    admission.admit(1, "quiet")
    flood = set()
    for number in range(1000, 1100):
        evicted = admission.admit(number, "flood")[1]
        flood.add(number)
        assert evicted in flood | {None} and evicted != 1
    assert admission.is_stranger(1) and admission.known(1, "alice", None) == "welcome"


def test_a_newcomer_counts_with_its_source_when_room_is_made() -> None:
    admission = Admission(Limits(connections_unauthenticated=2))
    admission.admit(1, "a")
    admission.admit(2, "b")
    assert admission.admit(3, "b") == (None, 2)


def test_who_made_room_is_not_known_when_its_proof_comes_after_all() -> None:
    admission = Admission(Limits(connections_unauthenticated=1))
    admission.admit(1, "a")
    assert admission.admit(2, "b") == (None, 1)
    assert not admission.is_stranger(1) and admission.known(1, "alice", None) == "gone"
    assert admission.known(2, "bob", None) == "welcome"
    assert admission.connections == 2  # its place is free when it has left


def test_what_was_refused_takes_no_place() -> None:
    admission = Admission(Limits(connections_per_address=1))
    admission.admit(1, "a")
    for number in range(10):
        assert refusal(admission, 100 + number, "a") == "connections_per_address"
    assert admission.connections == 1
    admission.leave(1, "a")
    assert admission.connections == 0 and refusal(admission, 1, "a") is None


def test_places_are_counted_right_when_many_come_and_go_at_once() -> None:
    admission = Admission(Limits(connections=8, connections_per_address=5, connections_unauthenticated=6))
    most, lock = [0], threading.Lock()

    def come_and_go(number: int) -> None:
        for _ in range(300):
            if refusal(admission, number, f"source {number % 3}") is None:
                with lock:
                    most[0] = max(most[0], admission.connections)
                admission.known(number, "alice", None)
                admission.leave(number, f"source {number % 3}")

    threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= most[0] <= 8
    assert admission.connections == 0


def test_no_more_than_their_share_is_let_in_of_one_user() -> None:
    admission = Admission(Limits())
    for number in range(4):
        admission.admit(number, f"source {number}")
    assert [admission.known(number, "alice", 2) for number in (0, 1, 2)] == ["welcome", "welcome", "full"]
    assert admission.known(3, "bob", 2) == "welcome"
    admission.leave(2, "source 2")  # was not counted for her
    admission.leave(1, "source 1")
    admission.admit(4, "a")
    admission.admit(5, "a")
    assert [admission.known(number, "alice", 2) for number in (4, 5)] == ["welcome", "full"]
    for number in (0, 3, 4, 5):
        admission.leave(number, f"source {number}" if number < 4 else "a")
    assert admission.connections == 0 and not admission._by_user and not admission._users


def test_a_penalised_source_is_refused_and_another_is_not() -> None:
    admission = Admission(Limits(), Offenders(Penalties()))
    for _ in range(5):
        admission.offend("192.0.2.7", "denied")
    assert refusal(admission, 1, "192.0.2.7") == "penalties"
    assert refusal(admission, 2, "192.0.2.8") is None
    assert admission.connections == 1
    assert [(one.source, one.refused) for one in admission.penalties()] == [("192.0.2.7", 1)]


def test_a_source_is_known_since_the_last_of_its_users_left() -> None:
    now = [0.0]
    admission = Admission(Limits(), Offenders(Penalties(), clock=lambda: now[0]))
    admission.admit(1, "192.0.2.7")
    admission.known(1, "alice", None)
    now[0] += 30 * 86_400
    admission.leave(1, "192.0.2.7")
    for _ in range(100):
        admission.offend("192.0.2.7", "denied")
    now[0] += 1.1
    assert refusal(admission, 2, "192.0.2.7") is None


def test_what_is_owed_stays_when_settings_are_read_again() -> None:
    admission = Admission(Limits(), Offenders(Penalties()))
    for _ in range(5):
        admission.offend("192.0.2.7", "denied")
    admission.reload(Limits(connections=1), Penalties(threshold_seconds=60))
    assert refusal(admission, 1, "192.0.2.7") is None and refusal(admission, 2, "192.0.2.8") == "connections"
    admission.reload(Limits(), Penalties())
    assert refusal(admission, 2, "192.0.2.7") == "penalties"
