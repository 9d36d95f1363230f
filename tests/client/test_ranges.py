"""Which ranges are here: gaps, pieces, and a journal that survives whatever happens to its file."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpy.client.pieces import Gauge, Pieces
from ftpy.client.ranges import Journal, Range, cut, disjoint, gaps
from tests.descriptors import open_files, settled_files

ranges = st.builds(Range, st.integers(0, 60), st.integers(1, 20))
known = st.dictionaries(ranges, st.none() | st.just("ab" * 32), max_size=8)
sizes = st.integers(0, 60)


def covered(found: list[Range] | dict[Range, str | None]) -> list[int]:
    return [byte for one in found for byte in range(one.offset, one.end)]


@given(st.lists(ranges), sizes)
def test_gaps_are_exactly_the_bytes_that_are_in_no_range(found: list[Range], size: int) -> None:
    missing = gaps(found, size)
    assert covered(missing) == sorted(set(range(size)) - set(covered(found)))
    assert all(one.length > 0 for one in missing)


@given(st.lists(ranges), sizes, st.integers(1, 9))
def test_cut_keeps_every_byte_once_and_nothing_is_longer_than_allowed(found: list[Range], size: int, most: int) -> None:
    missing = gaps(found, size)
    pieces = cut(missing, most)
    assert covered(pieces) == covered(missing)
    assert all(0 < one.length <= most and one.offset // most == (one.end - 1) // most for one in pieces)


@given(known, sizes)
def test_of_ranges_that_overlap_one_is_believed(found: dict[Range, str | None], size: int) -> None:
    believed = disjoint(found.items(), size)
    bytes_ = covered(believed)
    assert len(bytes_) == len(set(bytes_)) and all(byte < size for byte in bytes_)
    assert believed.items() <= found.items()
    assert not found or min(found).end > size or min(found) in believed


def test_a_journal_whose_close_fails_is_closed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, journal, close = settled_files(), opened(tmp_path / "x"), os.close

    def failing(descriptor: int) -> None:
        close(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "close", failing)
    journal.close()
    journal.close()
    assert open_files() == before


def opened(path: Path) -> Journal:
    return Journal(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.data())
def test_a_journal_that_is_torn_or_spoilt_says_less_and_never_anything_else(
    tmp_path_factory: object, lengths: list[int], data: st.DataObject
) -> None:
    path = Path(tmp_path_factory.mktemp("journal")) / "x"  # type: ignore[attr-defined]
    journal = opened(path)
    at, said = 0, {}
    for number, length in enumerate(lengths):
        said[Range(at, length)] = f"{number:064x}" if number % 2 else None
        journal.append(Range(at, length), said[Range(at, length)])
        at += length
    assert journal.read(at) == said
    text = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del text[data.draw(st.integers(0, len(text) - 1)) :]
    else:
        text[data.draw(st.integers(0, len(text) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(text)
    left = journal.read(at)
    assert left.items() <= said.items() and len(left) >= path.read_bytes().count(b"\n")
    journal.append(Range(at, 7), "cd" * 32)  # what is written behind a torn line is not lost with it
    assert journal.read(at + 7) == {**left, Range(at, 7): "cd" * 32}
    journal.close()


def test_a_journal_of_a_file_that_is_shorter_names_nothing_behind_its_end(tmp_path: Path) -> None:
    journal = opened(tmp_path / "x")
    journal.append(Range(0, 10), None)
    journal.append(Range(10, 10), None)
    assert journal.read(19) == {Range(0, 10): None}
    journal.close()


def test_a_piece_is_with_one_worker_at_a_time_and_comes_again_when_it_is_given_back() -> None:
    pieces, leaving = Pieces([2, 1, 3]), threading.Event()
    assert [pieces.take(leaving, wait=False) for _ in range(4)] == [1, 2, 3, None]
    pieces.put_off(1)
    pieces.give_back(3, 2)
    assert [pieces.take(leaving, wait=False) for _ in range(4)] == [2, 3, 1, None]
    pieces.give_back(2, rest=7)
    leaving.set()
    assert pieces.take(leaving, wait=True) is None
    leaving.clear()
    assert pieces.take(leaving, wait=False) == 7
    for piece in (1, 3, 7):
        pieces.done(piece)
    assert pieces.take(leaving, wait=True) is None


def test_a_worker_without_work_waits_for_what_another_may_give_back() -> None:
    pieces, leaving = Pieces([1]), threading.Event()
    assert pieces.take(leaving, wait=True) == 1
    taken: list[int | None] = []
    thread = threading.Thread(target=lambda: taken.append(pieces.take(leaving, wait=True)))
    thread.start()
    pieces.give_back(1)
    thread.join(10)
    assert taken == [1]


def test_pieces_that_the_other_side_lost_come_again_and_what_it_has_does_not() -> None:
    pieces, leaving = Pieces(range(4)), threading.Event()
    assert pieces.take(leaving, wait=False) == 0
    pieces.done(0)
    assert pieces.take(leaving, wait=False) == 1
    pieces.revise(lost=[0], through={2})
    assert [pieces.take(leaving, wait=False) for _ in range(3)] == [0, 3, None]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["partly", "done", "dropped"]), st.integers(1, 9))))
def test_a_gauge_tells_ever_more_and_never_more_than_there_is(steps: list[tuple[str, str, int]]) -> None:
    said: list[int] = []
    gauge = Gauge(said.append)
    gauge.begin(5)
    whole, partly, most = 5, {"a": 0, "b": 0, "c": 0}, 5
    for piece, step, count in steps:
        if step == "partly":
            partly[piece] = count
            gauge.partly(piece, count)
        elif step == "done":
            whole, partly[piece] = whole + count, 0
            gauge.done(piece, count)
        else:
            partly[piece] = 0
            gauge.dropped(piece)
        assert gauge.bytes == whole + sum(partly.values())
        most = max(most, gauge.bytes)
    assert said == sorted(set(said)) and said[0] == 5 and said[-1] == most
