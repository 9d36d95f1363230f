"""``ftpy df``, ``du``, ``find`` and ``tree``: what there is, summed up, searched and drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ftpy.cli.options import examples, json_option, server_option
from ftpy.cli.output import print_json, size_of
from ftpy.cli.transfers import client_of

if TYPE_CHECKING:
    from ftpy.client.results import Room

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
    shown = size_of if human else str
    click.echo(f"{'':12}{'size':>16}{'used':>16}{'free':>16}  use%")
    for name, size, used, free in _rows(room):
        columns = [shown(number) if "files" not in name else str(number) for number in (size, used, free)]
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
