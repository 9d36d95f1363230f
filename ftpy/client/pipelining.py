"""Many small requests of one kind, in flight together, over one connection after the other."""

from __future__ import annotations

import abc
from collections import deque
from typing import Generic, TypeVar

from ftpy.client.connection import Connection
from ftpy.errors import Busy, FtpyError, NotFound, RequestError, ShuttingDown
from ftpy.wire.bases import Reply, Request

MOST_IN_FLIGHT = 256
"""Requests under way: a line of 100 ms then does 2,500 a second, and what is in doubt after it broke stays little."""

J = TypeVar("J")


class Pipeline(abc.ABC, Generic[J]):
    """Asks for each of ``jobs``, in order; give ``attempt`` one connection after the other until it returns."""

    reply: type[Reply]

    def __init__(self, jobs: list[J]) -> None:
        self._due = deque(jobs)
        self._doubtful: list[J] = []
        """Those whose answer was lost with a connection: they may have been done."""
        self.done = 0

    @abc.abstractmethod
    def request(self, job: J, request_id: int) -> Request:
        """What is asked."""

    @abc.abstractmethod
    def answered(self, job: J, error: FtpyError | None) -> None:
        """It was done, or refused."""

    def found_done(self, connection: Connection, job: J, error: RequestError) -> bool:  # noqa: ARG002
        """Whether one whose first answer was lost, and that is refused now, was done the first time."""
        return isinstance(error, NotFound)

    def attempt(self, connection: Connection) -> None:
        """Ask and be answered, until all is. Raises ConnectionFailed and its like, nothing of one job."""
        flying: deque[J] = deque()
        asked_again: list[tuple[J, RequestError]] = []
        most = min(MOST_IN_FLIGHT, connection.welcome.limits.requests)
        try:
            while self._due or flying:
                while self._due and len(flying) < most:
                    connection.channel.send(self.request(self._due[0], connection.next_id()))
                    flying.append(self._due.popleft())
                try:
                    connection.wait(self.reply)
                except (Busy, ShuttingDown):
                    raise
                except RequestError as error:
                    if flying[0] in self._doubtful:
                        asked_again.append((flying[0], error))
                    else:
                        self._answer(flying[0], error)
                else:
                    self._answer(flying[0], None)
                flying.popleft()
            while asked_again:
                job, refused = asked_again[0]
                self._answer(job, None if self.found_done(connection, job, refused) else refused)
                asked_again.pop(0)
        except BaseException:
            self._doubtful += flying
            self._due.extendleft(reversed([*(job for job, _ in asked_again), *flying]))
            raise

    def _answer(self, job: J, error: FtpyError | None) -> None:
        self.done += 1
        self.answered(job, error)
