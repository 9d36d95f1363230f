"""``ftpy rollback``: back to the folder that was there before the last ``put -r --atomic``."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import click

from ftpy.cli.names import REMOTE_PATH, expanded
from ftpy.cli.options import examples, json_option, quiet_option, server_option
from ftpy.cli.output import print_json
from ftpy.cli.transfers import client_of, each
from ftpy.files import display

if TYPE_CHECKING:
    from ftpy.client.client import Client
    from ftpy.files import RemotePath


@click.command(epilog=examples("ftpy rollback www/site", "ftpy rollback --json www/site"))
@click.argument("paths", nargs=-1, required=True, type=REMOTE_PATH, metavar="PATH...")
@quiet_option
@json_option
@server_option
def rollback(*, paths: tuple[str, ...], quiet: bool, as_json: bool, server: str | None) -> int:
    """Go back to the folder that was at PATH before the last `ftpy put -r --atomic`, in one step.

    What is there now is kept in its turn: the same command again returns to it. PATH is never a pattern. One folder is
    kept for a PATH, until the next put --atomic or for as many days as the host says (trash_days).
    """

    def one(client: Client, source: str, path: RemotePath) -> None:
        back = client.rollback(path)
        if as_json:
            print_json({"source": source, "ok": True, "path": str(back.path), "replaced": back.replaced})
        elif not quiet:
            kept = "what was there is kept: the same again returns" if back.replaced else "nothing was there any more"
            click.echo(f"{display(str(back.path))}: back to the folder of before ({kept})")

    with client_of(server) as client:
        return each(expanded(client, paths, literal=True), functools.partial(one, client), as_json=as_json)
