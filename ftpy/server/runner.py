"""The runner: a process outside of the sandbox that starts the commands that the settings name, and nothing else.

Started by ``orders.Runner`` before the server confines itself, as a program of its own with one socket. For each order
it forks a supervisor (``supervising``). It ends when nobody can give it orders any more and all of them have ended.

It is two processes: one takes the orders, and its parent has another one take them where it dies. The server could not:
what it starts is confined as it is.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import socket
import sys
import time

import msgspec

from ftpy.config.server import load_server_config
from ftpy.errors import Busy, ConfigError
from ftpy.server.landlock import PR_SET_CHILD_SUBREAPER, prctl
from ftpy.server.logs import setup_logging
from ftpy.server.orders import MESSAGE_BYTES, READY, Order, Refused, Reload, Setup, decode_order, decode_setup, encode
from ftpy.server.supervising import ENDS, supervise

log = logging.getLogger("ftpy.server")

FIRST_PAUSE_SECONDS, MOST_PAUSE_SECONDS = 0.05, 2.0
"""Before a process that takes orders is started again; doubled each time that it dies before long."""
STEADY_SECONDS = 60.0
"""Who lived so long died of something new."""
MOST_DEATHS = 10
"""One that dies so often in a row will not live: some 8 s later no command can be run until the server is restarted."""


class _Orders:
    """The commands that there are, and the supervisors of those that run."""

    def __init__(self, end: socket.socket, setup: Setup) -> None:
        self._end = end
        self._settings = setup.settings
        self._commands, self._most = setup.commands, setup.most
        self._supervisors: dict[int, tuple[int, Order]] = {}
        """Process and order of each, by its pidfd."""
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)

    def serve(self) -> None:
        """Take orders until nobody can give any, and wait for what runs then."""
        is_open = True
        while is_open or self._supervisors:
            for descriptor, _ in self._poll.poll():
                if descriptor in self._supervisors:
                    self._bury(descriptor)
                elif not self._take():
                    is_open = False
                    self._poll.unregister(self._end)

    def _bury(self, pidfd: int) -> None:
        pid, order = self._supervisors.pop(pidfd)
        _, status = os.waitpid(pid, 0)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        if code := os.waitstatus_to_exitcode(status):  # killed, or its arguments took too long to judge
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            fields = {"command": order.command, "how": how}
            log.error("supervisor-died", extra={"event": "supervisor-died", "fields": fields})

    def _take(self) -> bool:
        """Take one order: whether there was one."""
        data, descriptors, flags, _ = socket.recv_fds(self._end, MESSAGE_BYTES, ENDS)
        try:
            if not data:
                return False
            order = decode_order.decode(data)
            if isinstance(order, Reload):
                self.reload()
            elif len(descriptors) == ENDS:
                self._begin(order, descriptors)
            elif flags & socket.MSG_CTRUNC:  # recvmsg(2): as many as there was room for, the line first
                _refuse_starved(order, descriptors, "the host has too many files open", os.strerror(errno.EMFILE))
        except msgspec.DecodeError as error:
            log.error("order-refused", extra={"event": "order-refused", "fields": {"reason": str(error)[:200]}})
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _begin(self, order: Order, descriptors: list[int]) -> None:
        if reason := self._crowded(order.user):
            _refuse(descriptors, reason)
            return
        try:
            pid = os.fork()
        except OSError as error:
            _refuse_starved(order, descriptors, "the host has no room for another process", error.strerror)
            return
        if pid == 0:
            self._become_supervisor(order, descriptors)
        pidfd = os.pidfd_open(pid)
        self._supervisors[pidfd] = pid, order
        self._poll.register(pidfd, select.POLLIN)

    def _crowded(self, user: str) -> str | None:
        """Why this user may run no more now, if that is so.

        A user has no more than are left for the others: so one alone has half of them, and whoever has none finds room.
        """
        running = len(self._supervisors)
        own = sum(order.user == user for _, order in self._supervisors.values())
        if running >= self._most:
            return f"{running} commands run already"
        if own >= self._most - running:
            return f"{own} of {running} commands that run are yours, and {self._most - running} are left for all"
        return None

    def _become_supervisor(self, order: Order, descriptors: list[int]) -> None:
        """In the new process: it never returns into what the runner was doing."""
        try:
            self._end.close()
            for pidfd in self._supervisors:
                os.close(pidfd)
            supervise(order, self._commands, descriptors)
        except BaseException:
            log.exception("internal", extra={"event": "internal", "fields": {"command": order.command}})
        finally:
            logging.shutdown()
            os._exit(0)

    def reload(self) -> None:
        """Read the settings again; where they are broken, what was known counts on."""
        if self._settings is None:
            return
        try:
            config = load_server_config(self._settings)
        except ConfigError:  # the server has said so
            return
        setup_logging(config.log)
        self._commands, self._most = config.commands, config.limits.commands


def _refuse(descriptors: list[int], reason: str) -> None:
    """Say so over the line; where it was lost, its other end finds it closed."""
    if descriptors:
        with contextlib.suppress(OSError):
            os.write(descriptors[0], encode(Refused(error=Busy.code, message=f"{reason}; try again later")))


def _refuse_starved(order: Order, descriptors: list[int], what: str, reason: str | None) -> None:
    """The system cannot give what the order takes: whoever gave it is told, and the log."""
    _refuse(descriptors, what)
    fields = {"command": order.command, "reason": reason}
    log.error("command-failed", extra={"event": "command-failed", "fields": fields})


def _keep_taking(end: socket.socket, setup: Setup) -> None:
    """See to it that somebody takes orders until nobody can give any, or all die; and wait for what runs then."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # the supervisors of one that died are waited for here
    deaths, is_first = 0, True
    while deaths < MOST_DEATHS:
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _become_taker(end, setup, is_first=is_first)
        code = _wait_for(pid)
        if code == 0:
            break
        is_first = False
        lived = time.monotonic() - began
        deaths = 1 if lived >= STEADY_SECONDS else deaths + 1
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        fields = {"how": how, "lived_seconds": round(lived, 1), "deaths": deaths}
        log.error("runner-died", extra={"event": "runner-died", "fields": fields})
        time.sleep(min(FIRST_PAUSE_SECONDS * 2**deaths, MOST_PAUSE_SECONDS))
    end.close()
    _wait_for(None)


def _become_taker(end: socket.socket, setup: Setup, *, is_first: bool) -> None:
    """In the new process: take orders; it never returns."""
    code = 1
    try:
        orders = _Orders(end, setup)
        if not is_first:
            orders.reload()  # what the one before was begun with may no longer count
        orders.serve()
        code = 0
    except BaseException:
        log.exception("internal", extra={"event": "internal", "fields": {}})
    finally:
        logging.shutdown()
        os._exit(code)


def _wait_for(wanted: int | None) -> int:
    """The exit code of a child; of none in particular: 0, when there are no more."""
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            return 0
        if pid == wanted:
            return os.waitstatus_to_exitcode(status)


def main(descriptor: int) -> None:
    """Run, with this socket; what it begins with comes on standard input."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are the server's, which says what to do by the socket
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    setup = decode_setup.decode(sys.stdin.buffer.read())
    setup_logging(setup.log)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.chdir("/")
    os.set_inheritable(descriptor, False)
    end = socket.socket(fileno=descriptor)
    end.send(READY)
    _keep_taking(end, setup)


if __name__ == "__main__":
    main(int(sys.argv[1]))
