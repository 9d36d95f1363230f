"""Where this server can be reached: what it listens on by default, and what it tells those who are paired with it."""

from __future__ import annotations

import socket
from collections.abc import Callable

from ftpy.config.addresses import DEFAULT_PORT, Address, parse_address
from ftpy.config.server import ServerConfig
from ftpy.errors import ConfigError

MOST_ADDRESSES = 16
"""What a pairing token has room for."""

_IPV4, _IPV6 = "0.0.0.0", "::"  # noqa: S104  (wildcards, compared and written, not bound here)
_LOOPBACK = {_IPV4: "127.0.0.1", _IPV6: "::1"}
_DOCUMENTATION = {_IPV4: (socket.AF_INET, "192.0.2.1"), _IPV6: (socket.AF_INET6, "2001:db8::1")}
"""Addresses that lead nowhere (RFC 5737, RFC 3849) but past the default route."""


def default_listen(*, plaintext: bool) -> list[str]:
    """Every address of this machine; in plaintext only its own."""
    if plaintext:
        return [str(Address("tcp", _LOOPBACK[_IPV4], DEFAULT_PORT))]
    everywhere = [str(Address("tcp", _IPV4, DEFAULT_PORT))]
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind((_LOOPBACK[_IPV6], 0))
    except OSError:
        return everywhere
    return [*everywhere, str(Address("tcp", _IPV6, DEFAULT_PORT))]


def outward_hosts(wildcard: str) -> list[str]:
    """This machine's address towards the world, if there is a way there; nothing is sent."""
    family, target = _DOCUMENTATION[wildcard]
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))  # to connect UDP only asks the routing table
            return [str(probe.getsockname()[0])]
    except OSError:
        return []


def token_addresses(
    config: ServerConfig,
    host_name: Callable[[], str] = socket.gethostname,
    outward: Callable[[str], list[str]] = outward_hosts,
) -> list[str]:
    """Where a client finds this server, best first: what is advertised, else what is listened on.

    A wildcard becomes this host's name and its outward addresses; what only this machine reaches comes last.
    Raises ConfigError for a port of 0, which only the kernel knows.
    """
    listening = [parse_address(text) for text in config.advertise or config.listen]
    for address in listening:
        if address.kind == "tcp" and address.port == 0:
            raise ConfigError(f"{address}: clients could not know the port; name one in `advertise`")
    wildcards = [address for address in listening if address.is_wildcard]
    found = [address for address in listening if not address.is_wildcard]
    outside = [Address("tcp", host, wildcard.port) for wildcard in wildcards for host in outward(wildcard.host)]
    found += [Address("tcp", name, wildcard.port) for wildcard in wildcards for name in _legal(host_name())] + outside
    if not outside:
        found += [Address("tcp", _LOOPBACK[wildcard.host], wildcard.port) for wildcard in wildcards]
    ordered = sorted(found, key=lambda address: address.is_loopback)
    return [str(address) for address in dict.fromkeys(ordered)][:MOST_ADDRESSES]


def _legal(name: str) -> list[str]:
    """A host's name, unless it means the machine that asks, or nothing."""
    try:
        legal = parse_address(f"{name}:1").host == name
    except ConfigError:
        return []
    return [name] if legal and not name.startswith("localhost") else []
