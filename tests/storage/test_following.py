"""Following: the digest is that of the file in order, however its bytes come, and no buffer is ever lost."""

from __future__ import annotations

import itertools
import random
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpy.digests import DigestName, hexdigest
from ftpy.errors import PermissionDenied
from ftpy.storage.following import BUFFERS, CHUNK_BYTES, INLINE_BYTES, Follower, FollowerClosed, HashedRead
from tests.rig import eventually
from tests.storage.unwanted import wanted_while

DATA = random.Random(1).randbytes(6 * CHUNK_BYTES + 12_345)
SIZE = len(DATA)


def read_data(offset: int, view: memoryview) -> int:
    piece = DATA[offset : offset + len(view)]
    view[: len(piece)] = piece
    return len(piece)


def unread(offset: int, view: memoryview) -> int:
    raise AssertionError("nothing has to be read again")


def give(follower: Follower, offset: int, count: int = CHUNK_BYTES, data: bytes = DATA) -> None:
    buffer = follower.borrow()
    piece = data[offset : min(offset + count, SIZE)]
    buffer[: len(piece)] = piece
    follower.give(offset, buffer, len(piece))


def borrow_all(follower: Follower) -> list[memoryview]:
    """Every buffer there is: blocks for ever (and fails by its deadline) when one was lost."""
    return [follower.borrow() for _ in range(BUFFERS)]


@pytest.mark.parametrize("name", ["md5", "blake3"])
def test_digest_is_right_when_chunks_come_in_order(name: DigestName) -> None:
    with closing(Follower(name, read_data)) as follower:
        for offset in range(0, SIZE, CHUNK_BYTES):
            give(follower, offset)
        assert follower.hexdigest(SIZE) == hexdigest(name, DATA)
        assert follower.position == SIZE
        borrow_all(follower)


