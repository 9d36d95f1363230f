"""``commands`` and ``run``: a command's output to the client as it comes, the client's input to the command.

One thread waits for all of them at once: what the command says, room in its standard input, its end, and the client,
who may send input, cancel, or leave. A client that reads slowly slows the command, through the pipes.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import time
from collections import deque

from ftpy.digests import hexdigest
from ftpy.errors import (
    CommandFailed,
    ConnectionLost,
    DigestMismatch,
    InvalidRequest,
    ProtocolError,
    ShuttingDown,
    UnknownCommand,
    request_error,
)
from ftpy.server.audit import MOST_CHARACTERS
from ftpy.server.context import Context
from ftpy.server.logs import clean
from ftpy.server.orders import Began, Ended, Refused, Running
from ftpy.wire.bases import ProgressReply
from ftpy.wire.commands import (
    PIECE_BYTES,
    CancelMessage,
    CommandEntry,
    CommandsReply,
    CommandsRequest,
    InputMessage,
    RunReply,
    RunRequest,
    StreamName,
)

WINDOW_BYTES = 256 * 1024
"""Input that a client may send ahead of the command: four pieces, so that a line of some delay is kept busy."""
PROGRESS_SECONDS = 1.0
"""A command that says nothing is told of so often."""


def handle_commands(request: CommandsRequest, context: Context) -> CommandsReply:
    """Which commands the user may run."""
    for name, command in context.commands.allowed(context.account.name).items():
        entry = CommandEntry(name=name, summary=command.summary, arguments=list(command.args), stdin=command.stdin)
        context.channel.send(CommandsReply(id=request.id, command=entry, complete=False))
    return CommandsReply(id=request.id, complete=True)


def handle_run(request: RunRequest, context: Context) -> RunReply:
    """Run a command to its end, or to that of the connection; raises what refuses it."""
    if context.draining():
        raise ShuttingDown
    user, act = context.account.name, context.act
    command = context.commands.allowed(user).get(request.command)
    if command is None:
        raise UnknownCommand
    act.more["arguments"] = _told(request.arguments) if command.audit_args else len(request.arguments)
    with context.commands.run(request.command, request.arguments, user) as running:
        began = context.channel.patiently(running.hear, progress=lambda: 0)
        if isinstance(began, Refused):
            raise request_error(began.error, began.message)
        if isinstance(began, Ended):
            raise CommandFailed
        relay = _Relay(request, context, running, began)
        try:
            ended = relay.run()
        finally:
            act.more |= {"bytes": act.moved, "input": relay.input.taken}
    act.more |= {"code": ended.code, "ended": ended.ended}
    act.done()
    return RunReply(id=request.id, code=ended.code, ended=ended.ended)


def _told(arguments: list[str]) -> str:
    """Arguments as a shell would be given them, for the audit trail."""
    return clean(shlex.join(arguments)[:MOST_CHARACTERS])


class _Input:
    """What the client sends for the command, until the command takes it."""

    def __init__(self, running: Running, poll: select.poll, *, wanted: bool) -> None:
        self._running, self._poll = running, poll
        self._held: deque[memoryview] = deque()
        self._has_ended = False
        self._is_shut = not wanted
        self.credit = WINDOW_BYTES if wanted else 0
        """Bytes that the client may still send."""
        self.taken = 0
        """Bytes that the command was given."""
        self._unsaid = 0
        if wanted:
            os.set_blocking(running.stdin, False)
        else:
            running.let_go(running.stdin)

    def add(self, data: bytes) -> None:
        """A piece. Raises ProtocolError for what was not to be sent."""
        if len(data) > self.credit or self._has_ended:
            raise ProtocolError("input that was not asked for")
        self.credit -= len(data)
        if not self._is_shut:
            if not self._held:
                self._poll.register(self._running.stdin, select.POLLOUT)
            self._held.append(memoryview(data))

    def end(self) -> None:
        """There will be no more."""
        self._has_ended = True
        if not self._held:
            self._shut()

    def write(self) -> int:
        """Give the command what it takes now; how many bytes more the client is to be told that it may send."""
        try:
            while self._held:
                count = os.write(self._running.stdin, self._held[0])
                self.taken += count
                self._unsaid += count
                rest = self._held.popleft()[count:]
                if rest:
                    self._held.appendleft(rest)
        except BlockingIOError:
            pass  # there will be room
        except BrokenPipeError:  # it reads no more
            self._held.clear()
            self._shut()
            return 0
        if not self._held:
            self._poll.unregister(self._running.stdin)
            if self._has_ended:
                self._shut()
        if self._has_ended or self._unsaid < WINDOW_BYTES // 2:
            return 0
        more, self._unsaid = self._unsaid, 0
        self.credit += more
        return more

    def _shut(self) -> None:
        if not self._is_shut:
            self._is_shut = True
            with contextlib.suppress(KeyError):
                self._poll.unregister(self._running.stdin)
            self._running.let_go(self._running.stdin)


class _Relay:
    """Between one command and its client."""

    def __init__(self, request: RunRequest, context: Context, running: Running, began: Began) -> None:
        self._request, self._running = request, running
        self._channel, self._act = context.channel, context.act
        self._started = self._spoke = time.monotonic()
        self._outputs: dict[int, StreamName] = {running.stdout: "stdout", running.stderr: "stderr"}
        self._ended: Ended | None = None
        self._poll = select.poll()
        self.input = _Input(running, self._poll, wanted=began.stdin)
        stream = context.channel.stream
        stream.expect_acknowledgement(context.config.limits.stall_seconds)
        for source in (stream.fileno(), running.line.fileno(), *self._outputs):
            self._poll.register(source, select.POLLIN)
        self._say(RunReply(id=request.id, encoding=began.encoding, credit=self.input.credit))

    def run(self) -> Ended:
        """Pass on what comes until the command and its output have ended: how.

        Raises CommandFailed, ConnectionLost, Stalled, ProtocolError.
        """
        while True:
            self._channel.flush()
            if self._channel.readable():
                self._hear()
            ended = self._ended
            waits = ended is None and not self._channel.readable()
            ready = [descriptor for descriptor, _ in self._poll.poll(PROGRESS_SECONDS * 1000 if waits else 0)]
            if ended is not None and self._outputs.keys().isdisjoint(ready):
                return ended  # all that could write is gone: who else has the pipes open has nothing to say
            for descriptor in ready:
                if descriptor in self._outputs:
                    self._read(descriptor)
                elif descriptor == self._running.stdin:
                    if more := self.input.write():
                        self._say(RunReply(id=self._request.id, credit=more))
                elif descriptor == self._running.line.fileno():
                    self._hear_end()
            if time.monotonic() - self._spoke >= PROGRESS_SECONDS:
                milliseconds = round((time.monotonic() - self._started) * 1000)
                self._say(ProgressReply(id=self._request.id, progress=milliseconds))

    def _say(self, message: RunReply | ProgressReply) -> None:
        self._spoke = time.monotonic()
        self._channel.send(message)

    def _read(self, descriptor: int) -> None:
        """A piece of output, or the end of one stream."""
        data = os.read(descriptor, PIECE_BYTES)
        if not data:
            self._poll.unregister(descriptor)
            del self._outputs[descriptor]
            self._running.let_go(descriptor)
            return
        self._act.moved += len(data)
        self._say(RunReply(id=self._request.id, stream=self._outputs[descriptor], length=len(data)))
        self._channel.send_body(data)
        self._channel.send_trailer(self._request.digest, hexdigest(self._request.digest, data))

    def _hear_end(self) -> None:
        said = self._running.hear()
        if not isinstance(said, Ended):
            raise CommandFailed
        self._ended = said
        self._poll.unregister(self._running.line)

    def _hear(self) -> None:
        """One message of the client's. Raises ConnectionLost where it has left."""
        message = self._channel.receive()
        if isinstance(message, CancelMessage):
            self._running.cancel()
        elif isinstance(message, InputMessage):
            self._take(message)
        else:
            assert message is None, "the session lets no other request through"
            raise ConnectionLost("the client left")

    def _take(self, message: InputMessage) -> None:
        if message.length is None:
            self.input.end()
            return
        name = self._request.digest
        data = bytes(self._channel.receive_body())
        trailer = self._channel.compare_trailer(name, hexdigest(name, data))
        if trailer is not None and trailer.name != name:
            raise InvalidRequest(f"the trailer's digest is {name}")
        if trailer is not None:
            raise DigestMismatch
        self.input.add(data)
