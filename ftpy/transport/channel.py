"""A stream driven by ``wire.session``: messages and bodies, in step with the peer or not at all."""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from ftpy import timing
from ftpy.digests import DigestName, PartDigestName
from ftpy.errors import ConnectionFailed, ConnectionLost, ProtocolError
from ftpy.transport.stream import Stream
from ftpy.wire.bases import ProgressReply
from ftpy.wire.fields import Trailer
from ftpy.wire.session import Message, Session, Side

PROGRESS_SECONDS = 1.0
"""A request under way is never silent for longer: the client's stall limit counts silence."""
LATE_SECONDS = 0.5
"""What takes so long is soon to be told of: who looks does so several times a second."""
JOIN_BYTES = 64 * 1024
"""Frames and small bodies are joined up to this many bytes before they are sent."""

T = TypeVar("T")


class Channel:
    """Messages and bodies over one stream; used by one thread at a time."""

    def __init__(self, stream: Stream, side: Side) -> None:
        self.stream = stream
        self.session = Session(side)
        self._out: list[bytes | memoryview] = []
        self._out_bytes = 0
        self._spoke = time.monotonic()
        self.is_lost = False
        """Found broken while long work is done, which may want to know."""
        self._doing: _Doing | None = None

    # ---- out

    def send(self, message: Message) -> None:
        """Queue a message; it leaves with the next ``flush``, which every wait for the peer implies."""
        data = self.session.send(message)
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes > JOIN_BYTES:
            self.flush()

    def send_trailer(self, name: DigestName | PartDigestName, value: str) -> None:
        """Queue the trailer behind a body: its digest."""
        data = self.session.send_trailer(name, value)
        self._out.append(data)
        self._out_bytes += len(data)

    def send_body(self, view: bytes | memoryview) -> None:
        """Send a piece of the body that the last header announced."""
        self.session.outgoing.body(len(view))
        if len(view) <= JOIN_BYTES:
            self._out.append(bytes(view))
            self._out_bytes += len(view)
            if self._out_bytes > JOIN_BYTES:
                self.flush()
        else:
            self.flush()
            self.stream.send(view)

    @property
    def sends_files(self) -> bool:
        """Whether ``send_file`` is to be had: not through TLS, not on every system."""
        return not self.stream.encrypted and hasattr(os, "sendfile")

    def send_file(self, descriptor: int, offset: int, count: int) -> None:
        """Send a piece of the body that the last header announced straight from a file; only where ``sends_files``."""
        self.flush()
        self.session.outgoing.body(count)
        self.stream.send_file(descriptor, offset, count)

    def flush(self) -> None:
        """Send what is queued."""
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._out_bytes = 0
            self._spoke = time.monotonic()
            self.stream.send(data)

    # ---- in

    def readable(self) -> bool:
        """Whether a receive would find bytes at once."""
        return self.stream.readable()

    def receive(self, *, silence_seconds: float | None = None) -> Message | None:
        """The next message, or None where the peer ended the stream between two frames."""
        header = self.receive_raw(silence_seconds=silence_seconds)
        return None if header is None else self.session.receive(header)

    def receive_raw(self, *, silence_seconds: float | None = None) -> bytes | None:
        """The next header's bytes, which the handshake hashes; hand them to ``session.receive``."""
        limit = self.session.header_limit
        if (header := self.stream.held_header(limit)) is not None:
            return header  # what is queued can wait: we do not
        self.flush()
        return self.stream.receive_header(limit, silence_seconds=silence_seconds)

    def receive_held(self) -> Message | None:
        """The next message if all of it is here already."""
        header = self.stream.held_header(self.session.header_limit)
        return None if header is None else self.session.receive(header)

    def receive_into(self, view: memoryview) -> None:
        """Fill ``view`` with body bytes; a slow sender is told meanwhile that we are still there."""
        self.session.incoming.body(len(view))
        self.flush()
        while view:
            view = view[self.stream.receive_some(view) :]
            if self.session.own is Side.SERVER and time.monotonic() - self._spoke > PROGRESS_SECONDS:
                self.say_progress(self.session.incoming.done - len(view) if self.session.pending == 1 else 0)

    def receive_body(self) -> memoryview:
        """The whole body that is due, for small ones; valid until the next receive."""
        due = self.session.incoming.due
        if (view := self.stream.held(due, self.session.header_limit)) is not None:
            self.session.incoming.body(due)
            return view
        view = memoryview(bytearray(due))
        self.receive_into(view)
        return view

    def receive_trailer(self) -> Trailer:
        """The trailer that follows a body. Raises ConnectionLost at end of stream."""
        message = self.session.receive(self._trailer_bytes())
        if not isinstance(message, Trailer):
            raise ProtocolError("a trailer is due")
        return message

    def compare_trailer(self, name: DigestName | PartDigestName, value: str) -> Trailer | None:
        """Receive the trailer that follows a body: None where it is this digest, else the trailer."""
        session = self.session
        header = self.stream.held_header(session.header_limit) or self._trailer_bytes()
        return session.receive_trailer(header, name, value)

    def _trailer_bytes(self) -> bytes:
        header = self.stream.receive_header(self.session.header_limit)
        if header is None:
            raise ConnectionLost("the connection ended before a trailer")
        return header

    def skip_body(self) -> None:
        """Read and drop what is left of a body and its trailer, so that the next frame can be found."""
        scratch = memoryview(bytearray(JOIN_BYTES))
        while due := self.session.incoming.due:
            self.receive_into(scratch[:due])
        if self.session.incoming.awaits_trailer:
            self.receive_trailer()

    # ---- long work

    def patiently(self, work: Callable[[], T], progress: Callable[[], int]) -> T:
        """Do ``work`` in another thread, in a copy of our context, and say every second how many bytes it has done.

        Returns what it returns, which also is waited for where the peer has left meanwhile.

        Where there is no thread to be had it is done here, without a word.
        """
        outcome: list[T] = []
        failure: list[BaseException] = []

        def run() -> None:
            timing.attach(stopwatch)
            try:
                outcome.append(work())
            except BaseException as error:  # noqa: BLE001  (raised again in the thread that waits)
                failure.append(error)

        self.flush()
        thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), name="ftpy-work")
        with timing.lent() as stopwatch:
            try:
                thread.start()
            except RuntimeError:
                run()
            else:
                self._await(thread, progress)
        if failure:
            raise failure[0]
        return outcome[0]

    def promptly(self, work: Callable[[], T], progress: Callable[[], int]) -> T:
        """Do here, at no thread's cost, what seldom takes long; where it does, and ``look`` sees it, that is said."""
        doing = self._doing = _Doing(self, progress)
        try:
            return work()
        finally:
            self._doing = None
            doing.end()

    def look(self) -> None:
        """From another thread, now and then: have it said that what is done takes long."""
        if (doing := self._doing) is not None:
            doing.look()

    def _await(self, thread: threading.Thread, progress: Callable[[], int]) -> None:
        try:
            thread.join(PROGRESS_SECONDS)
            while thread.is_alive():
                self.say_progress(progress())
                thread.join(PROGRESS_SECONDS)
        except ConnectionFailed:
            self.is_lost = True
            raise
        finally:
            thread.join()

    def say_progress(self, count: int) -> None:
        """Say that so much of the oldest request under way is done."""
        oldest = self.session.oldest
        if oldest is not None:
            self.send(ProgressReply(id=oldest, progress=count))
            self.flush()


class _Doing:
    """What is done in a channel's own thread, which is silent meanwhile; another one speaks where it takes long."""

    def __init__(self, channel: Channel, progress: Callable[[], int]) -> None:
        self._channel, self._progress = channel, progress
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def look(self) -> None:
        """Begin to speak, if it is time."""
        with self._lock:
            if self._thread is None and not self._over.is_set() and time.monotonic() - self._began > LATE_SECONDS:
                thread = threading.Thread(target=self._speak, name="ftpy-progress")
                with contextlib.suppress(RuntimeError):  # no thread is to be had: the next look may find one
                    thread.start()
                    self._thread = thread

    def end(self) -> None:
        """It is done. Raises ConnectionFailed where the peer could not be told that it was under way."""
        with self._lock:
            self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _speak(self) -> None:
        try:
            while not self._over.is_set():
                self._channel.say_progress(self._progress())
                self._over.wait(PROGRESS_SECONDS)
        except BaseException as error:  # noqa: BLE001  (raised again in the thread that works)
            self._channel.is_lost = isinstance(error, ConnectionFailed)
            self._failure = error
