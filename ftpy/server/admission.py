"""Who is let in: limits on connections in all, per address, and before authentication."""

from __future__ import annotations

import ipaddress
import threading
from collections import Counter
from collections.abc import Hashable
from typing import Generic, TypeVar

from ftpy.config.server import Limits

ConnectionT = TypeVar("ConnectionT", bound=Hashable)
"""What tells connections apart: no two that are counted in are equal."""


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

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        """May be replaced; what was admitted stays."""
        self._lock = threading.Lock()
        self._by_source: Counter[str] = Counter()
        self._strangers: dict[ConnectionT, str] = {}  # their sources, in the order of their coming

    @property
    def connections(self) -> int:
        """Admitted and not yet left."""
        with self._lock:
            return self._by_source.total()

    def admit(self, connection: ConnectionT, source: str) -> tuple[str | None, ConnectionT | None]:
        """Count a connection in, as a stranger until ``known``: (why not, the stranger that makes room for it).

        Newcomers are not refused because of strangers who say nothing. Of the source with the most of them the one
        that waits longest goes: who floods pushes out only what is its own.
        """
        limits = self.limits
        with self._lock:
            if self._by_source.total() >= limits.connections:
                return "connections", None
            if self._by_source[source] >= limits.connections_per_address:
                return "connections_per_address", None
            evicted = None
            if len(self._strangers) >= limits.connections_unauthenticated:
                evicted = self._most_dispensable(source)
                del self._strangers[evicted]
            self._by_source[source] += 1
            self._strangers[connection] = source
            return None, evicted

    def _most_dispensable(self, newcomer: str) -> ConnectionT:
        """The oldest stranger of the source that has the most, the newcomer's counted with it (lock held)."""
        counts = Counter(self._strangers.values())
        counts[newcomer] += 1
        most = max(counts[source] for source in self._strangers.values())
        return next(stranger for stranger, source in self._strangers.items() if counts[source] == most)

    def is_stranger(self, connection: ConnectionT) -> bool:
        """Whether an admitted connection has neither authenticated nor had to make room."""
        with self._lock:
            return connection in self._strangers

    def known(self, connection: ConnectionT) -> bool:
        """The connection has authenticated: False if it has made room for another before that, and must end."""
        with self._lock:
            return self._strangers.pop(connection, None) is not None

    def leave(self, connection: ConnectionT, source: str) -> None:
        """Count an admitted connection out."""
        with self._lock:
            self._strangers.pop(connection, None)
            self._by_source[source] -= 1
            if self._by_source[source] <= 0:
                del self._by_source[source]
