"""Several processes that serve on the same sockets, for more than one core; this is the parent, who serves nobody.

The parent binds the sockets, starts the workers, restarts one that dies, and keeps what they share (``shared``): it
counts connections for all of them, and knows who has an upload open. It has one thread and waits for signals and
workers at once: so workers are forked. Forking a process without other threads is safe, takes milliseconds, and hands
over settings and sockets as they are.
"""

from __future__ import annotations

import itertools
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from ftpy.config.server import ServerConfig, worker_count
from ftpy.errors import FtpyError
from ftpy.server.accounts import Accounts
from ftpy.server.control import Control, Reply
from ftpy.server.crew import Mail, Slot, Worker
from ftpy.server.desk import Polls, penalty_rows, server_rows
from ftpy.server.listening import BeaconListener, Listener, listen_on_all
from ftpy.server.logs import setup_logging
from ftpy.server.orders import Runner, start_runner
from ftpy.server.reloading import reread
from ftpy.server.rows import EndRow, KickQuestion, Question, Row
from ftpy.server.sandbox import confine
from ftpy.server.seldom import Seldom
from ftpy.server.server import LAST_SECONDS, RELOAD_SIGNALS, SIGNALS, STOP_SIGNALS, Service
from ftpy.server.shared import Shared, Words
from ftpy.server.worker import ENDED, FAILED, run_worker
from ftpy.storage.base import Closing
from ftpy.storage.sharing import Link

log = logging.getLogger("ftpy.server")

FIRST_PAUSE_SECONDS, MOST_PAUSE_SECONDS = 0.05, 2.0
"""Before a dead worker is started again; doubled each time that it dies before it serves."""
MOST_DEATHS = 10
"""A worker that dies so often in a row, each time before it serves, will not live: some 8 s later all end."""
TICK_SECONDS = 0.5
"""How often the parent looks at the users' file and after the control socket. Each worker looks at the users by itself,
the parent says what it found."""


def serve_with_workers(config: ServerConfig, settings: str) -> int:
    """Run until SIGTERM or SIGINT (blocked now), drain, and return the exit code 0. Raises ConfigError, FtpyError."""
    probe = Service(config, settings)  # what is wrong is said once, here
    try:
        probe.check()
    finally:
        probe.close()
    runner = start_runner(config, settings)
    listeners = listen_on_all(config)
    for listener in listeners:
        listener.socket.setblocking(False)  # every worker wakes up for a connection, and one has it
    try:
        confine(config, settings, probe.accounts.roots())
        with Workers(config, settings, listeners, runner) as workers:
            return workers.run()
    finally:
        if runner is not None:
            runner.close()
        for listener in listeners:
            listener.close()


