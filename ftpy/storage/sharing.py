"""What the processes of one server say to each other about uploads, and the line they say it over.

An upload is open in one process, its owner, which holds the journal's lock; others reach it through a ``Link``
(``owning``: the owner's end, ``remote``: the other one). Who leads there is the server's business: ``Neighbours``.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import pickle
import socket
from collections.abc import Sequence
from typing import Any, Protocol

from msgspec import Struct

from ftpy.storage import syscalls
from ftpy.storage.base import Closing, NewFile, Quota

_LENGTH_BYTES = 4
MOST_DESCRIPTORS = 2
"""Open files that one message takes along, at most."""


class DescriptorsLost(OSError):
    """This process had no room for all open files that came with a message; none is left open, and the link goes on."""

    def __init__(self, message: Any) -> None:
        super().__init__(errno.EMFILE, os.strerror(errno.EMFILE))
        self.message = message
        """It came whole."""


class Link(Closing):
    """Python objects, and open files, over a Unix socket that two processes of one server hold the ends of.

    One thread at a time sends, one receives. All raise OSError; EOFError where the other end is gone. Objects are
    pickled: only descendants of one process ever hold an end, so there is nobody to distrust.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    @staticmethod
    def pair() -> tuple[Link, Link]:
        """Two ends of a new one."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return Link(one), Link(other)

    def fileno(self) -> int:
        """Its descriptor: to wait for it, or to send it on."""
        return self._end.fileno()

    def send(self, message: object, descriptors: Sequence[int] = (), *, wait: bool = True) -> None:
        """Send an object and open files. BlockingIOError where it does not ``wait`` and there is no room."""
        data = pickle.dumps(message)
        view = memoryview(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
        flags = 0 if wait else socket.MSG_DONTWAIT
        # Not socket.send_fds, which forgets its flags (as of Python 3.13.0).
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        sent = self._end.sendmsg([view], rights, flags)
        while sent < len(view):
            sent += self._end.send(view[sent:], flags)

    def receive(self) -> tuple[Any, list[int]]:
        """The next object, and all open files that came with it. Raises DescriptorsLost."""
        # Exactly the length: what comes with a later message's first byte must not be taken with this one.
        head, descriptors, flags, _ = socket.recv_fds(self._end, _LENGTH_BYTES, MOST_DESCRIPTORS)
        try:
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
            length = int.from_bytes(head + self._exactly(_LENGTH_BYTES - len(head)), "big")
            message = pickle.loads(self._exactly(length))  # noqa: S301  (see above)
            if flags & socket.MSG_CTRUNC:  # recvmsg(2): the kernel gave as many as there was room for
                raise DescriptorsLost(message)
            return message, descriptors
        except BaseException:
            for descriptor in descriptors:
                syscalls.close(descriptor)
            raise

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self._end.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def has_ended(self) -> bool:
        """Whether the other end is gone, and nothing it said is unread."""
        try:
            return not self._end.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def shutdown(self) -> None:
        """From any thread: let whoever waits at either end find it ended."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)

    def finish(self) -> None:
        """Say nothing more, and wait until the other end has closed."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_WR)
            while self._end.recv(_LENGTH_BYTES):
                pass

    def close(self) -> None:
        """Close this end."""
        self._end.close()


class Asked(Struct, frozen=True):
    """For which upload one comes: with the ``file`` that is put, or by its id alone; ``quota`` is for what is added."""

    id: str
    owner: str
    file: NewFile | None = None
    quota: Quota | None = None


class Neighbours(Protocol):
    """The other processes that serve the same root, as one storage sees them. Every method is safe in any thread."""

    def claim(self, upload_id: str) -> None:
        """Say that this process has the upload open, from now on."""

    def release(self, upload_id: str) -> None:
        """Say that it has closed it."""

    def link(self, upload_id: str) -> Link | None:
        """A way to the process that has it open, whose storage ``welcome``s the other end; None where none is known."""


class Elsewhere(Exception):
    """Another process has the upload open."""
