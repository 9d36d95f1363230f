"""One of several processes that serve: what it asks its parent, and how it ends (``workers`` is the parent's side).

A message to the parent is ``(word, number, *arguments)``; with a number it is a question, answered by
``("answer", number, result)``. What the parent says by itself is a row of ``_WORDS``.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ftpy.config.server import ServerConfig
from ftpy.errors import ConfigError
from ftpy.server.admission import Verdict
from ftpy.server.desk import ROWS
from ftpy.server.listening import Listener
from ftpy.server.orders import Runner
from ftpy.server.penalties import Offence
from ftpy.server.rows import EndRow
from ftpy.server.seldom import Seldom
from ftpy.server.server import Service
from ftpy.storage.sharing import DescriptorsLost, Link

log = logging.getLogger("ftpy.server")

ENDED, FAILED, LEFT_HANGING = 0, 1, 3
"""How a worker exits: all connections ended, it could not start, some thread hangs in the kernel."""


class SharedAdmission:
    """``Admission`` for one of several processes: the parent counts for all of them."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._lock = threading.Lock()
        self._admitted: dict[int, bool] = {}
        """Connections of this process, and whether each is a stranger still."""

    @property
    def connections(self) -> int:
        """Admitted in this process and not yet left."""
        with self._lock:
            return len(self._admitted)

    def admit(self, connection: int, source: str) -> tuple[str | None, None]:
        """Count a connection in: why not. Which stranger makes room is told to its own process."""
        with self._lock:  # before it is asked for: the next word may be that it has to make room
            self._admitted[connection] = True
        reason: str | None = self._parent.ask("admit", connection, source, otherwise="workers")
        if reason is not None:
            with self._lock:
                del self._admitted[connection]
        return reason, None

    def is_stranger(self, connection: int) -> bool:
        """Whether an admitted connection has neither authenticated nor had to make room."""
        with self._lock:
            return self._admitted.get(connection, False)

    def known(self, connection: int, user: str, most: int | None) -> Verdict:
        """The connection has proven that it is ``user``, who may have ``most`` at once in all processes."""
        verdict: Verdict = self._parent.ask("known", connection, user, most, otherwise="gone")
        self.make_room(connection)
        return verdict

    def offend(self, source: str, offence: Offence) -> None:
        """A connection from ``source`` has failed before it authenticated."""
        self._parent.tell("offend", source, offence)

    def passed(self, user: str, count: int, rate: int) -> float:
        """So many bytes of ``user``'s have passed, who has ``rate`` a second in all: seconds until they were due."""
        seconds: float = self._parent.ask("passed", user, count, rate, otherwise=0.0)
        return seconds

    def make_room(self, connection: int) -> None:
        """The connection is no stranger any more."""
        with self._lock:
            if connection in self._admitted:
                self._admitted[connection] = False

    def leave(self, connection: int, source: str) -> None:
        """Count an admitted connection out."""
        with self._lock:
            self._admitted.pop(connection, None)
        self._parent.tell("leave", connection, source)


class RootNeighbours:
    """The other processes as the storage of one root sees them (``storage.sharing.Neighbours``)."""

    def __init__(self, parent: Parent, root: str) -> None:
        self._parent, self._root = parent, root

    def claim(self, upload_id: str) -> None:
        """This process has the upload open."""
        self._parent.tell("claim", (self._root, upload_id))

    def release(self, upload_id: str) -> None:
        """It has closed it."""
        self._parent.tell("release", (self._root, upload_id))

    def link(self, upload_id: str) -> Link | None:
        """A way to the process that has it open."""
        link: Link | None = self._parent.ask("link", (self._root, upload_id), otherwise=None)
        return link