class Workers(Closing):
    """The parent of all workers."""

    def __init__(
        self, config: ServerConfig, settings: str, listeners: Sequence[Listener], runner: Runner | None = None
    ) -> None:
        self._config, self._settings, self._listeners, self._runner = config, settings, listeners, runner
        self._accounts = Accounts(config.users)
        self._generations = itertools.count(1)
        self._slots = [Slot() for _ in range(worker_count(config))]
        self._selector = selectors.DefaultSelector()
        self._mail = Mail(self._selector, self._heard)
        self._send = self._mail.send
        self._shared = Shared(config, self._send)
        self._admission = self._shared.admission
        self._words: Words = {
            "ready": self._ready,
            "rows": self._rows,
            "drained": self._drained,
            **self._shared.words,
        }
        self._control = Control(config.state, self._selector, self._answer)
        self._polls: Polls[Worker] = Polls()
        self._signals, self._signalled = socket.socketpair()
        self._since_ns = time.time_ns()
        self._is_announced = False
        self._seldom = Seldom()
        self._ticked = -TICK_SECONDS
        self._deadline: float | None = None
        """When to wait no longer for workers that drain, by the monotonic clock."""
        self._all_ended = True

    @property
    def _workers(self) -> list[Worker]:
        return [slot.worker for slot in self._slots if slot.worker is not None]

    def close(self) -> None:
        """Close what it waits for."""
        self._control.close()
        self._close_selector()

    def _close_selector(self) -> None:
        self._selector.close()
        self._signals.close()
        self._signalled.close()

    # ---------------------------------------------------------------- life

    def run(self) -> int:
        """Start the workers and be there for them, until all have drained."""
        self._listen_to_signals()
        self._tick()
        try:
            while self._deadline is None or self._workers:
                self._start_due()
                for key, events in self._selector.select(self._patience()):
                    key.data(events)
                self._tick()
        finally:
            for worker in self._workers:  # something went wrong here
                os.kill(worker.pid, signal.SIGKILL)
                os.waitpid(worker.pid, 0)
            signal.set_wakeup_fd(-1)
        _say("stopped", all_ended=self._all_ended)
        return 0

    def _listen_to_signals(self) -> None:
        """Let signals be bytes on a socket: nothing runs in the middle of anything."""
        for end in (self._signals, self._signalled):
            end.setblocking(False)
        signal.set_wakeup_fd(self._signalled.fileno())
        self._selector.register(self._signals, selectors.EVENT_READ, lambda _: self._read_signals())
        for number in (*SIGNALS, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _read_signals(self) -> None:
        for number in set(self._signals.recv(4096)):
            if number in STOP_SIGNALS:
                self._stop(number)
            elif number in RELOAD_SIGNALS:
                self._reload()
        self._reap()

    def _reload(self) -> None:
        """Read the settings again, once for all; a worker that is started later has them from the beginning."""
        config = reread(self._config, self._settings)
        if config is not None:
            self._config = config
            setup_logging(config.log)
            if self._runner is not None:
                self._runner.reload()
            self._admission.reload(config.limits, config.penalties)
            for listener in self._listeners:
                listener.reload(config)
        self._accounts.look()
        for worker in self._workers:
            self._send(worker, "reload", config)

    def _patience(self) -> float:
        """How long nothing is due, seconds."""
        if self._deadline is not None:
            due = [self._deadline]
        else:
            due = [slot.due for slot in self._slots if slot.worker is None]
        return max(0.0, min([*due, self._ticked + TICK_SECONDS]) - time.monotonic())

    def _tick(self) -> None:
        """What is due every second."""
        now = time.monotonic()
        if now - self._ticked >= TICK_SECONDS:
            self._ticked = now
            self._accounts.look()
            self._control.tick()
            self._polls.look()

    def _stop(self, number: int) -> None:
        """Let all workers drain; the second time, end at once."""
        if self._deadline is not None:
            for worker in self._workers:
                os.kill(worker.pid, signal.SIGKILL)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        _say("draining", connections=self._admission.connections)
        self._deadline = time.monotonic() + self._config.limits.drain_seconds + 3 * LAST_SECONDS
        for listener in self._listeners:
            listener.close()
        for worker in self._workers:
            self._send(worker, "drain")

    # ---------------------------------------------------------------- processes

    def _start_due(self) -> None:
        now = time.monotonic()
        if self._deadline is None:
            for slot in self._slots:
                if slot.worker is None and slot.due <= now:
                    self._start(slot)
        elif now >= self._deadline:
            for worker in self._workers:
                os.kill(worker.pid, signal.SIGKILL)
            self._deadline = now + LAST_SECONDS

    def _start(self, slot: Slot) -> None:
        try:
            slot.worker = self._forked(slot)
        except OSError as error:
            self._put_off(slot, error.strerror or str(error))
        else:
            self._mail.begin(slot.worker)

    def _put_off(self, slot: Slot, reason: str) -> None:
        """The system has no process to give, or no descriptor: those that live serve on, and it is tried again."""
        if not self._is_announced:  # whoever starts the server is there to hear it
            raise FtpyError(f"a worker cannot be started: {reason}")
        slot.due = time.monotonic() + MOST_PAUSE_SECONDS
        self._seldom.say_failed("worker-not-started", reason)

    def _forked(self, slot: Slot) -> Worker:
        """A process for a slot, and the link to it. Raises OSError."""
        mine, its = Link.pair()
        # Until it ignores them, a signal to all processes of a terminal or a service must not reach it.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        with its:
            try:
                sys.stderr.flush()
                generation = next(self._generations)
                pid = os.fork()
                if pid == 0:
                    self._become_worker(slot, mine, its, generation)
            except OSError:
                mine.close()
                raise
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return Worker(slot, pid, mine, generation)

    def _become_worker(self, slot: Slot, mine: Link, its: Link, generation: int) -> None:
        """In the new process: it never returns into what its parent was doing."""
        code = FAILED
        try:
            signal.set_wakeup_fd(-1)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # the parent says when
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            # The ends of others' links must close with their parent, and those that wait to be handed over, once they
            # were, with their holders: that is how the other ends know.
            waiting = (link for worker in self._workers for _, link in worker.unsent if link is not None)
            for link in [mine, *(worker.link for worker in self._workers), *waiting]:
                link.close()
            self._control.forsake()
            self._close_selector()
            for listener in self._listeners:
                listener.file = None  # the parent's to remove
            mine_to_serve = self._listeners_of(slot)
            code = run_worker(self._config, self._settings, mine_to_serve, its, generation, runner=self._runner)
        except BaseException:
            log.exception("worker-failed", extra={"event": "worker-failed", "fields": {"pid": os.getpid()}})
        finally:
            logging.shutdown()
            os._exit(code)

    def _listeners_of(self, slot: Slot) -> list[Listener]:
        """What the process in a slot listens on: all serve, and the one in the first slot is the beacon as well."""
        if slot is self._slots[0]:
            return list(self._listeners)
        for listener in self._listeners:
            if isinstance(listener, BeaconListener):
                listener.close()
        return [listener for listener in self._listeners if not isinstance(listener, BeaconListener)]

    def _reap(self) -> None:
        for worker in self._workers:
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._bury(worker, os.waitstatus_to_exitcode(status))

    def _bury(self, worker: Worker, code: int) -> None:
        """A worker is dead: count out what was its, tell the others, say when the next one starts."""
        slot = worker.slot
        slot.worker = None
        self._mail.end(worker)
        worker.link.close()
        self._shared.bury(worker)
        self._polls.left(worker)
        for other in self._workers:
            self._send(other, "died")
        if self._deadline is not None:
            self._all_ended = self._all_ended and code == ENDED
            self._tell_all_drained()
            return
        lived = time.monotonic() - worker.started
        slot.deaths = 0 if worker.is_ready else slot.deaths + 1
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        fields = {"pid": worker.pid, "how": how, "lived_seconds": round(lived, 1), "deaths": slot.deaths}
        log.error("worker-died", extra={"event": "worker-died", "fields": fields})
        if slot.deaths >= MOST_DEATHS:
            raise FtpyError(f"a worker died {MOST_DEATHS} times in a row, each time before it served; the log says how")
        slot.due = time.monotonic() + min(FIRST_PAUSE_SECONDS * 2**slot.deaths, MOST_PAUSE_SECONDS)

    # ---------------------------------------------------------------- the control socket

    def _answer(self, question: Question, reply: Reply) -> None:
        if isinstance(question, KickQuestion):
            self._kick(question.session, reply)
            return

        def done(rows: list[Row], silent: int) -> None:
            penalties = penalty_rows(self._admission.penalties())
            reply([*self._server_rows(silent), *rows, *penalties, EndRow()])

        workers = [worker for worker in self._workers if worker.is_ready]
        number = self._polls.begin(workers, done)
        for worker in workers:
            self._send(worker, "status", number)
        self._polls.look()

    def _kick(self, session: str, reply: Reply) -> None:
        those = [worker for worker in self._workers if session.startswith(f"{worker.generation}-")]
        number = self._polls.begin(those, lambda rows, _: reply(rows or [EndRow(found=False)]))
        for worker in those:
            self._send(worker, "kick", number, session)
        self._polls.look()

    def _server_rows(self, silent: int) -> list[Row]:
        return server_rows(
            self._config,
            self._accounts,
            pid=os.getpid(),
            since_ns=self._since_ns,
            workers=len(self._workers),
            silent=silent,
            listening=[one.address for one in self._listeners if not isinstance(one, BeaconListener)],
            connections=self._admission.connections,
            draining=self._deadline is not None,
        )

    def _rows(self, worker: Worker, number: int, rows: list[Row], last: bool) -> None:
        self._polls.heard(worker, number, rows, last=last)

    # ---------------------------------------------------------------- words

    def _heard(self, worker: Worker, message: tuple[Any, ...]) -> None:
        word, number, *arguments = message
        result = self._words[word](worker, *arguments)
        if number:
            link = result if isinstance(result, Link) else None
            self._send(worker, "answer", number, None if link else result, link=link)

    def _ready(self, worker: Worker) -> None:
        worker.is_ready = True
        if not self._is_announced and all(slot.worker and slot.worker.is_ready for slot in self._slots):
            self._is_announced = True
            _say("workers", pids=[one.pid for one in self._workers])
            for listener in self._listeners:
                _say(listener.event, address=str(listener.address))

    def _drained(self, worker: Worker) -> None:
        worker.has_drained = True
        self._tell_all_drained()

    def _tell_all_drained(self) -> None:
        if all(worker.has_drained for worker in self._workers):
            for worker in self._workers:
                self._send(worker, "all_drained")


def _say(event: str, **fields: object) -> None:
    log.info(event, extra={"event": event, "fields": fields})
