"""A real server in this process, and a proxy that breaks the network on purpose; loopback only."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from ftpy.client.client import Client
from ftpy.config.client import Profile, Transfer
from ftpy.config.commands import Command
from ftpy.config.server import Beacon, Events, Limits, Log, Penalties, ServerConfig
from ftpy.server.accounts import Accounts
from ftpy.server.identity import certificate_sha256, make_identity
from ftpy.server.orders import start_runner
from ftpy.server.server import Service
from ftpy.wire.spelling import b64encode

FAST = Transfer(stall_seconds=5.0, connect_seconds=5.0, retries=3, streams=1)
"""A client for tests: it waits, but not for long; and how long a handshake takes on a busy machine changes nothing."""

KEYS: dict[str, str] = {}
"""Every key of this run's users, in base64url and in hexadecimal: none may be found in a log."""


def eventually(holds: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Ask again and again until ``holds`` says something true, which is returned; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"still not so after {seconds} s"
        time.sleep(0.01)
    return found


def held_port(holder: object) -> int:
    """A port for servers of ours: nobody else is given it as long as ``holder`` lives, also where none listens there.

    It is below those that systems give out, so nobody is given that number of UDP either, and below those of the bench
    (``free_port``). Only Linux lets a server bind to what is held like that; elsewhere it is given back at once.
    """
    port, let_go = _held()
    weakref.finalize(holder, let_go)
    return port


def _held() -> tuple[int, Callable[[], None]]:
    """The port, and what gives it back."""
    while True:
        with socket.socket() as holding, contextlib.suppress(OSError):
            holding.bind(("127.0.0.1", 10_000 + secrets.randbelow(11_000)))
            holding.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # now: nobody else may hold it
            port = int(holding.getsockname()[1])
            return port, partial(os.close, holding.detach()) if sys.platform == "linux" else lambda: None


def is_free(address: str) -> bool:
    """Whether a server could listen there."""
    host, _, port = address.rpartition(":")
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, int(port)))
        return True
    return False


AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
"""Servers refuse that unless they are told; in containers, tests often do run as root."""
SANDBOX: Literal["auto", "off"] = "off" if any(name.startswith("COVERAGE_PROCESS") for name in os.environ) else "auto"
"""What is measured must write its figures where a sandboxed server may not."""


@dataclass
class Host:
    """A folder that a server lives in, and the server when it runs."""

    folder: Path
    tls: bool = True
    limits: Limits = field(default_factory=Limits)
    penalties: Penalties = field(default_factory=Penalties)
    beacon: Beacon = field(default_factory=Beacon)
    events: Events = field(default_factory=Events)
    audit: bool = False
    listen: str = ""
    """By default a port of its own on loopback."""
    portable_names: bool = True
    commands: dict[str, Command] = field(default_factory=dict)
    service: Service | None = None
    address: str = ""

    def __post_init__(self) -> None:
        self._let_port_go: Callable[[], Any] = lambda: None
        if not self.listen:
            port, let_go = _held()
            self.listen = f"127.0.0.1:{port}"
            self._let_port_go = weakref.finalize(self, let_go)
        self.root = self.folder / "files"
        self.root.mkdir(parents=True)
        self.accounts = Accounts.create(self.folder / "users.json")
        self.keys: dict[str, bytes] = {}
        self.add_user("alice")
        if self.tls:
            make_identity(str(self.folder / "certificate.pem"), str(self.folder / "private_key.pem"))

    def owner(self, user: str = "alice") -> str:
        """What this user's uploads and operations are known by in a storage."""
        account = self.accounts.lookup(user)[1]
        assert account is not None
        return account.owner

    def add_user(self, name: str, **options: Any) -> None:
        """A user with a fresh key."""
        key = self.keys[name] = self.accounts.add(name, **options)
        KEYS[b64encode(key)] = key.hex()

    @property
    def config(self) -> ServerConfig:
        """The settings, as loading them would give them."""
        return ServerConfig(
            root=str(self.root),
            listen=[self.address or self.listen],
            tls="on" if self.tls else "off",
            certificate=str(self.folder / "certificate.pem"),
            private_key=str(self.folder / "private_key.pem"),
            users=str(self.folder / "users.json"),
            state=str(self.folder / "state"),
            limits=self.limits,
            penalties=self.penalties,
            beacon=self.beacon,
            events=self.events,
            log=Log(audit=str(self.folder / "audit.jsonl") if self.audit else ""),
            portable_names=self.portable_names,
            sandbox=SANDBOX,
            allow_root=AS_ROOT,
            commands=self.commands,
        )

    def start(self) -> None:
        """Start it; after a stop, on the same address."""
        config = self.config
        self.service = Service(config, runner=start_runner(config))
        (address,) = self.service.start()
        self.address = str(address)

    def stop(self) -> bool:
        """Drain and stop: whether all connections ended."""
        service, self.service = self.service, None
        return service.stop() if service else True

    def close(self) -> None:
        """Stop it for good: its port is given back now, and not when this has been collected as garbage."""
        self.stop()
        self._let_port_go()

    def swept(self) -> None:
        """Wait for the server's first sweep, which comes in its own time and makes a lock in the storage."""
        eventually((self.root / ".ftpy" / "lock").exists)

    def deserted(self) -> None:
        """Wait until nobody is connected: all that came before is done then, or dropped."""
        service = self.service
        assert service is not None
        eventually(lambda: not service.session_rows())

    def profile(self, user: str = "alice", address: str | None = None) -> Profile:
        """What pairing would have stored."""
        pin = certificate_sha256(str(self.folder / "certificate.pem")).hex() if self.tls else None
        return Profile(
            addresses=[address or self.address], user=user, key=b64encode(self.keys[user]), certificate_sha256=pin
        )

    def client(
        self, user: str = "alice", *, address: str | None = None, transfer: Transfer = FAST, **kw: Any
    ) -> Client:
        """A client that is not connected yet."""
        return Client(self.profile(user, address), transfer, **kw)

    def audited(self, *events: str) -> list[dict[str, Any]]:
        """The lines of the audit trail so far; of these events alone, if any are named."""
        trail = self.folder / "audit.jsonl"
        # Who reads while a line is written may see a part of it: what is there now is whole at once.
        text = eventually(lambda: (read := trail.read_text()).endswith("\n") and read) if trail.stat().st_size else ""
        lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
        return [line for line in lines if not events or line["event"] in events]

    @property
    def uploads(self) -> list[str]:
        """Ids of the uploads that are unfinished on disk."""
        return sorted(path.stem for path in (self.root / ".ftpy" / "uploads").glob("*.journal"))


