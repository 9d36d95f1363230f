"""The other end of the control socket: ask a running server, and look at the uploads that lie on its disks."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import msgspec

from ftpy.errors import ConnectionFailed, NotRunning, UnknownSession
from ftpy.files import display
from ftpy.server.accounts import user_of
from ftpy.server.control import NAME, within
from ftpy.server.rows import (
    EndRow,
    KickQuestion,
    Question,
    RootRow,
    Row,
    ServerRow,
    SessionRow,
    StatusQuestion,
    UploadRow,
    decode_row,
    encode,
)
from ftpy.wire.framing import HEADER_BYTES, FrameBuffer, frame

ASK_SECONDS = 10.0
"""How long the server may be silent."""
MOST_NAME = 64
"""Characters of a session's name, at most: two numbers."""
AGAIN_SECONDS = 0.05
"""Between two tries to get into its queue."""


def status(state: str) -> Iterator[Row]:
    """What the server with this state folder does: itself, its sessions, uploads, penalties.

    Raises NotRunning, ConnectionFailed.
    """
    rows = [row for row in ask(state, StatusQuestion()) if not isinstance(row, EndRow)]
    sessions = sorted((row for row in rows if isinstance(row, SessionRow)), key=lambda row: row.since_ns)
    roots = [row for row in rows if isinstance(row, RootRow)]
    yield from (row for row in rows if isinstance(row, ServerRow))
    yield from roots
    yield from sessions
    for root in dict.fromkeys(os.path.realpath(row.root) for row in roots):
        yield from uploads_below(root)
    yield from (row for row in rows if not isinstance(row, ServerRow | RootRow | SessionRow))


def uploads_below(root: str) -> Iterator[UploadRow]:
    """The unfinished uploads of a root; none where it cannot be looked at."""
    from ftpy.storage.unfinished import unfinished

    try:
        for found in unfinished(root):
            yield UploadRow(
                owner=user_of(found.owner),
                path=display(str(found.path)),
                size=found.size,
                stored=found.stored,
                age_seconds=max(0, round(time.time() - found.touched)),
                root=root,
            )
    except OSError:
        return


def kick(state: str, session: str) -> None:
    """End a session. Raises UnknownSession, NotRunning, ConnectionFailed."""
    # What cannot be a session's name need not be asked for, and could not always be.
    question = KickQuestion(session if session.isascii() and len(session) <= MOST_NAME else "")
    if not any(isinstance(row, EndRow) and row.found for row in ask(state, question)):
        raise UnknownSession(f"there is no session {display(session)}; `ftpy-server status` lists them")


def ask(state: str, question: Question) -> Iterator[Row]:
    """The rows of the answer, to the end. Raises NotRunning, ConnectionFailed."""
    path = os.path.join(state, NAME)
    try:
        with _connected(state) as end:
            end.sendall(frame(encode(question)))
            yield from _rows(end)
    except (FileNotFoundError, ConnectionRefusedError):
        raise NotRunning(f"no server is running: nobody answers at {display(path)}") from None
    except PermissionError:
        raise ConnectionFailed(f"{display(path)}: only the server's own user and root may ask") from None
    except (OSError, msgspec.DecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConnectionFailed(f"{display(path)}: the server did not answer: {reason}") from None


def _connected(state: str) -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        raise FileNotFoundError
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        end.settimeout(ASK_SECONDS)
        with within(state) as folder:
            _connect(end, f"{folder}/{NAME}")
    except BaseException:
        end.close()
        raise
    return end


def _connect(end: socket.socket, path: str) -> None:
    """Where many ask at once a Unix socket does not wait, as others do, but says EAGAIN."""
    deadline = time.monotonic() + ASK_SECONDS
    while True:
        try:
            return end.connect(path)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(AGAIN_SECONDS)


def _rows(end: socket.socket) -> Iterator[Row]:
    buffer = FrameBuffer()
    while True:
        while (header := buffer.next_header(HEADER_BYTES)) is None:
            count = end.recv_into(buffer.space())
            if not count:
                raise OSError("it closed the connection; only its own user and root may ask")
            buffer.filled(count)
        row = decode_row(header)
        yield row
        if isinstance(row, EndRow):
            return