class closing:
    """Closes a follower at the end, and proves that its thread ended."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    def __enter__(self) -> Follower:
        return self._follower

    def __exit__(self, *_: object) -> None:
        self._follower.close()
        self._follower.close()
        assert not [thread for thread in threading.enumerate() if thread.name == "ftpy-digest"]


def test_buffers_are_handed_over_without_reading_when_the_feeder_is_slower_than_the_hash() -> None:
    with closing(Follower("md5", unread)) as follower:
        for offset in range(0, SIZE, CHUNK_BYTES):
            give(follower, offset)
            while follower.position < min(offset + CHUNK_BYTES, SIZE):
                time.sleep(0.001)
        assert follower.hexdigest(SIZE) == hexdigest("md5", DATA)


@given(st.randoms(use_true_random=False), st.integers(2, 12))
def test_digest_is_right_whatever_the_order_and_the_way(choose: random.Random, pieces: int) -> None:
    cuts = sorted({0, SIZE, *(choose.randrange(SIZE) for _ in range(pieces))})
    ranges = list(itertools.pairwise(cuts))
    choose.shuffle(ranges)
    with closing(Follower("blake3", read_data)) as follower:
        for first, end in ranges:
            if end - first <= CHUNK_BYTES and choose.random() < 0.5:
                give(follower, first, end - first)
            else:
                follower.announce(first, end - first)
        assert follower.hexdigest(SIZE) == hexdigest("blake3", DATA)
        borrow_all(follower)


def test_buffers_are_let_go_when_nothing_comes_and_made_again_when_it_does() -> None:
    with closing(Follower("md5", read_data)) as follower:
        for offset in range(0, SIZE, CHUNK_BYTES):
            buffer, piece = follower.borrow(), DATA[offset : offset + CHUNK_BYTES]
            assert follower._made >= 1
            buffer[: len(piece)] = piece
            follower.give(offset, buffer, len(piece))
            eventually(lambda: not follower._made and not follower._free)
        assert follower.hexdigest(SIZE) == hexdigest("md5", DATA)
        borrow_all(follower)


@pytest.mark.parametrize("let_go", [False, True])
def test_who_waits_for_a_buffer_has_one_as_soon_as_one_comes_back_or_is_let_go(let_go: bool) -> None:
    with closing(Follower("md5", read_data)) as follower:
        borrowed = [follower.borrow() for _ in range(BUFFERS)]
        got: list[memoryview] = []
        waiting = threading.Thread(target=lambda: got.append(follower.borrow()))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        with follower._lock:
            follower._free.append(borrowed[0])
        if let_go:
            follower._let_go()
        else:
            follower.give_back(borrowed[1])
        waiting.join(10)
        assert not waiting.is_alive() and len(got) == 1


def test_digest_is_refused_while_bytes_are_unknown() -> None:
    with closing(Follower("md5", read_data)) as follower:
        follower.announce(0, 10)
        follower.announce(20, 10)
        with pytest.raises(ValueError, match="10 bytes are known where 30 are due"):
            follower.hexdigest(30)
        follower.announce(10, 10)
        assert follower.hexdigest(30) == hexdigest("md5", DATA[:30])


def test_digest_of_nothing_needs_no_thread() -> None:
    before = {*threading.enumerate()}
    with closing(Follower("md5", unread)) as follower:
        assert follower.hexdigest(0) == hexdigest("md5", b"")
        assert {*threading.enumerate()} <= before


def test_rewind_takes_back_what_was_given_since_begin() -> None:
    wrong = bytes(SIZE)
    with closing(Follower("md5", read_data)) as follower:
        give(follower, 0)
        for _ in range(3):
            assert follower.begin(CHUNK_BYTES)
            give(follower, CHUNK_BYTES, data=wrong)
            give(follower, 2 * CHUNK_BYTES, data=wrong)
            follower.rewind()
        follower.announce(3 * CHUNK_BYTES, SIZE - 3 * CHUNK_BYTES)
        assert follower.begin(CHUNK_BYTES)
        give(follower, CHUNK_BYTES)
        give(follower, 2 * CHUNK_BYTES)
        follower.settle()
        assert follower.hexdigest(SIZE) == hexdigest("md5", DATA)
        borrow_all(follower)


def test_rewind_keeps_what_others_announced_behind_it() -> None:
    with closing(Follower("md5", read_data)) as follower:
        assert follower.begin(0)
        give(follower, 0, data=bytes(SIZE))
        follower.announce(CHUNK_BYTES, SIZE - CHUNK_BYTES)
        follower.rewind()
        with pytest.raises(ValueError, match="0 bytes are known"):
            follower.hexdigest(SIZE)
        follower.announce(0, CHUNK_BYTES)
        assert follower.hexdigest(SIZE) == hexdigest("md5", DATA)


def test_begin_is_for_one_feeder_and_for_what_comes_next() -> None:
    with closing(Follower("md5", read_data)) as follower:
        assert not follower.begin(1)
        assert follower.begin(0)
        assert not follower.begin(0)
        follower.settle()
        assert follower.begin(0)


def test_error_of_reading_comes_out_where_the_digest_is_asked_for_and_loses_no_buffer() -> None:
    def broken(offset: int, view: memoryview) -> int:
        raise OSError(5, "disk")

    with closing(Follower("md5", broken)) as follower:
        follower.announce(0, CHUNK_BYTES)
        for offset in range(CHUNK_BYTES, SIZE, CHUNK_BYTES):
            give(follower, offset)
        with pytest.raises(OSError, match="disk"):
            follower.hexdigest(SIZE)
        borrow_all(follower)


def test_file_that_ends_early_is_an_error() -> None:
    with closing(Follower("md5", read_data)) as follower:
        follower.announce(0, SIZE + 1)
        with pytest.raises(EOFError):
            follower.hexdigest(SIZE + 1)


def test_close_wakes_who_waits_for_the_digest_and_frees_who_feeds() -> None:
    reading, go_on = threading.Event(), threading.Event()

    def slow(offset: int, view: memoryview) -> int:
        reading.set()
        go_on.wait(10)
        return read_data(offset, view)

    follower = Follower("md5", slow)
    follower.announce(0, SIZE)
    outcome: list[BaseException] = []

    def wait() -> None:
        try:
            follower.hexdigest(SIZE)
        except FollowerClosed as error:
            outcome.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert reading.wait(10)
    closer = threading.Thread(target=follower.close)
    closer.start()
    eventually(lambda: follower._error)  # before what is read goes on
    go_on.set()
    closer.join(10)
    waiter.join(10)
    assert len(outcome) == 1
    with pytest.raises(FollowerClosed):
        follower.hexdigest(SIZE)
    for offset in range(0, SIZE, CHUNK_BYTES):
        give(follower, offset)
    assert not follower.begin(0)
    borrow_all(follower)


def test_digest_is_waited_for_only_as_long_as_it_is_wanted() -> None:
    go_on = threading.Event()

    def slow(offset: int, view: memoryview) -> int:
        go_on.wait(10)
        return read_data(offset, view)

    with closing(Follower("md5", slow)) as follower:
        follower.announce(0, SIZE)
        with pytest.raises(PermissionDenied):
            wanted_while(lambda: False, lambda: follower.hexdigest(SIZE))
        go_on.set()
        assert follower.hexdigest(SIZE) == hexdigest("md5", DATA)  # somebody else may still want it


def test_hashed_read_ends_when_it_is_not_wanted_any_more() -> None:
    seen: list[int] = []
    with HashedRead("md5", read_data, 0, SIZE) as hashed, pytest.raises(PermissionDenied):
        wanted_while(lambda: len(seen) < 2, lambda: seen.extend(len(view) for view in hashed))
    assert len(seen) == 2


@pytest.mark.parametrize("length", [0, 1, INLINE_BYTES, INLINE_BYTES + 1, 3 * CHUNK_BYTES + 1])
@pytest.mark.parametrize("offset", [0, 777])
def test_hashed_read_yields_the_range_and_knows_its_digest(offset: int, length: int) -> None:
    with HashedRead("md5", read_data, offset, length) as hashed:
        assert b"".join(bytes(view) for view in hashed) == DATA[offset : offset + length]
        assert hashed.hexdigest() == hexdigest("md5", DATA[offset : offset + length])


@pytest.mark.parametrize("length", [100, INLINE_BYTES + 1])
def test_hashed_read_refuses_a_file_that_ends_early(length: int) -> None:
    with HashedRead("md5", read_data, SIZE - length + 1, length) as hashed, pytest.raises(EOFError):
        list(hashed)
