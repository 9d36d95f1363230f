"""events: the feed, as far as a user may know of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

from ftpy.errors import ShuttingDown, Unsupported
from ftpy.files import RemotePath
from ftpy.server.context import Context
from ftpy.server.rights import Permissions
from ftpy.storage.base import Admits
from ftpy.storage.feed import Cursor, Happening
from ftpy.storage.feedbook import FeedBook, Row
from ftpy.wire.events import PAGE_EVENTS, EventEntry, EventsReply, EventsRequest, Kind
from ftpy.wire.spelling import path_to_wire

PAGE_BYTES = 48 * 1024
"""A page is cut at about this many bytes, safely inside the longest header."""
ROWS = 16
"""Groups that are read from the feed at once: some thousand events."""
PROGRESS_SECONDS = 1.0
"""A client that waits is told so often that we are still there."""

Places = list[RemotePath]


class View:
    """What one user sees of the feed: below the own root, and where ``list`` is held.

    What happens to a folder happens to all below it: who may know only of some of that is told of each such part, and
    whose root lies within it, of the root.
    """

    def __init__(self, root: str, permissions: Permissions, admits: Admits) -> None:
        self._root, self._permissions, self._admits = _parts(root), permissions, admits

    def of(self, row: Row, one: Happening) -> Iterator[tuple[Kind, RemotePath, RemotePath | None]]:
        """What they are told of one event: the kind, the path, where it moved to."""
        root = _parts(row.root)
        origin, target = root + _parts(os.fsdecode(one.path)), root + _parts(os.fsdecode(one.to))
        here = self._places(origin)
        if one.kind != "moved":
            yield from ((one.kind, path, None) for path in here)
            return
        there = self._places(target)
        if self._sees(origin) and self._sees(target):
            yield "moved", here[0], there[0]
            return
        yield from (("deleted", path, None) for path in here)
        yield from (("published", path, None) for path in there)

    def _sees(self, whole: tuple[str, ...]) -> bool:
        """Whether they may know this absolute path itself, and not only parts of what is there."""
        depth = len(self._root)
        return whole[:depth] == self._root and (self._admits is None or self._admits(RemotePath(whole[depth:])))

    def _places(self, whole: tuple[str, ...]) -> Places:
        """As what they may know an absolute path."""
        own = self._root
        if whole[: len(own)] == own:
            path = RemotePath(whole[len(own) :])
        elif own[: len(whole)] == whole:
            path = RemotePath()
        else:
            return []
        if self._admits is None or self._admits(path):
            return [path]
        below = [rule.path for rule in self._permissions.rules if rule.path.parts[: len(path.parts)] == path.parts]
        return [place for place in below if self._admits(place)]


def handle_events(request: EventsRequest, context: Context, *, admits: Admits) -> EventsReply:
    """The events behind a cursor; where there are none, wait for one: not longer than asked, nor than we last."""
    if (feed := context.feed) is None:
        raise Unsupported("this server keeps no feed of events (events.days in its settings)")
    view = View(context.root, context.account.permissions, admits)
    until = time.monotonic() + request.wait_seconds
    told = time.monotonic()

    def goes_on() -> None:
        """Tell the client now and then that it is not forgotten. Raises ShuttingDown."""
        nonlocal told
        if context.draining():
            raise ShuttingDown
        if time.monotonic() - told >= PROGRESS_SECONDS:
            context.channel.say_progress(0)
            told = time.monotonic()

    cursor = _begin(feed, request.since)
    while True:
        seen = feed.changes
        entries, cursor, complete = _page(feed, cursor, view, goes_on)
        now = time.monotonic()
        if entries or now >= until or context.channel.readable():
            return EventsReply(id=request.id, events=entries, cursor=str(cursor), complete=complete)
        goes_on()
        feed.wait(seen, until - now)


def _begin(feed: FeedBook, since: str) -> Cursor:
    if since not in ("start", "end"):
        return Cursor.parse(since)
    start, end = feed.ends()
    return start if since == "start" else end


def _page(
    feed: FeedBook, cursor: Cursor, view: View, goes_on: Callable[[], None]
) -> tuple[list[EventEntry], Cursor, bool]:
    """Events behind the cursor, the cursor behind them, and whether there are no more.

    What the user may not see is passed over, however much it is: ``goes_on`` is called between.
    """
    entries: list[EventEntry] = []
    size = 0
    while rows := feed.read(cursor, ROWS):
        for row in rows:
            for number, one in row.numbered():
                if number <= cursor.number:
                    continue
                behind = Cursor(cursor.epoch, number)
                seen = list(view.of(row, one))
                # Who goes on behind one of several that are told of one event is told of all of them again.
                cursors = [cursor] * (len(seen) - 1) + [behind]
                more = [_entry(row, at, *what) for at, what in zip(cursors, seen, strict=False)]
                cost = sum(_cost(entry) for entry in more)
                if entries and (len(entries) + len(more) > PAGE_EVENTS or size + cost > PAGE_BYTES):
                    return entries, cursor, False
                entries += more
                size += cost
                cursor = behind
            cursor = Cursor(cursor.epoch, row.last)
        goes_on()
    return entries, cursor, True


def _entry(row: Row, behind: Cursor, kind: Kind, path: RemotePath, to: RemotePath | None) -> EventEntry:
    where = path_to_wire(path) | (path_to_wire(to, "to") if to is not None else {})
    return EventEntry(event=kind, **where, time_ns=row.time_ns, cursor=str(behind))


def _cost(entry: EventEntry) -> int:
    texts = (entry.path, entry.path_b64, entry.to, entry.to_b64)
    return sum(2 * len(text.encode()) for text in texts if text) + 160


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part)
