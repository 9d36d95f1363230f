"""``ftpy cat`` and ``tail``: what is in files, on standard output."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from ftpy.cli.names import REMOTE_PATH, expand_one, expanded
from ftpy.cli.options import digest_option, examples, json_option, literal_option, server_option
from ftpy.cli.output import print_json
from ftpy.cli.quantities import Seconds, Size
from ftpy.cli.transfers import client_of, each

if TYPE_CHECKING:
    from ftpy.client.client import Client
    from ftpy.digests import DigestName
    from ftpy.files import RemotePath


@click.command(
    epilog=examples(
        "ftpy cat notes.txt",
        "ftpy cat 'logs/*.log' | grep ERROR",
        "ftpy cat --offset 1M --count 64K disk.img | xxd",
    )
)
@click.argument("paths", nargs=-1, required=True, type=REMOTE_PATH, metavar="PATH...")
@click.option("--offset", type=Size("BYTES"), default=0, help="From this byte on, of each.")
@click.option("--count", type=Size("BYTES"), help="So many bytes, of each; else all that follow.")
@digest_option
@literal_option
@json_option
@server_option
def cat(
    *,
    paths: tuple[str, ...],
    offset: int,
    count: int | None,
    digest: DigestName | None,
    literal: bool,
    as_json: bool,
    server: str | None,
) -> int:
    """Write files on the server to standard output, one after the other. PATH may be a pattern.

    Every piece is verified before it is written, and a whole file by its digest at the end. With --json one object for
    each file goes to standard error.
    """

    def one(client: Client, source: str, path: RemotePath) -> None:
        written = _write(client.cat(path, offset=offset, count=count, digest=digest))
        if as_json:
            print_json({"source": source, "ok": True, "path": str(path), "size": written}, to_stderr=True)

    with client_of(server) as client:
        found = expanded(client, paths, literal=literal)
        return each(found, functools.partial(one, client), as_json=as_json, to_stderr=True)


@click.command(epilog=examples("ftpy tail app.log", "ftpy tail -n 100 -f app.log", "ftpy tail -c 1K report.bin"))
@click.argument("path", type=REMOTE_PATH, metavar="PATH")
@click.option("-n", "--lines", type=click.IntRange(0), help="So many lines; 10 where nothing is said.")
@click.option("-c", "--bytes", "count", type=Size("BYTES"), help="So many bytes.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is added, until Ctrl-C.")
@click.option(
    "--interval",
    type=Seconds(0.05, 3600),
    default=1.0,
    metavar="SECONDS",
    help="With -f: how often to look; 1 where nothing is said.",
)
@json_option
@server_option
def tail(
    *,
    path: str,
    lines: int | None,
    count: int | None,
    follow: bool,
    interval: float,
    as_json: bool,
    server: str | None,
) -> int:
    """Write the end of a file on the server to standard output.

    With -f it goes on with what is added, through lost connections; a file that takes its place is written from its
    beginning, one that is gone is waited for. PATH may be a pattern that means one file. With --json an object goes to
    standard error at the end.
    """
    if lines is not None and count is not None:
        raise click.UsageError("-n and -c exclude each other")
    wanted = 10 if lines is None else lines

    def one(client: Client, source: str, path: RemotePath) -> None:
        written = _write(client.tail(path, lines=wanted, count=count, follow=follow, look_seconds=interval))
        if as_json:
            print_json({"source": source, "ok": True, "path": str(path), "size": written}, to_stderr=True)

    with client_of(server) as client:
        found = [(path, expand_one(client, path))]
        return each(found, functools.partial(one, client), as_json=as_json, to_stderr=True)


def _write(pieces: Iterable[bytes]) -> int:
    """Write pieces to standard output as they come: how many bytes that were.

    Past the buffer of sys.stdout, which would try again at exit to write what could not be written.
    """
    written = 0
    descriptor = sys.stdout.fileno()
    for piece in pieces:
        view = memoryview(piece)
        while view:
            done = os.write(descriptor, view)
            view = view[done:]
            written += done
        if not piece:
            _check_reader(descriptor)
    return written


def _check_reader(descriptor: int) -> None:
    """Raises BrokenPipeError where nobody reads any more: who has nothing to write would never know."""
    import select

    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(descriptor, 0)
        if any(events & select.POLLERR for _, events in poll.poll(0)):
            raise BrokenPipeError
