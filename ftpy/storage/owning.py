"""The owner's end of a ``Link``: a hand on an upload that is open here, held by another process.

A request is ``(word, *arguments)``; its answer ``("done", result)`` or ``("failed", RequestError)``, after any number
of ``("verified", bytes)`` where it takes long. When the link ends, whatever the reason, all that came over it is let
go: parts under way count as never sent.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ftpy.errors import Busy, InternalError, RequestError
from ftpy.files import FileInfo
from ftpy.storage import wanted
from ftpy.storage.following import start_thread
from ftpy.storage.journal import StoredPart
from ftpy.storage.sharing import Asked, Link

if TYPE_CHECKING:
    from ftpy.storage.base import KnownDigest
    from ftpy.storage.uploads import LocalUpload

log = logging.getLogger("ftpy.storage")

VERIFIED_SECONDS = 0.5
"""How often a commit says how far it is; the client is told every second."""

FindOpen = Callable[[Asked], "LocalUpload | None"]
"""A hand on the upload, if it is open in this process."""


class Guest:
    """One hand held from another process, served in a thread of its own; ``left`` is called at its end."""

    def __init__(self, link: Link, find_open: FindOpen, left: Callable[[Guest], None]) -> None:
        self._link, self._find_open, self._left = link, find_open, left
        self._parts: set[int] = set()
        self._thread = start_thread(self._run, "ftpy-guest")

    def end(self) -> None:
        """Break the link and wait until all is let go."""
        self._link.shutdown()
        self._thread.join()

    def _run(self) -> None:
        hand: LocalUpload | None = None
        try:
            asked, _ = self._link.receive()
            hand = self._open(asked)
            while hand is not None:
                (word, *arguments), _ = self._link.receive()
                self._link.send(_attempt(lambda: _VERBS[word](self, hand, *arguments)))  # noqa: B023  (called at once)
        except (EOFError, OSError):
            pass  # the other process let go, or is dead
        finally:
            if hand is not None:
                for number in self._parts:
                    hand.live.part_abandoned(number, None)
                hand.close()
            self._link.close()
            self._left(self)

    def _open(self, asked: Asked) -> LocalUpload | None:
        """Answer with the upload's meta and its open files; with None where it is not open here."""
        outcome, hand = _attempt(lambda: self._find_open(asked))
        if outcome == "failed" or hand is None:
            self._link.send((outcome, hand))
            return None
        found: LocalUpload = hand
        try:
            self._link.send((outcome, found.live.meta), found.live.descriptors)
        except BaseException:
            found.close()
            raise
        return found

    def begin_part(self, hand: LocalUpload, number: int, length: int) -> StoredPart | None:
        """A part comes; as which it is stored already."""
        stored, _ = hand.live.begin_part(number, length, hand.quota, feeds=False)
        if stored is None:
            self._parts.add(number)
        return stored

    def part_written(self, hand: LocalUpload, number: int, part: StoredPart) -> None:
        """A part of ``begin_part`` was written and verified."""
        hand.live.part_written(number, part, None)
        self._parts.discard(number)

    def part_abandoned(self, hand: LocalUpload, number: int) -> None:
        """A part of ``begin_part`` will not come."""
        self._parts.discard(number)
        hand.live.part_abandoned(number, None)

    def commit(self, hand: LocalUpload, digest: KnownDigest, file_size: int | None, replacing: bool) -> FileInfo:
        """Commit, and say meanwhile how far it is. It is called off when nobody hears that any more."""
        outcome: list[tuple[str, Any]] = []
        commit = partial(hand.commit, digest, file_size, replacing=replacing)

        def work() -> None:
            wanted.ask(self._check_heard)
            outcome.append(_attempt(commit))

        thread = start_thread(work, "ftpy-work")
        thread.join(VERIFIED_SECONDS)
        while thread.is_alive():
            with contextlib.suppress(OSError):
                self._link.send(("verified", hand.verified))
            thread.join(VERIFIED_SECONDS)
        ((kind, result),) = outcome
        if kind == "failed":
            raise result
        info: FileInfo = result
        return info

    def _check_heard(self) -> None:
        if self._link.has_ended():
            raise Busy("the process that asked for it has let go; try again")


_VERBS: dict[str, Callable[..., Any]] = {
    "missing": lambda _, hand: hand.missing(),
    "begin_part": Guest.begin_part,
    "part_written": Guest.part_written,
    "part_abandoned": Guest.part_abandoned,
    "commit": Guest.commit,
    "abort": lambda _, hand: hand.abort(),
}


def _attempt(work: Callable[[], Any]) -> tuple[str, Any]:
    """Do it: ("done", what it returned) or ("failed", why)."""
    try:
        return "done", work()
    except RequestError as error:
        return "failed", error
    except Exception:
        log.exception("internal", extra={"event": "internal", "fields": {}})
        return "failed", InternalError()
