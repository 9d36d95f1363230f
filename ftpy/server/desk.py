"""Who answers at the control socket: one process for itself, or the parent of several for all of them."""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from ftpy.config.server import ServerConfig
from ftpy.server.accounts import Accounts
from ftpy.server.admission import Admission
from ftpy.server.control import Control, Reply
from ftpy.server.penalties import Penalty
from ftpy.server.rows import EndRow, KickQuestion, PenaltyRow, Question, RootRow, Row, ServerRow
from ftpy.version import __version__

if TYPE_CHECKING:
    from ftpy.server.server import Service

POLL_SECONDS = 0.2
"""How soon a desk with a thread of its own notices that it is to end."""
ANSWER_SECONDS = 2.0
"""How long the parent waits for its workers' rows: one that hangs must not keep the others from being seen."""
ROWS = 64
"""Rows that a worker tells at a time: the parent reads each message whole before it does anything else."""
MOST_PENALTIES = 1000
"""Penalties that are told: a flood can bring many thousands."""

WorkerT = TypeVar("WorkerT")
Rows = list[Row]


def server_rows(
    config: ServerConfig,
    accounts: Accounts,
    *,
    pid: int,
    since_ns: int,
    workers: int,
    silent: int = 0,
    listening: Iterable[object],
    connections: int,
    draining: bool,
) -> Rows:
    """What is to be said of the whole."""
    own = {account.root for account in accounts.known() if account.root is not None}
    server = ServerRow(
        version=__version__,
        pid=pid,
        since_ns=since_ns,
        workers=workers,
        silent=silent,
        listening=[str(address) for address in listening],
        connections=connections,
        limit=config.limits.connections,
        draining=draining,
    )
    return [server, *map(RootRow, [config.root, *sorted(own)])]


def penalty_rows(penalties: list[Penalty]) -> list[PenaltyRow]:
    """Those that last longest."""
    return [
        PenaltyRow(
            source=one.source,
            seconds=round(one.seconds, 1),
            refused_seconds=round(one.refused_seconds, 1),
            refused=one.refused,
        )
        for one in penalties[:MOST_PENALTIES]
    ]


class Desk:
    """Answers for one process, in a thread of its own. The socket is there from the beginning, where it can be."""

    def __init__(self, service: Service) -> None:
        self._selector = selectors.DefaultSelector()
        self._control = Control(service.config.state, self._selector, partial(_answer, service))
        self._control.tick()

    def run(self, stopped: threading.Event) -> None:
        """Answer until the service has stopped."""
        with self._selector, self._control:
            is_over = False
            while not is_over:
                is_over = stopped.is_set()  # and then once more: who was answered at the last moment is to hear it
                with contextlib.suppress(MemoryError):  # there may be some for who asks next
                    for key, events in self._selector.select(0 if is_over else POLL_SECONDS):
                        key.data(events)
                    self._control.tick()


def _answer(service: Service, question: Question, reply: Reply) -> None:
    if isinstance(question, KickQuestion):
        reply([EndRow(found=service.kick(question.session))])
    else:
        server = server_rows(
            service.config,
            service.accounts,
            pid=os.getpid(),
            since_ns=service.since_ns,
            workers=1,
            listening=service.addresses,
            connections=service.admission.connections,
            draining=service.draining.is_set(),
        )
        assert isinstance(service.admission, Admission)  # one process counts for itself
        penalties = penalty_rows(service.admission.penalties())
        reply([*server, *service.session_rows(), *service.beacon_rows(), *penalties, EndRow()])


@dataclass(eq=False)
class _Poll(Generic[WorkerT]):
    """A question to some workers, and what they said so far."""

    waiting: set[WorkerT]
    done: Callable[[Rows, int], None]
    rows: Rows = field(default_factory=list)
    due: float = field(default_factory=lambda: time.monotonic() + ANSWER_SECONDS)


class Polls(Generic[WorkerT]):
    """Questions to workers that wait for their answers; nobody waits for them."""

    def __init__(self) -> None:
        self._polls: dict[int, _Poll[WorkerT]] = {}
        self._last = 0

    def begin(self, workers: Iterable[WorkerT], done: Callable[[Rows, int], None]) -> int:
        """The number of a new one; ``done`` will be called with all rows, and how many workers did not answer."""
        self._last += 1
        self._polls[self._last] = _Poll(set(workers), done)
        return self._last

    def heard(self, worker: WorkerT, number: int, rows: Rows, *, last: bool) -> None:
        """A worker has answered, with its ``last`` words or more to come."""
        poll = self._polls.get(number)
        if poll is not None and worker in poll.waiting:
            poll.rows += rows
            if last:
                poll.waiting.discard(worker)
                self.look()

    def left(self, worker: WorkerT) -> None:
        """A worker has died, and its sessions with it."""
        for poll in self._polls.values():
            poll.waiting.discard(worker)
        self.look()

    def look(self) -> None:
        """End those that all have answered, and those whose time is up."""
        now = time.monotonic()
        for number, poll in list(self._polls.items()):
            if not poll.waiting or poll.due <= now:
                del self._polls[number]
                poll.done(poll.rows, len(poll.waiting))
