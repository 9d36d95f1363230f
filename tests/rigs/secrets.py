"""Nothing that ftpy says or leaves behind holds a secret: a day of a server and its client, searched byte by byte.

Commands are run as a person runs them, in order and out of order, with everything turned on that makes them talk more.
Searched are their argument lists and environments, all that they print (but for the tokens that some are there to
print), all files below their folder (but for the three that are there to hold secrets) and cores.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ftpy.wire.spelling import b64decode
from ftpy.wire.token import PairingToken
from tests.rig import AS_ROOT, ENVIRONMENT, eventually, held_port
from tests.rigs.processes import kill, program

COMMAND_SECONDS = 60.0
HOLDERS = ("client.toml", "users.json", "private_key.pem")
"""Files that are there to hold secrets."""


def forms(name: str, secret: bytes) -> dict[str, bytes]:
    """The ways in which a secret could be written."""
    return {
        f"{name}, raw": secret,
        f"{name}, hex": secret.hex().encode(),
        f"{name}, base64url": base64.urlsafe_b64encode(secret).rstrip(b"="),
        f"{name}, base64": base64.b64encode(secret).rstrip(b"="),
        f"{name}, as Python shows it": repr(secret)[2:-1].encode(),
    }


@dataclass
class Findings:
    """What was searched, and what was found in it: sentences, none of which may be there."""

    patterns: dict[str, bytes] = field(default_factory=dict)
    said: list[tuple[str, bytes]] = field(default_factory=list)
    searched: int = 0
    violations: list[str] = field(default_factory=list)

    def know(self, name: str, secret: bytes) -> None:
        """A secret to look for."""
        self.patterns.update(forms(name, secret))

    def keep(self, where: str, text: bytes) -> None:
        """Something that was said, to be searched when all secrets are known."""
        self.said.append((where, text))

    def search(self, where: str, data: bytes) -> None:
        """Look for every secret."""
        self.searched += len(data)
        self.violations += [f"{name} in {where}" for name, pattern in self.patterns.items() if pattern in data]

    def search_all(self, folder: Path) -> None:
        """Look through all that was said, and through every file that is not there to hold secrets."""
        for where, text in self.said:
            self.search(where, text)
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name not in HOLDERS:
                self.search(str(path.relative_to(folder)), path.read_bytes())

    def line(self) -> str:
        """The figures."""
        return (
            f"rig-secrets: {len(self.patterns)} forms of secrets, "
            f"{len(self.said)} outputs, {self.searched} bytes with all files; {len(self.violations)} hits"
        )


def allow_cores() -> None:
    """In a process that is about to start: cores of any size, if it does not think better of it itself."""
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def core_is_a_file() -> bool:
    """Whether the kernel writes cores into the folder of who dies, where they can be looked for (core(5))."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    return not pattern.startswith("|") and "/" not in pattern


