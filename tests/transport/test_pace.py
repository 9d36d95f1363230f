"""A rate is kept: over one stream or several, from the first bytes on."""

from __future__ import annotations

import socket
import threading
import time

from ftpy.transport.kernel import LineTimes, line_times
from ftpy.transport.pace import BURST_SECONDS, MOST_SLICE_BYTES, Pace
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
