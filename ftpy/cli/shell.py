"""``ftpy shell``: the commands of the command line, one after the other, from a folder on the server."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import click

from ftpy.cli.common import OUTPUT_CLOSED, any_text_of_stdin, report, standard_input
from ftpy.cli.names import LOCAL_FOLDER, LOCAL_PATH, REMOTE_PATH, expand_one
from ftpy.cli.options import examples, server_option
from ftpy.cli.output import coloured, entry
from ftpy.cli.transfers import client_of
from ftpy.cli.working import Working, shell, working
from ftpy.errors import LocalFileError, NotADirectory
from ftpy.files import RemotePath, display

MOST_LINE_CHARACTERS = 128 * 1024
"""Of one line that is read from a pipe: what Linux takes for one argument."""
OUTSIDE = ("completion", "pair", "shell")
"""Commands that make no sense in a shell."""


class Leave(Exception):
    """The shell is to end, with this exit code."""

    def __init__(self, code: int | None) -> None:
        super().__init__()
        self.code = code


@click.command(
    "shell",
    epilog=examples(
        "ftpy shell",
        "ftpy shell -s work",
        "printf 'cd photos\\nput *.jpg\\n' | ftpy shell",
        "ftpy shell < nightly.ftpy",
    ),
)
@server_option
@click.pass_context
def shell_(ctx: click.Context, *, server: str | None) -> int:
    """Type commands one after the other, from a folder on the server, over one connection.

    All commands of ftpy are there, without the word ftpy: put, get, ls, …. Paths on the server start in the folder
    of `cd`, those on this side in that of `lcd`; a path with a slash before it starts at the top, `..` is the folder
    above. Tab completes commands, options and names on both sides. `help` lists the commands; `exit` or Ctrl-D leaves,
    Ctrl-C ends only what runs.

    Quotes and backslashes are read as by a shell, and *, ? and [ mean files: of the server where a path on the server
    is meant, else of this side. Nothing else of a shell is there: no pipes, variables, or programs of this machine.

    When standard input is no terminal, commands are read from it, one a line, empty lines and those that begin with #
    passed over, and the first that fails ends it with its exit code.

    What was typed is kept in ~/.local/state/ftpy/history, readable by you alone. $NO_COLOR: no colours.
    """
    from ftpy.config.client import choose_profile, client_config_path, load_client_config

    path = os.path.abspath(client_config_path())
    name, _ = choose_profile(load_client_config(path), server)
    os.environ.update(FTPY_CONFIG=path, FTPY_SERVER=name)  # wherever lcd leads, and whoever looks for them
    commands = Commands(ctx.find_root().command)
    with working(Working(name)):
        with client_of(None):
            pass  # one that is not there is said before anything is typed
        return _interact(commands) if standard_input().isatty() else _read(commands)


def _interact(commands: Commands) -> int:
    """Ask for commands until somebody leaves: the exit code."""
    from ftpy.cli.lines import Editor

    code = 0
    with Editor(commands) as editor:
        while True:
            try:
                line = editor.ask(_prompt(colours=editor.colours))
                code = commands.run(line)
            except EOFError:
                click.echo()
                return 0
            except KeyboardInterrupt:  # at the prompt
                click.echo()
            except Leave as left:
                return left.code or 0
            if code == OUTPUT_CLOSED:
                return code


def _read(commands: Commands) -> int:
    """Run the commands of standard input: the exit code of the first that fails."""
    stdin = any_text_of_stdin()
    while line := stdin.readline(MOST_LINE_CHARACTERS):
        if len(line) == MOST_LINE_CHARACTERS:
            raise click.UsageError(f"a line has more than {MOST_LINE_CHARACTERS} characters")
        if line.lstrip().startswith("#"):
            continue
        try:
            code = commands.run(line)
        except Leave as left:
            return left.code or 0
        if code:
            return code
    return 0


def _prompt(*, colours: bool) -> str:
    """``name:/folder> ``."""
    here = shell()
    assert here is not None
    name, folder = display(here.server), display(f"/{here.folder}")
    if not colours or coloured("x", bold=True) == "x":
        return f"{name}:{folder}> "
    parts = [(name, "green"), (":", None), (folder, "blue"), ("> ", None)]
    # \1 and \2 tell readline what takes no room on the screen.
    return "".join(f"\1\x1b[1;{30 + _HUES[hue]}m\2{text}\1\x1b[0m\2" if hue else text for text, hue in parts)


_HUES = {"green": 2, "blue": 4}


class Commands(click.Group):
    """What can be typed: the command line's own commands but some, and the shell's."""

    def __init__(self, outside: click.Command) -> None:
        assert isinstance(outside, click.Group)
        inside = {name: one for name, one in outside.commands.items() if name not in OUTSIDE}
        super().__init__("", commands=inside | OWN, context_settings=dict(outside.context_settings))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name. Raises UsageError for one that is not for a shell."""
        if cmd_name in OUTSIDE and not ctx.resilient_parsing:
            raise click.UsageError(f"`{cmd_name}` is not for a shell: use `ftpy {cmd_name}` outside of it")
        return super().get_command(ctx, cmd_name)

    def run(self, line: str) -> int:
        """Run what one line says: the exit code. What goes wrong is said. Raises Leave."""
        from ftpy.cli.lines import split

        code = 0
        try:
            if "\0" in line:
                raise click.UsageError("a NUL is in the line, which no name and no command has")
            try:
                words = split(line)
            except ValueError:
                raise click.UsageError("a quote is not closed, or nothing follows the last backslash") from None
            if words[:1] == ["ftpy"]:  # as in every example
                words = words[1:]
            if words:
                with self.make_context("", words, allow_interspersed_args=False) as context:
                    result = self.invoke(context)
                code = result if isinstance(result, int) else 0
            sys.stdout.flush()
        except Leave:
            raise
        except BaseException as error:  # noqa: BLE001  (as at the end of the process: whatever it is becomes a code)
            code = report(error, "ftpy")
        return code


# ------------------------------------------------------------------ the shell's own


def _here() -> Working:
    here = shell()
    assert here is not None
    return here


@click.command()
@click.argument("folder", default="/", type=REMOTE_PATH, metavar="[FOLDER]")
def cd(folder: str) -> None:
    """Go to a folder on the server, or to the top."""
    here = _here()
    with client_of(None) as client:
        path = expand_one(client, folder)
        if path != RemotePath() and client.stat(path).type != "directory":
            raise NotADirectory(f"{path}: {NotADirectory.sentence()}")
    here.folder = path


@click.command()
def pwd() -> None:
    """Say which folder on the server this is."""
    click.echo(display(f"/{_here().folder}"))


@click.command()
@click.argument("folder", default="~", type=LOCAL_FOLDER, metavar="[FOLDER]")
def lcd(folder: str) -> None:
    """Go to a folder on this side, or home."""
    with _local(folder):
        os.chdir(os.path.expanduser(folder))


@click.command()
def lpwd() -> None:
    """Say which folder on this side this is."""
    with _local("."):
        click.echo(display(os.getcwd()))


@click.command()
@click.argument("path", default=".", type=LOCAL_PATH, metavar="[PATH]")
@click.option("-a", "--all", "hidden", is_flag=True, help="What begins with a dot, too.")
def lls(path: str, hidden: bool) -> None:
    """List a folder on this side."""
    with _local(path), os.scandir(os.path.expanduser(path)) as found:
        for name, folder in sorted((one.name, one.is_dir()) for one in found):
            if hidden or not name.startswith("."):
                click.echo(entry(display(name), folder=folder))


@contextlib.contextmanager
def _local(path: str) -> Iterator[None]:
    """An OSError of a path on this side is one of ours."""
    try:
        yield
    except OSError as error:
        raise LocalFileError(f"{display(path)}: {error.strerror or error}") from None


@click.command("help")
@click.argument("command", required=False)
@click.pass_context
def help_(ctx: click.Context, command: str | None) -> None:
    """List the commands, or say what one does."""
    assert ctx.parent is not None
    group = ctx.parent.command
    assert isinstance(group, click.Group)
    if command is None:
        for name in group.list_commands(ctx):
            click.echo(f"{name:10}  {group.commands[name].get_short_help_str(100)}")
        return
    if (found := group.get_command(ctx, command)) is None:
        raise click.UsageError(f"there is no command {display(command)}")
    with click.Context(found, parent=ctx.parent, info_name=command) as inner:
        click.echo(found.get_help(inner))


@click.command("exit")
@click.argument("code", type=click.IntRange(0, 255), default=0, metavar="[CODE]")
def exit_(code: int) -> None:
    """Leave the shell, as Ctrl-D does."""
    raise Leave(code)


OWN = {"cd": cd, "exit": exit_, "help": help_, "lcd": lcd, "lls": lls, "lpwd": lpwd, "pwd": pwd, "quit": exit_}
"""The commands that only a shell has."""
