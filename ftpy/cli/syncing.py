"""``ftpy sync``: the plan, shown or carried out, and what came of it."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import click
from msgspec import Struct

from ftpy.cli.names import LOCAL_FOLDER, REMOTE_PATH, remote_path
from ftpy.cli.options import LEAST_RATE, Streams, digest_option, examples, json_option, server_option
from ftpy.cli.output import print_json, rate, size_of
from ftpy.cli.quantities import Size
from ftpy.cli.transfers import Outlet, client_of
from ftpy.cli.undoing import SHOWN_DIGITS
from ftpy.digests import DigestName
from ftpy.errors import AuthenticationFailed, ConfigError, FtpyError, LocalFileError
from ftpy.files import display, is_reserved

if TYPE_CHECKING:
    from ftpy.cli.bars import TreeBars
    from ftpy.client.client import Client
    from ftpy.client.syncing import SyncResult
    from ftpy.client.syncplan import Plan, Step
    from ftpy.client.trees import Told
    from ftpy.client.walking import Links

WORDS = {
    "make": "make folder",
    "move": "move",
    "add": "add",
    "replace": "replace",
    "delete": "delete",
    "remove": "remove folder",
}
"""What people are told that a step does."""
NOTICED_SECONDS = 2.0
"""Clocks that differ by more are told of."""
SETTLED_MS, LATEST_MS = 200, 5_000
"""--watch syncs when nothing has changed for so long, or at last when it has been changing for so long."""
AGAIN_SECONDS, MOST_AGAIN_SECONDS = 5.0, 300.0
"""--watch tries again what failed after so long, then after twice as long, at last so often."""
BEGUN_MS = 500
"""How long it takes to know that watching has begun; then how often it looks up."""


class _Percent(click.ParamType):  # type: ignore[type-arg]
    """A whole number of percent, with or without the sign."""

    name = "N%"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """0 to 100."""
        found = re.fullmatch(r"(\d{1,3})%?", str(value), re.ASCII)
        if found is None or int(found[1]) > 100:
            self.fail(f"{value!r} is not a percentage, such as 60%", param, ctx)
        return int(found[1])


class SyncCommand(Struct, frozen=True, kw_only=True):
    """What was typed."""

    pull: bool
    delete: bool
    max_delete: int
    by_digest: bool
    update: bool
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    links: Links
    dry_run: bool
    watch: bool
    verbose: bool
    streams: Literal["auto"] | int | None
    limit: int | None
    digest: DigestName | None
    quiet: bool
    as_json: bool
    server: str | None

    def once(self, client: Client, local: str, remote: str) -> SyncResult:
        """Sync once, and tell it."""
        from ftpy.cli.bars import TreeBars
        from ftpy.client.syncing import SyncOptions
        from ftpy.client.walking import Selection

        outlet = Outlet(self.quiet, self.as_json, self.verbose, self.dry_run)

        def on_plan(plan: Plan) -> None:
            if self.dry_run:
                for step in plan.steps:
                    print_step(step, as_json=self.as_json)

        with TreeBars(local, quiet=self.quiet or self.dry_run) as bars:
            options = SyncOptions(
                digest=self.digest or client.default_digest,
                selection=Selection(self.include, self.exclude),
                links=self.links,
                by_digest=self.by_digest,
                delete=self.delete,
                most_deleted=self.max_delete,
                keep_newer=self.update,
                dry_run=self.dry_run,
                on_plan=on_plan,
                on_step=lambda step: _on_step(step, outlet, bars),
                on_told=lambda told: _on_told(told, outlet, bars),
                on_progress=bars,
            )
            result = client.sync(local, remote_path(remote), options, pull=self.pull)
        print_result(local, result, outlet)
        return result

    def watching(self, client: Client, local: str, remote: str, changes: Iterator[object]) -> None:
        """Sync, and again whenever something here has changed, until Ctrl-C; what fails is told and tried again.

        ``changes`` come to nothing, several times a second, where there are none.
        """
        again, wait = 0.0, AGAIN_SECONDS
        for changed in itertools.chain([True], changes):
            if changed:
                wait = AGAIN_SECONDS
            elif not again or time.monotonic() < again:
                continue
            if self._went_well(client, local, remote):
                again = 0.0
                continue
            click.echo(f"ftpy: trying again in {wait:g} s, or when something changes", err=True)
            again, wait = time.monotonic() + wait, min(2 * wait, MOST_AGAIN_SECONDS)

    def _went_well(self, client: Client, local: str, remote: str) -> bool:
        try:
            return not self.once(client, local, remote).failed
        except (AuthenticationFailed, ConfigError):
            raise
        except FtpyError as error:
            click.echo(f"ftpy: {display(str(error))}", err=True)
            return False


_OPTIONS = (
    click.option("--pull", is_flag=True, help="The other way: LOCAL becomes equal to REMOTE."),
    click.option("--delete", is_flag=True, help="Delete what the source lacks, and move what only has another name."),
    click.option(
        "--max-delete", type=_Percent(), default="50%", show_default=True, help="Most of the files to delete."
    ),
    click.option("--by-digest", is_flag=True, help="What is identical is told by content, not by size and time."),
    click.option("-u", "--update", is_flag=True, help="Files that are newer in the target stay."),
    click.option("--include", multiple=True, metavar="PATTERN", help="Only files that match."),
    click.option("--exclude", multiple=True, metavar="PATTERN", help="All but what matches."),
    click.option(
        "--links",
        type=click.Choice(["skip", "copy"]),
        default="skip",
        help="Pass symbolic links over, or take what they name inside the tree.",
    ),
    click.option("--dry-run", is_flag=True, help="Tell the plan, and do nothing."),
    click.option("--watch", is_flag=True, help="Keep going whenever something in LOCAL changes, until Ctrl-C."),
    click.option("-v", "--verbose", is_flag=True, help="A line for every step."),
    click.option(
        "--streams", type=Streams(), help="Connections that share the work, 1 to 32; by itself as many as pay."
    ),
    click.option("--limit", type=Size("RATE", least=LEAST_RATE), help="Most bytes a second, such as 500K or 20M."),
    digest_option,
    click.option("-q", "--quiet", is_flag=True, help="No bars and no summary; errors are still said."),
    json_option,
    server_option,
)


def _options(command: Callable[..., int]) -> Callable[..., int]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command(
    epilog=examples(
        "ftpy sync photos backup/photos",
        "ftpy sync --delete --dry-run photos backup/photos",
        "ftpy sync --delete --max-delete 80% photos backup/photos",
        "ftpy sync --watch src build --exclude '*.o'",
        "ftpy sync --pull --delete photos backup/photos",
    )
)
@click.argument("local", type=LOCAL_FOLDER, metavar="LOCAL")
@click.argument("remote", type=REMOTE_PATH, metavar="REMOTE")
@_options
def sync(*, local: str, remote: str, **typed: Any) -> int:
    """Make the folder REMOTE equal the folder LOCAL, or with --pull LOCAL equal REMOTE.

    Both sides are listed to their ends and a plan is made of that, which --dry-run shows. Without --delete nothing
    goes. With it nothing is deleted where the source is empty or could not be read in part, nor more than half of the
    target's files unless --max-delete allows it. Each step is taken only where there still is what was listed.

    What is replaced or deleted stays for some time, on the server, or with --pull in LOCAL's hidden folder .ftpy: the
    last line says how `ftpy undo` brings it back.
    """
    command = SyncCommand(**typed)
    if command.watch and (command.pull or command.dry_run):
        raise click.UsageError("--watch goes neither with --pull, for only this side is watched, nor with --dry-run")
    changes = changes_in(local) if command.watch else None
    with client_of(command.server, streams=command.streams, limit=command.limit) as client:
        notice_clock(client)
        if changes is None:
            result = command.once(client, local, remote)
            return int(bool(result.failed or result.plan.conflicts))
        command.watching(client, local, remote, changes)
    return 0


def changes_in(local: str) -> Iterator[object]:
    """Comes to something whenever there are changes below a folder, some moments after the last; else to nothing.

    Raises UsageError.
    """
    try:
        import watchfiles
    except ImportError:
        raise click.UsageError(
            "--watch needs the package watchfiles, which comes with ftpy[watch]: pip install '.[watch]' where ftpy is"
        ) from None
    if not os.path.isdir(local):
        raise LocalFileError(f"{display(local)}: not a folder")
    changes = _watched(watchfiles.watch, local)
    next(changes)  # it watches from now on, so that nothing is missed that changes while the first sync runs
    return changes


def _watched(watch: Callable[..., Iterator[object]], local: str) -> Iterator[object]:
    """What is noticed, also of another folder that takes its place: it is watched then, and all of it is a change.

    Raises LocalFileError where the system watches no more: it has a limit, say.
    """
    anew = gone = False
    while True:
        try:
            with _held(local) as same:
                where = os.path.realpath(local)  # what is noticed is told below that
                for changed in watch(
                    where,
                    watch_filter=functools.partial(_is_anyones, where),
                    step=SETTLED_MS,
                    debounce=LATEST_MS,
                    rust_timeout=BEGUN_MS,
                    yield_on_timeout=True,
                    ignore_permission_denied=True,  # each sync tells what it cannot read
                ):
                    yield changed or anew
                    anew = gone = False
                    if not same():
                        break
        except (OSError, RuntimeError) as error:  # of its own errors it makes RuntimeErrors
            if not anew or not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise LocalFileError(f"{display(local)}: it cannot be watched: {error}") from None
            yield not gone  # a sync says that it is gone
            gone = True
            time.sleep(BEGUN_MS / 1000)
        anew = True


@contextlib.contextmanager
def _held(folder: str) -> Iterator[Callable[[], bool]]:
    """Tells whether a folder is still the same. It is held open where that goes, or its number may become another's."""
    held = os.open(folder, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY) if os.name == "posix" else None
    try:
        first = os.stat(folder if held is None else held)

        def same() -> bool:
            try:
                return os.path.samestat(first, os.stat(folder))
            except OSError:
                return False

        yield same
    finally:
        if held is not None:
            os.close(held)


