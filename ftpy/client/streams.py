"""Several connections at work on one transfer, where that pays, each of them a ``Line``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Literal, TypeVar

from ftpy.client.connection import Connection
from ftpy.client.lines import Count, Line, Worker, endless, nothing
from ftpy.config.client import MOST_STREAMS
from ftpy.errors import (
    AuthenticationFailed,
    Busy,
    ConnectionFailed,
    FtpyError,
    ProtocolError,
    ShuttingDown,
)
from ftpy.storage.following import start_thread

NEAR_SECONDS = 0.002
"""A round trip up to which one connection fills the line: on loopback and a clean LAN one is enough, and fastest."""
FAR_SECONDS = 0.02
FAR_STREAMS = 4
"""A round trip from which on so many connections begin at once: each alone would take seconds to fill the line."""
GROWTH = (2, 4, 8, 16)
"""How many connections are tried, one number after the other; the gain of more than 16 is rarely worth their cost."""
PAYS = 1.2
"""More connections stay when they move this much more: less is what a line's rate varies by itself."""
SETTLE_ROUND_TRIPS = 10
"""What new connections get before they are measured: the handshake, and TCP's start from 14 kB to some MiB."""
SETTLE_SECONDS = 0.2
"""The same at least, for servers that take their time."""
MEASURE_SECONDS = 1.0
"""How long a rate is measured, unless fewer than MEASURE_STEPS were seen a connection."""
MEASURE_STEPS = 3
MOST_MEASURE_SECONDS = 5.0
"""How long it is measured at most: a line so slow is told apart by what it has moved by then."""
SAMPLE_SECONDS = 0.02
"""How often it is looked what has moved: a fiftieth of what is measured."""
WORTH_SECONDS = 3.0
"""What is left must take this much longer, or more connections would hardly be fast before the end."""
PIECE_BYTES = 8 * 1024 * 1024
"""What there must be to do for each connection beyond the first: a part of a put, a range of a get."""

JOIN_SECONDS = 1.0
"""How long who waits for a thread does not hear of Ctrl-C on Windows."""

T = TypeVar("T")
Wanted = Literal["auto"] | int


def _endlessly_many() -> int:
    return MOST_STREAMS


class Streams:
    """Runs one worker function over one connection, or over several when that pays.

    ``line`` is the client's own; ``another`` opens one more connection. ``wanted`` "auto" begins with one, or with
    some where the round trip is very long, and tries more where that may pay and something is left to be done.
    ``most``: how many there may be at all, known once there is one.
    """

    def __init__(
        self,
        line: Line,
        another: Callable[[], Connection],
        wanted: Wanted,
        *,
        retries: int,
        notify: Callable[[str], None],
        most: Count = _endlessly_many,
    ) -> None:
        self._line, self._another, self._wanted, self._most = line, another, wanted, most
        self._retries, self._notify = retries, notify

    @property
    def several(self) -> bool:
        """Whether more than one connection may come to be used; connects to know that."""
        if self._wanted == "auto":
            return self._round_trip_seconds() > NEAR_SECONDS
        return self._wanted > 1

    def _round_trip_seconds(self) -> float:
        return self._line.persist(lambda connection: connection.round_trip_seconds)

    def persist(self, attempt: Callable[[Connection], T], moved: Count = nothing) -> T:
        """Do something that takes one connection, over the client's own."""
        return self._line.persist(attempt, moved)

    def run(self, worker: Worker, moved: Count, left: Callable[[], float] = endless) -> None:
        """Run ``worker`` with the client's own connection in this thread, and with others in threads of their own.

        ``worker`` takes work from what it shares with its siblings until all is done or its connection's ``leaving``
        is set, and gives back what it took and did not finish when it raises. ``moved``: bytes done in all, so that
        retries know progress; ``left``: bytes still to do, as far as is known.

        A connection that cannot be had is done without. Any other error ends the siblings at their next piece of
        work and is raised here.
        """
        if left() < PIECE_BYTES or not self.several:
            self._line.persist(worker, moved)
            return
        team = _Team(worker, moved, left, lambda: Line(self._another, self._retries), self._most())
        if self._wanted == "auto":
            team.start_conducting(self._round_trip_seconds())
        else:
            team.grow(self._wanted)
            if self._most() < self._wanted:
                self._notify(f"--limit is enough for {self._most()} of {self._wanted} connections at this server")
        team.work(self._line)
        if self._wanted != "auto" and team.refused is not None:
            self._notify(f"not all of {self._wanted} connections could be had: {team.refused}")


