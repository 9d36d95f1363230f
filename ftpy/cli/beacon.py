"""``ftpy discover`` and ``ftpy time``: what beacons tell anybody who asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ftpy.cli.options import examples, json_option, quiet_option, server_option
from ftpy.cli.output import aligned, print_json
from ftpy.cli.quantities import Seconds
from ftpy.errors import ConnectionFailed
from ftpy.files import display

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ftpy.client.beacon import Found
    from ftpy.client.clock import Clock

wait_option = click.option(
    "--wait",
    type=Seconds(0.1, 60),
    metavar="SECONDS",
    help="How long answers are waited for; a second or two by default.",
)


@click.command(
    epilog=examples("ftpy discover", "ftpy discover --address 192.168.1.7", "ftpy discover --json | jq -r .addresses[]")
)
@click.option("--address", "addresses", multiple=True, metavar="HOST[:PORT]", help="Ask this one, not everybody.")
@click.option("--port", type=click.IntRange(1, 65535), help="Where everybody is asked; 7421 by default.")
@wait_option
@json_option
def discover(*, addresses: tuple[str, ...], port: int | None, wait: float | None, as_json: bool) -> None:
    """Find servers on the local network: name, address, version, certificate.

    Only servers whose beacon is on answer ([beacon] in their settings; off by default). What they say is not proven:
    pairing proves it. PAIRED is the name of your profile with that certificate.
    """
    from ftpy.client.beacon import DISCOVER_SECONDS
    from ftpy.client.beacon import discover as find
    from ftpy.config.addresses import DEFAULT_PORT
    from ftpy.config.client import client_config_path, load_client_config

    servers = load_client_config(client_config_path()).servers
    pins = {profile.certificate_sha256: name for name, profile in servers.items() if profile.certificate_sha256}
    found = find(addresses, port=port or DEFAULT_PORT, seconds=wait or DISCOVER_SECONDS)
    for line in _as_json(found, pins) if as_json else _as_table(found, pins):
        click.echo(line)


def _as_json(found: Iterable[Found], pins: dict[str, str]) -> Iterable[str]:
    import json

    for one in found:
        yield json.dumps(
            {
                "name": one.name,
                "addresses": one.addresses,
                "server": one.server,
                "certificate_sha256": one.certificate_sha256,
                "paired": pins.get(one.certificate_sha256 or ""),
                **_numbers(one.clock),
            }
        )


def _as_table(found: Iterable[Found], pins: dict[str, str]) -> Iterable[str]:
    rows = [("NAME", "ADDRESS", "VERSION", "PAIRED", "CERTIFICATE (SHA-256)")]
    for one in found:
        pin = one.certificate_sha256 or ""
        first, *others = one.addresses
        rows.append(
            (display(one.name), display(first), display(one.server), pins.get(pin, "-"), pin or "none: plain TCP")
        )
        rows += [("", display(other), "", "", "") for other in others]
    return aligned(rows)


@click.command(
    "time",
    epilog=examples("ftpy time", "ftpy time -s home --format '%A %H:%M:%S %Z'", "ftpy time --address 192.168.1.7"),
)
@click.option(
    "--format",
    "form",
    default="%Y-%m-%d %X",
    show_default=True,
    help="As of strftime(3); it is applied here, and never leaves this machine.",
)
@click.option("--address", metavar="HOST[:PORT]", help="Ask this beacon, and no paired server.")
@click.option("--proven", is_flag=True, help="Not by UDP: by an authenticated connection, which nobody can forge.")
@wait_option
@quiet_option
@json_option
@server_option
def time_(
    *,
    form: str,
    address: str | None,
    proven: bool,
    wait: float | None,
    quiet: bool,
    as_json: bool,
    server: str | None,
) -> None:
    """Show a host's time, and what its clock is ahead of this one's or behind.

    Asked of its beacon by several datagrams, of which the fastest answer counts. Where there is no beacon the time is
    that of an authenticated connection, which does not tell the host's time zone: then it is UTC. Which of the two it
    was is said on standard error.
    """
    if address is not None and (proven or server):
        raise click.UsageError("--address goes with neither --proven nor -s")
    from ftpy.client.clock import written

    clock, told = _of_address(address, wait) if address is not None else _of_server(server, proven, wait)
    moment = clock.now()
    try:
        text = written(moment, form)
    except ValueError as error:
        raise click.UsageError(f"--format: {error}") from None
    if as_json:
        print_json({"time": moment.isoformat(), "text": text, "source": clock.source, **_numbers(clock), **told})
        return
    click.echo(display(text))
    if not quiet:
        click.echo(_in_words(clock, told), err=True)


def _of_address(address: str, wait: float | None) -> tuple[Clock, dict[str, Any]]:
    from ftpy.client.beacon import TIME_SECONDS, ask_time

    reading = ask_time([address], seconds=wait or TIME_SECONDS)
    told = {"name": reading.name, "asked": reading.asked, "answers": reading.answers, "dropped": reading.dropped}
    return reading.clock, told


def _of_server(server: str | None, proven: bool, wait: float | None) -> tuple[Clock, dict[str, Any]]:
    from ftpy.client.beacon import TIME_SECONDS, ask_time
    from ftpy.client.client import Client
    from ftpy.config.client import choose_profile, client_config_path, load_client_config

    name, profile = choose_profile(load_client_config(client_config_path()), server)
    why = ""
    if not proven:
        try:
            reading = ask_time(profile.addresses, profile.certificate_sha256, seconds=wait or TIME_SECONDS)
        except ConnectionFailed as error:  # no beacon; or a name leads nowhere, and TCP will say so as well
            why = str(error)
        else:
            told = {"asked": reading.asked, "answers": reading.answers, "dropped": reading.dropped}
            return reading.clock, {"name": name, **told}
    with Client.paired(name) as client:
        return client.clock, {"name": name, **({"fallback": why} if why else {})}


def _numbers(clock: Clock) -> dict[str, Any]:
    return {
        "offset_seconds": clock.offset_ns / 1e9,
        "delay_seconds": clock.delay_ns / 1e9,
        "utc_offset_seconds": clock.utc_offset_seconds,
        "zone": clock.zone,
    }


def _in_words(clock: Clock, told: dict[str, Any]) -> str:
    """What people are told of a clock, and of who told it."""
    way = "ahead of" if clock.offset_ns >= 0 else "behind"
    line = (
        f"{display(told['name'])}: {_length(abs(clock.offset_ns))} {way} this machine, to within "
        f"{_length(clock.delay_ns // 2)}, by "
    )
    if clock.source == "beacon":
        return line + f"its beacon, unproven ({told['answers']} of {told['asked']} questions answered)"
    why = f" ({display(told['fallback'])})" if "fallback" in told else ""
    return line + f"its authenticated connection; zone not told, this is UTC{why}"


def _length(ns: int) -> str:
    """A short length of time for people."""
    for unit, name in ((10**9, "s"), (10**6, "ms")):
        if ns >= unit:
            return f"{ns / unit:.3f} {name}"
    return f"{ns / 1000:.1f} us"