class Day:
    """Commands in one folder, each of which is searched."""

    def __init__(self, folder: Path, log_format: str) -> None:
        folder.mkdir()
        self.folder, self.findings, self._format = folder, Findings(), log_format
        self.settings = str(folder / "server.toml")
        self.environment = ENVIRONMENT | {"FTPY_CONFIG": str(folder / "client.toml"), "FTPY_DEBUG": "1"}
        self.environment["FTPY_SERVER"] = "home"

    def run(self, name: str, *arguments: str, stdin: str = "", code: int | None = 0, is_token: bool = False) -> str:
        """Run a command to its end: its standard output. ``is_token``: that is a secret, and is there to be one."""
        with self._started(name, *arguments) as process:
            try:
                out, err = process.communicate(stdin.encode(), timeout=COMMAND_SECONDS)
            finally:
                if process.poll() is None:
                    kill(process)
        where = f"{name} {' '.join(arguments[:2])}"
        assert code is None or process.returncode == code, (where, process.returncode, err.decode())
        self.findings.keep(f"standard error of {where}", err)
        if not is_token:
            self.findings.keep(f"standard output of {where}", out)
        return out.decode()

    @contextlib.contextmanager
    def _started(self, name: str, *arguments: str, stderr: int = subprocess.PIPE) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen(
            [program(name), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=self.folder,
            env=self.environment,
            preexec_fn=allow_cores,
        )
        for what in ("cmdline", "environ"):
            with contextlib.suppress(FileNotFoundError):
                self.findings.keep(f"{what} of {name}", Path(f"/proc/{process.pid}/{what}").read_bytes())
        with process:
            yield process

    @contextlib.contextmanager
    def serving(self) -> Iterator[subprocess.Popen[bytes]]:
        """A server that says as much as it can."""
        log = self.folder / "log"
        log.touch()
        before = log.read_bytes().count(b"listening")
        with (
            open(log, "ab") as said,
            self._started("ftpy-server", "run", "-c", self.settings, stderr=said.fileno()) as it,
        ):
            try:
                eventually(lambda: log.read_bytes().count(b"listening") > before or it.poll() is not None)
                assert it.poll() is None, log.read_text()
                yield it
            finally:
                if it.poll() is None:
                    it.send_signal(signal.SIGTERM)
                    it.wait(COMMAND_SECONDS)

    # ---------------------------------------------------------------- the day

    def live(self) -> Findings:
        """Set up, serve, move files, fail in every way that has to do with secrets, die; then search."""
        token = self._set_up()
        with self.serving():
            self._move_files(token)
            self._meet_refusals(token)
        self._die_with_cores()
        self._break_files()
        self.findings.search_all(self.folder)
        return self.findings

    def _know(self, who: str, token: str) -> str:
        found = PairingToken.from_text(token)
        self.findings.know(f"the key of {who}", b64decode(found.key))
        self.findings.patterns[f"the token of {who}"] = token.strip().rpartition(".")[0].encode()
        return token

    def _know_files(self) -> None:
        users = json.loads((self.folder / "users.json").read_bytes())
        self.findings.know("the decoy key", b64decode(users["decoy_key"]))
        for user in users["users"]:
            for name in ("stored_key", "server_key"):
                self.findings.know(f"{name} of {user['name']}", b64decode(user[name]))
        lines = (self.folder / "private_key.pem").read_bytes().splitlines()[1:-1]
        self.findings.patterns |= {
            f"line {n} of the private key": line for n, line in enumerate(lines) if len(line) > 40
        }

    def _set_up(self) -> str:
        address = f"127.0.0.1:{held_port(self)}"
        as_root = ["--allow-root"] if AS_ROOT else []
        token = self.run("ftpy-server", "init", ".", "--listen", address, "--user", "alice", *as_root, is_token=True)
        settings = Path(self.settings)
        text = settings.read_text().replace('level = "info"', 'level = "debug"')
        settings.write_text(text.replace('format = "text"', f'format = "{self._format}"'))
        self._know_files()
        return self._know("alice", token)

    def _move_files(self, token: str) -> None:
        (self.folder / "small").write_bytes(b"small")
        (self.folder / "large").write_bytes(bytes(9 * 1024 * 1024))
        self.run("ftpy", "pair", "home", stdin=token)
        self.run("ftpy", "pair", "home", stdin=token, code=2)  # there is one already
        for arguments in (
            ["put", "small", "large", "in/"],
            ["put", "--json", "small"],
            ["ls", "-l"],
            ["ls", "--json"],
            ["stat", "in/large"],
        ):
            self.run("ftpy", *arguments)
        self.run("ftpy", "get", "--force", "in/small", "in/large", ".")
        self.run("ftpy", "get", "nothing", code=1)
        self.run("ftpy", "put", "--json", "nothing", code=1)

    def _meet_refusals(self, token: str) -> None:
        """Tokens that are damaged or old, and passed in every wrong way."""
        half = token.strip()[: len(token) // 2]
        for damaged in (half, token.strip()[:-1], token.strip().swapcase(), token.strip() + token, "\n"):
            self.run("ftpy", "pair", "other", stdin=damaged, code=None)
        bob = self.run("ftpy-server", "user", "add", "bob", "-c", self.settings, is_token=True)
        self._know("bob", bob)
        self.run("ftpy", "pair", "bob", stdin=bob)
        self._know("bob, later", self.run("ftpy-server", "user", "rotate", "bob", "-c", self.settings, is_token=True))
        self._know_files()
        eventually(lambda: b"users-read" in (self.folder / "log").read_bytes())
        self.run("ftpy", "ls", "-s", "bob", code=4)
        self.run("ftpy", "ls", "--json", "-s", "bob", code=4)
        self.run("ftpy-server", "user", "list", "--json", "-c", self.settings)
        self.run("ftpy-server", "check-config", "-c", self.settings)

    def _die_with_cores(self) -> None:
        """Both ends abort in the middle of a put, with cores allowed."""
        with self.serving() as server:
            with self._started("ftpy", "put", "--limit", "1M", "large", "again") as client:
                uploads = self.folder / "files" / ".ftpy" / "uploads"
                eventually(lambda: any(uploads.glob("*.journal")) or client.poll() is not None, COMMAND_SECONDS)
                assert client.poll() is None, client.communicate()
                client.send_signal(signal.SIGABRT)
                client.wait(COMMAND_SECONDS)
            server.send_signal(signal.SIGABRT)
            server.wait(COMMAND_SECONDS)
        assert (client.returncode, server.returncode) == (-signal.SIGABRT, -signal.SIGABRT)
        self.findings.violations += [f"a core was left: {path.name}" for path in self.folder.glob("core*")]

    def _break_files(self) -> None:
        """Every file with a secret in it, damaged where the secret stands."""
        client, users, key = (self.folder / name for name in HOLDERS)
        for path, command in (
            (client, ("ftpy", "ls")),
            (users, ("ftpy-server", "check-config", "-c", self.settings)),
            (key, ("ftpy-server", "check-config", "-c", self.settings)),
        ):
            whole = path.read_text()
            for damage in _DAMAGE.values():
                path.write_text(damage(whole))
                path.chmod(0o600)
                self.run(*command, code=None)
            path.write_text(whole)


_LONG = re.compile(r"[A-Za-z0-9_+/-]{43,}")
_DAMAGE: dict[str, Callable[[str], str]] = {
    "cut off in the middle of a secret": lambda text: text[: _LONG.search(text).end() - 5],  # type: ignore[union-attr]
    "one character more": lambda text: _LONG.sub(lambda match: match[0] + "A", text),
    "one character that cannot be": lambda text: _LONG.sub(lambda match: "*" + match[0][1:], text),
    "a line end inside": lambda text: _LONG.sub(lambda match: match[0][:30] + "\n" + match[0][30:], text),
    "a quote before": lambda text: _LONG.sub(lambda match: '"' + match[0], text),
}


def planted(patterns: Mapping[str, bytes], folder: Path) -> None:
    """For the control: a file for each form of each secret."""
    for number, pattern in enumerate(patterns.values()):
        (folder / f"planted-{number}").write_bytes(b"before " + pattern + b" after")
