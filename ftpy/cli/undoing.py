"""``ftpy undo``: what can be undone, and undoing it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import click

from ftpy.cli.options import examples, json_option, server_option
from ftpy.cli.output import print_json, when
from ftpy.cli.transfers import client_of
from ftpy.cli.words import OPERATION
from ftpy.cli.working import shown
from ftpy.files import RemotePath, display

if TYPE_CHECKING:
    from ftpy.client.results import Kept, Undone

SHOWN_DIGITS = 12
"""Of an operation's id: enough to tell it from any other, and few enough to type."""
STEPS = ("added", "replaced", "deleted", "moved", "made")
"""What a step can be, in the order in which they are told."""
_SHOWN = {"made": "folders made"}


@click.command(epilog=examples("ftpy undo", "ftpy undo 3f9a01c2", "ftpy undo --forget 3f9a01c2"))
@click.argument("operation", required=False, type=OPERATION, metavar="[ID]")
@click.option("--forget", is_flag=True, help="Destroy what ID keeps instead: its space is free, there is no way back.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors and what is left alone are said.")
@json_option
@server_option
def undo(operation: str | None, forget: bool, quiet: bool, as_json: bool, server: str | None) -> int:
    """Undo the operation ID, such as a sync; without an ID, list what can be undone.

    What it deleted or replaced comes back, what it moved goes back, what it added goes, as far as that is still as the
    operation left it: what was changed since is told and left alone. The undo is an operation itself, so nothing is
    lost by it, and `ftpy undo` of that one does all again. What `sync --pull` did on this side is among them. The first
    digits of an ID will do.
    """
    from ftpy.client.kept import find_here, kept_in, operations_here

    if operation is None and forget:
        raise click.UsageError("--forget needs an ID")
    here = find_here(operation) if operation is not None else None
    if here is not None:
        assert here.target is not None
        with kept_in(here.target) as kept:
            return _act(here.id, kept, forget=forget, quiet=quiet, as_json=as_json, named=str)
    with client_of(server) as client:
        if operation is not None:
            return _act(client.find_operation(operation), client, forget=forget, quiet=quiet, as_json=as_json)
        found = [*client.operations(), *operations_here()]
    for one in sorted(found, key=lambda one: one.time_ns, reverse=True):
        _print_kept(one, as_json=as_json)
    if not found and not quiet and not as_json:
        click.echo("there is nothing that could be undone", err=True)
    return 0


class _Undoes(Protocol):
    """A server, or a folder of this side."""

    def undo(self, operation: str, by: str) -> Undone:
        """Reverse an operation."""

    def forget(self, operation: str) -> int:
        """Destroy what it keeps."""


_Named = Callable[[RemotePath], str]


def _act(operation: str, where: _Undoes, *, forget: bool, quiet: bool, as_json: bool, named: _Named = shown) -> int:
    """Undo or forget one operation, with its paths ``named`` for people: the exit code."""
    if forget:
        gone = where.forget(operation)
        if as_json:
            print_json({"operation": operation, "names": gone})
        elif not quiet:
            click.echo(f"{operation[:SHOWN_DIGITS]}: forgotten, it cannot be undone any more")
        return 0
    import secrets

    undone = where.undo(operation, secrets.token_hex(16))
    _print_undone(undone, as_json=as_json, quiet=quiet, named=named)
    return 1 if undone.left else 0


def _print_kept(kept: Kept, *, as_json: bool) -> None:
    """One operation."""
    counts = {name: getattr(kept, name) for name in STEPS}
    if as_json:
        fields = {"operation": kept.id, "time_ns": kept.time_ns, "what": kept.what, **counts}
        print_json({**fields, "target": kept.target} if kept.target is not None else fields)
        return
    told = ", ".join(f"{count:,} {_SHOWN.get(name, name)}" for name, count in counts.items() if count)
    click.echo(f"{kept.id[:SHOWN_DIGITS]}  {when(kept.time_ns)}  {display(kept.what)}: {told or 'nothing'}")


def _print_undone(undone: Undone, *, as_json: bool, quiet: bool, named: _Named) -> None:
    """What was left alone, each with its reason, and one line of what was done."""
    if as_json:
        left = [
            {"path": str(one.path), "error": type(one.error).__name__, "message": str(one.error)}
            for one in undone.paths
        ]
        fields = {"operation": undone.id, "by": undone.by, "steps": undone.steps, "already": undone.already}
        print_json({**fields, "left": undone.left, "paths": left})
        return
    for one in undone.paths:
        reason = display(str(one.error)).removeprefix(f"{display(str(one.path))}: ")
        click.echo(f"ftpy: left alone: {display(named(one.path))}: {reason}", err=True)
    if len(undone.paths) < undone.left:
        click.echo(f"ftpy: and {undone.left - len(undone.paths):,} more left alone", err=True)
    if quiet:
        return
    facts = [f"{undone.steps:,} step{'' if undone.steps == 1 else 's'} undone"]
    if undone.already:
        facts.append(f"{undone.already:,} as before already")
    if undone.left:
        facts.append(f"{undone.left:,} LEFT ALONE")
    click.echo(
        f"{undone.id[:SHOWN_DIGITS]}: {', '.join(facts)} (to do it all again: ftpy undo {undone.by[:SHOWN_DIGITS]})"
    )
