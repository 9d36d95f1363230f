"""What the commands of one shell have in common: a folder on the server that relative paths start in, a connection.

Outside of ``ftpy shell`` there is no such thing: every path starts in the user's root, every command connects.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ftpy.errors import FtpyError, NoMatch
from ftpy.files import RemotePath, display

if TYPE_CHECKING:
    from ftpy.client.client import Client


class Working:
    """Where a shell is, and the connection that its commands take one after the other. Used by one thread."""

    def __init__(self, server: str) -> None:
        self.server = server
        """The paired server that commands mean which name none."""
        self.folder = RemotePath()
        self._client: Client | None = None
        self._say: Callable[[str], object] = display

    def resolve(self, text: str, spelled: Callable[[str], str] = str) -> str:
        """A path or pattern as it was typed, from the root; ``spelled`` is how the folder's own names are written.

        ``..`` is the folder above: here a person says it, of a folder that was found before, and never the wire.
        """
        parts = [] if text.startswith("/") else [spelled(part) for part in self.folder.parts]
        trimmed = text.removeprefix("/").removesuffix("/")
        for part in trimmed.split("/") if trimmed else ():
            if part == "..":
                del parts[-1:]
            elif part != ".":
                parts.append(part)
        return "/".join(parts)

    @contextlib.contextmanager
    def client(self, say: Callable[[str], None]) -> Iterator[Client]:
        """The shell's client, connected; what broke off in the middle of something is not used again."""
        from ftpy.client.client import Client

        self._say = say
        client = self._client or Client.paired(self.server, self._tell)
        self._client = client
        try:
            client.rest()
            client.__enter__()  # and no exit: the next command may have it
            yield client
        except FtpyError:
            raise
        except BaseException:
            self.close()
            raise

    def _tell(self, line: str) -> None:
        """Tell it as the command that runs now does."""
        self._say(line)

    def close(self) -> None:
        """Close the connection; the next command makes another."""
        client, self._client = self._client, None
        if client is not None:
            client.close()


_shell: Working | None = None


@contextlib.contextmanager
def working(shell: Working) -> Iterator[None]:
    """Until the end of this, commands are those of a shell."""
    global _shell  # noqa: PLW0603  (one process is one shell at most)
    _shell = shell
    try:
        yield
    finally:
        _shell = None
        shell.close()


def shell() -> Working | None:
    """The shell that commands are typed into, if it is one."""
    return _shell


def shown(path: RemotePath) -> str:
    """A path on the server as a person would type it: in a shell, from the folder where that is."""
    if _shell is None:
        return str(path)
    depth = len(_shell.folder.parts)
    if path.parts[:depth] == _shell.folder.parts:
        return "/".join(path.parts[depth:]) or "."
    return f"/{path}"


def local_names(typed: list[str]) -> list[str]:
    """Paths on this side as a command means them. In ftpy's shell there is no other that expands patterns before.

    Raises NoMatch.
    """
    if _shell is None:
        return typed
    import glob

    names: list[str] = []
    for text in typed:
        if os.path.lexists(text) or not glob.has_magic(text):
            names.append(text)
        elif found := sorted(glob.glob(text)):
            names += found
        else:
            raise NoMatch(f"{display(text)}: nothing here matches this pattern")
    return names
