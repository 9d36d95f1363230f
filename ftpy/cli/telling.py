"""``ftpy events`` and ``ftpy verify``: what has happened on the server, and what it has signed."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import click

from ftpy.cli.names import LOCAL_PATH
from ftpy.cli.options import examples, json_option, quiet_option, server_option
from ftpy.cli.output import print_json, size_of, when
from ftpy.cli.transfers import client_of
from ftpy.cli.working import shown
from ftpy.errors import ConfigError, CursorTooOld, LocalFileError, ReceiptDiffers, ReceiptInvalid
from ftpy.files import display

if TYPE_CHECKING:
    from ftpy.client.client import Client
    from ftpy.client.events import Event
    from ftpy.client.receipts import Found
    from ftpy.client.results import Stored
    from ftpy.wire.receipts import Receipt, Statement

_SINCE = re.compile(r"start|end|[0-9a-f]{16}-[0-9]{1,18}")
_FOUND: dict[Found, str] = {"same": "still there, the same", "changed": "changed since", "gone": "gone"}


def _since(context: click.Context, parameter: click.Parameter, text: str) -> str:  # noqa: ARG001
    if not _SINCE.fullmatch(text):
        raise click.BadParameter("it is start, end, or a cursor that events came with")
    return text


@click.command(
    epilog=examples(
        "ftpy events",
        "ftpy events --since 1f0c96be8a2d4f51-1042",
        "ftpy events --since end --follow",
        "ftpy events --json --follow | jq -r 'select(.event == \"published\").path'",
    )
)
@click.option(
    "--since", default="start", metavar="CURSOR", callback=_since, help="Begin behind it; or at the start, or the end."
)
@click.option("-f", "--follow", is_flag=True, help="Go on as it happens, until Ctrl-C.")
@quiet_option
@json_option
@server_option
def events(*, since: str, follow: bool, quiet: bool, as_json: bool, server: str | None) -> None:
    """Say what was published, moved and deleted on the server, in that order.

    Only what is done and durable is told, and only where you may list. What happens to a folder happens to all below
    it; folders that a put makes on its way are not told of. Each event has a cursor (--json), and at the end there is
    one for the next time: with it none is lost and none comes twice. The server keeps events for some days, if its
    settings say so at all; a cursor that is older is refused. Then begin anew: have a cursor by --since end, list what
    is there, and go on from that cursor.
    """
    with client_of(server) as client:
        feed = client.feed(since, follow=follow)
        try:
            for event in feed:
                _tell(event, as_json=as_json)
        except CursorTooOld as error:
            raise CursorTooOld(f"{error} (ftpy events --since end, then ftpy ls -R)") from None
        if as_json:
            print_json({"cursor": feed.cursor, "complete": True})
        elif not quiet:
            click.echo(f"ftpy: what follows: --since {feed.cursor}", err=True)


def _tell(event: Event, *, as_json: bool) -> None:
    if as_json:
        fields: dict[str, object] = {"event": event.kind, "path": str(event.path)}
        if event.to is not None:
            fields["to"] = str(event.to)
        print_json(fields | {"time_ns": event.time_ns, "cursor": event.cursor})
        return
    to = f" -> {display(shown(event.to)) or '/'}" if event.to is not None else ""
    click.echo(f"{when(event.time_ns)}  {event.kind:9}  {display(shown(event.path)) or '/'}{to}")


@click.command(
    epilog=examples(
        "ftpy verify report.receipt", "ftpy verify report.receipt report.pdf --offline", "ftpy verify -s home a.receipt"
    )
)
@click.argument("receipt", type=LOCAL_PATH)
@click.argument("file", required=False, type=LOCAL_PATH)
@click.option("--offline", is_flag=True, help="Ask no server whether it is still there.")
@quiet_option
@json_option
@server_option
def verify(*, receipt: str, file: str | None, offline: bool, quiet: bool, as_json: bool, server: str | None) -> int:
    """Check a RECEIPT of `ftpy put --receipt`: signed by a server that you are paired with, unchanged since.

    That takes no connection. Then FILE, if one is named, must be what the receipt was given for, and the server is
    asked whether it still has that: if it does not, the exit code is 1. What is forged or changed, the receipt or FILE,
    makes it 5.
    """
    from ftpy.client.receipts import known

    name, given = _profile_of(receipt, server)
    digest = known(given)
    told: dict[str, Any] = {
        "receipt": receipt,
        "path": str(given.remote_path()),
        "size": given.size,
        digest.name: digest.hex,
        "time_ns": given.time_ns,
        "server": given.server,
        "user": given.user,
        "signature": "right",
    }
    if not quiet and not as_json:
        facts = (
            f"{size_of(given.size)}, {digest.name} {digest.hex}, on {display(given.server)} at {when(given.time_ns)}"
        )
        click.echo(f"{display(told['path'])}: {facts}, for {given.user}; signed by {name}")
    if file is not None:
        _check_local(file, given)
        told["file"] = "same"
        if not quiet and not as_json:
            click.echo(f"{display(file)}: the same")
    if not offline:
        with client_of(name) as client:
            told["found"] = client.compare_receipt(given)
        if not quiet and not as_json:
            click.echo(f"{name}: {_FOUND[told['found']]}")
    if as_json:
        print_json(told)
    return int(told.get("found", "same") != "same")


def _profile_of(path: str, server: str | None) -> tuple[str, Statement]:
    """The paired server that signed the receipt in a file, and what it states. Raises ReceiptInvalid, ConfigError."""
    from ftpy.client.receipts import fingerprint, verify
    from ftpy.config.client import choose_profile, client_config_path, load_client_config

    receipt = _read(path)
    config = load_client_config(client_config_path())
    if server is None:
        pin = fingerprint(receipt)
        user = receipt.parts()[0].user
        names = [name for name, profile in config.servers.items() if profile.certificate_sha256 == pin]
        names.sort(key=lambda name: config.servers[name].user != user)  # who was paired several times is several users
        server = next(iter(names), None)
    name, profile = choose_profile(config, server)
    if profile.certificate_sha256 is None:
        raise ConfigError(f"{name} has no certificate that could have signed a receipt")
    return name, verify(receipt, profile.certificate_sha256)


def _read(path: str) -> Receipt:
    from ftpy.wire.receipts import MOST_BYTES, Receipt

    try:
        with open(path, "rb") as file:
            return Receipt.from_file(file.read(MOST_BYTES + 1))
    except OSError as error:
        raise LocalFileError(f"{display(path)}: {error.strerror or error}") from None


def _check_local(path: str, given: Statement) -> None:
    """Raises ReceiptDiffers, LocalFileError, SourceChanged."""
    from ftpy.client.receipts import known
    from ftpy.client.source import Source

    digest = known(given)
    with Source(path, digest.name) as source:
        same = source.size == given.size and source.read_digest() == digest.hex
    if not same:
        raise ReceiptDiffers(f"{display(path)}: this is not what the receipt was given for")


def check_receipt_place(path: str, source: str) -> None:
    """Whether a receipt may be kept in this file: nothing is there, or one that is not sent. Raises LocalFileError."""
    if not os.path.isdir(os.path.dirname(path) or os.curdir) or not os.path.basename(path):
        raise LocalFileError(f"{display(path)}: there is no such folder for the receipt")
    if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
        raise LocalFileError(f"{display(path)}: the receipt would take the place of what it is for")
    _check_no_other(path)


def _check_no_other(path: str) -> None:
    if os.path.lexists(path):
        try:
            _read(path)
        except ReceiptInvalid:
            raise LocalFileError(f"{display(path)}: there is something else than a receipt here, which stays") from None


def keep_receipt(client: Client, stored: Stored, path: str) -> None:
    """Have the server's receipt for what was just put, and keep it in a file. Raises ReceiptMissing, LocalFileError."""
    from ftpy.client.receipts import receipt_of
    from ftpy.durable import replace_file

    data = receipt_of(client, stored).to_file()
    _check_no_other(path)  # as before: the put may have taken hours
    try:
        replace_file(os.path.abspath(path), data, 0o644)
    except OSError as error:
        raise LocalFileError(f"{display(path)}: {error.strerror or error}") from None
