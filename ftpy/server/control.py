"""The control socket: where whoever runs the server asks it what it does, and has a session ended.

It is ``control.sock`` in the state folder, for the server's own user and root. One thread serves all that ask, none of
whom it waits for, beside all limits on connections: so it answers when the server is full, or out of descriptors.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import msgspec

from ftpy.errors import ProtocolError
from ftpy.server.listening import bind_private
from ftpy.server.rows import Question, Row, decode_question, encode
from ftpy.storage.base import Closing
from ftpy.wire.framing import HANDSHAKE_HEADER_BYTES, FrameBuffer, frame

log = logging.getLogger("ftpy.server")

NAME = "control.sock"
MOST_ADDRESS_BYTES = 103
"""Longest path that every system takes as a socket's address; Linux takes 4 more."""
MOST_PEERS = 16
"""Who ask at once; one more makes the first of them go."""
PEER_SECONDS = 10.0
"""How long one may take to ask and to read the answer."""
BACKLOG = 16
SPARES = 4
"""Descriptors that are kept for who asks when there is none left: other threads may be faster, but hardly so often."""
STARVED = frozenset({errno.EMFILE, errno.ENFILE})
_CREDENTIALS = struct.Struct("3i")
"""struct ucred of unix(7): process id, user id, group id."""

Reply = Callable[[Iterable[Row]], None]
"""Called once with the whole answer, in the thread of the selector."""


class Taken(Exception):
    """Another server answers at this socket, or something else is in its place."""


class _Peer:
    """Somebody who asks: one question in, one answer out."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.due = time.monotonic() + PEER_SECONDS
        self.asked = FrameBuffer(HANDSHAKE_HEADER_BYTES + 4)
        self.answer = memoryview(b"")
        self.awaited = 0
        """The selector's events that it waits for."""


