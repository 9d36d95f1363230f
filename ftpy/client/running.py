"""A command that runs on the host: what it says as it comes, and what it is given to read.

One thread waits for the server, for input, and for a word to cancel; a stream that can only be waited for by reading it
is read by a thread of its own, which passes the bytes on through a pair of sockets.
"""

from __future__ import annotations

import contextlib
import io
import re
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

import msgspec

from ftpy.client.connection import Connection
from ftpy.client.lines import Line
from ftpy.digests import hexdigest
from ftpy.errors import (
    ConnectionLost,
    DigestMismatch,
    FtpyError,
    InvalidArgument,
    LocalFileError,
    OutcomeUnknown,
    ProtocolError,
    Stalled,
    UnknownCommand,
)
from ftpy.files import display
from ftpy.storage.base import Closing
from ftpy.wire.commands import (
    ARGUMENT_CHARACTERS,
    MOST_ARGUMENTS,
    PIECE_BYTES,
    CancelMessage,
    CommandEntry,
    CommandsReply,
    CommandsRequest,
    Ended,
    InputMessage,
    RunReply,
    RunRequest,
    StreamName,
)
from ftpy.wire.framing import HEADER_BYTES

MOST_LISTED = 10_000
"""Commands that a server may tell of; one that goes on has something else in mind."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class CommandInfo(NamedTuple):
    """A command: what it is for, a regular expression for each argument, whether it takes standard input."""

    name: str
    summary: str
    arguments: tuple[str, ...]
    stdin: bool


class Output(NamedTuple):
    """A piece of what a command said, as it was."""

    stream: StreamName
    data: bytes


def list_commands(connection: Connection) -> list[CommandInfo]:
    """The commands that this user may run. Raises Unsupported."""
    found: list[CommandInfo] = []
    reply = connection.call(CommandsRequest(id=connection.next_id()), CommandsReply)
    while isinstance(entry := reply.command, CommandEntry):
        found.append(CommandInfo(entry.name, entry.summary, tuple(entry.arguments), entry.stdin))
        if len(found) > MOST_LISTED:
            raise ProtocolError("the server tells of commands without end")
        reply = connection.wait(CommandsReply)
    return found


class Run(Closing):
    """A command under way: iterate over it, to its end. ``cancel`` is safe in any thread, the rest in one."""

    def __init__(
        self, line: Line, command: str, arguments: list[str], stdin: bytes | BinaryIO | None, silence_seconds: float
    ) -> None:
        _check(command, arguments)
        self.command = command
        self.code: int | None = None
        """Its exit code when it has ended: 128 and a signal's number where one ended it, 124 where its time was up."""
        self.ended: Ended | None = None
        """How it came to its end."""
        self._line, self._silence_seconds = line, silence_seconds
        self._connection = connection = line.connected()
        self._digest = connection.part_digest
        request = RunRequest(id=connection.next_id(), command=command, arguments=arguments, digest=self._digest)
        self._id = request.id
        with self._closing_line():
            began = self._begin(request)
        if isinstance(began.encoding, msgspec.UnsetType) or isinstance(began.credit, msgspec.UnsetType):
            line.close()
            raise ProtocolError("the server tells of a command that has not begun")
        self.encoding = began.encoding
        """What the host says that the output is encoded in; a name that Python may not know."""
        self._credit = began.credit
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection.channel.stream, selectors.EVENT_READ)
        self._waker, self._wakes = socket.socketpair()
        self._wakes.setblocking(False)
        self._selector.register(self._waker, selectors.EVENT_READ, self._cancel)
        self._input = _Input(io.BytesIO(stdin) if isinstance(stdin, bytes) else stdin, wanted=began.credit > 0)

    def _begin(self, request: RunRequest) -> RunReply:
        try:
            return self._connection.call(request, RunReply)
        except ProtocolError:
            raise
        except ConnectionLost as error:
            raise OutcomeUnknown(f"{request.command}: {OutcomeUnknown.sentence()}") from error

    # ---- life

    @property
    def takes_input(self) -> bool:
        """Whether it reads standard input."""
        return self._input.wanted

    def cancel(self) -> None:
        """Ask for its end; what it still says comes, and how it ended. From any thread, or a signal's handler."""
        with contextlib.suppress(OSError):  # it has ended, or has been asked often enough
            self._wakes.send(b"\0")

    def close(self) -> None:
        """Leave it; one that has not ended is ended by the host, for the connection goes too. Safe to call twice."""
        if self._line.connection is self._connection and not self._connection.in_step:
            self._line.close()
        self._input.close()
        self._selector.close()
        self._waker.close()
        self._wakes.close()

    @contextlib.contextmanager
    def _closing_line(self) -> Iterator[None]:
        try:
            yield
        except FtpyError:
            if not self._connection.in_step:
                self._line.close()
            raise

    # ---- what it says

    def __iter__(self) -> Iterator[Output]:
        """What it says, piece by piece, until it has ended.

        Raises ConnectionLost, Stalled, CommandFailed, DigestMismatch, LocalFileError for its input.
        """
        while self.code is None:
            with self._closing_line():
                self._wait()
                reply = self._connection.hear(RunReply, _passes)
                output = None if reply is None else self._take(reply)
            if output is not None:
                yield output

    def _take(self, reply: RunReply) -> Output | None:
        """What one reply says."""
        if isinstance(reply.encoding, str):
            raise ProtocolError("a command has begun twice")
        if isinstance(reply.credit, int):
            self._credit += reply.credit
        if isinstance(reply.code, int) and isinstance(reply.ended, str):
            self.code, self.ended = reply.code, reply.ended
        if not isinstance(reply.stream, str):
            return None
        channel = self._connection.channel
        data = bytes(channel.receive_body())
        if channel.compare_trailer(self._digest, hexdigest(self._digest, data)) is not None:
            self._line.close()
            raise DigestMismatch("what the command said was damaged on its way")
        return Output(reply.stream, data)

    def _wait(self) -> None:
        """Until the server says something; meanwhile input goes, and word to cancel."""
        while not self._connection.readable():
            self._input.watch(self._selector, self._send if self._credit else None)
            ready = self._selector.select(self._silence_seconds)
            if not ready:
                raise Stalled
            for key, _ in ready:
                if key.data is None:
                    return
                key.data()

    # ---- what it is told

    def _cancel(self) -> None:
        self._waker.recv(64)
        self._connection.channel.send(CancelMessage(id=self._id))
        self._connection.channel.flush()

    def _send(self) -> None:
        """A piece of input, or its end. Raises LocalFileError where it could not be read to its end."""
        channel = self._connection.channel
        data = self._input.read(min(self._credit, PIECE_BYTES))
        if data:
            self._credit -= len(data)
            channel.send(InputMessage(id=self._id, length=len(data)))
            channel.send_body(data)
            channel.send_trailer(self._digest, hexdigest(self._digest, data))
        else:
            channel.send(InputMessage(id=self._id))
        channel.flush()


