"""``ftpy ls``, ``stat`` and ``digest``: what is there."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import click

from ftpy.cli.names import REMOTE_PATH, expanded, matches, remote_path
from ftpy.cli.options import digest_option, examples, json_option, literal_option, server_option
from ftpy.cli.output import fields, listing, listing_with_digests, print_info, print_json, with_digest
from ftpy.cli.transfers import client_of, each
from ftpy.files import display

if TYPE_CHECKING:
    from ftpy.client.client import Client
    from ftpy.digests import DigestName
    from ftpy.files import RemotePath


@click.command(epilog=examples("ftpy ls", "ftpy ls -l photos", "ftpy ls --json -R | jq .path"))
@click.argument("path", default="", type=REMOTE_PATH, metavar="[PATH]")
@click.option("-l", "--long", is_flag=True, help="Type and mode, size in bytes, time, name.")
@click.option("-R", "--recursive", is_flag=True, help="Everything below, too.")
@click.option("--digest", "digests", is_flag=True, help="Each file's md5, computed by the server where not known.")
@literal_option
@json_option
@server_option
def ls(
    *, path: str, long: bool, recursive: bool, digests: bool, literal: bool, as_json: bool, server: str | None
) -> None:
    """List a folder on the server, or what a pattern such as 'logs/*.gz' means there."""
    show = functools.partial(print_info, long=long, digest=digests, as_json=as_json)
    from ftpy.client.globbing import outermost

    below = listing_with_digests if digests else listing
    with client_of(server) as client:
        if literal or (found := matches(client, path)) is None:
            where = remote_path(path)
            for info in below(client, where, recursive):
                show(info, where)
            return
        for one in outermost(found) if recursive else found:
            show(with_digest(client, one) if digests else one, None)
            if one.type == "directory" and recursive:
                for info in below(client, one.path, True):
                    show(info, None)


@click.command(epilog=examples("ftpy stat photos/a.jpg", "ftpy stat --json 'photos/*.jpg'"))
@click.argument("paths", nargs=-1, required=True, type=REMOTE_PATH, metavar="PATH...")
@literal_option
@json_option
@server_option
def stat(*, paths: tuple[str, ...], literal: bool, as_json: bool, server: str | None) -> int:
    """Say what is known of paths, which may be patterns."""

    def one(client: Client, _: str, path: RemotePath) -> None:
        known = fields(client.stat(path))
        if as_json:
            print_json(known)
        else:
            click.echo("\n".join(f"{key:8} {display(str(value))}" for key, value in known.items()))

    with client_of(server) as client:
        return each(expanded(client, paths, literal=literal), functools.partial(one, client), as_json=as_json)


@click.command(
    "digest", epilog=examples("ftpy digest big.iso", "ftpy digest -d blake3 big.iso", "ftpy digest 'photos/*.jpg'")
)
@click.argument("paths", nargs=-1, required=True, type=REMOTE_PATH, metavar="PATH...")
@digest_option
@literal_option
@json_option
@server_option
def digest_(
    *, paths: tuple[str, ...], digest: DigestName | None, literal: bool, as_json: bool, server: str | None
) -> int:
    """Print the digest of files on the server, as md5sum prints it. PATH may be a pattern."""

    def one(client: Client, source: str, path: RemotePath) -> None:
        known = client.digest(path, digest)
        if as_json:
            print_json({"path": source, known.name: known.hex})
        else:
            click.echo(f"{known.hex}  {display(source)}")

    with client_of(server) as client:
        return each(expanded(client, paths, literal=literal), functools.partial(one, client), as_json=as_json)
