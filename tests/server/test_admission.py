"""Who is let in: each limit alone, what counts as one source, and that every place is given back."""

from __future__ import annotations

import threading

import pytest

from ftpy.config.server import Limits
from ftpy.server.admission import Admission, source_of


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


def test_the_stranger_that_waits_longest_makes_room_for_a_newcomer() -> None:
    admission = Admission(Limits(connections_unauthenticated=2))
    assert admission.admit(1, "a") == (None, None) and admission.admit(2, "a") == (None, None)
    assert admission.admit(3, "b") == (None, 1)
    admission.known(2)
    assert admission.admit(4, "c") == (None, None)
    admission.leave(3, "b")
    assert admission.admit(5, "c") == (None, None)
    assert admission.admit(6, "c") == (None, 4)


def test_a_flood_pushes_out_only_its_own_strangers() -> None:
    admission = Admission(Limits(connections_unauthenticated=4))
    admission.admit(1, "quiet")
    for number in range(100):
        assert admission.admit(1000 + number, "flood")[1] == (1000 + number - 3 if number >= 3 else None)
    assert admission.is_stranger(1) and admission.known(1)


def test_a_newcomer_counts_with_its_source_when_room_is_made() -> None:
    admission = Admission(Limits(connections_unauthenticated=2))
    admission.admit(1, "a")
    admission.admit(2, "b")
    assert admission.admit(3, "b") == (None, 2)


def test_who_made_room_is_not_known_when_its_proof_comes_after_all() -> None:
    admission = Admission(Limits(connections_unauthenticated=1))
    admission.admit(1, "a")
    assert admission.admit(2, "b") == (None, 1)
    assert not admission.is_stranger(1) and not admission.known(1)
    assert admission.known(2)
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
                admission.known(number)
                admission.leave(number, f"source {number % 3}")

    threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= most[0] <= 8
    assert admission.connections == 0
