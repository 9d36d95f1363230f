"""The supervisor of one command: it looks whether the settings allow it, starts it, watches it, and ends it.

It is a process of its own, forked by the runner, and the parent of all that the command starts and leaves behind
(PR_SET_CHILD_SUBREAPER), so that nothing of it stays: the command's process group is ended, and whoever left it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import resource
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

from ftpy.config.commands import Command
from ftpy.errors import CommandFailed, InvalidArgument, RequestError, UnknownCommand
from ftpy.server.landlock import PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, prctl
from ftpy.server.orders import Began, Ended, Order, Refused, encode

log = logging.getLogger("ftpy.server")

ENDS = 4
"""Descriptors that come with an order: the line to the server, standard input, output and error."""
GRACE_SECONDS = 2.0
"""Between SIGTERM and SIGKILL."""
LOOK_SECONDS, MOST_LOOK_SECONDS = 0.02, 1.0
"""How often it is looked whether all are gone, at first and at last."""
POLL_SECONDS = 3600.0
"""What poll(2) waits at a time; a number of milliseconds has 31 bits."""
JUDGE_SECONDS = 2.0
"""What the expressions of the arguments may take: one that backtracks for ever ends its supervisor, and no more."""
TIMED_OUT = 124
"""The exit code of a command whose time was up, as timeout(1) has it."""
OPEN_FILES = 1024
"""What programs expect that use select(2); the server's own limit is far higher."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def supervise(order: Order, commands: dict[str, Command], descriptors: list[int]) -> None:
    """Run one command to its end; ``descriptors``, which are ours now, are the line and the command's streams."""
    line = socket.socket(fileno=descriptors[0])
    streams = descriptors[1:]
    try:
        command = commands.get(order.command)
        if command is None:
            raise UnknownCommand
        leader = _started(order, command, streams)
    except RequestError as error:
        line.send(encode(Refused(error=error.code, message=str(error))))
        return
    for descriptor in streams:  # the command's alone from now on
        os.close(descriptor)
    with contextlib.suppress(OSError):  # who asked may have left
        line.send(encode(Began(encoding=command.encoding_name, stdin=command.stdin)))
    ended = _watched(leader, line, command.timeout_seconds)
    with contextlib.suppress(OSError):
        line.send(encode(ended))
        while line.recv(64):  # word to cancel that nobody has read would make the end of the line an error
            pass


def _started(order: Order, command: Command, streams: list[int]) -> int:
    """The command as a process: its number. Raises InvalidArgument, CommandFailed."""
    signal.setitimer(signal.ITIMER_REAL, JUDGE_SECONDS)
    refused = command.takes(order.arguments)
    signal.setitimer(signal.ITIMER_REAL, 0)
    if refused is not None:
        raise InvalidArgument(f"{order.command} does not take argument {refused}")
    try:
        arguments = [text.encode(command.encoding_name) for text in order.arguments]
    except (UnicodeEncodeError, LookupError):
        raise InvalidArgument(f"the host cannot spell the arguments in {command.encoding_name}") from None
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    supervisor = os.getpid()
    stdin, stdout, stderr = streams

    def become() -> None:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:
            os._exit(1)  # it died before it was tied to us
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, hard), hard))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    try:
        process = subprocess.Popen(  # noqa: S603  (what the settings name, and arguments that they allow)
            [*map(os.fsencode, command.run), *arguments],
            stdin=stdin if command.stdin else subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=command.folder,
            env=_environment(order, command),
            start_new_session=True,
            preexec_fn=become,  # noqa: PLW1509  (this process has one thread)
        )
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        fields = {"command": order.command, "reason": reason}
        log.error("command-failed", extra={"event": "command-failed", "fields": fields})
        raise CommandFailed from None
    _processes.append(process)
    return process.pid


_processes: list[subprocess.Popen[bytes]] = []
"""Kept, so that it is waited for here and by nobody else."""


def _environment(order: Order, command: Command) -> dict[str, str]:
    """All variables of a command: nothing of the server's own but its locale and its time zone."""
    try:
        account = pwd.getpwuid(os.geteuid())
        home, name = account.pw_dir, account.pw_name
    except KeyError:  # an account without an entry, as in containers
        home, name = "/", str(os.geteuid())
    given = {key: value for key, value in os.environ.items() if key in ("LANG", "TZ") or key.startswith("LC_")}
    own = {"PATH": _PATH, "HOME": home, "USER": name, "LOGNAME": name}
    asked = {"FTPY_USER": order.user, "FTPY_COMMAND": order.command}
    return given | own | command.environment | asked


# ------------------------------------------------------------------ to the end


def _watched(leader: int, line: socket.socket, seconds: float) -> Ended:
    """Wait until the command ends, its time is up, or the server wants its end; then see that nothing of it is left."""
    deadline = time.monotonic() + seconds
    pidfd = os.pidfd_open(leader)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(line, select.POLLIN)
    ready: set[int] = set()
    while not ready and (left := deadline - time.monotonic()) > 0:
        ready = {descriptor for descriptor, _ in poll.poll(min(left, POLL_SECONDS) * 1000)}
    os.close(pidfd)
    status = os.waitstatus_to_exitcode(_end_all(leader))
    code = 128 - status if status < 0 else status
    if pidfd in ready:
        return Ended(code=code, ended="signal" if status < 0 else "exit")
    return Ended(code=code, ended="cancel") if ready else Ended(code=TIMED_OUT, ended="timeout")


def _end_all(leader: int) -> int:
    """End whatever of the command is left, first by asking: the leader's status, when all are gone and waited for."""
    deadline = time.monotonic() + GRACE_SECONDS
    status, pause, asked = 0, LOOK_SECONDS, False
    while True:
        try:
            pid, found = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == leader:
            status = found
        if pid:
            continue
        if time.monotonic() >= deadline:
            _signal(leader, signal.SIGKILL)
            pause = min(2 * pause, MOST_LOOK_SECONDS)
        elif not asked:
            _signal(leader, signal.SIGTERM)
            asked = True
        time.sleep(pause)


def _signal(leader: int, number: signal.Signals) -> None:
    """Send a signal to the command's group, and to each of our children that has left it.

    To these alone: until we have waited for a child its number, and that of the group that it is in, is nobody else's.
    What they leave behind becomes our child in turn.
    """
    for pid, group in list(_children()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number) if group == leader else os.kill(pid, number)


def _children() -> Iterator[tuple[int, int]]:
    """Our children that live, and the group of each (proc_pid_stat(5))."""
    own = os.getpid()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                state, parent, group = file.read().rpartition(b")")[2].split()[:3]
                if int(parent) == own and state not in b"ZX":
                    yield int(name), int(group)
