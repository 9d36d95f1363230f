"""The sockets that a server listens on: bound once, whoever accepts on them."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from ftpy.config.addresses import Address, parse_address
from ftpy.config.server import ServerConfig
from ftpy.errors import ConfigError
from ftpy.wire.beacon import GROUP


@dataclass(slots=True)
class Listener:
    """A listening socket; ``address`` has the port that was chosen for 0."""

    address: Address
    socket: socket.socket
    file: str | None = None
    """The file of a Unix socket, if it is ours to remove."""
    event: ClassVar[str] = "listening"
    """What the log calls it when somebody is there."""

    def reload(self, config: ServerConfig) -> None:
        """The kernel keeps another number of connections waiting; closed already, it keeps none."""
        with contextlib.suppress(OSError):
            self.socket.listen(config.limits.backlog)

    def close(self) -> None:
        """Stop listening; the file of a Unix socket goes with it, if we made it. Safe to call twice."""
        self.socket.close()
        if self.file is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.file)
            self.file = None


class BeaconListener(Listener):
    """A socket of the beacon: UDP, and over IPv6 in the group that is asked for any server."""

    event = "beacon"

    def reload(self, config: ServerConfig) -> None:  # noqa: ARG002
        """Interfaces may have come since."""
        self.join()

    def join(self) -> None:
        """Be in the group on every interface; where that cannot be had, a server is not found that way."""
        if self.socket.family != socket.AF_INET6 or not hasattr(socket, "if_nameindex"):
            return
        group = socket.inet_pton(socket.AF_INET6, GROUP)
        with contextlib.suppress(OSError):
            for index, _ in socket.if_nameindex():
                with contextlib.suppress(OSError):  # it has no IPv6, or we are in the group
                    self.socket.setsockopt(
                        socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + struct.pack("@I", index)
                    )


def listen_on_all(config: ServerConfig) -> list[Listener]:
    """Every address of ``config``, the beacon's last, or none. Raises ConfigError."""
    listeners: list[Listener] = []
    try:
        for text in config.listen:
            listeners.append(_listen_on(parse_address(text), config.limits.backlog))
        for text in config.beacon.listen:
            listeners.append(_answer_on(parse_address(text)))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


@contextlib.contextmanager
def listening(config: ServerConfig) -> Iterator[list[Listener]]:
    """The same, closed again if what follows fails."""
    listeners = listen_on_all(config)
    try:
        yield listeners
    except BaseException:
        for listener in listeners:
            listener.close()
        raise


def _listen_on(address: Address, backlog: int) -> Listener:
    if address.kind == "unix" and not hasattr(socket, "AF_UNIX"):
        raise ConfigError(f"cannot listen on {address}: Python has no Unix sockets on this system")
    family = socket.AF_UNIX if address.kind == "unix" else _family(address.host)
    listener = Listener(address, socket.socket(family, socket.SOCK_STREAM))
    try:
        _bind(listener)
        listener.socket.listen(backlog)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {address}: {error.strerror or error}") from None
    if address.kind == "tcp":
        listener.address = Address("tcp", address.host, listener.socket.getsockname()[1])
    return listener


def _answer_on(address: Address) -> BeaconListener:
    """A socket that does not wait: a datagram that select(2) tells of may turn out to be damaged, and be gone."""
    listener = BeaconListener(address, socket.socket(_family(address.host), socket.SOCK_DGRAM))
    try:
        if listener.socket.family == socket.AF_INET6:
            listener.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.socket.setblocking(False)
        listener.socket.bind((address.host, address.port))
        listener.join()
    except OSError as error:
        listener.close()
        raise ConfigError(f"the beacon cannot listen on {address}: {error.strerror or error}") from None
    listener.address = Address("tcp", address.host, listener.socket.getsockname()[1])
    return listener


def _family(host: str) -> Any:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _bind(listener: Listener) -> None:
    """Bind; IPv6 only where IPv6 was said, a Unix socket for this user alone. Raises OSError."""
    address, made = listener.address, listener.socket
    if address.kind == "unix":
        _remove_dead_socket(address.path)
        bind_private(made, address.path)
        listener.file = address.path
        return
    if made.family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if os.name == "posix":  # on Windows it means something else: another process could take the address over
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address.host, address.port))


def bind_private(made: socket.socket, path: str) -> None:
    """Bind a Unix socket whose file is nobody's but ours from its first moment on. Raises OSError."""
    try:
        os.fchmod(made.fileno(), 0o600)  # on Linux the file takes after the socket
    except OSError:  # elsewhere only the umask is asked; it is the whole process's
        before = os.umask(0o177)
        try:
            made.bind(path)
        finally:
            os.umask(before)
    else:
        made.bind(path)


def _remove_dead_socket(path: str) -> None:
    """Remove a socket file that no process answers, left by one that was killed; anything else stays."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a live server with a full backlog would keep us waiting
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            return
