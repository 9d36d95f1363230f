"""What a connection is at work on, told on demand from another thread: serving it costs an assignment a request."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ftpy.server.audit import MOST_CHARACTERS
from ftpy.server.context import Context
from ftpy.server.logs import clean
from ftpy.server.rows import SessionRow
from ftpy.wire.bases import PathRequest
from ftpy.wire.commands import RunRequest
from ftpy.wire.messages import CommitRequest

if TYPE_CHECKING:
    from ftpy.server.connection import RequestHandler

RATE_SECONDS = 1.0
"""A rate is the mean over about so long."""


class Pulse:
    """How fast a connection moves bytes, looked at from time to time."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._moved = 0
        self.rate = 0
        """Bytes a second, both ways."""

    def look(self, moved: int) -> None:
        """So many bytes have moved in all."""
        now = time.monotonic()
        if now - self._at >= RATE_SECONDS:
            self.rate = round((moved - self._moved) / (now - self._at))
            self._at, self._moved = now, moved


def session_row(handler: RequestHandler) -> SessionRow:
    """What the connection does now; consistent enough to be read by people."""
    context = handler.context
    doing = None if context is None or handler.resting else _doing(context)
    path, moved, size = doing or (None, 0, None)
    state = "login" if context is None else context.act.verb if doing else "idle"
    return SessionRow(
        session=handler.session,
        user=str(handler.trail.who["user"]),
        source=handler.source,
        since_ns=handler.since_ns,
        state=_fit(state),
        path=None if path is None else _fit(path),
        bytes=moved,
        size=size,
        rate=handler.pulse.rate,
    )


def _fit(worded: str) -> str:
    """What a peer has worded, fit for a row: not longer than a path, and nothing that UTF-8 cannot spell."""
    return clean(worded[:MOST_CHARACTERS])


def _doing(context: Context) -> tuple[str | None, int, int | None]:
    """The path that the request under way is about, the bytes that it moved so far, and how many it will."""
    request, channel = context.act.request, context.channel
    bodies = (channel.session.incoming, channel.session.outgoing)
    body = next((way for way in bodies if not way.between_frames), None)
    moved, size = (body.done - channel.stream.unsent, body.length) if body else (0, None)
    if isinstance(request, RunRequest):
        return request.command, context.act.moved, None
    if isinstance(request, PathRequest):
        return request.spelt_path(), moved, size
    upload_id = getattr(request, "upload", None)
    upload = context.uploads.get(upload_id) if upload_id else None
    if upload is None:
        return context.act.path, moved, size
    if isinstance(request, CommitRequest):
        return str(upload.path), upload.verified, upload.file_size
    return str(upload.path), context.brought.get(upload.id, 0) + moved, upload.file_size
