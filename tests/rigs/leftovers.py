"""Commands that are marked, and whatever is left of them on this machine."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field
from typing import Any

from ftpy.config.commands import Command
from tests.rig import eventually

VARIABLE = "FTPY_TEST_MARK"


@dataclass(frozen=True)
class Mark:
    """A variable that a command and all that it starts have in their environment."""

    value: str = field(default_factory=lambda: uuid.uuid4().hex)

    def command(self, *run: str, **settings: Any) -> Command:
        """A command for everybody that bears it."""
        return Command(run=run, environment={VARIABLE: self.value}, **{"users": ("*",)} | settings)

    def sh(self, script: str, **settings: Any) -> Command:
        """The same from a script; arguments are $1, $2…."""
        return self.command("sh", "-c", script, "sh", **settings)

    def left(self) -> list[str]:
        """What there is with this mark: the command line of each process, zombies too if they are ours to see."""
        wanted = f"{VARIABLE}={self.value}".encode()
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open(f"/proc/{name}/environ", "rb") as environ, open(f"/proc/{name}/cmdline", "rb") as line:
                        said = os.fsdecode(line.read().replace(b"\0", b" "))  # others' may hold any bytes
                        if wanted in environ.read().split(b"\0"):  # asked last: what dies in between has none left
                            found.append(said)
                except OSError:
                    continue
        return found

    def runs(self, processes: int = 1) -> None:
        """Wait until so many are there."""
        eventually(lambda: len(self.left()) >= processes, 30)

    def gone(self) -> None:
        """Wait until nothing is there."""
        eventually(lambda: not self.left(), 30)
