"""Where a server lives while it is measured, and the programs on this machine."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 20.0
"""How long a server may take until it accepts a connection, and any of its preparations."""
MODULES = ("pyftpdlib",)
"""What is no program of its own but a module of Python's: what is found is an interpreter that can import it."""


class Failed(Exception):
    """Something that a contender needs did not work; the text says what."""


@dataclass(frozen=True)
class Site:
    """One server's place: its folder, the folder it serves, its port, the programs by name.

    ``line_port``: where clients reach it, if that is not its own port. ``workers``: that setting of ftpy's server.
    """

    folder: Path
    port: int
    programs: Mapping[str, str]
    line_port: int | None = None
    workers: int | None = None

    @property
    def reach(self) -> int:
        """The port for clients."""
        return self.port if self.line_port is None else self.line_port

    @property
    def files(self) -> Path:
        """What is served."""
        return self.folder / "files"

    @property
    def env(self) -> dict[str, str]:
        """The environment of both ends: nothing of the caller's settings but where programs are."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C.UTF-8",
            "HOME": str(self.folder),
            "FTPY_CONFIG": str(self.folder / "client.toml"),
        }

    def write(self, name: str, settings: str) -> str:
        """Write a file of settings, lines without their indentation: its path."""
        path = self.folder / name
        path.write_text("".join(f"{line.strip()}\n" for line in settings.strip().splitlines()))
        return str(path)

    def run(self, *argv: str, text: str = "") -> str:
        """Run a program to its end: its standard output. Raises Failed."""
        done = subprocess.run(
            argv, input=text, env=self.env, capture_output=True, text=True, timeout=START_SECONDS, check=False
        )
        if done.returncode:
            raise Failed(f"{Path(argv[0]).name} ended with {done.returncode}: {last_line(done.stderr)}")
        return done.stdout


def find_program(name: str) -> str | None:
    """ftpy's own from .venv beside this script, else from $PATH; servers also where only root's $PATH leads."""
    if name in MODULES:
        return _find_module(name)
    own = _own_folder() / name
    if name.startswith("ftpy") and os.access(own, os.X_OK):
        return str(own)
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
    return os.path.abspath(found) if found else None  # sshd insists on an absolute path


def _own_folder() -> Path:
    return Path(__file__).resolve().parent.parent.parent / ".venv" / "bin"


def _find_module(name: str) -> str | None:
    """An interpreter that can import it: of .venv, the one that runs this, or the first in $PATH."""
    for python in (str(_own_folder() / "python"), sys.executable, shutil.which("python3")):
        if python and os.access(python, os.X_OK):
            tried = [python, "-W", "ignore", "-c", f"import {name}"]
            if not subprocess.run(tried, capture_output=True, timeout=START_SECONDS, check=False).returncode:
                return python
    return None


def free_port() -> int:
    """A port that nobody has just now, below those that systems give out, so that nobody is given it meanwhile."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", random.randrange(21_000, 32_000)))
            return int(probe.getsockname()[1])


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
