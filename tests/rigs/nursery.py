"""Servers by the hundred: one that has imported all of ftpy is forked in milliseconds, a start takes half a second.

``python -m tests.rigs.nursery BUILDS`` reads a JSON line each from standard input: ``["run", FILE, LOG]`` forks what
``ftpy-server run -c FILE`` is, and answers its process id; ``["reap"]`` answers when that one has ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from ftpy.config.client import Transfer
from ftpy.toml import to_toml
from tests.rigs import builds
from tests.rigs.processes import ProcessHost

KIB = 1024
INLINE = 32 * KIB
"""Bytes up to which these servers take a file in one piece; above in parts of 128 KiB (``builds.small_parts``)."""
AT_ONCE = Transfer(stall_seconds=10.0, connect_seconds=5.0, retries=0, streams=1)
"""A client that tells every failure: what a rig has broken need not be tried again."""
REPOSITORY = Path(__file__).resolve().parents[2]


class Nursery:
    """The process that forks servers of one build, one at a time."""

    def __init__(self, *names: str, environment: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.rigs.nursery", ",".join(names)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env=dict(os.environ) | (environment or {}),
        )

    def ask(self, *words: str) -> Any:
        """Say something and have the answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=20)


@dataclass
class ForkedHost(ProcessHost):
    """A ``ProcessHost`` whose server comes from a nursery; its root and its state may lie in other places."""

    nursery: Nursery | None = None
    root_at: Path | None = None
    state_at: Path | None = None
    server: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.root = self.root_at or self.root
        config = msgspec.structs.replace(self.config, workers=self.workers)
        if self.state_at is not None:
            config = msgspec.structs.replace(config, state=str(self.state_at))
        (self.folder / "server.toml").write_text(to_toml(config, comments=False))

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self.server

    def spawn(self) -> None:
        """Fork a server; it is not listening yet."""
        assert self.nursery is not None
        self.root.mkdir(parents=True, exist_ok=True)
        self.server = self.nursery.ask("run", str(self.folder / "server.toml"), str(self.log))

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> bool:
        """SIGTERM: whether it drained and left with exit code 0."""
        return self._end(signal.SIGTERM) == 0

    def _end(self, number: signal.Signals) -> int:
        if self.server == 0:
            return 0
        os.kill(self.server, number)
        return self.reap()

    def reap(self) -> int:
        """Wait until it is gone: its exit code, minus the signal's number if that ended it."""
        assert self.nursery is not None
        self.server = 0
        return os.waitstatus_to_exitcode(self.nursery.ask("reap"))


def _serve(settings: str, log: str) -> int:
    from ftpy.config.server import load_server_config
    from ftpy.server.server import serve

    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for target, source in ((0, nothing), (1, nothing), (2, descriptor)):
        os.dup2(source, target)
    return serve(load_server_config(settings), settings)


def _main() -> None:
    import ftpy.cli.server
    import ftpy.server.server  # noqa: F401  (warm before the first fork)

    builds.apply(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who asks, who then closes our standard input
    server = 0
    for line in sys.stdin:
        word, *arguments = json.loads(line)
        if word == "run":
            server = os.fork()
            if server == 0:
                code = 70
                try:
                    code = _serve(*arguments)
                finally:
                    os._exit(code)
            print(server, flush=True)
        else:
            print(os.waitpid(server, 0)[1], flush=True)
            server = 0
    if server:
        os.kill(server, signal.SIGKILL)


if __name__ == "__main__":
    _main()
