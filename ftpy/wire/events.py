"""events: what was published, moved and deleted, in its order (docs/protocol.md 21)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from ftpy.files import RemotePath
from ftpy.wire.bases import Reply, Request
from ftpy.wire.fields import Base64, Message, Time
from ftpy.wire.spelling import wire_to_path

PAGE_EVENTS = 1_000
"""Most events in one page."""
MOST_WAIT_SECONDS = 60
"""Longest that a server is asked to wait for an event."""

Kind = Literal["published", "moved", "deleted"]
CursorText = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}-[0-9]{1,18}\Z")]
Since = Annotated[str, Meta(pattern=r"^(?:start|end|[0-9a-f]{16}-[0-9]{1,18})\Z")]
"""Behind which event: before the oldest that is kept, behind the newest, or where a cursor says."""


class EventsRequest(Request, frozen=True, kw_only=True, tag="events"):
    """The events behind ``since``; where there are none, wait that long for one."""

    since: Since = "start"
    wait_seconds: Annotated[int, Meta(ge=0, le=MOST_WAIT_SECONDS)] = 0


class EventEntry(Message, frozen=True, kw_only=True):
    """One event, at ``path`` and all below it, where the empty path is all that the user has; ``to`` if it moved.

    ``cursor`` is behind it.
    """

    event: Kind
    path: str = ""
    path_b64: Base64 | None = None
    to: str | None = None
    to_b64: Base64 | None = None
    time_ns: Time
    cursor: CursorText

    def __post_init__(self) -> None:
        if (self.event == "moved") != ((self.to is None) + (self.to_b64 is None) == 1):
            raise ValueError("what moved, and only that, has one place that it moved to")

    def remote_path(self) -> RemotePath:
        """The path, checked. Raises InvalidPath."""
        return wire_to_path(self.path, self.path_b64)

    def remote_target(self) -> RemotePath | None:
        """Where it moved to, checked. Raises InvalidPath."""
        return wire_to_path(self.to or "", self.to_b64) if self.event == "moved" else None


class EventsReply(Reply, frozen=True, kw_only=True):
    """A page; ``cursor`` is behind it, and behind what the user may not see. ``complete``: there is no more now."""

    events: Annotated[list[EventEntry], Meta(max_length=PAGE_EVENTS)]
    cursor: CursorText
    complete: bool

    def __post_init__(self) -> None:
        # Pages of nothing could go on for ever, and nobody would see it.
        if not self.events and not self.complete:
            raise ValueError("a page without events is the last one")
