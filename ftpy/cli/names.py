"""What people mean by the paths that they type: like cp, on either side."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import click

from ftpy.cli.working import shell, shown
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
    from click.shell_completion import CompletionItem

    from ftpy.client.client import Client


class RemotePathType(click.ParamType):  # type: ignore[type-arg]
    """A path on the server, or a pattern of paths, as it was typed: the type of every argument and option that is one.

    The text stays as it is, with slashes at its ends and glob characters: ``remote_path`` and ``expanded`` read it.
    Where ``then_local``, the last of several may be one on this side, as of get.
    """

    name = "remote path"

    def __init__(self, *, then_local: bool = False) -> None:
        self._then_local = then_local

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        """The text."""
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """What is there on the server; none where that cannot be told soon."""
        from ftpy.cli.completing import local_names, remote_names

        items = remote_names(ctx.params.get("server"), incomplete)
        return items + local_names(incomplete) if self._then_local and ctx.params.get(param.name or "") else items


class LocalPathType(click.ParamType):  # type: ignore[type-arg]
    """A path on this side as it was typed; where ``then_remote``, the last of several is one on the server."""

    name = "path"

    def __init__(self, *, then_remote: bool = False, kind: Literal["file", "dir"] = "file") -> None:
        self._then_remote, self._kind = then_remote, kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        """The text."""
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """What the shell itself finds; together with what is on the server it is looked for here."""
        from click.shell_completion import CompletionItem

        from ftpy.cli.completing import local_names, remote_names

        if not (self._then_remote and ctx.params.get(param.name or "")):
            return [CompletionItem(incomplete, type=self._kind)]
        return remote_names(ctx.params.get("server"), incomplete) + local_names(incomplete)


REMOTE_PATH = RemotePathType()
LOCAL_PATH = LocalPathType()
LOCAL_FOLDER = LocalPathType(kind="dir")
GET_PATHS = RemotePathType(then_local=True)
PUT_PATHS = LocalPathType(then_remote=True)


def split(paths: tuple[str, ...]) -> tuple[list[str], str | None]:
    """Sources and destination, as cp reads them."""
    return (list(paths), None) if len(paths) == 1 else (list(paths[:-1]), paths[-1])


def remote_path(text: str) -> RemotePath:
    """A remote path as people type it: a slash before it or behind it means nothing more, `.` is the root.

    In a shell it starts in the folder where that is, unless there is a slash before it.
    """
    if (here := shell()) is not None:
        return RemotePath.parse(here.resolve(text))
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
        if found := client.glob(_pattern(text)):
            return found
        raise NoMatch(f"{display(text)}: {NoMatch.sentence()}") from None
    except PermissionDenied:
        pass
    return None


def _pattern(text: str) -> str:
    """A pattern as people type it, from the root; a shell's folder has letters in its names that mean themselves."""
    if (here := shell()) is not None:
        import glob

        return here.resolve(text, glob.escape)
    return str(remote_path(text))


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
    client: Client,
    typed: Iterable[str],
    *,
    literal: bool = False,
    outermost: bool = False,
    listed: dict[RemotePath, FileInfo] | None = None,
) -> Iterator[Named | tuple[str, FtpyError]]:
    """What each of several texts means, or why it means nothing. What patterns mean comes once.

    ``literal``: no text is a pattern. ``outermost``: what is below another match is left out, as it goes with that.
    What was found is noted in ``listed``. Raises what ends a connection for good.
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
                if listed is not None:
                    listed[info.path] = info
                yield shown(info.path), info.path


def is_remote_folder(client: Client, dest: str | None, sources: int, *, exact: bool = False) -> bool:
    """Whether the files go into DEST under their own names; ``exact``: only where that is written."""
    if dest is None or dest.endswith("/") or sources > 1 or remote_path(dest) in (RemotePath(), remote_path("")):
        return True
    if exact:
        return False
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
        return remote.name or "."  # of the root, which has no name
    if os.path.isdir(dest) or dest.endswith(("/", os.sep)):
        return os.path.join(dest, remote.name)
    if sources > 1:
        raise click.UsageError(f"{display(dest)} is not a folder")
    return dest
