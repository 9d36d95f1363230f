"""Where to listen or connect, as people write it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

from ftpy.errors import ConfigError
from ftpy.files import display

DEFAULT_PORT = 7421
"""Where a server listens when nobody says otherwise; unassigned by IANA."""
SOCKET_PATH_BYTES = 103
"""Longest path of a Unix socket, bytes: what fits into ``sun_path`` of macOS; Linux takes four more."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or connect: ``host`` and ``port`` of TCP, or the ``path`` of a Unix socket."""

    kind: Literal["tcp", "unix"]
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it; true of every Unix socket."""
        if self.kind == "unix" or self.host.lower() == "localhost":
            return True
        import ipaddress

        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for every address of this machine."""
        return self.kind == "tcp" and self.host in ("0.0.0.0", "::")  # noqa: S104  (compared, not bound)

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252})\Z")


def parse_address(text: str) -> Address:
    """``HOST:PORT``, ``[IPv6]:PORT`` (DEFAULT_PORT without a port) or ``unix:/PATH``. Raises ConfigError."""
    if text.startswith("unix:"):
        return _unix_address(text, text.removeprefix("unix:"))
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and rest[0] != ":") or not _is_ipv6(host):
            raise ConfigError(f"{display(text)}: not an address; IPv6 is written [::1]:{DEFAULT_PORT}")
        port = rest[1:] if rest else str(DEFAULT_PORT)
    else:
        if text.count(":") > 1:
            raise ConfigError(f"{display(text)}: IPv6 is written in brackets, [::1]:{DEFAULT_PORT}")
        host, colon, port = text.partition(":")
        port = port if colon else str(DEFAULT_PORT)
        if not _HOST.match(host):
            raise ConfigError(f"{display(text)}: not an address; write HOST:PORT, [IPv6]:PORT or unix:/PATH")
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65535):
        raise ConfigError(f"{display(text)}: a port is a number from 0 to 65535")
    return Address("tcp", host=host, port=int(port))


def _unix_address(text: str, path: str) -> Address:
    if not os.path.isabs(path) or "\0" in path:
        raise ConfigError(f"{display(text)}: a Unix socket's path begins with /")
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise ConfigError(f"{display(text)}: a Unix socket's path has at most {SOCKET_PATH_BYTES} bytes")
    return Address("unix", path=path)


def _is_ipv6(host: str) -> bool:
    import ipaddress

    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True
