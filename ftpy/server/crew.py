"""The workers as their parent holds them, and what it says to them without ever waiting."""

from __future__ import annotations

import logging
import os
import selectors
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ftpy.storage.sharing import Link

log = logging.getLogger("ftpy.server")

MOST_UNSENT = 10_000
"""Words that wait for one worker, at most: the answers to all that its threads can ask at once are a tenth."""


@dataclass(eq=False)
class Worker:
    """A process that serves, and what it holds of what all share."""

    slot: Slot
    pid: int
    link: Link
    generation: int = 0
    """Which one it is, counted from the server's start; its sessions' names begin with it."""
    started: float = field(default_factory=time.monotonic)
    connections: dict[int, str] = field(default_factory=dict)
    """Its connections' sources."""
    is_ready: bool = False
    has_drained: bool = False
    has_ended: bool = False
    """Its link has: it is dead, or about to be."""
    unsent: deque[tuple[tuple[object, ...], Link | None]] = field(default_factory=deque)
    """What it has no room for yet, with the ends of links that go along."""


@dataclass(eq=False)
class Slot:
    """The place of one worker, taken by one process after the other."""

    worker: Worker | None = None
    deaths: int = 0
    """In a row, each before it served."""
    due: float = 0.0
    """When the next one is to be started, by the monotonic clock."""


class Mail:
    """Words to and from workers, when the ``selector`` says that they can be said; ``heard`` gets each that comes."""

    def __init__(self, selector: selectors.BaseSelector, heard: Callable[[Worker, tuple[Any, ...]], None]) -> None:
        self._selector, self._heard = selector, heard

    def begin(self, worker: Worker) -> None:
        """Listen to a worker."""
        self._selector.register(worker.link, selectors.EVENT_READ, partial(self._serve, worker))

    def _serve(self, worker: Worker, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._send_unsent(worker)
        if events & selectors.EVENT_READ and not worker.has_ended:
            self._read(worker)

    def _read(self, worker: Worker) -> None:
        try:
            message, _ = worker.link.receive()
        except (EOFError, OSError):
            self.end(worker)
            return
        self._heard(worker, message)

    def send(self, worker: Worker, *message: object, link: Link | None = None) -> None:
        """Tell a worker something, and hand an end of a link over: now, or when it has room for it."""
        worker.unsent.append((message, link))
        self._send_unsent(worker)

    def _send_unsent(self, worker: Worker) -> None:
        """Never wait for a worker: one that takes nothing for long is ended."""
        try:
            while worker.unsent and not worker.has_ended:
                message, link = worker.unsent[0]
                worker.link.send(message, [link.fileno()] if link else [], wait=False)
                worker.unsent.popleft()
                if link is not None:
                    link.close()
        except BlockingIOError:
            if len(worker.unsent) > MOST_UNSENT:
                log.error("worker-stuck", extra={"event": "worker-stuck", "fields": {"pid": worker.pid}})
                os.kill(worker.pid, signal.SIGKILL)
                self.end(worker)
        except OSError:
            self.end(worker)
        if worker.has_ended:
            self._drop_unsent(worker)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.unsent else 0)
        if self._selector.get_key(worker.link).events != events:
            self._selector.modify(worker.link, events, partial(self._serve, worker))

    def _drop_unsent(self, worker: Worker) -> None:
        for _, link in worker.unsent:
            if link is not None:
                link.close()
        worker.unsent.clear()

    def end(self, worker: Worker) -> None:
        """Listen to a worker no more: it is dead, or about to be."""
        if not worker.has_ended:
            worker.has_ended = True
            self._selector.unregister(worker.link)
            self._drop_unsent(worker)
