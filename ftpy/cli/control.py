"""``ftpy-server status`` and ``kick``: what a running server does, and an end to one session of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from ftpy.cli.admin import config_option, say
from ftpy.cli.output import aligned, rate, size_of, when
from ftpy.cli.words import SESSION
from ftpy.config.server import load_server_config
from ftpy.files import display

if TYPE_CHECKING:
    from ftpy.server.rows import BeaconRow, PenaltyRow, Row, ServerRow, SessionRow, UploadRow


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@config_option
def status(as_json: bool, config_path: str) -> None:
    """Show what a running server does: its sessions, unfinished uploads, penalties, beacon.

    Exit code 3 where no server is running.

    \b
    Example:
      ftpy-server status -c /srv/ftpy/server.toml
      watch -n 1 ftpy-server status -c /srv/ftpy/server.toml
      ftpy-server status -c /srv/ftpy/server.toml --json | jq 'select(.row == "upload")'
    """
    from ftpy.server.rows import encode
    from ftpy.server.status import status as rows_of

    rows = rows_of(load_server_config(config_path).state)
    for line in (encode(row).decode() for row in rows) if as_json else tables(list(rows)):
        click.echo(line)


@click.command()
@click.argument("session", type=SESSION)
@config_option
def kick(session: str, config_path: str) -> None:
    """End a session at once; what it had stored stays, and can be resumed.

    SESSION is its name, as `status` and the log have it. Its client may connect again: `user remove` keeps it out.

    \b
    Example:
      ftpy-server kick 17 -c /srv/ftpy/server.toml
    """
    from ftpy.server.status import kick as end

    end(load_server_config(config_path).state, session)
    say(f"ended the session {display(session)}")


def tables(rows: list[Row]) -> Iterable[str]:
    """The rows for people: a line for the server, a table for each other kind that there is."""
    from ftpy.server import rows as kinds

    for row in rows:
        if isinstance(row, kinds.ServerRow):
            yield _summary(row)
    for kind, head, cells in _TABLES:
        those = [row for row in rows if isinstance(row, getattr(kinds, kind))]
        if those:
            yield ""
            yield from aligned([head, *map(cells, those)])


def _summary(server: ServerRow) -> str:
    workers = "" if server.workers == 1 else f", {server.workers} workers"
    silent = f" ({server.silent} of them silent)" if server.silent else ""
    draining = ", draining" if server.draining else ""
    return (
        f"ftpy-server {server.version}, process {server.pid}, since {when(server.since_ns)}{workers}{silent}, "
        f"at {', '.join(map(display, server.listening))}, "
        f"{server.connections} of {server.limit} connections{draining}"
    )


def _session(row: SessionRow) -> Sequence[str]:
    moved = f"{size_of(row.bytes)} of {size_of(row.size)}" if row.size else size_of(row.bytes) if row.bytes else "-"
    speed = rate(row.rate, 1) if row.rate else "-"
    path = "" if row.path is None else display(row.path) or "/"
    return row.session, display(row.user), row.source, when(row.since_ns), display(row.state), moved, speed, path


def _upload(row: UploadRow) -> Sequence[str]:
    size = "?" if row.size is None else size_of(row.size)
    return display(row.owner), size, size_of(row.stored), _length(row.age_seconds), display(row.path)


def _penalty(row: PenaltyRow) -> Sequence[str]:
    refused = _length(round(row.refused_seconds)) if row.refused_seconds else "-"
    return row.source, _length(round(row.seconds)), refused, str(row.refused)


def _beacon(row: BeaconRow) -> Sequence[str]:
    counts = (row.answered, row.garbage, row.limited, row.failed)
    return ", ".join(map(display, row.listening)), display(row.name), *map(str, counts)


_TABLES: list[tuple[str, Sequence[str], Callable[[Any], Sequence[str]]]] = [
    ("SessionRow", ("SESSION", "USER", "SOURCE", "SINCE", "STATE", "MOVED", "RATE", "PATH"), _session),
    ("UploadRow", ("UPLOAD OF", "SIZE", "STORED", "AGE", "PATH"), _upload),
    ("PenaltyRow", ("PENALTY OF", "LEFT", "REFUSED FOR", "REFUSED"), _penalty),
    ("BeaconRow", ("BEACON AT", "NAME", "ANSWERED", "GARBAGE", "TOO FAST", "FAILED"), _beacon),
]


def _length(seconds: int) -> str:
    """A length of time in its two greatest units: ``2d 3h``."""
    parts: list[str] = []
    for unit, name in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        if seconds >= unit or parts or unit == 1:
            parts.append(f"{seconds // unit}{name}")
            seconds %= unit
    return " ".join(parts[:2])
