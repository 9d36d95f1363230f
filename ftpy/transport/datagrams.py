"""Datagrams out and in, over IPv4 and IPv6; what cannot be sent or is refused is told, and stops nothing."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from ftpy.errors import ConnectionFailed
from ftpy.files import display

Target = tuple[socket.AddressFamily, Any]
"""A family and an address of it, as sockets take them."""

_RECVERR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
"""Linux's IP_RECVERR, IPV6_RECVERR (ip(7)): a socket that is not connected hears that nobody listens there, too."""
BROADCAST = "255.255.255.255"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A datagram, and the address that it came from; or (``refused``) word that nobody listens there."""

    host: str
    port: int
    data: bytes = b""
    refused: bool = False


class Datagrams:
    """A socket for each family that there is. Not connected: a host with several addresses may answer from another."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):  # not on this machine
                self._sockets[family] = _opened(family)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for one in self._sockets.values():
            one.close()

    def send(self, data: bytes, target: Target) -> str:
        """Send: empty, or why it could not be sent."""
        family, address = target
        if family not in self._sockets:
            return "this machine does not speak that protocol"
        try:
            self._sockets[family].sendto(data, address)
        except OSError as error:
            return error.strerror or str(error)
        return ""

    def receive(self, timeout: float, most_bytes: int) -> Arrival | None:
        """What comes within ``timeout`` seconds, cut at ``most_bytes``; None: nothing, or what the kernel dropped."""
        ready, _, _ = select.select(list(self._sockets.values()), [], [], max(0.0, timeout))
        for one in ready:
            with contextlib.suppress(OSError):
                return _refusal(one) or _arrival(*one.recvfrom(most_bytes))
        return None


def _opened(family: socket.AddressFamily) -> socket.socket:
    made = socket.socket(family, socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        if family == socket.AF_INET:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if sys.platform == "linux":
            made.setsockopt(*_RECVERR[family], 1)
    except BaseException:
        made.close()
        raise
    return made


def _refusal(one: socket.socket) -> Arrival | None:
    """Word of an error that was caused by what was sent, where the system keeps it."""
    if sys.platform != "linux":
        return None
    try:
        data, ancillary, _, address = one.recvmsg(0, 128, socket.MSG_ERRQUEUE)
    except OSError:
        return None
    one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # the same error again, which the next call would be told
    refused = any(int.from_bytes(word[:4], sys.byteorder) == errno.ECONNREFUSED for _, _, word in ancillary)
    return _arrival(data, address, refused=True) if refused else None


def _arrival(data: bytes, address: Any, *, refused: bool = False) -> Arrival:
    host, port, *more = address
    if len(more) > 1 and more[1] and "%" not in host:  # a link-local address means nothing without its interface
        with contextlib.suppress(OSError):
            host = f"{host}%{socket.if_indextoname(more[1])}"
    return Arrival(host, port, data, refused)


def targets_of(host: str, port: int) -> list[Target]:
    """Where a name leads. Raises ConnectionFailed."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise ConnectionFailed(f"{display(host)}: {error.strerror or error}") from None
    except UnicodeError:  # the idna codec's word for a label that is empty or too long
        raise ConnectionFailed(f"{display(host)}: that is no host name") from None
    return [(family, address) for family, _, _, _, address in found]


def targets_around(port: int, group: str) -> Iterator[Target]:
    """Everybody on the local networks, and this machine: IPv4's broadcast, and an IPv6 group on every interface."""
    yield socket.AF_INET, (BROADCAST, port)
    yield socket.AF_INET, ("127.0.0.1", port)
    with contextlib.suppress(OSError, AttributeError):  # Windows has these names since Python 3.8
        for index, _ in socket.if_nameindex():
            yield socket.AF_INET6, (group, port, 0, index)
