"""The server process: listening sockets, the connections behind them, and how it stops.

A ``Server`` (``accepting``) is a ``socketserver.ThreadingTCPServer`` for one listen address; a ``Service`` is what all
of them share. Start reading at ``serve``.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from ftpy.config.addresses import Address
from ftpy.config.commands import Command
from ftpy.config.server import ServerConfig, worker_count
from ftpy.errors import CommandFailed, ConfigError, RequestError
from ftpy.files import display
from ftpy.server.accepting import Server
from ftpy.server.accounts import Accounts
from ftpy.server.activity import session_row
from ftpy.server.admission import Admission
from ftpy.server.audit import Audit
from ftpy.server.beacon import Beacon, Gate
from ftpy.server.connection import RequestHandler
from ftpy.server.desk import Desk
from ftpy.server.identity import Identity
from ftpy.server.listening import BeaconListener, Listener, listen_on_all, listening
from ftpy.server.logs import setup_logging
from ftpy.server.orders import Runner, Running, start_runner
from ftpy.server.penalties import Offenders
from ftpy.server.reloading import reread, say_broken
from ftpy.server.roots import Roots
from ftpy.server.rows import BeaconRow, SessionRow
from ftpy.server.sandbox import check_user, confine
from ftpy.server.seldom import Seldom
from ftpy.server.shares import Shares, descriptors
from ftpy.storage import syscalls

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ftpy.server.worker import Parent, SharedAdmission

log = logging.getLogger("ftpy.server")

SWEEP_SECONDS = 3600.0
"""How often expired uploads are looked for."""
WATCH_SECONDS = 0.25
"""How often open sessions are compared with the accounts. With LOOK_SECONDS: how long a removed user may go on."""
CROWD = 32
"""Connections less after which free memory is given back: of each the C library would keep some 40 KiB."""
LAST_SECONDS = 5.0
"""After the drain: how long broken connections may take to let go of what they hold."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
RELOAD_SIGNALS = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()
SIGNALS = (*STOP_SIGNALS, *RELOAD_SIGNALS)