def _is_anyones(folder: str, _: object, path: str) -> bool:
    """Whether a change below a folder is not of our own files."""
    return not any(is_reserved(part) for part in path.removeprefix(folder).split(os.sep))


def notice_clock(client: Client) -> None:
    """Say that the clocks differ, if they do: what is newer is judged by the host's clock, corrected."""
    seconds = client.clock.offset_ns / 1e9
    if abs(seconds) > NOTICED_SECONDS + client.clock.delay_ns / 2e9:
        where = "ahead of" if seconds > 0 else "behind"
        click.echo(f"ftpy: the server's clock is {abs(seconds):,.0f} s {where} this one; allowed for", err=True)


def print_step(step: Step, *, as_json: bool) -> None:
    """One step of a plan."""
    if as_json:
        fields: dict[str, object] = {"do": step.do, "path": str(step.path)}
        if step.origin is not None:
            fields["from"] = str(step.origin)
        if step.do in ("add", "replace", "move", "delete"):
            fields["size"] = step.size
        print_json(fields | ({"newer": True} if step.newer else {}))
        return
    path = display(str(step.path))
    what = f"{display(str(step.origin))} -> {path}" if step.origin is not None else path
    size = f", {size_of(step.size)}" if step.do in ("add", "replace") else ""
    click.echo(f"{WORDS[step.do]}: {what}{size}{', which is newer there' if step.newer else ''}")


