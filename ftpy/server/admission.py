"""Who is let in: limits on connections in all, per address, and before authentication."""

from __future__ import annotations

import ipaddress
import threading
from collections import Counter

from ftpy.config import Limits


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


class Admission:
    """Counts connections; a thread is made only for one that was admitted."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._by_source: Counter[str] = Counter()
        self._strangers: dict[int, None] = {}  # in the order of their coming

    @property
    def connections(self) -> int:
        """Admitted and not yet left."""
        with self._lock:
            return self._by_source.total()

    def admit(self, connection: int, source: str) -> tuple[str | None, int | None]:
        """Count a connection in, as a stranger until ``known``: (why not, the stranger that makes room for it).

        Newcomers are not refused because of strangers who say nothing: the one that waits longest goes.
        """
        limits = self._limits
        with self._lock:
            if self._by_source.total() >= limits.connections:
                return "connections", None
            if self._by_source[source] >= limits.connections_per_address:
                return "connections_per_address", None
            oldest = None
            if len(self._strangers) >= limits.connections_unauthenticated:
                oldest = next(iter(self._strangers))
                del self._strangers[oldest]
            self._by_source[source] += 1
            self._strangers[connection] = None
            return None, oldest

    def known(self, connection: int) -> None:
        """The connection has authenticated."""
        with self._lock:
            self._strangers.pop(connection, None)

    def leave(self, connection: int, source: str) -> None:
        """Count an admitted connection out."""
        with self._lock:
            self._strangers.pop(connection, None)
            self._by_source[source] -= 1
            if self._by_source[source] <= 0:
                del self._by_source[source]
