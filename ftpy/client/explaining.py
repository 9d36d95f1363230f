"""What limited a transfer: both ends' time by activity, measured while it ran, and what to try."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ftpy import timing
from ftpy.client.connection import Connection
from ftpy.errors import ConnectionFailed, RequestError, Unsupported
from ftpy.timing import ACTIVITIES, Stopwatch
from ftpy.transport.kernel import LineTimes
from ftpy.wire.messages import TimesReply, TimesRequest

Way = Literal["put", "get"]

CLOSING_SECONDS = 5.0
"""How long it is waited for other threads that are about to close their connections; one that hangs is not counted."""
WINDOW_SHARE = 0.5
"""From this share of a line's busy time on, what limits the line is the room for bytes that are under way."""


@dataclass(slots=True)
class End:
    """One end of the transfers: seconds by activity, all its connections' together, and its side of the line."""

    seconds: Counter[str] = field(default_factory=Counter)
    line: Counter[str] = field(default_factory=Counter)

    def add(self, seconds: Mapping[str, float], line: Mapping[str, int]) -> None:
        """One connection's."""
        self.seconds.update({name: seconds.get(name, 0.0) for name in ACTIVITIES})
        self.line.update(line)

    @property
    def total(self) -> float:
        """All seconds in which there was something to do."""
        return self.seconds.total() - self.seconds["idle"]

    def share(self, *activities: timing.Activity) -> float:
        """The part of them that went to ``activities``, 0 to 1."""
        return sum(self.seconds[name] for name in activities) / self.total if self.total else 0.0

    @property
    def window_share(self) -> float:
        """The part of the time with bytes under way in which more would have gone if there had been room for them."""
        return self.line["window_ns"] / self.line["busy_ns"] if self.line["busy_ns"] else 0.0


class Limit(NamedTuple):
    """Something that can limit: ``share`` of what the sender and the receiver did, and what to try then."""

    name: str
    share: Callable[[End, End], float]
    advice: str


def _either(*activities: timing.Activity) -> Callable[[End, End], float]:
    return lambda sender, receiver: max(sender.share(*activities), receiver.share(*activities))


def _line(sender: End, receiver: End) -> float:
    """Both ends wait for each other: then it is what lies between them."""
    return min(sender.share("sending", "receiving"), receiver.share("sending", "receiving"))


LIMITS = (
    Limit("the disk that is read", lambda sender, _: sender.share("disk"), "a faster disk on the sending side"),
    Limit(
        "the disk that is written", lambda _, receiver: receiver.share("disk"), "a faster disk on the receiving side"
    ),
    Limit(
        "making it durable (fsync)",
        _either("sync"),
        "a disk that syncs faster on the receiving side; many small files at once (-r) share their syncs",
    ),
    Limit("hashing", _either("hashing"), "-d blake3, which hashes several times as fast as md5"),
    Limit("encryption", _either("encryption"), "--streams 2 or more, where there are processors for them"),
    Limit("copying through the kernel", _either("copying"), "--streams 2 or more, where there are processors for them"),
    Limit("the line", _line, "nothing on these two machines: the line takes no more"),
    Limit(
        "work for every file and request",
        _either("other"),
        "--streams 2 or more with `workers` on the server, where there are processors for them",
    ),
    Limit(
        "--limit", lambda sender, receiver: max(sender.share("pacing"), receiver.share("pacing")), "a higher --limit"
    ),
)
WINDOW = Limit("the line's window", _line, "--streams 8: each connection has a window of its own")
"""In place of the line, where more would go if it were not for the bytes that may be under way at once."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the transfers spent their time on ``here`` and ``there``, what limited them and by how much of the time."""

    here: End
    there: End
    limit: str
    share: float
    advice: str


class Ledger:
    """Gathers what a client's connections spend their time on, here and there. Safe in any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: dict[Connection, Stopwatch] = {}
        """With the stopwatch of the thread that works on it; a thread's time counts when its last one closes."""
        self._here, self._there = End(), End()

    def opened(self, connection: Connection) -> None:
        """Measure this thread and the server's end of ``connection`` from now on; it is this thread's to use."""
        try:
            connection.call(TimesRequest(id=connection.next_id()), TimesReply)
        except Unsupported:
            pass  # an older server: its end stays unknown
        stopwatch = timing.measuring() or Stopwatch()
        timing.attach(stopwatch)
        with self._changed:
            self._open[connection] = stopwatch
        connection.closing = self.closing

    def closing(self, connection: Connection) -> None:
        """Ask what the server's end has done, as long as it can be asked; in the thread that worked on it."""
        try:
            self._collect(connection)
        finally:
            with self._changed:
                stopwatch = self._open.pop(connection)
                if stopwatch not in self._open.values():
                    self._here.add(stopwatch.lap(), {})
                    timing.attach(None)
                self._changed.notify_all()

    def forget(self, connection: Connection) -> None:
        """It is not this thread's any more, and not for what is to be explained."""
        connection.closing = None
        with self._changed:
            del self._open[connection]

    def _collect(self, connection: Connection) -> None:
        with self._changed:
            self._here.add({}, connection.channel.stream.line_times()._asdict())
        if not connection.in_step:
            return
        try:
            reply = connection.call(TimesRequest(id=connection.next_id()), TimesReply)
        except (ConnectionFailed, RequestError):
            return
        with self._changed:
            seconds = {name: ns / 1e9 for name, ns in reply.ns.items()}
            self._there.add(seconds, LineTimes(reply.line.busy_ns, reply.line.window_ns, reply.line.resent)._asdict())

    def explain(self, way: Way) -> Explanation | None:
        """What limited the transfers that went ``way``; None where nothing was measured. Ends the measuring."""
        mine = timing.measuring()
        with self._changed:
            self._changed.wait_for(lambda: set(self._open.values()) <= {mine}, CLOSING_SECONDS)
            still_open = [connection for connection, stopwatch in self._open.items() if stopwatch is mine]
        for connection in still_open:
            connection.closing = None
            self.closing(connection)
        here, there = self._here, self._there
        if not here.total:
            return None
        sender, receiver = (here, there) if way == "put" else (there, here)
        limit = max(LIMITS, key=lambda one: one.share(sender, receiver))
        share = limit.share(sender, receiver)
        if limit.share is _line and sender.window_share > WINDOW_SHARE:
            limit = WINDOW
        return Explanation(here, there, limit.name, share, limit.advice)
