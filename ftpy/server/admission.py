"""Who is let in: limits on connections in all, per source, per user and before authentication; and penalties."""

from __future__ import annotations

import ipaddress
import random
import threading
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Generic, Literal, TypeVar

from ftpy.config.server import Limits, Penalties
from ftpy.server.penalties import Offence, Offenders, Penalty
from ftpy.transport.pace import Schedule

ConnectionT = TypeVar("ConnectionT", bound=Hashable)
"""What tells connections apart: no two that are counted in are equal."""
Verdict = Literal["welcome", "gone", "full"]
"""On who has proven who they are: it had to make room before that, or its user has too many connections already."""


def source_of(address: object) -> str:
    """The source that limits count: an IPv4 address, an IPv6 /64, or the Unix socket as a whole."""
    host = address[0] if isinstance(address, tuple) else "unix"
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return str(host)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


class Admission(Generic[ConnectionT]):
    """Counts connections; a thread is made only for one that was admitted."""

    def __init__(
        self, limits: Limits, offenders: Offenders | None = None, chance: Callable[[], float] | None = None
    ) -> None:
        """``chance`` gives numbers in [0, 1): who could foresee them, could choose who makes room."""
        self.limits = limits
        self._offenders = offenders or Offenders(Penalties())
        self._chance = chance or random.SystemRandom().random
        self._lock = threading.Lock()
        self._by_source: Counter[str] = Counter()
        self._strangers: dict[ConnectionT, str] = {}  # their sources
        self._users: dict[ConnectionT, str] = {}
        self._by_user: Counter[str] = Counter()
        self._schedules: dict[str, Schedule] = {}
        """Of users who have a rate, while they are here or have moved more than was due."""

    def reload(self, limits: Limits, penalties: Penalties) -> None:
        """Other settings from now on; what was admitted stays, and what is owed."""
        with self._lock:
            self.limits, self._offenders.settings = limits, penalties

    @property
    def connections(self) -> int:
        """Admitted and not yet left."""
        with self._lock:
            return self._by_source.total()

    def admit(self, connection: ConnectionT, source: str) -> tuple[str | None, ConnectionT | None]:
        """Count a connection in, as a stranger until ``known``: (why not, the stranger that makes room for it).

        Newcomers are not refused because of strangers who say nothing: one of these goes, from half the limit on with
        a probability that grows to 1 at the limit (RFC 2309 has the idea, for queues). It is any one of the source
        that has the most: who floods pushes out only what is its own, and of that not always the oldest.
        """
        limits = self.limits
        with self._lock:
            if self._offenders.refuses(source):
                return "penalties", None
            if self._by_source.total() >= limits.connections:
                return "connections", None
            if self._by_source[source] >= limits.connections_per_address:
                return "connections_per_address", None
            evicted = None
            if self._chance() < self._crowding():
                evicted = self._dispensable(source)
                del self._strangers[evicted]
            self._by_source[source] += 1
            self._strangers[connection] = source
            return None, evicted

    def _crowding(self) -> float:
        """How probable it is that a stranger goes: 0 up to half the limit, 1 at the limit (lock held)."""
        limit = self.limits.connections_unauthenticated
        return (len(self._strangers) - limit // 2) / (limit - limit // 2)

    def _dispensable(self, newcomer: str) -> ConnectionT:
        """Any stranger of the source that has the most, the newcomer's counted with it (lock held)."""
        counts = Counter(self._strangers.values())
        counts[newcomer] += 1
        most = max(counts[source] for source in self._strangers.values())
        those = [stranger for stranger, source in self._strangers.items() if counts[source] == most]
        return those[int(self._chance() * len(those))]

    def is_stranger(self, connection: ConnectionT) -> bool:
        """Whether an admitted connection has neither authenticated nor had to make room."""
        with self._lock:
            return connection in self._strangers

    def known(self, connection: ConnectionT, user: str, most: int | None) -> Verdict:
        """The connection has proven that it is ``user``, who may have ``most`` at once. Its source is forgiven."""
        with self._lock:
            source = self._strangers.pop(connection, None)
            if source is None:
                return "gone"
            self._offenders.forgive(source)
            if most is not None and self._by_user[user] >= most:
                return "full"
            self._users[connection] = user
            self._by_user[user] += 1
            return "welcome"

    def offend(self, source: str, offence: Offence) -> None:
        """A connection from ``source`` has failed before it authenticated."""
        with self._lock:
            self._offenders.add(source, offence)

    def passed(self, user: str, count: int, rate: int) -> float:
        """So many bytes of ``user``'s have passed, who has ``rate`` a second in all: seconds until they were due."""
        with self._lock:
            schedule = self._schedules.get(user)
            if schedule is None or schedule.bytes_per_second != rate:
                schedule = self._schedules[user] = Schedule(rate)
            return schedule.passed(count)

    def penalties(self) -> list[Penalty]:
        """What sources owe, the longest first."""
        with self._lock:
            return self._offenders.penalties()

    def leave(self, connection: ConnectionT, source: str) -> None:
        """Count an admitted connection out."""
        with self._lock:
            self._strangers.pop(connection, None)
            if (user := self._users.pop(connection, None)) is not None:
                self._offenders.remember(source)
                _decrease(self._by_user, user)
                self._forget_schedules()
            _decrease(self._by_source, source)

    def _forget_schedules(self) -> None:
        """A new one would say the same of who is not here and owes nothing (lock held)."""
        for user in [user for user, schedule in self._schedules.items() if not schedule.is_owed]:
            if user not in self._by_user:
                del self._schedules[user]


def _decrease(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]
