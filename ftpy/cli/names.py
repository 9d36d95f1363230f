"""What people mean by the paths that they type: like cp, on either side."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from ftpy.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    FtpyError,
    NoMatch,
    NotADirectory,
    NotFound,
    PermissionDenied,
)
from ftpy.files import FileInfo, RemotePath, check_portable, display

if TYPE_CHECKING:
    from ftpy.client.client import Client


class RemotePathType(click.ParamType):  # type: ignore[type-arg]
    """A path on the server, or a pattern of paths, as it was typed: the type of every argument and option that is one.

    The text stays as it is, with slashes at its ends and glob characters: ``remote_path`` and ``expanded`` read it.
    Completion of remote names in shells goes here, as ``shell_complete``, and so reaches every command.
    """

    name = "remote path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        """The text."""
        return str(value)


REMOTE_PATH = RemotePathType()


def split(paths: tuple[str, ...]) -> tuple[list[str], str | None]:
    """Sources and destination, as cp reads them."""
    return (list(paths), None) if len(paths) == 1 else (list(paths[:-1]), paths[-1])


def remote_path(text: str) -> RemotePath:
    """A remote path as people type it: a slash before it or behind it means nothing more, `.` is the root."""
    trimmed = text.removeprefix("/").removesuffix("/")
    return RemotePath.parse("" if trimmed == "." else trimmed)


def matches(client: Client, text: str) -> list[FileInfo] | None:
    """What a pattern means, in order; None where the text names one path. Raises NoMatch.

    What is there by exactly this name is meant and nothing else, and so it is where nobody may look.
    """
    from ftpy.client.globbing import is_pattern

    if not is_pattern(text):
        return None
    path = remote_path(text)
    try:
        client.stat(path)
    except (NotFound, NotADirectory):
        if found := client.glob(str(path)):
            return found
        raise NoMatch(f"{display(text)}: {NoMatch.sentence()}") from None
    except PermissionDenied:
        pass
    return None


def expand(client: Client, text: str) -> list[RemotePath]:
    """The paths that somebody means who typed this: one, or those that match a pattern, in order. Raises NoMatch."""
    found = matches(client, text)
    return [remote_path(text)] if found is None else [info.path for info in found]


def expand_one(client: Client, text: str) -> RemotePath:
    """The one path that somebody means who typed this. Raises NoMatch, UsageError."""
    found = expand(client, text)
    if len(found) > 1:
        raise click.UsageError(f"{display(text)} matches {len(found)} files, and one is needed")
    return found[0]


Named = tuple[str, RemotePath]
"""A path, and what it is called for the person who asked for it."""


def expanded(
    client: Client, typed: Iterable[str], *, literal: bool = False, outermost: bool = False
) -> Iterator[Named | tuple[str, FtpyError]]:
    """What each of several texts means, or why it means nothing. What patterns mean comes once.

    ``literal``: no text is a pattern. ``outermost``: what is below another match is left out, as it goes with that.
    Raises what ends a connection for good.
    """
    from ftpy.client.globbing import outermost as outermost_of

    seen: set[RemotePath] = set()
    for text in typed:
        try:
            path, found = remote_path(text), None if literal else matches(client, text)
        except (ConnectionFailed, AuthenticationFailed):
            raise
        except FtpyError as error:
            yield text, error
            continue
        if found is None:
            yield text, path
            continue
        for info in outermost_of(found) if outermost else found:
            if info.path not in seen:
                seen.add(info.path)
                yield str(info.path), info.path


def is_remote_folder(client: Client, dest: str | None, sources: int) -> bool:
    """Whether the files go into DEST under their own names."""
    if dest is None or dest.endswith("/") or sources > 1 or remote_path(dest) == RemotePath():
        return True
    try:
        return client.stat(remote_path(dest)).type == "directory"
    except (NotFound, PermissionDenied):  # who may only put cannot look: DEST is the file's name
        return False


def remote_target(source: str, dest: str | None, folder: bool) -> RemotePath:
    """Where ``source`` goes: into DEST under its own name, or as DEST; ``.`` and ``..`` name nothing themselves."""
    base, name = remote_path(dest or ""), os.path.basename(os.path.normpath(source))
    return base / name if folder and name not in ("", ".", "..") else base


def local_target(remote: RemotePath, dest: str | None, sources: int) -> str:
    """The file on this side; a server's name is one legal component, and on Windows legal there, too."""
    if os.name == "nt":
        check_portable(RemotePath((remote.name,)))
    if dest is None:
        return remote.name
    if os.path.isdir(dest) or dest.endswith(("/", os.sep)):
        return os.path.join(dest, remote.name)
    if sources > 1:
        raise click.UsageError(f"{display(dest)} is not a folder")
    return dest
