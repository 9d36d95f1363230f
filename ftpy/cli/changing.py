"""``ftpy mkdir``, ``touch``, ``rm`` and ``mv``: a path after the other; what fails is said and stops no other."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal

import click

from ftpy.cli.names import REMOTE_PATH, expanded, is_remote_folder, remote_target
from ftpy.cli.options import examples, json_option, literal_option, quiet_option, server_option
from ftpy.cli.output import count, print_json, when
from ftpy.cli.quantities import Moment
from ftpy.cli.transfers import Places, client_of, each
from ftpy.cli.working import shown
from ftpy.errors import NoMatch, NotFound
from ftpy.files import FileInfo, RemotePath, display

if TYPE_CHECKING:
    from ftpy.client.client import Client
    from ftpy.client.results import Moved, Removed


@click.command(epilog=examples("ftpy mkdir photos", "ftpy mkdir -p backup/2024/05"))
@click.argument("paths", nargs=-1, required=True, type=REMOTE_PATH, metavar="PATH...")
@click.option("-p", "--parents", is_flag=True, help="Those above it too; and it may be there already.")
@quiet_option
@json_option
@server_option
def mkdir(*, paths: tuple[str, ...], parents: bool, quiet: bool, as_json: bool, server: str | None) -> int:
    """Make folders on the server; they are on disk when this says so. PATH is never a pattern."""

    def one(client: Client, source: str, path: RemotePath) -> None:
        client.mkdir(path, parents=parents)
        if as_json:
            _print(source, path=str(path))
        elif not quiet:
            click.echo(f"{display(shown(path))}: there, a folder" if parents else f"{display(shown(path))}: made")

    with client_of(server) as client:
        return each(expanded(client, paths, literal=True), functools.partial(one, client), as_json=as_json)


@click.command(
    epilog=examples("ftpy touch flags/ready", "ftpy touch -c -d 2024-05-01T12:00 report.pdf", "ftpy touch -d 3h a b")
)
@click.argument("paths", nargs=-1, required=True, type=REMOTE_PATH, metavar="PATH...")
@click.option("-c", "--no-create", is_flag=True, help="Make no file where nothing is; that is an error then.")
@click.option("-d", "--date", "moment", type=Moment(), help="This time, not now: a date, or how long ago, as 3h or 7d.")
@quiet_option
@json_option
@server_option
def touch(
    *,
    paths: tuple[str, ...],
    no_create: bool,
    moment: int | None,
    quiet: bool,
    as_json: bool,
    server: str | None,
) -> int:
    """Give files and folders on the server another time, or make empty files, with their folders.

    Without -d it is the server's clock that says what time it is now. PATH is never a pattern.
    """

    def one(client: Client, source: str, path: RemotePath) -> None:
        touched = client.touch(path, moment, create=not no_create)
        if as_json:
            _print(source, path=str(path), mtime_ns=touched.mtime_ns, created=touched.created)
        elif not quiet:
            click.echo(f"{display(shown(path))}: {'made, empty, ' if touched.created else ''}{when(touched.mtime_ns)}")

    with client_of(server) as client:
        return each(expanded(client, paths, literal=True), functools.partial(one, client), as_json=as_json)


@click.command(epilog=examples("ftpy rm report.pdf", "ftpy rm -r photos/2019 photos/2020", "ftpy rm 'logs/*.gz'"))
@click.argument("paths", nargs=-1, required=True, type=REMOTE_PATH, metavar="PATH...")
@click.option("-r", "--recursive", is_flag=True, help="Folders, with all that is below them.")
@click.option("-f", "--force", is_flag=True, help="What is not there is no error.")
@literal_option
@quiet_option
@json_option
@server_option
def rm(
    *,
    paths: tuple[str, ...],
    recursive: bool,
    force: bool,
    literal: bool,
    quiet: bool,
    as_json: bool,
    server: str | None,
) -> int:
    """Remove files and empty folders on the server, with -r any folder.

    PATH may be a pattern ('logs/*.gz', '**/*.tmp', quoted for your shell): it means what the server lists completely,
    and where something has exactly that name, that alone.

    There is no question and no way back. What is removed is gone for good when this says so: a folder at once and
    whole. Links are removed themselves, never what they lead to.
    """

    listed: dict[RemotePath, FileInfo] = {}

    def one(client: Client, source: str, path: RemotePath) -> None:
        try:
            removed = client.rm(path, recursive=recursive, listed=listed.get(path))
        except NotFound:
            if not force:
                raise
            if as_json:
                _print(source, path=str(path), files=0, folders=0, durable=True)
            return
        if as_json:
            _print(
                source,
                path=str(removed.path),
                files=removed.files,
                folders=removed.folders,
                durable=removed.durable,
            )
        elif not quiet:
            click.echo(f"{display(shown(removed.path))}: {_what_went(removed)}")

    with client_of(server) as client:
        # All that patterns mean is known before anything goes.
        found = list(expanded(client, paths, literal=literal, outermost=recursive, listed=listed))
        if force:
            found = [named for named in found if not isinstance(named[1], NoMatch)]
        return each(found, functools.partial(one, client), as_json=as_json)


@click.command(
    epilog=examples("ftpy mv draft.pdf final.pdf", "ftpy mv a.jpg b.jpg photos/", "ftpy mv --if-absent new current")
)
@click.argument("paths", nargs=-1, required=True, type=REMOTE_PATH, metavar="SOURCE... TARGET")
@click.option("--if-absent", is_flag=True, help="Refuse where TARGET exists already.")
@literal_option
@quiet_option
@json_option
@server_option
def mv(
    *, paths: tuple[str, ...], if_absent: bool, literal: bool, quiet: bool, as_json: bool, server: str | None
) -> int:
    """Give files and folders on the server another name or place there.

    As mv does it: into TARGET where that is a folder or ends in /, else as TARGET. A file that is there is replaced at
    once, a folder never; folders on the way are not made. A SOURCE may be a pattern, as of rm.
    """
    if len(paths) < 2:
        raise click.UsageError("a source and a target are needed")
    *sources, target = paths
    condition: Literal["absent"] | None = "absent" if if_absent else None
    listed: dict[RemotePath, FileInfo] = {}
    places = Places(replaces=not if_absent)

    def one(client: Client, folder: bool, source: str, path: RemotePath) -> None:
        to = remote_target(str(path), target, folder)
        with places.taken(to, source):
            moved = client.mv(path, to, condition=condition, listed=listed.get(path))
        if as_json:
            _print(source, path=str(moved.path), to=str(moved.to), durable=moved.durable)
        elif not quiet:
            click.echo(f"{display(shown(moved.path))}: {_where_it_is(moved)}")

    with client_of(server) as client:
        found = list(expanded(client, sources, literal=literal, outermost=True, listed=listed))
        folder = is_remote_folder(client, target, max(len(sources), len(found)))
        return each(found, functools.partial(one, client, folder), as_json=as_json)


def _print(source: str, **fields: object) -> None:
    print_json({"source": source, "ok": True, **fields})


def _what_went(removed: Removed) -> str:
    if removed.files is None or removed.folders is None:
        return "gone (the server's answer was lost)"
    if not removed.folders:
        return "removed"
    if removed.folders == 1 and not removed.files:
        return "removed, an empty folder"
    return f"removed, {count(removed.files, 'file')} and {count(removed.folders, 'folder')}"


def _where_it_is(moved: Moved) -> str:
    return f"now {display(shown(moved.to))}" + ("" if moved.durable else " (the server's answer was lost)")
