"""Doing transfers one after the other: bars while they run, a line when they end, an exit code in the end."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click
from msgspec import Struct

from ftpy.cli.output import explain, print_json, rate, size_of
from ftpy.cli.working import shell, shown
from ftpy.errors import AlreadyExists, AuthenticationFailed, ConfigError, ConnectionFailed, FtpyError
from ftpy.files import display

if TYPE_CHECKING:
    from ftpy.cli.bars import Bar, TreeBars
    from ftpy.cli.options import TransferOptions
    from ftpy.client.client import Client
    from ftpy.client.results import Fetched, Stored
    from ftpy.client.trees import Told, TreeProgress, TreeResult
    from ftpy.files import RemotePath


class FileTask(Struct, frozen=True):
    """One file: called ``name`` by who asked for it."""

    name: str
    run: Callable[[Bar], Stored | Fetched]


class TreeTask(Struct, frozen=True):
    """One tree: ``run`` is told whom to tell of every file and of progress."""

    name: str
    run: Callable[[Callable[[Told], None], Callable[[TreeProgress], None]], TreeResult]
    atomic: bool = False


class Outlet(Struct, frozen=True):
    """How transfers are done and told: not at all, as JSON, each file of a tree, on standard error."""

    quiet: bool = False
    as_json: bool = False
    verbose: bool = False
    dry_run: bool = False
    to_stderr: bool = False

    def failure(self, name: str, error: FtpyError) -> None:
        """One line on standard error; as JSON besides."""
        text = str(error)
        shown, base = display(name), display(os.path.basename(name.rstrip("/")))
        named = text.startswith((f"{shown}:", f"{shown} ", f"{base}:")) or f"/{base}:" in text
        if not named and name != "-":
            text = f"{shown}: {text}"
        click.echo(f"ftpy: {display(text)}", err=True)
        if self.as_json:
            fields = {"source": name, "ok": False, "error": type(error).__name__, "message": str(error)}
            print_json(fields, to_stderr=self.to_stderr)

    def file(self, name: str, result: Stored | Fetched) -> None:
        """One line that says what is true of the file now."""
        target = getattr(result, "target", None)
        identical, unchanged = getattr(result, "identical", False), getattr(result, "unchanged", False)
        if self.as_json:
            fields = {
                "source": name,
                "ok": True,
                "path": str(result.path),
                "size": result.size,
                result.digest.name: result.digest.hex,
                "durable": result.durable,
                "resumed": result.resumed,
            }
            if hasattr(result, "target"):
                fields |= {"target": target, "identical": identical, "unchanged": unchanged}
            print_json(fields, to_stderr=self.to_stderr)
        elif not self.quiet:
            facts = [f"verified {result.digest.name} {result.digest.hex}"]
            if result.durable:
                facts.append("durable")
            if result.resumed:
                facts.append(f"resumed at {size_of(result.resumed)}")
            if identical:
                facts = [f"{'unchanged' if unchanged else 'identical already'}, {facts[0]}"]
            where = shown(result.path) if name == "-" or target is None else target
            click.echo(f"{display(where)}: {size_of(result.size)}, {', '.join(facts)}", err=self.to_stderr)

    def told(self, paused: Callable[[], contextlib.AbstractContextManager[None]], told: Told) -> None:
        """What came of one file of a tree, where each is wanted; bars are ``paused`` meanwhile."""
        if self.as_json or self.verbose or self.dry_run or told.verdict == "special":
            with paused():
                self._tell(told)

    def _tell(self, told: Told) -> None:
        if self.as_json:
            fields: dict[str, object] = {"name": told.name, "path": str(told.path), "verdict": told.verdict}
            if told.error is not None:
                fields |= {"error": type(told.error).__name__, "message": str(told.error)}
            elif told.verdict in ("sent", "received", "identical"):
                fields["size"] = told.size
            print_json(fields)
        elif told.verdict not in ("failed", "identical"):
            what = {"special": "not a regular file, passed over", "link": "a symbolic link, passed over"}
            shown = what.get(told.verdict) or size_of(told.size)
            click.echo(f"{display(told.name)}: {shown}", err=told.verdict == "special")

    def tree(self, name: str, result: TreeResult, *, atomic: bool = False) -> None:
        """The failures, each with its reason, and one line of what was done."""
        if self.as_json:
            fields = {key: getattr(result, key) for key in ("files", "identical", "links", "special", "failed")}
            fields |= {
                "source": name,
                "ok": not result.failed,
                "size": result.size,
                "seconds": round(result.seconds, 3),
            }
            print_json({**fields, "swapped": result.swapped} if atomic else fields)
            return
        for told in result.failures:
            if told.error is not None:
                self.failure(told.name, told.error)
        if len(result.failures) < result.failed:
            click.echo(f"ftpy: and {result.failed - len(result.failures):,} more failed", err=True)
        if not self.quiet:
            click.echo(_summary(name, result, dry_run=self.dry_run, atomic=atomic))


def _summary(name: str, result: TreeResult, *, dry_run: bool, atomic: bool) -> str:
    moved = f"{result.files:,} file{'' if result.files == 1 else 's'}, {size_of(result.size)}"
    facts = [f"{moved} to move" if dry_run else f"{moved} in {result.seconds:.1f} s"]
    if result.files and not dry_run:
        facts[0] += f" ({result.files / result.seconds:,.0f} files/s, {rate(result.size, result.seconds)}), verified"
    if result.identical:
        facts.append(f"{result.identical:,} identical already")
    if result.links:
        facts.append(f"{result.links:,} symbolic links passed over")
    if result.special:
        facts.append(f"{result.special:,} special files passed over")
    if result.failed:
        facts.append(f"{result.failed:,} FAILED")
    if result.swapped:
        facts.append("put in place at once")
    elif atomic and not dry_run:
        facts.append("NOTHING put in place (the same command goes on)")
    return f"{display(name)}: {', '.join(facts)}"


def transfer(
    way: Literal["put", "get"],
    run: Callable[[Client], Iterator[FileTask | TreeTask]],
    options: TransferOptions,
    *,
    to_stderr: bool = False,
) -> int:
    """Do one transfer after the other; what fails is told and does not stop the others: the exit code.

    What is said goes ``to_stderr`` where standard output is the file's.
    """
    code = 0
    outlet = Outlet(options.quiet, options.as_json, options.verbose, options.dry_run, to_stderr)
    current: list[Bar | TreeBars] = []

    def notify(line: str) -> None:
        if current:
            current[-1].say(f"ftpy: {line}")
        else:
            click.echo(f"ftpy: {display(line)}", err=True)

    ways = {"streams": options.streams, "limit": options.limit, "explains": options.explain}
    with client_of(options.server, notify, **ways) as client:
        for task in run(client):
            try:
                code = max(code, _do(task, outlet, current))
            except (ConnectionFailed, AuthenticationFailed, ConfigError):
                raise
            except FtpyError as error:
                code = max(code, error.exit_code)
                outlet.failure(task.name, error)
            finally:
                current.clear()
        if (explanation := client.explain(way)) is not None:
            explain(explanation, as_json=options.as_json, to_stderr=to_stderr)
    return code


def _do(task: FileTask | TreeTask, outlet: Outlet, current: list[Bar | TreeBars]) -> int:
    from ftpy.cli.bars import Bar, TreeBars

    base = os.path.basename(task.name.rstrip("/")) or task.name
    if isinstance(task, FileTask):
        with Bar(base, quiet=outlet.quiet) as bar:
            current[:] = [bar]
            result = task.run(bar)
        outlet.file(task.name, result)
        return 0
    with TreeBars(base, quiet=outlet.quiet) as bars:
        current[:] = [bars]
        tree = task.run(functools.partial(outlet.told, bars.paused), bars)
    outlet.tree(task.name, tree, atomic=task.atomic)
    return 1 if tree.failed else 0


def each(
    found: Iterable[tuple[str, RemotePath | FtpyError]],
    one: Callable[[str, RemotePath], None],
    *,
    as_json: bool,
    to_stderr: bool = False,
) -> int:
    """Do it for each path under its name; one that fails is said and stops no other: the exit code."""
    code = 0
    for source, path in found:
        try:
            if isinstance(path, FtpyError):
                raise path
            one(source, path)
        except (ConnectionFailed, AuthenticationFailed, ConfigError):
            raise
        except FtpyError as error:
            code = max(code, error.exit_code)
            Outlet(as_json=as_json, to_stderr=to_stderr).failure(source, error)
    return code


class Places:
    """Where one command has put what: as with cp, none of its sources takes the place of another unseen."""

    def __init__(self, *, replaces: bool = True) -> None:
        self._replaces = replaces
        self._sources: dict[str, str] = {}

    @contextlib.contextmanager
    def taken(self, place: object, source: str) -> Iterator[None]:
        """What is put there inside of this stays till the end, if it succeeds. Raises AlreadyExists."""
        before = self._sources.get(str(place), source)
        if before != source and self._replaces:
            raise AlreadyExists(
                f"{display(source)}: this command has just put {display(before)} at {display(str(place))}"
            )
        yield
        self._sources[str(place)] = source


def refused(error: FtpyError) -> Callable[[Any], NoReturn]:
    """What a task does that cannot be begun."""

    def run(_: Any) -> NoReturn:
        raise error

    return run


@contextlib.contextmanager
def client_of(server: str | None, notify: Callable[[str], None] | None = None, **options: Any) -> Iterator[Client]:
    """A connected client of the server that is meant; ``options`` as of ``Client.paired``.

    In a shell it is the shell's own, unless there are options, which hold for a connection from its beginning.
    """
    from ftpy.client.client import Client

    say = notify or (lambda line: click.echo(f"ftpy: {display(line)}", err=True))
    here = shell()
    if here is not None and server in (None, here.server) and not any(options.values()):
        with here.client(say) as client:
            yield client
        return
    with Client.paired(server, say, **options) as client:
        yield client