class Parent:
    """The parent as a worker sees it. Every method is safe in any thread; without a parent the worker is to end."""

    def __init__(self, link: Link, generation: int) -> None:
        self._link = link
        self.generation = generation
        """Which worker this is, counted from the server's start: no two have the same."""
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._asked: dict[int, queue.SimpleQueue[tuple[bool, Any]]] = {}
        self._is_gone = False
        self._service: Service | None = None
        self._seldom = Seldom()
        self.admission = SharedAdmission(self)
        self.drain = threading.Event()
        """Set when this worker is to stop."""
        self._all_drained = threading.Event()

    def serve(self, service: Service) -> None:
        """Do what the parent says, in a thread."""
        self._service = service
        threading.Thread(target=self._run, name="ftpy-parent", daemon=True).start()

    def neighbours(self, root: str) -> RootNeighbours:
        """The other workers, for the storage of one root."""
        return RootNeighbours(self, root)

    def may_sweep(self, root: str) -> bool:
        """Whether it is this worker's turn to sweep a root."""
        may: bool = self.ask("sweep", root, otherwise=False)
        return may

    def drained(self, timeout: float) -> None:
        """No connection is open here any more; returns when that is true of all workers, or after ``timeout``."""
        self.tell("drained")
        self._all_drained.wait(timeout)

    def tell(self, word: str, *arguments: object) -> None:
        """Say something that needs no answer; a parent that is gone needs to know nothing."""
        with contextlib.suppress(OSError), self._lock:
            self._link.send((word, 0, *arguments))

    def ask(self, word: str, *arguments: object, otherwise: Any) -> Any:
        """The parent's answer; ``otherwise`` where it is gone."""
        box: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        with self._lock:
            if self._is_gone:
                return otherwise
            number = next(self._numbers)
            self._asked[number] = box
            with contextlib.suppress(OSError):  # it is gone: the thread that listens to it fills every box
                self._link.send((word, number, *arguments))
        answered, result = box.get()
        return result if answered else otherwise

    # ---------------------------------------------------------------- what it says

    def _run(self) -> None:
        try:
            with contextlib.suppress(EOFError, OSError):
                while True:
                    self._heed(*self._receive())
        finally:
            with self._lock:
                self._is_gone = True
                asked, self._asked = self._asked, {}
            for box in asked.values():
                box.put((False, None))
            self.drain.set()
            self._all_drained.set()

    def _receive(self) -> tuple[tuple[Any, ...], list[int]]:
        """What the parent says next; a link that there was no descriptor for has not come along."""
        try:
            return self._link.receive()
        except DescriptorsLost as lost:
            self._seldom.say_failed("link-failed", lost.strerror)
            message: tuple[Any, ...] = lost.message
            return message, []

    def _heed(self, message: tuple[Any, ...], descriptors: list[int]) -> None:
        """Do what the parent says. What goes wrong with it must not look as if the parent were gone."""
        word, *arguments = message
        try:
            _WORDS[word](self, *arguments, *map(_link, descriptors))
        except Exception:
            log.exception("word-failed", extra={"event": "word-failed", "fields": {"word": word}})

    def _answer(self, number: int, result: Any, link: Link | None = None) -> None:
        with self._lock:
            box = self._asked.pop(number)
        box.put((True, result if link is None else link))

    def _break_off(self, connection: int) -> None:
        assert self._service is not None
        self.admission.make_room(connection)
        self._service.break_off(connection)

    def _welcome(self, root: str, link: Link | None = None) -> None:
        assert self._service is not None
        if link is not None:  # else who asked finds it ended, and tries again
            self._service.roots.welcome(root, link)

    def _reload(self, config: ServerConfig | None) -> None:
        assert self._service is not None
        self._service.take_over(config)

    def _status(self, number: int) -> None:
        assert self._service is not None
        rows = [*self._service.session_rows(), *self._service.beacon_rows()]
        for first in range(0, len(rows) or 1, ROWS):
            self.tell("rows", number, rows[first : first + ROWS], first + ROWS >= len(rows))

    def _kick(self, number: int, session: str) -> None:
        assert self._service is not None
        self.tell("rows", number, [EndRow(found=self._service.kick(session))], True)

    def _died(self) -> None:
        assert self._service is not None
        self._service.roots.look_after_remote()


_WORDS: dict[str, Callable[..., None]] = {
    "answer": Parent._answer,
    "break_off": Parent._break_off,
    "welcome": Parent._welcome,
    "died": Parent._died,
    "reload": Parent._reload,
    "status": Parent._status,
    "kick": Parent._kick,
    "drain": lambda parent: parent.drain.set(),
    "all_drained": lambda parent: parent._all_drained.set(),
}


def _link(descriptor: int) -> Link:
    import socket

    return Link(socket.socket(fileno=descriptor))


def run_worker(
    config: ServerConfig,
    settings: str,
    listeners: Sequence[Listener],
    link: Link,
    generation: int,
    *,
    runner: Runner | None,
) -> int:
    """Serve until the parent says stop, or is gone: the exit code."""
    parent = Parent(link, generation)
    try:
        service = Service(config, settings, parent, runner)
        parent.serve(service)
        service.start(listeners)
    except ConfigError as error:  # it was right when the parent looked
        log.error(
            "worker-failed", extra={"event": "worker-failed", "fields": {"pid": os.getpid(), "reason": str(error)}}
        )
        return FAILED
    parent.tell("ready")
    parent.drain.wait()
    return ENDED if service.stop() else LEFT_HANGING
