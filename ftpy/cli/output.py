"""What is printed: one line that says what is true now, or one JSON object."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from ftpy.cli.working import shown
from ftpy.errors import NotADirectory
from ftpy.files import FileInfo, RemotePath, display

if TYPE_CHECKING:
    from ftpy.client.client import Client
    from ftpy.client.explaining import Explanation
    from ftpy.timing import Activity

SHOWN_SHARE = 0.005
"""Shares below are not shown to people."""


def listing(client: Client, where: RemotePath, recursive: bool) -> Iterator[FileInfo]:
    """A folder's entries, or the one file that ``where`` names, as ls does it."""
    try:
        yield from client.ls(where, recursive=recursive)
    except NotADirectory:
        yield client.stat(where)


def listing_with_digests(client: Client, where: RemotePath, recursive: bool) -> Iterator[FileInfo]:
    """The same, each with its md5: the server computes them while the listing is read."""
    try:
        with client.listing(where, recursive=recursive) as entries:
            for info in entries:
                yield with_digest(client, info)
    except NotADirectory:
        yield with_digest(client, client.stat(where))


def with_digest(client: Client, info: FileInfo) -> FileInfo:
    """``info`` with its md5, asked for where it is not known yet."""
    if info.type != "file" or info.md5 is not None:
        return info
    import msgspec

    return msgspec.structs.replace(info, md5=client.digest(info.path, "md5").hex)


def print_info(info: FileInfo, where: RemotePath | None, *, long: bool, digest: bool, as_json: bool) -> None:
    """One entry of a listing, named from ``where``, or as a person would type it."""
    if as_json:
        print_json(fields(info))
        return
    name = shown(info.path) if where is None else "/".join(info.path.parts[len(where.parts) :]) or info.path.name
    columns = []
    if long:
        import stat as modes

        kind = {"directory": modes.S_IFDIR, "symlink": modes.S_IFLNK, "file": modes.S_IFREG}.get(info.type, 0)
        columns += [modes.filemode(kind | info.mode), f"{info.size:>14,}", when(info.mtime_ns)]
    if digest:
        columns.append(info.md5 or "-" * 32)
    click.echo("  ".join([*columns, entry(display(name), folder=info.type == "directory")]))


def entry(name: str, *, folder: bool) -> str:
    """A name in a listing for people: folders stand out."""
    return coloured(name + "/", fg="blue", bold=True) if folder else name


def coloured(text: str, **style: Any) -> str:
    """``text`` in a style, where colours are wanted: on a terminal that knows them, unless $NO_COLOR is set.

    Source: no-color.org.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb" or not sys.stdout.isatty():
        return text
    return click.style(text, **style)


def when(time_ns: int) -> str:
    """A time for people, in their own zone; the number where no calendar has it."""
    import time

    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_ns // 1_000_000_000))
    except (OverflowError, OSError, ValueError):
        return f"@{time_ns // 1_000_000_000}"


def fields(info: FileInfo) -> dict[str, object]:
    """What is known of a file, for people and for JSON alike."""
    fields: dict[str, object] = {
        "path": str(info.path),
        "type": info.type,
        "size": info.size,
        "mtime_ns": info.mtime_ns,
        "mode": f"{info.mode:04o}",
    }
    fields |= {key: value for key in ("etag", "md5", "blake3") if (value := getattr(info, key)) is not None}
    return fields


ACTIVITY_NAMES: dict[Activity, str] = {
    "disk": "disk",
    "sync": "durable on disk",
    "hashing": "hashing",
    "encryption": "encryption",
    "copying": "copying",
    "sending": "waiting to send",
    "receiving": "waiting to receive",
    "pacing": "--limit",
    "other": "each file, request",
}
"""What people are told that one end spent its time on."""


def explain(explanation: Explanation, *, as_json: bool, to_stderr: bool) -> None:
    """Both ends' time by activity, what limited and what to try."""
    ends = {"here": explanation.here, "there": explanation.there}
    if as_json:
        seconds = {side: {name: round(end.seconds[name], 4) for name in ACTIVITY_NAMES} for side, end in ends.items()}
        limit = {"name": explanation.limit, "share": round(explanation.share, 3), "try": explanation.advice}
        print_json({"explain": {**seconds, "limit": limit}}, to_stderr=to_stderr)
        return
    lines = [f"{'':20}{'here':>7}{'there':>7}"]
    for name, told in ACTIVITY_NAMES.items():
        if max(end.share(name) for end in ends.values()) >= SHOWN_SHARE:
            lines.append(f"  {told:18}" + "".join(f"{end.share(name):7.0%}" for end in ends.values()))
    lines.append(f"limited by {explanation.limit} ({explanation.share:.0%} of the time); to try: {explanation.advice}")
    click.echo("\n".join(lines), err=to_stderr)


def print_json(fields: dict[str, object], *, to_stderr: bool = False) -> None:
    """One JSON object, a line."""
    import json

    click.echo(json.dumps(fields), err=to_stderr)


def count(number: int, what: str) -> str:
    """So many of them: "1 file", "2,000 files"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines, each column as wide as it must be."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def size_of(count: int) -> str:
    """A number of bytes for people."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def rate(count: int, seconds: float) -> str:
    """Bytes a second for people."""
    return f"{size_of(round(count / seconds) if seconds else 0)}/s"