@contextlib.contextmanager
def running(folder: Path, **options: Any) -> Iterator[Host]:
    """A host that serves while the ``with`` lasts."""
    host = Host(folder, **options)
    host.start()
    try:
        yield host
    finally:
        host.stop()


ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("FTPY_")}
"""What a command runs in: nothing of whoever runs the tests."""


class Daemon:
    """A real ``ftpy-server run`` over a host's folder; what it says on standard error is kept in a file.

    ``settings`` are lines of server.toml, its tables; ``before`` runs in the process before the server does.
    """

    def __init__(self, host: Host, settings: str = "", before: str = "", sandbox: str = SANDBOX) -> None:
        self.host, self.sandbox = host, sandbox
        self._config = host.folder / "server.toml"
        self._settings, self._before = settings, before
        self._log_path = host.folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, code: str = "from ftpy.cli.server import main; main()") -> None:
        """Start it and wait until it listens."""
        self._configure()
        with open(self._log_path, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"{self._before}\n{code}", "run", "-c", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=ENVIRONMENT,
            )
        eventually(lambda: "listening" in self.log or (self.process and self.process.poll() is not None), 30)
        assert self.process.poll() is None, self.log
        (line,) = [line for line in self.log.splitlines() if "listening" in line]
        self.host.address = line.partition("address=")[2] or json.loads(line)["address"]
        self._configure()  # so that tokens can name the port

    def _configure(self) -> None:
        listen = self.host.address or self.host.listen
        head = f'root = "files"\nlisten = ["{listen}"]\ntls = "{"on" if self.host.tls else "off"}"\n'
        head += f'sandbox = "{self.sandbox}"\nallow_root = {str(AS_ROOT).lower()}\n'
        self._config.write_text(head + self._settings)

    def reload(self, settings: str) -> None:
        """Write other settings and say so; waits until it has answered in its log."""
        answers = self._answers
        self._settings = settings
        self._configure()
        self.signal(signal.SIGHUP)
        eventually(lambda: self._answers > answers, 30)

    @property
    def _answers(self) -> int:
        return sum(line.split()[2:3] in (["config-read"], ["config-broken"]) for line in self.log.splitlines())

    @property
    def log(self) -> str:
        """All that it has said."""
        return self._log_path.read_text()

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, seconds: float = 20.0) -> int:
        """Wait for its end: the exit code, minus the signal's number if that ended it."""
        assert self.process is not None
        return self.process.wait(seconds)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()  # nothing of it outlives the test
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@dataclass
class Fault:
    """What happens to one direction of one connection, counted in bytes from its beginning.

    ``after`` bytes pass, then ``what``: cut (both sockets closed), reset (with RST), half-close, stall (nothing more
    moves), flip (one bit of the next byte, then all is well). ``slice_bytes`` passes at most that many at a time,
    ``pause_seconds`` apart: both together are a slow line. Every byte arrives ``delay_seconds`` later, at most
    ``window_bytes`` are on their way at a time: both together are a long line, whose rate is the one by the other.
    """

    what: str = "none"
    after: int = 0
    slice_bytes: int = 65536
    bit: int = 0
    pause_seconds: float = 0.0
    delay_seconds: float = 0.0
    window_bytes: int = 1024 * 1024


