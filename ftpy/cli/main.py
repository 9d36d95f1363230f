"""``ftpy``: the workstation's commands."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import click

from ftpy.cli.beacon import discover, time_
from ftpy.cli.changing import mkdir, mv, rm, touch
from ftpy.cli.common import EPILOG, any_text_of_stdin, run_main, standard_input
from ftpy.cli.completion import completion_of
from ftpy.cli.diagnosing import doctor, ping
from ftpy.cli.looking import digest_, ls, stat
from ftpy.cli.names import (
    GET_PATHS,
    PUT_PATHS,
    expanded,
    is_remote_folder,
    local_target,
    remote_target,
    split,
)
from ftpy.cli.options import TransferOptions, examples, literal_option, transfer_options
from ftpy.cli.quantities import Digest
from ftpy.cli.reading import cat, tail
from ftpy.cli.running import run as run_
from ftpy.cli.shell import shell_
from ftpy.cli.surveying import df, du, find, tree
from ftpy.cli.swapping import rollback
from ftpy.cli.syncing import sync
from ftpy.cli.telling import check_receipt_place, events, keep_receipt, verify
from ftpy.cli.transfers import FileTask, Places, TreeTask, refused, transfer
from ftpy.cli.undoing import undo
from ftpy.cli.working import local_names, shell, shown
from ftpy.errors import ConfigError, FtpyError
from ftpy.files import display
from ftpy.version import __version__

if TYPE_CHECKING:
    from ftpy.cli.bars import Bar
    from ftpy.client.client import Client
    from ftpy.client.results import Fetched, Stored
    from ftpy.client.trees import TreeResult
    from ftpy.client.walking import Links
    from ftpy.files import RemotePath
    from ftpy.storage.base import Condition, KnownDigest

F = Callable[..., Any]


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ftpy")
def ftpy() -> None:
    """Move files to and from a host: verified end to end, resumed by itself, atomic, encrypted.

    Pair once with the token that `ftpy-server init` printed, then put, get and ls.
    """


@ftpy.command(epilog=examples("ftpy pair home", "ssh host ftpy-server init | ftpy pair home"))
@click.argument("name")
@click.option("--address", "addresses", multiple=True, metavar="HOST:PORT", help="Use this instead of the token's own.")
@click.option("--force", is_flag=True, help="Replace a profile of that name.")
def pair(name: str, addresses: tuple[str, ...], force: bool) -> None:
    """Store a server under NAME, from the pairing token that it printed.

    The token is a secret: it is asked for without an echo, or read from standard input, never from the command line.
    One connection proves both ends before anything is stored.
    """
    from ftpy.client.client import Client
    from ftpy.config.addresses import parse_address
    from ftpy.config.client import Profile, client_config_path, load_client_config, save_profile
    from ftpy.wire.token import PairingToken

    path = client_config_path()
    if name in load_client_config(path).servers and not force:
        raise ConfigError(f"there is a server named {name!r} already; --force replaces it")
    for address in addresses:
        parse_address(address)
    if standard_input().isatty():
        text = click.prompt("Pairing token", hide_input=True, err=True)
    else:
        text = any_text_of_stdin().readline()
    token = PairingToken.from_text(text)
    profile = Profile(
        addresses=list(addresses) or token.addresses,
        user=token.user,
        key=token.key,
        certificate_sha256=token.certificate_sha256,
    )
    with Client(profile) as client:
        server, rights = client.server, ", ".join(sorted(client.rights))
    save_profile(path, name, profile)
    click.echo(f"paired with {name} ({display(server)}) as {profile.user}: {display(rights)}", err=True)


@ftpy.command(
    epilog=examples(
        "ftpy put report.pdf",
        "ftpy put a.jpg b.jpg photos/",
        "ftpy put -r photos backup/",
        "ftpy put -r src --exclude '*.o' --exclude /build/ --dry-run",
        "tar cz src | ftpy put - backups/src.tgz",
        "ftpy put -r --atomic build/ www/site",
        "ftpy put --if-match 764efa883dda1e11db47671c4a3bbd9e notes.txt",
        "ftpy put --receipt contract.receipt contract.pdf",
    )
)
@click.argument("paths", nargs=-1, required=True, type=PUT_PATHS, metavar="SRC... [DEST]")
@transfer_options
@click.option(
    "--links",
    type=click.Choice(["skip", "copy"]),
    default="skip",
    help="With -r: pass symbolic links over, or take what they name inside the tree.",
)
@click.option("--if-absent", is_flag=True, help="Refuse where DEST exists already.")
@click.option(
    "--atomic", is_flag=True, help="With -r: readers see the folder of before or all of the new one, never a mix."
)
@click.option(
    "--if-match", type=Digest(), help="Replace only this content: an md5 or blake3, as `ftpy digest DEST` prints it."
)
@click.option("--receipt", metavar="FILE", help="Keep there what the server signs of it, for `ftpy verify`; one SRC.")
def put(
    *,
    paths: tuple[str, ...],
    options: TransferOptions,
    links: Links,
    if_absent: bool,
    atomic: bool,
    if_match: KnownDigest | None,
    receipt: str | None,
) -> int:
    """Store files on the server, with -r folders too.

    Like cp: the last of several paths is the destination, and one alone keeps its name. A destination that is there
    is replaced at once and whole, or not at all. Missing folders are made. A put that was interrupted goes on where it
    stood. `-` is standard input.

    With -r what the server has already, by size and time, is passed over, so that the same command again goes on or
    sends what is new. Patterns are those of gitignore, relative to each SRC.

    With --if-match the file is put in place only where DEST still has that content at that moment; else it is
    refused and nothing changes: so two people who edit one file never undo each other's work unseen.

    With --atomic a folder is put out of sight, all of it, and becomes DEST itself in one step once it is complete and
    verified (DEST/ is the folder that it goes into); where a file fails it does not, and the same command goes on.
    The folder that was there before, with all that was in it, is kept: `ftpy rollback DEST` goes back to it.
    """
    sources, dest = split(paths)
    if atomic and not options.recursive:
        raise click.UsageError("--atomic goes with -r; a single file is put in place at once as it is")
    if "-" in sources and shell() is not None:
        raise click.UsageError("standard input is the shell's own: use `ftpy put -` outside of it")
    sources = local_names(sources)
    if if_match is not None and (if_absent or options.recursive or len(sources) > 1):
        raise click.UsageError("--if-match goes with one file, without -r and --if-absent")
    condition: Condition = "absent" if if_absent else if_match
    nameless = click.UsageError("standard input needs a destination with a name: ftpy put - FILE")
    if "-" in sources and (len(sources) > 1 or dest is None or dest.endswith("/")):
        raise nameless
    if receipt is not None and (len(sources) > 1 or options.recursive):
        raise click.UsageError("--receipt is for one file")
    if receipt is not None:
        check_receipt_place(receipt, sources[0])
    places = Places(replaces=not if_absent)

    def one(client: Client, source: str, folder: bool, bar: Bar) -> Stored:
        stream = standard_input().buffer if source == "-" else source
        target = remote_target(source, dest, folder)
        with places.taken(target, source):
            stored = client.put(stream, target, digest=options.digest, condition=condition, on_progress=bar)
        if receipt is not None:
            keep_receipt(client, stored, receipt)
        return stored

    def tree(client: Client, source: str, folder: bool, on_told: F, on_progress: F) -> TreeResult:
        how = {"links": links, "if_absent": if_absent, "atomic": atomic}
        wanted = options.tree(client, **how, on_told=on_told, on_progress=on_progress)
        target = remote_target(source, dest, folder)
        with places.taken(target, source):
            return client.put_tree(source, target, wanted)

    def run(client: Client) -> Iterator[FileTask | TreeTask]:
        folder = is_remote_folder(client, dest, len(sources), exact=atomic)
        if folder and "-" in sources:
            raise nameless
        for source in sources:
            if options.recursive and os.path.isdir(source):
                yield TreeTask(source, functools.partial(tree, client, source, folder), atomic)
            else:
                yield FileTask(source, functools.partial(one, client, source, folder))

    return transfer("put", run, options)


@ftpy.command(
    epilog=examples(
        "ftpy get photos/a.jpg",
        "ftpy get logs/1.gz logs/2.gz /tmp/",
        "ftpy get 'logs/*.gz' /tmp/",
        "ftpy get -r photos",
        "ftpy get -r photos --include '*.jpg' /tmp/",
        "ftpy get --if-changed config.json /etc/app/",
        "ftpy get --explain --limit 20M big.iso",
        "ftpy get big.iso - | sha256sum",
    )
)
@click.argument("paths", nargs=-1, required=True, type=GET_PATHS, metavar="SRC... [DEST]")
@transfer_options
@click.option("--force", is_flag=True, help="Replace a different file that is there.")
@click.option(
    "--if-changed", is_flag=True, help="Move nothing where the file here has that content already; else replace it."
)
@literal_option
def get(*, paths: tuple[str, ...], options: TransferOptions, force: bool, if_changed: bool, literal: bool) -> int:
    """Fetch files from the server, with -r folders too.

    Like cp: the last of several paths is the destination on this side, and one alone keeps its name. A file appears
    only when it is verified; an interrupted get goes on where it stood. A different file that is there already is
    kept, unless --force. `-` is standard output.

    With -r what is here already, by size and time, is passed over, so that the same command again goes on or fetches
    what is new. Patterns of --include and --exclude are those of gitignore, relative to each SRC.

    SRC itself may be a pattern ('logs/*.gz', '**/*.jpg', quoted for your shell): it means what the server lists, and
    where something has exactly that name, that alone.

    --if-changed compares digests, the server's (known there, or computed now) and that of the file here: where they
    agree it says "unchanged" and leaves even the time as it is.
    """
    sources, dest = split(paths)
    if options.recursive and dest == "-":
        raise click.UsageError("a folder cannot be written to standard output")
    if if_changed and (options.recursive or dest == "-"):
        raise click.UsageError("--if-changed compares files: with -r it is --by-digest --force, with - there is none")
    places = Places(replaces=force or if_changed)

    def one(client: Client, target: str | None, path: RemotePath, bar: Bar) -> Fetched:
        fetch = functools.partial(
            client.get, path, digest=options.digest, force=force, if_changed=if_changed, on_progress=bar
        )
        if target is not None:
            with places.taken(target, shown(path)):
                return fetch(target)
        # Past the buffer of sys.stdout, which would try again at exit to write what could not be written.
        with open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as output:
            return fetch(output)

    def tree(client: Client, target: str, path: RemotePath, on_told: F, on_progress: F) -> TreeResult:
        wanted = options.tree(client, force=force, on_told=on_told, on_progress=on_progress)
        with places.taken(target, shown(path)):
            return client.get_tree(path, target, wanted)

    def run(client: Client) -> Iterator[FileTask | TreeTask]:
        found = list(expanded(client, sources, literal=literal))
        count = max(len(sources), len(found))
        for source, path in found:
            if isinstance(path, FtpyError):
                yield FileTask(source, refused(path))
                continue
            target = None if dest == "-" else local_target(path, dest, count)
            if target is not None and options.recursive and client.stat(path).type == "directory":
                yield TreeTask(source, functools.partial(tree, client, target, path))
            else:
                yield FileTask(source, functools.partial(one, client, target, path))

    return transfer("get", run, options, to_stderr=dest == "-")


for command in (
    completion_of("ftpy"),
    cat,
    df,
    digest_,
    discover,
    doctor,
    du,
    events,
    find,
    ls,
    mkdir,
    mv,
    ping,
    rm,
    rollback,
    run_,
    shell_,
    stat,
    sync,
    tail,
    time_,
    touch,
    tree,
    undo,
    verify,
):
    ftpy.add_command(command)


def main() -> None:
    """The ``ftpy`` command."""
    run_main(cast(click.Command, ftpy), "ftpy")
