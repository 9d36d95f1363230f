"""Connections that last: one that is made anew when it breaks, and what a transfer may run over."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from ftpy.client.connection import Connection
from ftpy.errors import (
    Busy,
    ConnectionFailed,
    ConnectionLost,
    FtpyError,
    OutcomeUnknown,
    ProtocolError,
    ShuttingDown,
    TurnedAway,
)

BACKOFF_SECONDS = 0.5
"""First wait before a new connection; doubles with every failure in a row."""
MOST_BACKOFF_SECONDS = 15.0

T = TypeVar("T")
Worker = Callable[[Connection], None]
Count = Callable[[], int]


def nothing() -> int:
    """What has moved, where nobody counts it."""
    return 0


def endless() -> float:
    """What is left, where nobody knows."""
    return math.inf


def _silent(_: str) -> None:
    return None


class Line:
    """One connection to a server, made anew when it breaks: after a while, and not for ever. Used by one thread.

    ``leaving`` ends waits, and with its connections' it is one event: who works on them begins nothing more.
    """

    def __init__(
        self, opening: Callable[[], Connection], retries: int, notify: Callable[[str], None] = _silent
    ) -> None:
        self._opening, self._retries, self._notify = opening, retries, notify
        self.connection: Connection | None = None
        self.leaving = threading.Event()
        self._has_been = False
        """Whether there has been a connection: a server that was there is waited for."""

    def connected(self) -> Connection:
        """The connection; where there is none it is opened, and a server that takes none now is asked again.

        The first one is not tried again where no server is. Raises ConnectionFailed, AuthenticationFailed.
        """
        if self._has_been:
            return self.persist(lambda connection: connection)
        failures = 0
        while True:
            try:
                return self.opened()
            except TurnedAway as error:
                failures += 1
                if failures > self._retries or not self._wait(error, failures):
                    raise

    def opened(self) -> Connection:
        """The connection, opened if there is none, if that can be done at once. Raises as ``connected`` does."""
        if self.connection is None:
            self.connection = self._opening()
            self.connection.leaving, self.connection.notify = self.leaving, self._notify
            self._has_been = True
        return self.connection

    def persist(self, attempt: Callable[[Connection], T], moved: Count = nothing) -> T:
        """Attempt over one connection after the other; the count of failures starts anew whenever ``moved`` grows."""
        failures, mark = 0, moved()
        while True:
            try:
                return attempt(self.opened())
            except (ConnectionFailed, Busy, ShuttingDown) as error:
                self.close()
                if isinstance(error, ProtocolError | OutcomeUnknown):
                    raise
                if moved() > mark:
                    failures, mark = 0, moved()
                failures += 1
                if failures > self._retries or not self._wait(error, failures):
                    raise
            except BaseException:
                if self.connection is not None and not self.connection.in_step:
                    self.close()
                raise

    def _wait(self, error: FtpyError, failures: int) -> bool:
        """Wait before the next try: whether there is to be one."""
        if self.leaving.is_set():
            return False
        import random

        delay = min(BACKOFF_SECONDS * 2 ** (failures - 1), MOST_BACKOFF_SECONDS) * random.uniform(0.8, 1.2)  # noqa: S311
        self._notify(f"{error}; trying again in {delay:.1f} s ({failures} of {self._retries})")
        return not self.leaving.wait(delay)

    def take(self) -> Connection | None:
        """The connection, which is somebody else's from now on."""
        connection, self.connection = self.connection, None
        return connection

    def close(self) -> None:
        """Close the connection; safe to call twice."""
        if (connection := self.take()) is not None:
            connection.close()


class Lines(Protocol):
    """What a transfer runs over; ``Streams`` says what is meant by each."""

    @property
    def several(self) -> bool:
        """Whether more than one connection may come to be used."""

    def persist(self, attempt: Callable[[Connection], T], moved: Count = ..., /) -> T:
        """Do something that takes one connection."""

    def run(self, worker: Worker, moved: Count, left: Callable[[], float] = ..., /) -> None:
        """Run ``worker`` over one connection or several, until what they share is done."""


def check_done(connection: Connection, left: Callable[[], float]) -> None:
    """Raises ConnectionLost where a worker has returned because its connection is to leave, and not all is done."""
    if connection.leaving.is_set() and left() > 0:
        raise ConnectionLost("the connection was given up; others go on, or another one has failed")


class Alone:
    """One connection and no other, which is not made anew: for who sees to that himself."""

    several = False

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def persist(self, attempt: Callable[[Connection], T], _: Count = nothing, /) -> T:
        """Attempt once."""
        return attempt(self._connection)

    def run(self, worker: Worker, _: Count, left: Callable[[], float] = endless, /) -> None:
        """Work on it. Raises ConnectionLost where it is to leave before all is done."""
        worker(self._connection)
        check_done(self._connection, left)