class Control(Closing):
    """The socket and all who ask there, served by whoever runs the ``selector``: callbacks are its keys' data.

    ``tick`` is to be called every second or so: there the socket is made, again if it has to be.
    """

    def __init__(
        self, folder: str, selector: selectors.BaseSelector, answer: Callable[[Question, Reply], None]
    ) -> None:
        self._folder, self._selector, self._answer = folder, selector, answer
        self._listener: socket.socket | None = None
        self._accepts = False
        self._inode = 0
        self._spares: list[int] = []
        self._peers: dict[int, _Peer] = {}
        self._reported = ""

    def tick(self) -> None:
        """Be there for whoever asks; end those who take too long."""
        now = time.monotonic()
        for peer in [peer for peer in self._peers.values() if peer.due <= now]:
            self._drop(peer)
        if self._listener is not None and self._inode != _inode(os.path.join(self._folder, NAME)):
            self._stop_listening()  # somebody removed or replaced it
        try:
            if self._listener is None:
                self._listen()
            self._accept_again()
        except (OSError, Taken) as error:
            self._report(getattr(error, "strerror", None) or str(error))

    def close(self) -> None:
        """End; the socket's file goes with it, if it is still ours."""
        if self._listener is not None and self._inode == _inode(os.path.join(self._folder, NAME)):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._folder, NAME))
        for peer in list(self._peers.values()):
            self._drop(peer)
        self._stop_listening()

    def forsake(self) -> None:
        """In a process that was forked from the one that serves: close what came along, and nothing else.

        The selector is left alone: what would be unregistered there is the other process's as well.
        """
        for peer in self._peers.values():
            peer.end.close()
        if self._listener is not None:
            self._listener.close()
        self._let_spares_go()

    # ---------------------------------------------------------------- the socket

    def _listen(self) -> None:
        if not hasattr(socket, "AF_UNIX"):
            raise Taken("Python has no Unix sockets on this system")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            with within(self._folder) as folder:
                _check_free(f"{folder}/{NAME}")
                # By another name until it is private and answers; then it takes the place of one that is dead.
                temporary = f"{folder}/.{NAME}-{os.getpid()}"
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
                bind_private(listener, temporary)
                listener.listen(BACKLOG)
                self._inode = _inode(temporary)
                os.rename(temporary, f"{folder}/{NAME}")
            self._keep_spares(listener)
        except BaseException:
            listener.close()
            self._let_spares_go()
            raise
        self._listener = listener
        self._reported = ""

    def _stop_listening(self) -> None:
        self._accept_no_more()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._let_spares_go()

    def _keep_spares(self, listener: socket.socket) -> None:
        while len(self._spares) < SPARES:
            self._spares.append(os.dup(listener.fileno()))

    def _let_spares_go(self) -> None:
        while self._spares:
            os.close(self._spares.pop())

    def _report(self, reason: str) -> None:
        """It is tried again every second, but said once."""
        if reason != self._reported:
            self._reported = reason
            fields = {"path": os.path.join(self._folder, NAME), "reason": reason}
            log.warning("control-unavailable", extra={"event": "control-unavailable", "fields": fields})

    # ---------------------------------------------------------------- who asks

    def _accept_again(self) -> None:
        if self._listener is None:
            return
        with contextlib.suppress(OSError):  # there is none to be had yet
            self._keep_spares(self._listener)
        if not self._accepts:
            self._selector.register(self._listener, selectors.EVENT_READ, lambda _: self._accept())
            self._accepts = True

    def _accept_no_more(self) -> None:
        if self._accepts and self._listener is not None:
            self._selector.unregister(self._listener)
            self._accepts = False

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            end = self._accepted(self._listener)
        except BlockingIOError:
            return  # who came has gone
        except OSError:
            self._accept_no_more()  # until the next tick: it would be readable all the time
            return
        if not _is_allowed(end):
            end.close()
            return
        if len(self._peers) >= MOST_PEERS:
            self._drop(next(iter(self._peers.values())))
        end.setblocking(False)
        peer = self._peers[end.fileno()] = _Peer(end)
        self._await(peer, selectors.EVENT_READ, self._hear)

    def _accepted(self, listener: socket.socket) -> socket.socket:
        while True:
            try:
                return listener.accept()[0]
            except OSError as error:
                if error.errno not in STARVED or not self._spares:
                    raise
            os.close(self._spares.pop())  # once more where another thread takes it first

    def _await(self, peer: _Peer, events: int, then: Callable[[_Peer], None] | None = None) -> None:
        """Go on with ``then`` when it is ready for ``events``; with 0, when there is an answer."""
        if peer.awaited:
            self._selector.unregister(peer.end)
        peer.awaited = events
        if events:
            self._selector.register(peer.end, events, lambda _: then(peer) if then else None)

    def _drop(self, peer: _Peer) -> None:
        if self._peers.pop(peer.end.fileno(), None) is None:
            return
        self._await(peer, 0)
        if len(self._spares) < SPARES and self._listener is not None:
            # In one step: closed first, it would be gone to another thread.
            self._spares.append(peer.end.detach())
            os.dup2(self._listener.fileno(), self._spares[-1], inheritable=False)
        peer.end.close()

    def _hear(self, peer: _Peer) -> None:
        try:
            count = peer.end.recv_into(peer.asked.space())
            peer.asked.filled(count)
            header = peer.asked.next_header(HANDSHAKE_HEADER_BYTES)
            question = None if header is None else decode_question(header)
        except BlockingIOError:
            return
        except (OSError, ProtocolError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._drop(peer)
            return
        if question is not None:
            self._await(peer, 0)
            self._answer(question, partial(self._reply, peer))
        elif not count:
            self._drop(peer)

    def _reply(self, peer: _Peer, rows: Iterable[Row]) -> None:
        if self._peers.get(peer.end.fileno()) is peer:  # else it has gone meanwhile
            peer.answer = memoryview(b"".join(_frames(rows)))
            self._await(peer, selectors.EVENT_WRITE, self._say)

    def _say(self, peer: _Peer) -> None:
        try:
            peer.answer = peer.answer[peer.end.send(peer.answer) :]
        except BlockingIOError:
            return
        except OSError:
            self._drop(peer)
            return
        if not peer.answer:
            self._drop(peer)


def _frames(rows: Iterable[Row]) -> Iterator[bytes]:
    """The rows framed; one that cannot be is left out, for an answer must not end who gives it."""
    for row in rows:
        try:
            yield frame(encode(row))
        except (ProtocolError, ValueError) as error:  # too long, or a name that UTF-8 cannot spell
            fields = {"row": type(row).__name__, "reason": str(error)}
            log.warning("row-left-out", extra={"event": "row-left-out", "fields": fields})


@contextlib.contextmanager
def within(folder: str) -> Iterator[str]:
    """``folder`` by a name that is short enough for a socket's address in it. Raises OSError."""
    most = MOST_ADDRESS_BYTES - len(f"/.{NAME}-{os.getpid()}")
    for name in (folder, os.path.relpath(folder)):
        if len(os.fsencode(name)) <= most:
            yield name
            return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _check_free(path: str) -> None:
    """Raises Taken unless there is nothing, or what a server left that was killed."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise Taken("something else is in its place")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except BlockingIOError:
            pass
    raise Taken("another server answers there")


def _inode(path: str) -> int:
    try:
        return os.lstat(path).st_ino
    except OSError:
        return 0


def _is_allowed(end: socket.socket) -> bool:
    """Whether it is the server's own user or root who asks; where the system does not tell, the file's mode says so."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    user = _CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))[1]
    return user in (os.geteuid(), 0)