def _passes(_: int) -> None:
    """A command may be silent for as long as it runs: milliseconds pass."""


class _Input:
    """A stream to be waited for beside others: read by a thread of its own, from when it is wanted first."""

    def __init__(self, stream: BinaryIO | None, *, wanted: bool) -> None:
        self.wanted = wanted
        self._stream = stream if wanted else None
        self._has_ended = not wanted
        self._failure: OSError | None = None
        self._end, self._its = socket.socketpair()
        self._watched: Callable[[], None] | None = None
        if self._stream is None:
            self._its.close()
        else:
            threading.Thread(target=self._pass_on, args=(self._stream,), name="ftpy-input", daemon=True).start()

    def _pass_on(self, stream: BinaryIO) -> None:
        read = getattr(stream, "read1", stream.read)  # what there is, where the stream can say
        try:
            while data := read(PIECE_BYTES):
                self._its.sendall(data)
        except (OSError, ValueError) as error:
            self._failure = error if isinstance(error, OSError) else OSError(str(error))
        finally:
            self._its.close()

    def watch(self, selector: selectors.BaseSelector, ready: Callable[[], None] | None) -> None:
        """Have ``ready`` called when there is something to read, or the end; None: not now."""
        wanted = None if self._has_ended else ready
        if wanted is not None and self._watched is None:
            selector.register(self._end, selectors.EVENT_READ, wanted)
        elif wanted is None and self._watched is not None:
            selector.unregister(self._end)
        self._watched = wanted

    def read(self, count: int) -> bytes:
        """What there is; empty at the end. Raises LocalFileError."""
        data = self._end.recv(count)
        if not data:
            self._has_ended = True
            if self._failure is not None:
                raise LocalFileError(f"standard input: {self._failure.strerror or self._failure}")
        return data

    def close(self) -> None:
        """Take no more; a thread that still reads notices when it has something."""
        self._end.close()


def _check(command: str, arguments: list[str]) -> None:
    """What no server would take is refused here, where it is told more simply."""
    if not _NAME.fullmatch(command):
        raise UnknownCommand(f"{display(command)}: {UnknownCommand.sentence()}")
    for number, text in enumerate(arguments, 1):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidArgument(f"argument {number} is not UTF-8") from None
        if len(text) > ARGUMENT_CHARACTERS:
            raise InvalidArgument(f"argument {number} has more than {ARGUMENT_CHARACTERS} characters")
    if len(arguments) > MOST_ARGUMENTS:
        raise InvalidArgument(f"more than {MOST_ARGUMENTS} arguments")
    if len(msgspec.json.encode(arguments)) > HEADER_BYTES - 512:
        raise InvalidArgument("the arguments are too long")