class _Member:
    """One connection beside the first, and its thread; ``at_work`` while it has hold of what is shared."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.at_work = False
        self.thread: threading.Thread | None = None

    def leave(self, *, broken: bool) -> None:
        """End with the next piece of work, or at once with its connection ``broken``."""
        self.line.leaving.set()
        if broken and (connection := self.line.connection) is not None:
            connection.abandon()

    def join(self) -> None:
        """Wait for the end of its work; who is only about to connect will find that it is to leave."""
        while self.thread is not None and self.thread.is_alive() and self.at_work:
            self.thread.join(JOIN_SECONDS)


class _Team:
    """The connections of one run: the first in the thread that calls ``work``, the others in their own."""

    def __init__(
        self, worker: Worker, moved: Count, left: Callable[[], float], opening: Callable[[], Line], most: int
    ) -> None:
        self._worker, self._moved, self._left, self._opening, self._most = worker, moved, left, opening, most
        self._lock = threading.Lock()
        self._members: list[_Member] = []
        self._surplus: list[_Member] = []
        self._conductor: threading.Thread | None = None
        self._first: Line | None = None
        self._error: BaseException | None = None
        self._over = threading.Event()
        self.refused: FtpyError | None = None
        """Why one of the connections could not be had."""

    def work(self, line: Line) -> None:
        """Work in this thread, and see to the end of all others. Raises what any of them raised."""
        self._first = line
        if self._error is not None:
            line.leaving.set()
        try:
            line.persist(self._worker, self._moved)
        except Exception:
            self._end()
            if self._error is not None:
                raise self._error from None
            raise
        except BaseException:
            self._end(broken=True)
            raise
        self._end()
        if self._error is not None:
            raise self._error

    def _end(self, *, broken: bool = False) -> None:
        with self._lock:
            self._over.set()
            everybody = [*self._members, *self._surplus]
            for member in everybody:
                member.leave(broken=broken)
        if self._conductor is not None:
            self._conductor.join()
        for member in everybody:
            member.join()
        assert self._first is not None
        self._first.leaving.clear()

    # ---------------------------------------------------------------- members

    def grow(self, count: int) -> None:
        """Have ``count`` connections in all, as far as there may be as many and there is something to do for each."""
        count = min(count, self._most)
        while 1 + len(self._members) < count and self._left() >= (1 + len(self._members)) * PIECE_BYTES:
            with self._lock:
                if self._over.is_set() or self._error is not None:
                    return
                member = _Member(self._opening())
                try:
                    member.thread = start_thread(partial(self._run, member), f"ftpy-stream-{2 + len(self._members)}")
                except Busy as error:  # no more threads
                    self.refused = error
                    return
                self._members.append(member)

    def shrink(self, count: int) -> None:
        """Let all but ``count`` connections leave when they are through with what is under way."""
        with self._lock:
            while 1 + len(self._members) > count:
                member = self._members.pop()
                member.leave(broken=False)
                self._surplus.append(member)

    def _run(self, member: _Member) -> None:
        line = member.line
        try:
            line.opened()
        except (ConnectionFailed, AuthenticationFailed) as error:
            self.refused = error
            return
        try:
            line.persist(partial(self._work, member), self._moved)
        except (ConnectionFailed, Busy, ShuttingDown) as error:
            if isinstance(error, ProtocolError):
                self._failed(error)
            self.refused = error  # the first connection goes on, or has the last word
        except BaseException as error:  # noqa: BLE001  (raised again in the thread that waits)
            self._failed(error)
        finally:
            line.close()

    def _work(self, member: _Member, connection: Connection) -> None:
        with self._lock:
            member.at_work = not connection.leaving.is_set()
        try:
            if member.at_work:
                self._worker(connection)
        finally:
            member.at_work = False

    def _failed(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error
            for member in self._members:
                member.leave(broken=False)
            if self._first is not None and not self._over.is_set():  # else it is at work on something else already
                self._first.leaving.set()

    # ---------------------------------------------------------------- how many pay

    def start_conducting(self, round_trip_seconds: float) -> None:
        """Let the number of connections be found beside the work."""
        self._conductor = start_thread(partial(self._conduct, round_trip_seconds), "ftpy-conductor")

    def _conduct(self, round_trip_seconds: float) -> None:
        """Add connections as long as that pays; go back to the number before when it does not, and stay."""
        settle = max(SETTLE_SECONDS, SETTLE_ROUND_TRIPS * round_trip_seconds)
        had = FAR_STREAMS if round_trip_seconds > FAR_SECONDS else 1
        self.grow(had)
        before = self._rate(settle, had)
        for count in (count for count in GROWTH if count > had):
            if not before or self._left() < before * WORTH_SECONDS:
                return
            self.grow(count)
            now = self._rate(settle, count)
            if now is None or self.refused is not None:
                return
            if now < before * PAYS:
                self.shrink(had)
                return
            had, before = count, now

    def _rate(self, settle: float, count: int) -> float | None:
        """Bytes a second of ``count`` connections, once they have settled; None: the work is over.

        From one step of ``moved`` to another: what moves in between is known, what moved at the ends is not.
        """
        if self._over.wait(settle):
            return None
        began: float | None = None
        at, mark, first, steps = 0.0, self._moved(), 0, 0
        started = time.monotonic()
        while not self._over.wait(SAMPLE_SECONDS):
            now, moved = time.monotonic(), self._moved()
            if moved > mark:
                if began is None:
                    began, first = now, moved
                else:
                    at, steps = now, steps + 1
                mark = moved
            waited = now - started
            if (waited > MEASURE_SECONDS and steps >= MEASURE_STEPS * count) or waited > MOST_MEASURE_SECONDS:
                return (mark - first) / (at - began) if began is not None and steps else 0.0
        return None
