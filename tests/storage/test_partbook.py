"""Which parts an upload has, lacks and is receiving; no disk."""

from __future__ import annotations

import pytest

from ftpy.errors import Busy, Incomplete, InvalidRequest
from ftpy.storage.journal import StoredPart
from ftpy.storage.partbook import PartBook
from ftpy.storage.uploadbase import MOST_PARTS

DIGEST = "ab" * 32


def book(file_size: int | None, lengths: dict[int, int]) -> PartBook:
    """A book of parts of 10 bytes, of which these are stored."""
    return PartBook(file_size, 10, {number: StoredPart(length, DIGEST) for number, length in lengths.items()})


@pytest.mark.parametrize(("number", "length"), [(0, 10), (1, 10), (2, 5)])
def test_part_has_the_size_of_parts_but_the_last_one(number: int, length: int) -> None:
    book(25, {}).check_shape(number, length)


@pytest.mark.parametrize(
    ("number", "length"), [(-1, 10), (0, 9), (0, 11), (0, 0), (2, 4), (2, 6), (2, 10), (3, 0), (3, 10), (3, -5)]
)
def test_part_that_the_file_does_not_have_is_refused(number: int, length: int) -> None:
    with pytest.raises(InvalidRequest):
        book(25, {}).check_shape(number, length)


def test_file_that_ends_with_a_whole_part_has_no_part_behind_it() -> None:
    book(20, {}).check_shape(1, 10)
    book(21, {}).check_shape(2, 1)
    for number, length in ((2, 0), (2, 10)):
        with pytest.raises(InvalidRequest):
            book(20, {}).check_shape(number, length)
    with pytest.raises(InvalidRequest):
        book(0, {}).check_shape(0, 0)


@pytest.mark.parametrize(("number", "length"), [(0, 1), (0, 10), (MOST_PARTS - 1, 10), (5, 3)])
def test_any_part_may_belong_to_a_file_of_unknown_size(number: int, length: int) -> None:
    book(None, {}).check_shape(number, length)


@pytest.mark.parametrize(("number", "length"), [(-1, 10), (MOST_PARTS, 10), (0, 0), (0, 11), (0, -1)])
def test_no_file_of_unknown_size_has_such_a_part(number: int, length: int) -> None:
    with pytest.raises(InvalidRequest):
        book(None, {}).check_shape(number, length)


def test_part_is_stored_with_its_own_length_only() -> None:
    parts = book(None, {1: 7})
    assert parts.stored_as(0, 10) is None
    assert parts.stored_as(1, 7) == StoredPart(7, DIGEST)
    with pytest.raises(InvalidRequest, match="stored with 7 bytes"):
        parts.stored_as(1, 8)


def test_part_is_received_by_one_at_a_time() -> None:
    parts = book(25, {})
    parts.receiving.add(1)
    with pytest.raises(Busy):
        parts.stored_as(1, 10)
    assert parts.stored_as(0, 10) is None


@pytest.mark.parametrize(
    ("stored", "missing"),
    [
        ({}, [(0, 2)]),
        ({0: 10}, [(1, 2)]),
        ({1: 10}, [(0, 0), (2, 2)]),
        ({2: 5}, [(0, 1)]),
        ({2: 5, 0: 10}, [(1, 1)]),
        ({2: 5, 1: 10, 0: 10}, []),
    ],
)
def test_missing_are_the_ranges_that_are_not_stored(stored: dict[int, int], missing: list[tuple[int, int]]) -> None:
    assert book(25, stored).missing() == missing


def test_nothing_is_missing_of_a_file_without_bytes_or_of_unknown_size() -> None:
    assert book(0, {}).missing() == []
    assert book(None, {3: 10}).missing() == []
    assert book(20, {}).missing() == [(0, 1)]


@pytest.mark.parametrize(
    ("size", "stored"),
    [(0, {}), (1, {0: 1}), (10, {0: 10}), (25, {2: 5, 0: 10, 1: 10}), (20, {1: 10, 0: 10})],
)
def test_file_is_complete_with_exactly_its_parts(size: int, stored: dict[int, int]) -> None:
    book(None, stored).check_complete(size)


def test_incomplete_file_says_how_many_parts_are_missing() -> None:
    with pytest.raises(Incomplete, match=r"^3 parts are missing"):
        book(None, {1: 10}).check_complete(31)


@pytest.mark.parametrize(
    ("size", "stored"),
    [
        (24, {0: 10, 1: 10, 2: 5}),
        (26, {0: 10, 1: 10, 2: 5}),
        (20, {0: 10, 1: 10, 2: 5}),
        (10, {0: 10, 1: 10}),
        (0, {0: 10}),
        (16, {0: 9, 1: 7}),
        (15, {0: 5, 1: 10}),
        (25, {0: 5, 1: 10, 2: 10}),
    ],
)
def test_parts_that_do_not_make_the_file_are_refused(size: int, stored: dict[int, int]) -> None:
    with pytest.raises(InvalidRequest):
        book(None, stored).check_complete(size)


def test_file_is_not_complete_while_a_part_is_received() -> None:
    parts = book(None, {0: 10})
    parts.receiving.add(1)
    with pytest.raises(Incomplete, match="still being received"):
        parts.check_complete(10)
