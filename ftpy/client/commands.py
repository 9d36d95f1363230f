"""The part of ``Client`` that has the host run commands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, BinaryIO

from ftpy.client.base import Base

if TYPE_CHECKING:
    from ftpy.client.running import CommandInfo, Run


class Commands(Base):
    """What the host lets this user run."""

    def commands(self) -> list[CommandInfo]:
        """The commands that this user may run, by name. Raises Unsupported for an older server."""
        from ftpy.client.running import list_commands

        return self._persist(list_commands)

    def run(self, command: str, arguments: Iterable[str] = (), *, stdin: bytes | BinaryIO | None = None) -> Run:
        """Run a command of the host's; use it in a ``with``, and iterate over it for what it says.

        It has begun when this returns. ``stdin`` is read only where the command takes input. It is never asked for
        twice; leaving the ``with`` before its end ends it, with the connection.
        Raises UnknownCommand, InvalidArgument, CommandFailed, Busy, OutcomeUnknown, ….
        """
        from ftpy.client.running import Run

        return Run(self._line, command, list(arguments), stdin, self._transfer.stall_seconds)
