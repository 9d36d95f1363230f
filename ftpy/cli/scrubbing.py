"""``ftpy-server scrub``: whether what is stored is still what was put."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from typing import TYPE_CHECKING

import click

from ftpy.cli.admin import config_option
from ftpy.cli.output import print_json, size_of
from ftpy.cli.quantities import Size
from ftpy.config.server import load_server_config
from ftpy.files import display

if TYPE_CHECKING:
    from ftpy.storage.scrubbing import Scrubbed

LEAST_RATE = 64 * 1024
"""Slowest --rate, bytes a second: below, a scrub of any disk would not end."""
_SAID = {
    "rotten": "ROTTEN: it was not changed, and is not what was put",
    "unreadable": "cannot be read",
}
_COUNTED = ("right", "rotten", "unreadable", "unknown", "learnt", "changed")


@click.command()
@config_option
@click.option(
    "--rate",
    type=Size("RATE", least=LEAST_RATE),
    default="50M",
    show_default=True,
    help="Most bytes a second that are read.",
)
@click.option("--learn", is_flag=True, help="Remember a digest of files that have none: by what they are now.")
@click.option("--restart", is_flag=True, help="From the beginning, wherever the last one was interrupted.")
@click.option("-q", "--quiet", is_flag=True, help="Only what is wrong is said.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: for what is wrong, and a summary.")
def scrub(*, config_path: str, rate: int, learn: bool, restart: bool, quiet: bool, as_json: bool) -> int:
    """Read all stored files again, against the digests of the day they were put, and report what has rotted.

    Runs beside a server that serves, at low priority; changes no file. A file is rotten where nobody has changed it
    (inode, size, times are those of the digest) and its content is another. Files without a remembered digest, which
    the host has put there or changed, are counted. What was interrupted goes on where it was.

    Exit code 0: nothing is wrong; 1: something is rotten or cannot be read.

    \b
    Example:
      ftpy-server scrub -c /srv/ftpy/server.toml --rate 20M
    """
    from ftpy.server.scrubs import ScrubAll
    from ftpy.transport.pace import Pace

    config = load_server_config(config_path)
    with contextlib.suppress(AttributeError, OSError):  # Windows has none
        os.nice(19)
    pace = Pace(rate)
    counts: Counter[str] = Counter()
    size = 0
    scrubbing = ScrubAll(config, learns=learn, passed=pace.passed, restart=restart)
    if scrubbing.resumed is not None and not quiet and not as_json:
        where = os.path.join(scrubbing.resumed.root, str(scrubbing.resumed.path))
        click.echo(f"going on behind {display(where)}", err=True)
    for root, one in scrubbing:
        counts[one.verdict] += 1
        size += one.size if one.verdict in ("right", "rotten", "learnt") else 0
        if one.verdict in _SAID:
            _tell(root, one, as_json=as_json)
    if as_json:
        print_json({"summary": {verdict: counts[verdict] for verdict in _COUNTED}, "bytes": size})
    elif not quiet:
        facts = ", ".join(f"{counts[verdict]:,} {verdict}" for verdict in _COUNTED if counts[verdict])
        count = sum(counts.values())
        click.echo(f"{count:,} file{'' if count == 1 else 's'}, {size_of(size)} read: {facts or 'nothing'}")
    return int(bool(counts["rotten"] or counts["unreadable"]))


def _tell(root: str, one: Scrubbed, *, as_json: bool) -> None:
    if as_json:
        told: dict[str, object] = {"verdict": one.verdict, "root": root, "path": str(one.path), "size": one.size}
        if one.expected is not None:
            told |= {"digest": one.expected.name, "expected": one.expected.hex, "found": one.found}
        if one.reason is not None:
            told["reason"] = one.reason
        print_json(told)
        return
    facts = f" ({one.reason})" if one.reason else ""
    if one.expected is not None:
        facts = f" ({one.expected.name} {one.found}, not {one.expected.hex})"
    click.echo(f"{display(os.path.join(root, str(one.path)))}: {_SAID[one.verdict]}{facts}")
