"""``ftpy ping`` and ``ftpy doctor``: how good the line is, and what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ftpy.cli.options import examples, json_option, quiet_option, server_option
from ftpy.cli.output import print_json, rate, size_of
from ftpy.cli.quantities import Seconds, Size
from ftpy.cli.transfers import client_of
from ftpy.cli.words import SERVER
from ftpy.files import display

if TYPE_CHECKING:
    from ftpy.client.client import Client
    from ftpy.client.doctor import Finding
    from ftpy.client.probing import Way

MOST_PINGS = 100_000
MOST_SIZE = 1024 * 1024  # wire.ping has it too, and is not needed for --help


@click.command(epilog=examples("ftpy ping", "ftpy ping -c 100 --seconds 0", "ftpy ping -s home --size 1M --seconds 5"))
@click.option("-c", "--count", type=click.IntRange(1, MOST_PINGS), default=10, help="Round trips.", show_default=True)
@click.option(
    "--size",
    type=Size(least=1),
    default=MOST_SIZE,
    help="Most bytes sent at a time while throughput is measured; 1M by default, and at most.",
)
@click.option(
    "--seconds",
    type=Seconds(0, 60),
    default=1.0,
    show_default=True,
    help="How long throughput is measured, each way; 0: not at all.",
)
@json_option
@server_option
def ping(*, count: int, size: int, seconds: float, as_json: bool, server: str | None) -> None:
    """Measure round trip and throughput to a server, over an authenticated connection.

    Bytes that mean nothing go up, then down; no disk has a part in it, and nothing stays. A rate that the host allows
    this user is measured as such. Each way takes the time that was asked for, and as long as what is on its way then.
    """
    if size > MOST_SIZE:
        raise click.UsageError("--size: at most 1M")
    with client_of(server) as client:
        trips = sorted(client.ping() for _ in range(count))
        least, most, mean = trips[0], trips[-1], sum(trips) / count
        if as_json:
            print_json({"round_trip": {"count": count, "min": least, "avg": mean, "max": most}})
        else:
            name = display(client.server)
            click.echo(f"{name}: round trip min/avg/max {_ms(least)}/{_ms(mean)}/{_ms(most)} ms ({count} of them)")
        if seconds:
            _measure(client, size, seconds, as_json=as_json)


def _measure(client: Client, size: int, seconds: float, *, as_json: bool) -> None:
    ways: tuple[Way, ...] = ("up", "down")
    for way in ways:
        flow = client.throughput(way, size=size, seconds=seconds)
        if as_json:
            print_json({"throughput": {"way": way, "bytes": flow.bytes, "seconds": flow.seconds}})
        else:
            click.echo(f"{way:4} {rate(flow.bytes, flow.seconds)} ({size_of(flow.bytes)} in {flow.seconds:.1f} s)")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f}"


@click.command(epilog=examples("ftpy doctor", "ftpy doctor home", "ftpy doctor -q && ftpy sync photos backup"))
@click.argument("name", required=False, type=SERVER)
@quiet_option
@json_option
def doctor(*, name: str | None, quiet: bool, as_json: bool) -> int:
    """Look for what is wrong, from the settings here to the disk there, and say what to do.

    NAME is a paired server; without it $FTPY_SERVER, the default, or the only one. Each line is ok, warning, failed, or
    skipped because of what failed before it. With -q only warnings and failures are said.

    Exit code 0: nothing failed (there may be warnings). Exit code 1: something did.
    """
    from ftpy.client.doctor import Doctor

    failed = False
    for finding in Doctor(name).examine():
        failed = failed or finding.verdict == "failed"
        if as_json:
            print_json({field: getattr(finding, field) for field in ("check", "verdict", "said", "advice")})
        elif not quiet or finding.verdict in ("warning", "failed"):
            _show(finding)
    return int(failed)


def _show(finding: Finding) -> None:
    click.echo(f"{finding.check:11}  {finding.verdict:7}  {display(finding.said)}")
    if finding.advice:
        click.echo(f"{'':22}-> {display(finding.advice)}")
