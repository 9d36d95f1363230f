"""A rate is kept: over one stream or several, from the first bytes on."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from ftpy.errors import Stalled
from ftpy.transport.kernel import LineTimes, line_times
from ftpy.transport.pace import BURST_SECONDS, MOST_SLICE_BYTES, SLICE_SECONDS, LeastPace, Pace
from ftpy.transport.stream import Stream

RATE = 1024 * 1024


def seconds(pace: Pace, count: int, times: int) -> float:
    began = time.monotonic()
    for _ in range(times):
        pace.passed(count)
    return time.monotonic() - began


def test_what_passes_takes_as_long_as_the_rate_says() -> None:
    assert seconds(Pace(RATE), RATE // 20, 8) >= 8 / 20 - BURST_SECONDS


def test_several_threads_keep_one_rate_together() -> None:
    pace = Pace(RATE)
    threads = [threading.Thread(target=seconds, args=(pace, RATE // 40, 4)) for _ in range(4)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began >= 16 / 40 - BURST_SECONDS


def test_time_that_was_not_used_is_made_up_for_in_part_only() -> None:
    pace = Pace(RATE)
    time.sleep(3 * BURST_SECONDS)
    assert seconds(pace, RATE // 10, 3) >= 0.3 - BURST_SECONDS - 0.01


def test_a_slice_is_a_short_time_at_the_rate() -> None:
    assert [Pace(rate).slice_bytes for rate in (1024, RATE, 2**40)] == [1024, RATE // 20, MOST_SLICE_BYTES]


def test_a_stream_keeps_its_pace_both_ways() -> None:
    data = bytes(RATE // 2)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        paced, other = Stream(ours, silence_seconds=5, pace=Pace(RATE)), Stream(theirs, silence_seconds=5)

        def swallow(count: int) -> None:
            view = memoryview(bytearray(count))
            while view:
                view = view[other.receive_some(view) :]

        for way in (swallow, other.send):
            thread = threading.Thread(target=way, args=(len(data) if way is swallow else data,))
            began = time.monotonic()
            thread.start()
            if way is swallow:
                paced.send(data)
            else:
                view = memoryview(bytearray(len(data)))
                while view:
                    view = view[paced.receive_some(view) :]
            thread.join()
            assert time.monotonic() - began >= 0.5 - BURST_SECONDS


def test_the_kernel_tells_when_the_peer_had_no_room() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
    with listener, ours, theirs:
        ours.setblocking(False)
        try:
            while True:
                ours.send(bytes(65536))
        except BlockingIOError:
            time.sleep(0.05)
        times = line_times(ours)
        if hasattr(socket, "TCP_INFO"):
            assert times.busy_ns >= times.window_ns > 0
        else:
            assert times == LineTimes()


def test_a_unix_socket_has_no_line_to_speak_of() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert line_times(ours) == LineTimes()


def test_who_keeps_the_schedule_for_many_is_told_now_and_then() -> None:
    told: list[int] = []

    def passed(count: int) -> float:
        told.append(count)
        return 0.0

    pace = Pace(RATE, passed)
    for _ in range(100):
        pace.passed(1000)
    assert sum(told) <= 100_000 < sum(told) + RATE * SLICE_SECONDS
    assert min(told) >= int(RATE * SLICE_SECONDS) and len(told) == 1


def test_who_keeps_the_schedule_is_told_of_the_rest_at_the_end_and_asked_at_the_beginning() -> None:
    told: list[int] = []

    def passed(count: int) -> float:
        told.append(count)
        return 0.1

    pace = Pace(RATE, passed)
    began = time.monotonic()
    pace.catch_up()
    assert time.monotonic() - began >= 0.1
    pace.passed(7)
    pace.settle()
    assert told == [0, 7]


def test_a_peer_that_is_too_slow_for_too_long_is_given_up() -> None:
    least = LeastPace(100, seconds=10)
    for _ in range(9):
        least.moved(1, 1.0)
    with pytest.raises(Stalled, match="less than 100 bytes a second"):
        least.moved(1, 1.0)


def test_a_peer_that_is_fast_enough_on_average_is_not() -> None:
    least = LeastPace(100, seconds=10)
    for _ in range(50):
        least.moved(0, 9.0)
        least.moved(1000, 1.0)


def pair(rate: int, seconds: float) -> tuple[Stream, socket.socket]:
    ours, theirs = socket.socketpair()
    return Stream(ours, silence_seconds=5, least=LeastPace(rate, seconds)), theirs


def test_a_slow_writer_is_given_up_in_the_middle_of_a_body() -> None:
    stream, theirs = pair(rate=1000, seconds=0.3)
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.01):
            theirs.send(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    view = memoryview(bytearray(100_000))
    try:
        with pytest.raises(Stalled):
            while view:
                view = view[stream.receive_some(view[:1]) :]
    finally:
        stop.set()
        thread.join()
        stream.close()
        theirs.close()


def test_a_slow_reader_is_given_up() -> None:
    stream, theirs = pair(rate=1_000_000_000, seconds=0.3)
    stop = threading.Event()

    def sip() -> None:
        while not stop.wait(0.01):
            theirs.recv(4096)

    thread = threading.Thread(target=sip)
    thread.start()
    try:
        with pytest.raises(Stalled):
            while True:
                stream.send(bytes(100_000))
    finally:
        stop.set()
        thread.join()
        stream.close()
        theirs.close()


def test_time_that_is_not_spent_in_moving_is_not_the_peers() -> None:
    """A slow disk of our own, a pace of our own, and idle time before a header."""
    stream, theirs = pair(rate=1_000_000, seconds=0.5)
    with theirs:
        stream.keep(Pace(10_000))
        for _ in range(3):
            theirs.send(b"x" * 1000)
            time.sleep(0.6)
            assert stream.receive_some(memoryview(bytearray(1000))) == 1000
        thread = threading.Timer(0.7, theirs.send, [b"\2\0\0\0{}"])
        thread.start()
        assert stream.receive_header(100) == b"{}"
        thread.join()
    stream.close()
