"""What the server and its runner say to each other, and the runner as the server sees it (``runner`` is the process).

An order is one message over a socket that all processes of the server share, with the ends of a command's three
streams and of a line of its own, over which its supervisor then speaks. Messages are JSON in strict types: the server
is confined and meets strangers, so the runner believes nothing that it says but what the settings allow.
"""

from __future__ import annotations

import array
import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from ftpy.config.commands import Command
from ftpy.config.server import Log, ServerConfig
from ftpy.errors import Busy, CommandFailed, ConfigError
from ftpy.storage.base import Closing

log = logging.getLogger("ftpy.server")

MESSAGE_BYTES = 128 * 1024
"""Longest message: an order whose arguments fill a header has half of that."""
BEGIN_SECONDS = 30.0
"""How long it may take until a command has begun or was refused."""
START_SECONDS = 30.0
"""How long a runner may take to be ready: Python starts, on a machine that may be busy."""
ORDER_SECONDS = 5.0
"""How long an order waits for a runner that is at work on others."""
STOP_SECONDS = 5.0
"""How long the end of the runner is waited for; it takes its commands' two seconds."""


class Order(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="order", tag="run"):
    """Run a command."""

    command: str
    arguments: list[str]
    user: Annotated[str, Meta(max_length=64)]


class Reload(Struct, frozen=True, forbid_unknown_fields=True, tag_field="order", tag="reload"):
    """Read the settings again."""


class Setup(Struct, frozen=True, kw_only=True):
    """What a runner begins with, and where to read it again (absent: nowhere)."""

    commands: dict[str, Command]
    most: int
    log: Log
    settings: str | None


class Began(Struct, frozen=True, kw_only=True, tag_field="says", tag="began"):
    """It runs; its output has this encoding, and it does or does not take input."""

    encoding: str
    stdin: bool


class Refused(Struct, frozen=True, kw_only=True, tag_field="says", tag="refused"):
    """It does not; ``error`` is a code of ``ftpy.errors.CODES``."""

    error: str
    message: str = ""


class Ended(Struct, frozen=True, kw_only=True, tag_field="says", tag="ended"):
    """It and all that it started are gone."""

    code: int
    ended: Literal["exit", "signal", "timeout", "cancel"]


Said = Began | Refused | Ended
READY = b"ready"
"""What a runner says when it takes orders, and nothing more ever."""
CANCEL = b"cancel"
"""The one word that a supervisor hears, besides the end of its line."""

encode = msgspec.json.Encoder().encode
decode_order: msgspec.json.Decoder[Order | Reload] = msgspec.json.Decoder(Order | Reload)
decode_setup = msgspec.json.Decoder(Setup)
decode_said: msgspec.json.Decoder[Said] = msgspec.json.Decoder(Said)


class Running(Closing):
    """A command's ends on this side; closing them ends it."""

    def __init__(self, line: socket.socket, stdin: int, stdout: int, stderr: int) -> None:
        self.line = line
        """To its supervisor."""
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr
        self._open = {stdin, stdout, stderr}

    def hear(self) -> Said:
        """What the supervisor says next. Raises CommandFailed where it is gone."""
        try:
            data = self.line.recv(MESSAGE_BYTES)
        except OSError:
            data = b""
        if not data:
            raise CommandFailed("nobody can tell how the command ended; the server's log says more")
        return decode_said.decode(data)

    def cancel(self) -> None:
        """Ask for its end."""
        with contextlib.suppress(OSError):  # it has come
            self.line.send(CANCEL)

    def let_go(self, descriptor: int) -> None:
        """Close one of its streams."""
        if descriptor in self._open:
            self._open.discard(descriptor)
            os.close(descriptor)

    def close(self) -> None:
        """Let go of all; a command that still runs is ended."""
        self.line.close()
        for descriptor in list(self._open):
            self.let_go(descriptor)


class Runner(Closing):
    """The runner's other end. Safe in any thread, and in any process that was forked from the one that started it."""

    def __init__(self, config: ServerConfig, settings: str | None = None) -> None:
        """Start it, before the sandbox closes; ``settings`` is the file that ``config`` came from.

        Raises ConfigError.
        """
        self._end, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        setup = Setup(
            commands=config.commands,
            most=config.limits.commands,
            log=config.log,
            settings=None if settings is None else os.path.abspath(settings),
        )
        with its:
            # A new program, not a fork: nothing of what the server knows is in its memory.
            self._process = subprocess.Popen(  # noqa: S603  (this very program)
                [sys.executable, "-P", "-m", "ftpy.server.runner", str(its.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=[its.fileno()],
                start_new_session=True,
            )
        self._owner = os.getpid()
        self._lock = threading.Lock()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(encode(setup))
        self._end.settimeout(START_SECONDS)
        if self._heard() != READY:
            self.close()
            raise ConfigError("what is to run commands did not start")
        self._end.settimeout(ORDER_SECONDS)

    def _heard(self) -> bytes:
        try:
            return self._end.recv(len(READY))
        except OSError:
            return b""

    def run(self, command: str, arguments: list[str], user: str) -> Running:
        """Have a command run: its ends here; what became of it is what its supervisor says first.

        Raises Busy, CommandFailed.
        """
        order = encode(Order(command=command, arguments=arguments, user=user))
        with contextlib.ExitStack() as mine, contextlib.ExitStack() as its:
            try:
                running, theirs = _ends(mine, its)
            except OSError:  # EMFILE, ENFILE
                raise Busy("the server has too many files open; try again later") from None
            self._send(order, theirs)
            mine.pop_all()
            return running

    def reload(self) -> None:
        """Let it read the settings again."""
        with contextlib.suppress(CommandFailed, Busy):
            self._send(encode(Reload()), [])

    def _send(self, message: bytes, descriptors: list[int]) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            self._end.sendmsg([message], rights)
        except TimeoutError:
            raise Busy("the host is at work on other commands; try again later") from None
        except OSError as error:
            self._say_gone(error.strerror or str(error))
            raise CommandFailed("commands cannot be run until the server is restarted") from None

    def _say_gone(self, reason: str) -> None:
        if os.getpid() == self._owner:
            with self._lock:
                self._process.poll()  # no zombie stays
        log.error("runner-gone", extra={"event": "runner-gone", "fields": {"reason": reason}})

    def close(self) -> None:
        """Let go of it: when nobody holds it any more it ends its commands, and itself; whoever started it waits."""
        self._end.close()
        if os.getpid() == self._owner:
            with self._lock, contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)


def _ends(mine: contextlib.ExitStack, its: contextlib.ExitStack) -> tuple[Running, list[int]]:
    """Both ends of a command's line and streams, to be closed by these. Raises OSError."""
    line, its_line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line.settimeout(BEGIN_SECONDS)
    mine.callback(line.close)
    its.callback(its_line.close)
    ends: list[int] = []
    theirs = [its_line.fileno()]
    for reads in (False, True, True):  # standard input is written here, the others are read
        here, there = os.pipe() if reads else reversed(os.pipe())
        mine.callback(os.close, here)
        its.callback(os.close, there)
        ends.append(here)
        theirs.append(there)
    return Running(line, *ends), theirs


def start_runner(config: ServerConfig, settings: str | None = None) -> Runner | None:
    """A runner, where ``config`` names commands; else nobody is outside of the sandbox."""
    return Runner(config, settings) if config.commands else None