def _on_step(step: Step, outlet: Outlet, bars: TreeBars) -> None:
    if outlet.as_json or outlet.verbose:
        with bars.paused():
            print_step(step, as_json=outlet.as_json)


def _on_told(told: Told, outlet: Outlet, bars: TreeBars) -> None:
    if told.verdict != "failed":  # what failed is told at the end
        outlet.told(bars.paused, told)


def print_result(name: str, result: SyncResult, outlet: Outlet) -> None:
    """The failures, each with its reason, and one line of what was done."""
    plan = result.plan
    if outlet.as_json:
        fields = {
            "source": name,
            "ok": not result.failed and not plan.conflicts,
            "operation": result.operation,
            "files": plan.count("add", "replace") if outlet.dry_run else result.tree.files,
            "size": plan.size if outlet.dry_run else result.tree.size,
            "moved": plan.count("move") if outlet.dry_run else result.moved,
            "deleted": plan.count("delete") if outlet.dry_run else result.deleted,
            "identical": plan.identical,
            "newer": len(plan.newer),
            "conflicts": [str(path) for path in plan.conflicts],
            "failed": result.failed,
            "dry_run": outlet.dry_run,
        }
        print_json(fields)
    for told in result.failures:
        if told.error is not None:
            outlet.failure(told.name, told.error)
    for path in plan.conflicts:
        click.echo(
            f"ftpy: {display(str(path))}: a folder on one side and none on the other; --delete changes it", err=True
        )
    if result.stopped:
        click.echo("ftpy: some of it failed, so nothing was deleted; the same command again goes on", err=True)
    if not outlet.quiet and not outlet.as_json:
        click.echo(_summary(name, result, dry_run=outlet.dry_run))


def _summary(name: str, result: SyncResult, *, dry_run: bool) -> str:
    plan, tree = result.plan, result.tree
    if dry_run:
        facts = [f"{plan.count('add', 'replace'):,} files, {size_of(plan.size)} to move"]
        counts = {"to rename": plan.count("move"), "to delete": plan.count("delete")}
    else:
        facts = [f"{tree.files:,} files, {size_of(tree.size)} in {tree.seconds:.1f} s"]
        if tree.files and tree.seconds:
            facts[0] += f" ({rate(tree.size, tree.seconds)}), verified"
        counts = {"renamed": result.moved, "deleted": result.deleted}
    counts |= {"identical already": plan.identical, "newer there": len(plan.newer), "FAILED": result.failed}
    facts += [f"{count:,} {what}" for what, count in counts.items() if count]
    if result.operation is not None:
        facts.append(f"to undo: ftpy undo {result.operation[:SHOWN_DIGITS]}")
    return f"{display(name)}: {', '.join(facts)}"