Faults = tuple[Fault, Fault]
"""Up (to the server) and down."""


class LongLine:
    """What is sent arrives later; who sends waits while too much is on its way."""

    def __init__(self, sink: socket.socket, fault: Fault) -> None:
        self._sink, self._fault = sink, fault
        self._changed = threading.Condition()
        self._under_way: deque[tuple[float, bytearray]] = deque()
        self._bytes = 0
        self._broken = False

    def send(self, data: bytearray) -> None:
        """Send on; returns when there is room for more."""
        with self._changed:
            self._under_way.append((time.monotonic() + self._fault.delay_seconds, data))
            self._bytes += len(data)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._bytes < self._fault.window_bytes or self._broken)
            if self._broken:
                raise BrokenPipeError

    def end(self) -> None:
        """All has arrived; nothing comes any more."""
        with self._changed:
            self._changed.wait_for(lambda: not self._bytes or self._broken)
            self._broken = True
            self._changed.notify_all()

    def run(self) -> None:
        """Let arrive what is due, until the end."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._under_way or self._broken)
                if self._broken:
                    return
                due, data = self._under_way.popleft()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                self._sink.sendall(data)
            except OSError:
                self._broken = True
            with self._changed:
                self._bytes -= len(data)
                self._changed.notify_all()


class Proxy:
    """Forwards connections to ``target``; each new one takes its faults (up, down) from the list, the last for good.

    Connections break ``together``: each waits with that for so many.
    """

    def __init__(self, target: str, *faults: Faults, together: int = 1) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host.strip("[]"), int(port))
        self._faults = list(faults) or [(Fault(), Fault())]
        self._together = threading.Barrier(together, timeout=30)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.by_connection: list[list[int]] = []
        """Bytes forwarded up (to the server) and down by each connection, in the order of their coming."""
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._spawn(self._accept)

    @property
    def connections(self) -> int:
        """How many have come."""
        return len(self.by_connection)

    @property
    def passed(self) -> list[int]:
        """Bytes forwarded up and down, over all connections."""
        return [sum(passed[way] for passed in self.by_connection) for way in (0, 1)]

    def _spawn(self, run: Any, *args: Any) -> None:
        thread = threading.Thread(target=run, args=args, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            up, down = self._faults[min(self.connections, len(self._faults) - 1)]
            passed = [0, 0]
            self.by_connection.append(passed)
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            self._open += [client, server]
            self._pass_on(client, server, (up, down), passed)

    def _pass_on(self, client: socket.socket, server: socket.socket, faults: Faults, passed: list[int]) -> None:
        """Pass on both ways until the end, in threads of their own."""
        self._spawn(self._pump, client, server, faults[0], passed, 0)
        self._spawn(self._pump, server, client, faults[1], passed, 1)

    def _pump(self, source: socket.socket, sink: socket.socket, fault: Fault, passed: list[int], way: int) -> None:
        line = LongLine(sink, fault)
        if fault.delay_seconds:
            self._spawn(line.run)
        try:
            for count in self._forward(source, sink, fault, line):
                passed[way] += count
        except OSError:  # one end is gone: without a proxy the other one would notice
            self._break("cut", source, sink)
        finally:
            line.end()

    def _forward(self, source: socket.socket, sink: socket.socket, fault: Fault, line: LongLine) -> Iterator[int]:
        """Forward until the end: what passed, piece by piece."""
        passed = 0
        send = line.send if fault.delay_seconds else sink.sendall
        armed = fault.what != "none"
        while True:
            room = fault.after - passed if armed else fault.slice_bytes
            if armed and room == 0:
                if fault.what != "flip":
                    with contextlib.suppress(threading.BrokenBarrierError):
                        self._together.wait()
                    self._break(fault.what, source, sink)
                    return
                room = 1
            time.sleep(fault.pause_seconds)
            data = bytearray(source.recv(min(room, fault.slice_bytes)))
            if not data:
                line.end()
                sink.shutdown(socket.SHUT_WR)
                return
            if armed and passed == fault.after:
                data[0] ^= 1 << fault.bit
                armed = False
            send(data)
            passed += len(data)
            yield len(data)

    def _break(self, what: str, source: socket.socket, sink: socket.socket) -> None:
        if what == "stall":
            return
        if what == "half-close":
            sink.shutdown(socket.SHUT_WR)
            return
        for sock in (source, sink):
            if what == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def close(self) -> None:
        """Stop accepting and break what is open."""
        self._together.abort()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()  # a connection that has just come is open before all that is open is closed
        self._listener.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
