"""The server's feed, page by page; a page counts once all of it has come, so that none is lost or comes twice."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from msgspec import Struct

from ftpy.client.connection import Connection
from ftpy.client.lines import Line
from ftpy.errors import InvalidRequest, ProtocolError
from ftpy.files import RemotePath, display
from ftpy.wire.events import EventsReply, EventsRequest, Kind

WAIT_SECONDS = 30
"""How long a server is asked to wait: half of what it takes, and it gives signs of life meanwhile."""

LEAST_SECONDS = 0.2
"""Nobody who follows asks again sooner than this where nothing was told, however soon a server said so."""

_SINCE = re.compile(r"start|end|[0-9a-f]{16}-[0-9]{1,18}")


class Event(Struct, frozen=True):
    """One event; the empty path is all that this user has there. ``cursor``: go on from here to get what follows."""

    kind: Kind
    path: RemotePath
    to: RemotePath | None
    time_ns: int
    cursor: str


class Events:
    """Iterate once. ``cursor`` is behind the last event given, and in the end behind all that there was."""

    def __init__(self, line: Line, since: str, *, follow: bool) -> None:
        if not _SINCE.fullmatch(since):
            raise InvalidRequest(f"{display(since)}: no cursor; it is start, end or what events came with")
        self._line, self.cursor, self._follow = line, since, follow
        self._pages = 0

    def __iter__(self) -> Iterator[Event]:
        while True:
            asked = time.monotonic()
            page = self._line.persist(self._attempt, lambda: self._pages)
            self._pages += 1
            events = [
                Event(entry.event, entry.remote_path(), entry.remote_target(), entry.time_ns, entry.cursor)
                for entry in page.events
            ]
            if events and page.cursor == self.cursor:
                raise ProtocolError("the server gives the same events again and again")
            for event in events:
                self.cursor = event.cursor
                yield event
            self.cursor = page.cursor
            if page.complete and not self._follow:
                return
            if not events:
                time.sleep(max(0.0, asked + LEAST_SECONDS - time.monotonic()))

    def _attempt(self, connection: Connection) -> EventsReply:
        request = EventsRequest(
            id=connection.next_id(), since=self.cursor, wait_seconds=WAIT_SECONDS if self._follow else 0
        )
        return connection.call(request, EventsReply, lambda _: None)
