"""``ftpy df``, ``du``, ``find`` and ``tree``: what there is, summed up, searched and drawn."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import click

from ftpy.cli.names import REMOTE_PATH, expand_one, expanded, remote_path
from ftpy.cli.options import examples, json_option, literal_option, server_option
from ftpy.cli.output import count, fields, print_info, print_json, size_of
from ftpy.cli.quantities import Moment, Size
from ftpy.cli.transfers import client_of, each
from ftpy.cli.words import SERVER
from ftpy.cli.working import shown
from ftpy.files import display

if TYPE_CHECKING:
    from ftpy.client.client import Client
    from ftpy.client.results import Room
    from ftpy.files import FileInfo, FileType, RemotePath

human_option = click.option("-h", "--human", is_flag=True, help="Sizes such as 1.4 GiB, not bytes.")
NO_SHORT_HELP = {"help_option_names": ["--help"]}
"""For commands whose -h is not help, as people know them."""


@click.command(context_settings=NO_SHORT_HELP, epilog=examples("ftpy df -h", "ftpy df --json | jq .free_bytes"))
@human_option
@json_option
@server_option
def df(*, human: bool, as_json: bool, server: str | None) -> None:
    """Say how much room there is: on the host's disk, and of this user's quota if there is one.

    Bytes, and files and folders. What is free is what the server can fill; where nobody counts, - is said.
    """
    with client_of(server) as client:
        room = client.df()
    if as_json:
        import msgspec

        print_json({**msgspec.structs.asdict(room), "free_bytes": room.free_bytes, "free_files": room.free_files})
        return
    spell = size_of if human else str
    click.echo(f"{'':12}{'size':>16}{'used':>16}{'free':>16}  use%")
    for name, size, used, free in _rows(room):
        columns = [spell(number) if "files" not in name else str(number) for number in (size, used, free)]
        share = f"{-(-100 * used // size):4}%" if size else "    -"
        click.echo(f"{name:12}" + "".join(f"{column:>16}" for column in columns) + f"  {share}")


def _rows(room: Room) -> list[tuple[str, int, int, int]]:
    """What is limited: size, used, free."""
    rows = []
    for name, size, free in (
        ("disk", room.disk_bytes, room.disk_free_bytes),
        ("disk files", room.disk_files, room.disk_free_files),
    ):
        if size is not None and free is not None:
            rows.append((name, size, size - free, free))
    for name, size, used in (
        ("quota", room.quota_bytes, room.used_bytes),
        ("quota files", room.quota_files, room.used_files),
    ):
        if size is not None:
            rows.append((name, size, used or 0, max(0, size - (used or 0))))
    return rows


@click.command(
    context_settings=NO_SHORT_HELP, epilog=examples("ftpy du -h photos", "ftpy du -sh '*'", "ftpy du -h -d 1 backup")
)
@click.argument("paths", nargs=-1, type=REMOTE_PATH, metavar="[PATH]...")
@human_option
@click.option("-s", "--summarize", is_flag=True, help="Only each PATH itself.")
@click.option("-d", "--max-depth", type=click.IntRange(0), metavar="N", help="Only folders so far below PATH.")
@literal_option
@json_option
@click.option("--server", type=SERVER, metavar="NAME", help="Which paired server; -s means something else here.")
def du(
    *,
    paths: tuple[str, ...],
    human: bool,
    summarize: bool,
    max_depth: int | None,
    literal: bool,
    as_json: bool,
    server: str | None,
) -> int:
    """Sum up folders on the server: the sizes of all files below each, in bytes. PATH may be a pattern.

    Those in a folder come before it, PATH itself comes last. A total is only shown when all that it is of was listed.
    """
    if summarize and max_depth is not None:
        raise click.UsageError("-s and -d exclude each other")
    most = 0 if summarize else math.inf if max_depth is None else max_depth

    def one(client: Client, _: str, path: RemotePath) -> None:
        for total in client.du(path):
            if len(total.path.parts) - len(path.parts) > most:
                continue
            if as_json:
                facts = {"size": total.size, "files": total.files, "folders": total.folders}
                print_json({"path": str(total.path), **facts})
            else:
                size = size_of(total.size) if human else str(total.size)
                click.echo(f"{size}\t{display(shown(total.path)) or '.'}")

    with client_of(server) as client:
        found = expanded(client, paths or ("",), literal=literal)
        return each(found, functools.partial(one, client), as_json=as_json)


TYPES: dict[str, FileType] = {"f": "file", "d": "directory", "l": "symlink"}
"""What people call them."""


@click.command(
    epilog=examples(
        "ftpy find --name '*.iso' --larger 1G",
        "ftpy find logs --type f --older 30d --json | jq -r .path",
        "ftpy find -l 'backup/*' --newer 2024-05-01",
    )
)
@click.argument("paths", nargs=-1, type=REMOTE_PATH, metavar="[PATH]...")
@click.option("--name", metavar="PATTERN", help="The last part of the path, as '*.gz'; dots are letters like others.")
@click.option("--type", "types", multiple=True, type=click.Choice(list(TYPES)), help="Files, folders (d) or links.")
@click.option("--larger", "least", type=Size(), default=0, help="Files of this size, such as 10M, or larger.")
@click.option("--smaller", "most", type=Size(), help="Files of this size or smaller.")
@click.option(
    "--newer", "since", type=Moment(), help="Changed since: a date, or how long ago by the clock here, as 7d."
)
@click.option("--older", "until", type=Moment(), help="Not changed since.")
@click.option("-l", "--long", is_flag=True, help="Type and mode, size in bytes, time, name.")
@literal_option
@json_option
@server_option
def find(
    *,
    paths: tuple[str, ...],
    name: str | None,
    types: tuple[str, ...],
    least: int,
    most: int | None,
    since: int | None,
    until: int | None,
    long: bool,
    literal: bool,
    as_json: bool,
    server: str | None,
) -> int:
    """Find what fits below folders on the server; all that is said must be so. PATH may be a pattern.

    Nothing is printed before the listing is complete, so that what reads it never acts on half of one. Names are shown
    escaped; programs read --json.
    """
    from ftpy.client.surveying import Wanted

    wanted = Wanted(
        name=name,
        types=frozenset(TYPES[letter] for letter in types),
        least_bytes=least,
        most_bytes=math.inf if most is None else most,
        since_ns=-math.inf if since is None else since,
        until_ns=math.inf if until is None else until,
    )

    def one(client: Client, _: str, path: RemotePath) -> None:
        for info in client.find(path, wanted):
            print_info(info, None, long=long, digest=False, as_json=as_json)

    with client_of(server) as client:
        found = expanded(client, paths or ("",), literal=literal)
        return each(found, functools.partial(one, client), as_json=as_json)


@click.command(epilog=examples("ftpy tree", "ftpy tree -L 2 backup", "ftpy tree -d --json | jq -r .path"))
@click.argument("path", default="", type=REMOTE_PATH, metavar="[PATH]")
@click.option("-L", "--level", type=click.IntRange(1), metavar="N", help="Only so far below PATH.")
@click.option("-d", "--folders", "only_folders", is_flag=True, help="Only folders.")
@literal_option
@json_option
@server_option
def tree(*, path: str, level: int | None, only_folders: bool, literal: bool, as_json: bool, server: str | None) -> None:
    """Draw what is below a folder on the server as a tree. PATH may be a pattern that means one folder."""
    counts = {True: 0, False: 0}
    with client_of(server) as client:
        where = remote_path(path) if literal else expand_one(client, path)
        deepest = len(where.parts) + level if level is not None else math.inf

        def kept(info: FileInfo) -> bool:
            return len(info.path.parts) <= deepest and (info.type == "directory" or not only_folders)

        top = f"{display(shown(where)) or '.'}"
        for branch in client.tree(where, kept):
            folder = branch.info.type == "directory"
            counts[folder] += 1
            if as_json:
                print_json({**fields(branch.info), "depth": branch.depth})
                continue
            if top:
                click.echo(top)
                top = ""
            click.echo(f"{branch.prefix}{display(branch.info.path.name)}{'/' * folder}")
    if not as_json:
        if top:
            click.echo(top)
        files = "" if only_folders else f", {count(counts[False], 'file')}"
        click.echo(f"\n{count(counts[True], 'folder')}{files}")
