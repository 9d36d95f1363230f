"""What somebody who had taken the server over would try: done in its own process, in a thread that answers a client.

``infiltrate`` runs in the process before the server does; from then on a ``stat`` of ``attempt NAME`` does what
``ATTEMPTS`` says, and is refused by the client with the name of the system's error if the system refused it.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import importlib
import os
import pkgutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from ftpy.client.client import Client
from ftpy.errors import PermissionDenied
from ftpy.server import reading
from ftpy.server.context import Context
from ftpy.server.verbs import VERBS
from ftpy.wire.messages import StatReply, StatRequest
from tests.rig import Daemon, Host

PREFIX = "attempt "
_PTRACE_SEIZE, _PTRACE_DETACH = 0x4206, 17


class World(msgspec.Struct, frozen=True):
    """What there is outside of the server."""

    folder: str
    """Of the server: its settings, users and private key are in it."""
    outside: str
    """A folder that has nothing to do with the server; in it are ``secret`` and ``precious``."""
    victim: int
    """A process of the same user."""
    port: int
    """Somebody listens there, on loopback."""
    abstract: str
    """And there, in the namespace of abstract Unix sockets."""


def _write(path: str) -> None:
    with open(path, "ab") as file:
        file.write(b"")


def _connect(family: socket.AddressFamily, address: Any) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.connect(address)


def _bind(world: World) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))


def _trace(world: World) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    if libc.ptrace(_PTRACE_SEIZE, world.victim, None, None) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    libc.ptrace(_PTRACE_DETACH, world.victim, None, None)


def _link_out(world: World) -> None:
    link = f"{world.folder}/files/link"
    os.symlink(world.outside, link)
    os.unlink(link)


def _read(path: str) -> None:
    Path(path).read_bytes()


ATTEMPTS: dict[str, Callable[[World], object]] = {
    "read a file outside": lambda world: _read(f"{world.outside}/secret"),
    "list a folder outside": lambda world: os.listdir(world.outside),
    "read the environment of another process": lambda world: _read(f"/proc/{world.victim}/environ"),
    "read /etc/passwd": lambda _: _read("/etc/passwd"),
    "write to a file outside": lambda world: _write(f"{world.outside}/precious"),
    "make a file outside": lambda world: _write(f"{world.outside}/new"),
    "make a folder outside": lambda world: os.mkdir(f"{world.outside}/made"),
    "remove a file outside": lambda world: os.unlink(f"{world.outside}/doomed"),
    "cut a file outside short": lambda world: os.truncate(f"{world.outside}/precious", 0),
    "move a file into the root": lambda world: os.rename(f"{world.outside}/moved", f"{world.folder}/files/moved"),
    "write to the settings": lambda world: _write(f"{world.folder}/server.toml"),
    "write to the users": lambda world: _write(f"{world.folder}/users.json"),
    "make a link in the root": _link_out,
    "run a program": lambda _: subprocess.run(["/bin/true"], check=True),
    "connect to a port": lambda world: _connect(socket.AF_INET, ("127.0.0.1", world.port)),
    "connect to an abstract socket": lambda world: _connect(socket.AF_UNIX, "\0" + world.abstract),
    "take a port": _bind,
    "stop another process": lambda world: os.kill(world.victim, signal.SIGCONT),
    "trace another process": _trace,
}
"""What must be refused in the sandbox, and can be done without it."""


def _import_all(world: World) -> None:
    """Whatever the server may come to need."""
    for room in ("config", "server", "storage", "transport", "wire"):
        package = importlib.import_module(f"ftpy.{room}")
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"ftpy.{room}.{module.name}")
    for name in _LATE:
        sys.modules.pop(name, None)
        importlib.import_module(name)


_LATE = (
    "difflib",
    "encodings.idna",
    "ipaddress",
    "json.tool",
    "tempfile",
    "tomlkit",
    "tomllib",
    "zoneinfo",
    "stringprep",
)
"""Modules that are imported when they are needed first, and such as the library imports late itself."""

DUTIES: dict[str, Callable[[World], object]] = {
    "import what was not needed yet": _import_all,
    "read the users": lambda world: _read(f"{world.folder}/users.json"),
    "read the certificate": lambda world: _read(f"{world.folder}/certificate.pem"),
    "look at the time zone": lambda _: importlib.import_module("zoneinfo").ZoneInfo("UTC"),
    "stop a process of its own": lambda _: os.kill(os.getpid(), 0),
}
"""What must be possible in it all the same."""


def infiltrate(world: dict[str, Any]) -> None:
    """Let clients make attempts, in this process."""
    there = msgspec.convert(world, World)

    def handle(request: StatRequest, context: Context, **more: Any) -> StatReply:
        if request.path.startswith(PREFIX):
            try:
                (ATTEMPTS | DUTIES)[request.path.removeprefix(PREFIX)](there)
            except OSError as error:
                raise PermissionDenied(errno.errorcode[error.errno or 0]) from None
            request = StatRequest(id=request.id)
        return reading.handle_stat(request, context, **more)

    VERBS[StatRequest] = dataclasses.replace(VERBS[StatRequest], handler=handle)


def attempt(client: Client, name: str) -> str:
    """Try it in the server: the name of the system's error, empty where it was done."""
    try:
        client.stat(PREFIX + name)
    except PermissionDenied as error:
        return str(error)
    return ""


@contextmanager
def infiltrated(folder: Path, settings: str = "", sandbox: str = "on") -> Iterator[tuple[Host, Daemon]]:
    """A server with somebody in it, and the world around it."""
    host = Host(folder / "host")
    outside = folder / "outside"
    outside.mkdir()
    for name in ("secret", "precious", "doomed", "moved"):
        (outside / name).write_bytes(b"precious")
    abstract = f"ftpy-rig-{os.getpid()}-{folder.name}"
    victim = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as nameless:
            nameless.bind("\0" + abstract)
            nameless.listen()
            world = World(str(host.folder), str(outside), victim.pid, listener.getsockname()[1], abstract)
            before = f"from tests.rigs.sandbox import infiltrate; infiltrate({msgspec.to_builtins(world)!r})"
            with Daemon(host, settings, before=before, sandbox=sandbox) as daemon:
                yield host, daemon
    finally:
        with suppress(ProcessLookupError):
            victim.kill()
        victim.wait()
        if victim.stdin is not None:
            victim.stdin.close()
