"""What all workers share, as their parent keeps it: who is connected, which uploads are open, when roots were swept."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from ftpy.config.server import ServerConfig
from ftpy.server.admission import Admission, Verdict
from ftpy.server.crew import Worker
from ftpy.server.penalties import Offence, Offenders
from ftpy.server.seldom import Seldom
from ftpy.server.server import SWEEP_SECONDS
from ftpy.storage.sharing import Link

SWEEP_AGAIN_SECONDS = SWEEP_SECONDS / 2
"""A root is swept no sooner after another worker did; each of them asks every SWEEP_SECONDS."""

Words = dict[str, Callable[..., Any]]
"""What is done at a word, given the worker who says it and what came along; the result is the answer, if one is due."""

_Connection = tuple[Worker, int]
"""A worker, and what it tells its connection by."""
_Key = tuple[str, str]
"""A root and the id of an upload below it."""


class _Send(Protocol):
    def __call__(self, worker: Worker, /, *message: object, link: Link | None = None) -> None:
        """Tell a worker something, and hand an end of a link over."""


class Shared:
    """The tables of what workers share, and the ``words`` by which they ask and tell; ``send`` never waits."""

    def __init__(self, config: ServerConfig, send: _Send) -> None:
        self._send = send
        self.admission: Admission[_Connection] = Admission(config.limits, Offenders(config.penalties))
        self._owners: dict[_Key, Worker] = {}
        self._swept: dict[str, float] = {}
        self._seldom = Seldom()
        self.words: Words = {
            "admit": self._admit,
            "known": self._known,
            "offend": self._offend,
            "passed": self._passed,
            "leave": self._leave,
            "claim": self._claim,
            "release": self._release,
            "link": self._link,
            "sweep": self._sweep,
        }

    def bury(self, worker: Worker) -> None:
        """A worker is dead: count out what was its."""
        for connection, source in worker.connections.items():
            self.admission.leave((worker, connection), source)
        self._owners = {key: owner for key, owner in self._owners.items() if owner is not worker}
        self._swept.clear()  # it may have left something staged

    # ---------------------------------------------------------------- connections

    def _admit(self, worker: Worker, connection: int, source: str) -> str | None:
        reason, evicted = self.admission.admit((worker, connection), source)
        if evicted is not None:
            self._send(evicted[0], "break_off", evicted[1])
        if reason is None:
            worker.connections[connection] = source
        return reason

    def _known(self, worker: Worker, connection: int, user: str, most: int | None) -> Verdict:
        return self.admission.known((worker, connection), user, most)

    def _offend(self, worker: Worker, source: str, offence: Offence) -> None:  # noqa: ARG002
        self.admission.offend(source, offence)

    def _passed(self, worker: Worker, user: str, count: int, rate: int) -> float:  # noqa: ARG002
        return self.admission.passed(user, count, rate)

    def _leave(self, worker: Worker, connection: int, source: str) -> None:
        del worker.connections[connection]
        self.admission.leave((worker, connection), source)

    # ---------------------------------------------------------------- uploads and roots

    def _claim(self, worker: Worker, key: _Key) -> None:
        self._owners[key] = worker

    def _release(self, worker: Worker, key: _Key) -> None:
        if self._owners.get(key) is worker:  # another one may have been faster to say that it has it now
            del self._owners[key]

    def _link(self, worker: Worker, key: _Key) -> Link | None:
        owner = self._owners.get(key)
        if owner is None or owner is worker:
            return None
        try:
            one, other = Link.pair()
        except OSError as error:  # EMFILE, ENFILE: who asks tries again for a while, then it is busy
            self._seldom.say_failed("link-failed", error.strerror)
            return None
        self._send(owner, "welcome", key[0], link=other)
        return one

    def _sweep(self, worker: Worker, root: str) -> bool:  # noqa: ARG002
        now = time.monotonic()
        if now - self._swept.get(root, -SWEEP_SECONDS) < SWEEP_AGAIN_SECONDS:
            return False
        self._swept[root] = now
        return True