class Service:
    """What all listening sockets share: settings, accounts, storages, the open connections, the drain.

    ``settings`` is the file that ``config`` came from, if any: no user may reach it. One of several processes has a
    ``parent``, who counts connections for all of them and knows which one has an upload open. The ``runner``, where
    there is one, runs commands; it is closed at the end.
    """

    def __init__(
        self,
        config: ServerConfig,
        settings: str | None = None,
        parent: Parent | None = None,
        runner: Runner | None = None,
    ) -> None:
        self.config = config
        self._runner = runner
        self._settings = settings
        self._parent = parent
        self.accounts = accounts = Accounts(config.users, aloud=parent is None)
        neighbours = parent.neighbours if parent else None
        self.roots = Roots(config, settings, neighbours, lambda: accounts.quota_roots)
        self.identity = Identity.load(config)
        self.audit = Audit(config.log.audit)
        self.admission: Admission[int] | SharedAdmission = (
            parent.admission if parent else Admission(config.limits, Offenders(config.penalties))
        )
        self.leavers = Seldom()
        """Sources of strangers who just left: that costs them nothing, and is not to fill the disk with lines."""
        self.shares = Shares(descriptors(config.limits.connections))
        self.draining = threading.Event()
        self.since_ns = time.time_ns()
        self._sessions = itertools.count(1)
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._handlers: dict[int, RequestHandler] = {}
        self._none_open = threading.Condition(self._lock)
        self._servers: list[Server] = []
        self._beacons: list[Beacon] = []
        self._gate = Gate(self)
        self._threads: list[threading.Thread] = []

    # ---- life

    def check(self) -> None:
        """Whether the root can be served. Raises ConfigError."""
        try:
            self.roots.let_go(self.roots.open(self.config.root))
        except RequestError as error:
            raise ConfigError(f"the root {display(self.config.root)} cannot be served: {error}") from None

    def start(self, listeners: Sequence[Listener] | None = None) -> list[Address]:
        """Listen on every address and serve in threads: the addresses, with the ports that were chosen for 0.

        ``listeners`` were made by another process, and are closed by us. Raises ConfigError.
        """
        self.check()
        for listener in listen_on_all(self.config) if listeners is None else listeners:
            if isinstance(listener, BeaconListener):
                self._beacons.append(Beacon(listener, self._gate))
            else:
                self._servers.append(Server(listener, self))
        if self._parent is None:
            desk = Desk(self)
            self._spawn(lambda: desk.run(self._stopped), "ftpy-control")
        for server in self._ears():
            self._spawn(server.serve, f"ftpy-accept {server.address}")
            self._note(server.listener.event, address=str(server.address))
        self._spawn(self._sweep, "ftpy-sweep")
        self._spawn(self._watch, "ftpy-watch")
        return self.addresses

    def _note(self, event: str, **fields: object) -> None:
        """What the server as a whole does is said once: by the parent, where there is one."""
        log.log(logging.DEBUG if self._parent else logging.INFO, event, extra={"event": event, "fields": fields})

    def _spawn(self, run: Any, name: str) -> None:
        thread = threading.Thread(target=run, name=name)
        thread.start()
        self._threads.append(thread)

    def reload(self) -> None:
        """Read settings and users again: no session ends, new connections meet what is new (SIGHUP)."""
        assert self._settings is not None
        config = reread(self.config, self._settings)
        if config is not None and self._runner is not None:
            self._runner.reload()
        self.take_over(config)

    def take_over(self, config: ServerConfig | None) -> None:
        """Other settings count from now on; None: the file is broken, and all but users and logs stays as it was."""
        if config is not None:
            try:
                self.identity = Identity.load(config)
            except ConfigError as error:  # it was right when it was looked at
                say_broken(error)
            else:
                self._take_over(config)
        self.audit.reopen(self.config.log.audit)
        self.accounts.look()

    def _take_over(self, config: ServerConfig) -> None:
        self.config = config
        setup_logging(config.log)
        self.roots.reload(config)
        if isinstance(self.admission, Admission):
            self.admission.reload(config.limits, config.penalties)
        for server in self._ears():
            server.listener.reload(config)

    def stop(self) -> bool:
        """Drain and stop: no new connections, running transfers finish within ``drain_seconds``, the rest is broken.

        Returns whether every connection ended; what was cut off can be resumed.
        """
        self._note("draining", connections=self.admission.connections)
        self.draining.set()
        for server in self._ears():
            server.shutdown()
            server.server_close()
        for handler in self._open_handlers():
            if handler.waiting or handler.context is None:  # nothing is under way there
                handler.abandon()
        if not self._wait_closed(self.config.limits.drain_seconds):
            self.roots.interrupt()  # first: a commit that hashes a large file does not look at its connection
            for handler in self._open_handlers():
                handler.abandon()
        ended = self._wait_closed(LAST_SECONDS)
        for row in self.session_rows():
            fields = {"session": row.session, "user": row.user, "state": row.state, "path": row.path}
            log.error("left-hanging", extra={"event": "left-hanging", "fields": fields})
        if self._parent is not None:
            # Until all have drained, others may be at work on uploads that are open here.
            self._parent.drained(self.config.limits.drain_seconds + 2 * LAST_SECONDS)
        self._stopped.set()
        for thread in self._threads:
            thread.join(LAST_SECONDS)
        if self._runner is not None:
            self._runner.close()
        if ended:
            self.roots.close()
            self.audit.close()
        self._note("stopped", all_ended=ended)
        return ended

    def close(self) -> None:
        """Close what was opened, without ever having started."""
        self.audit.close()
        self.roots.close()

    def _open_handlers(self) -> list[RequestHandler]:
        with self._lock:
            return list(self._handlers.values())

    def _wait_closed(self, timeout: float) -> bool:
        with self._none_open:
            return self._none_open.wait_for(lambda: not self._handlers, timeout)

    def new_session(self) -> str:
        """A short name for a connection, unlike that of any other one of this server, whichever process has it."""
        number = next(self._sessions)
        return f"{self._parent.generation}-{number}" if self._parent else str(number)

    def opened(self, handler: RequestHandler) -> None:
        """A connection's thread has begun."""
        with self._lock:
            self._handlers[handler.key] = handler

    def closed(self, handler: RequestHandler) -> None:
        """A connection's thread is about to end."""
        with self._none_open:
            self._handlers.pop(handler.key, None)
            self._none_open.notify_all()

    def break_off(self, stranger: int) -> None:
        """End a connection that had to make room for another; one that has no thread yet finds out itself."""
        with self._lock:
            handler = self._handlers.get(stranger)
        if handler is not None:
            log.warning(
                "stranger-ended",
                extra={
                    "event": "stranger-ended",
                    "fields": {
                        "source": handler.source,
                        "session": handler.session,
                        "limit": "connections_unauthenticated",
                    },
                },
            )
            handler.abandon()

    def _ears(self) -> list[Server | Beacon]:
        return [*self._servers, *self._beacons]

    # ---- commands

    def allowed(self, user: str) -> dict[str, Command]:
        """The commands that this user may run now, by name."""
        return {name: command for name, command in sorted(self.config.commands.items()) if command.admits(user)}

    def run(self, command: str, arguments: list[str], user: str) -> Running:
        """Have a command run. Raises Busy, CommandFailed."""
        if self._runner is None:
            raise CommandFailed
        return self._runner.run(command, arguments, user)

    # ---- what the operator asks

    @property
    def addresses(self) -> list[Address]:
        """Where it listens."""
        return [server.address for server in self._servers]

    def beacon_rows(self) -> list[BeaconRow]:
        """What the beacon does, where this process has it."""
        return [self._gate.row([str(beacon.address) for beacon in self._beacons])] if self._beacons else []

    def session_rows(self) -> list[SessionRow]:
        """Every connection that has a thread, the oldest first."""
        return [session_row(handler) for handler in self._open_handlers()]

    def kick(self, session: str) -> bool:
        """End a session: whether there is one of that name."""
        those = [handler for handler in self._open_handlers() if handler.session == session]
        for handler in those:
            handler.dismiss("kicked by the operator")
        return bool(those)

    # ---- in the background

    def _sweep(self) -> None:
        while True:
            expire, trash = self.config.uploads.expire_days * 86400, self.config.trash_days * 86400
            with self._said_if_failed():
                self.roots.settle_events()
                if self._parent is None or self._parent.may_sweep(self.config.state):
                    self.roots.sweep_events()
            for root in self.roots.known(self.accounts.roots()):
                if self._stopped.is_set():
                    return
                if self._parent is not None and not self._parent.may_sweep(root):
                    continue
                with self._said_if_failed():
                    if dropped := self.roots.sweep(root, expire_seconds=expire, trash_seconds=trash):
                        log.info("swept", extra={"event": "swept", "fields": {"dropped": dropped}})
            if self._stopped.wait(SWEEP_SECONDS):
                return

    @contextlib.contextmanager
    def _said_if_failed(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            log.exception("sweep-failed", extra={"event": "sweep-failed", "fields": {}})

    def _watch(self) -> None:
        """End the sessions of those who are welcome no longer, also where they wait or are in the middle of a body.

        After a crowd has left, or everybody has for longer than from one look to the next, give back what they cost.
        """
        most = before = 0
        while not self._stopped.wait(WATCH_SECONDS):
            with contextlib.suppress(MemoryError):  # there may be some in a second
                count = self._look_after_sessions()
                most = max(most, count)
                all_left = most and not count and not before
                if most - count >= CROWD or all_left:
                    most = count
                    syscalls.give_memory_back()
                before = count

    def _look_after_sessions(self) -> int:
        """How many connections there are. By itself: a name for one of them, kept while we wait, would keep it."""
        handlers = self._open_handlers()
        for handler in handlers:
            if not handler.is_welcome():
                handler.dismiss()
            elif handler.storage is not None and handler.storage.is_displaced:
                handler.dismiss("its folder was moved or replaced")
            if handler.context is not None:
                handler.context.channel.look()
            if handler.stream is not None:
                handler.pulse.look(handler.stream.moved)
        return len(handlers)


def _raise_descriptor_limit() -> None:
    """As many open files as the system lets us have; the usual 1,024 are for programs that use select(2)."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows: there is no such limit
        return
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # macOS says "infinity" and takes no more than OPEN_MAX: what cannot be raised stays as it is.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def serve(config: ServerConfig, settings: str) -> int:
    """Run until SIGTERM or SIGINT, drain, and return the exit code 0; a second signal ends at once. SIGHUP reloads.

    ``settings`` is the file that ``config`` came from. Raises ConfigError.
    """
    waits = hasattr(signal, "sigwait")
    if waits:
        # Blocked in every thread and taken up here: a handler could run in the middle of anything.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    setup_logging(config.log)
    _raise_descriptor_limit()
    syscalls.share_heaps()
    check_user(config)
    if worker_count(config) > 1:
        from ftpy.server.workers import serve_with_workers

        return serve_with_workers(config, settings)
    runner = start_runner(config, settings)
    service = Service(config, settings, runner=runner)
    service.check()
    with listening(config) as listeners:
        confine(config, settings, service.accounts.roots())
        service.start(listeners)
    try:
        if waits:
            while signal.sigwait(SIGNALS) in RELOAD_SIGNALS:
                service.reload()
        else:
            while True:
                time.sleep(1)  # Windows: KeyboardInterrupt ends it
    except KeyboardInterrupt:
        pass
    if waits:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    if not service.stop():
        # A thread hangs in the kernel (a dead disk, say): what is durable is durable, nothing more can be done.
        logging.shutdown()
        os._exit(0)
    return 0
