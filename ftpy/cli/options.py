"""The options that several commands have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import click
from msgspec import Struct

from ftpy.cli.common import EPILOG
from ftpy.cli.quantities import Size
from ftpy.cli.words import SERVER
from ftpy.digests import DIGEST_NAMES, DigestName

if TYPE_CHECKING:
    from ftpy.client.client import Client
    from ftpy.client.trees import TreeOptions

F = Callable[..., Any]

LEAST_RATE = 1024
"""Slowest --limit, bytes a second: below, the other end might take the silence between for a dead connection."""


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines) + "\n\n" + EPILOG


class Streams(click.ParamType):  # type: ignore[type-arg]
    """A number of connections, or "auto"."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """1 to 32 as a number, "auto" as it is."""
        return value if value == "auto" else click.IntRange(1, 32).convert(value, param, ctx)


server_option = click.option(
    "-s",
    "--server",
    type=SERVER,
    metavar="NAME",
    help="Which paired server; $FTPY_SERVER, or the default, or the only one.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line on standard output.")
digest_option = click.option(
    "-d", "--digest", type=click.Choice(DIGEST_NAMES), help="What verifies the whole file; md5 unless configured."
)
literal_option = click.option("--literal", is_flag=True, help="Each PATH is a name; *, ? and [ mean themselves.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Only errors are said.")


class TransferOptions(Struct, frozen=True, kw_only=True):
    """What put and get have in common."""

    recursive: bool
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    by_digest: bool
    dry_run: bool
    verbose: bool
    streams: Literal["auto"] | int | None
    limit: int | None
    explain: bool
    digest: DigestName | None
    quiet: bool
    as_json: bool
    server: str | None

    def check(self) -> None:
        """Raises UsageError for options that contradict each other."""
        if not self.recursive and (self.include or self.exclude or self.by_digest or self.dry_run):
            raise click.UsageError("--include, --exclude, --by-digest and --dry-run go with -r")

    def tree(self, client: Client, **more: Any) -> TreeOptions:
        """How a tree is transferred."""
        from ftpy.client.trees import TreeOptions
        from ftpy.client.walking import Selection

        return TreeOptions(
            digest=self.digest or client.default_digest,
            selection=Selection(self.include, self.exclude),
            by_digest=self.by_digest,
            dry_run=self.dry_run,
            **more,
        )


_TRANSFER_OPTIONS = (
    click.option("-r", "--recursive", is_flag=True, help="Folders, with all that is below them."),
    click.option("--include", multiple=True, metavar="PATTERN", help="With -r: only files that match."),
    click.option("--exclude", multiple=True, metavar="PATTERN", help="With -r: all but what matches."),
    click.option("--by-digest", is_flag=True, help="With -r: what is identical is told by content, not by time."),
    click.option("--dry-run", is_flag=True, help="With -r: tell what would be done, and do nothing."),
    click.option("-v", "--verbose", is_flag=True, help="With -r: a line for every file."),
    click.option(
        "--streams", type=Streams(), help="Connections that share the work, 1 to 32; by itself as many as pay."
    ),
    click.option(
        "--limit",
        type=Size("RATE", least=LEAST_RATE),
        help="Most bytes a second, such as 500K or 20M (1M is 1024 times 1K).",
    ),
    click.option("--explain", is_flag=True, help="Tell at the end what limited the speed, and what to try."),
    digest_option,
    click.option("-q", "--quiet", is_flag=True, help="No bars and no summary; errors are still said."),
    json_option,
    server_option,
)


def transfer_options(command: F) -> F:
    """Give a command these options, as one argument ``options``."""

    @functools.wraps(command)
    def with_options(**given: Any) -> Any:
        options = TransferOptions(**{name: given.pop(name) for name in TransferOptions.__struct_fields__})
        options.check()
        return command(options=options, **given)

    decorated: F = with_options
    for option in reversed(_TRANSFER_OPTIONS):
        decorated = option(decorated)
    return decorated
