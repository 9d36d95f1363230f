"""What both commands share: how errors become one line and an exit code."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import os
import sys
from typing import NoReturn, TextIO

import click

from ftpy.errors import FtpyError, LocalFileError
from ftpy.files import display

INTERNAL_ERROR = 70
"""A defect of ours (EX_SOFTWARE of sysexits.h)."""
INTERRUPTED = 130
"""128 + SIGINT, as shells say it."""
OUTPUT_CLOSED = 141
"""128 + SIGPIPE: what reads our output went away."""

UNWRITABLE = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EAGAIN])
"""Why writing our output fails; whatever else is written says so by an error of ours."""

EXIT_CODES = {
    0: "done",
    1: "failed, or some of the files failed",
    2: "wrong usage or settings",
    3: "no connection to the server",
    4: "authentication refused",
    5: "verification failed: what arrived is not what was sent",
    INTERNAL_ERROR: "a defect of ftpy",
    INTERRUPTED: "interrupted by Ctrl-C",
    OUTPUT_CLOSED: "standard output was closed by its reader",
}
"""Exit code -> what it means; promised to scripts."""

EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code:3}  {meaning}" for code, meaning in EXIT_CODES.items())
"""For the end of --help; the first line keeps click from joining the others."""


def standard_input() -> TextIO:
    """Standard input. Raises LocalFileError where there is none."""
    if sys.stdin is None:
        raise LocalFileError(f"standard input: {os.strerror(errno.EBADF)}")
    return sys.stdin


def any_text_of_stdin() -> TextIO:
    """The same, whatever bytes it holds: those that are no text are for whoever reads it to refuse."""
    stdin = standard_input()
    if isinstance(stdin, io.TextIOWrapper):  # a program may have put another in its place
        stdin.reconfigure(errors="surrogateescape")
    return stdin


def run_main(command: click.Command, name: str) -> NoReturn:
    """Run ``command`` on the process's arguments and exit.

    Its return value is the exit code where it is a number; an error is one line on standard error.
    """
    try:
        _leave_no_core()
        _keep_standard_numbers()
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a name that it cannot spell is no reason to end
        _complete(command, name)
        with command.make_context(name, sys.argv[1:]) as context:
            result = command.invoke(context)
        sys.stdout.flush()
        code = result if isinstance(result, int) else 0
    except BaseException as error:  # noqa: BLE001  (the last door: whatever it is becomes an exit code)
        code = report(error, name)
    gc.freeze()  # the last look for circles of garbage would take longer than many a command
    sys.exit(code)


def _leave_no_core() -> None:
    """A core would hold the keys in memory; who needs one raises the limit of a process that runs (prlimit(1))."""
    if os.name == "posix":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _keep_standard_numbers() -> None:
    """No file or connection of ours is to get the number of a standard stream that was closed for us.

    What is written to a closed standard output fails, as it does everywhere; what is said to a closed standard error
    goes nowhere.
    """
    flags = (os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)
    for number, (stream, flag) in enumerate(zip((sys.stdin, sys.stdout, sys.stderr), flags, strict=True)):
        if stream is None:
            fd = os.open(os.devnull, flag)
            if fd != number:
                os.dup2(fd, number)
                os.close(fd)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _complete(command: click.Command, name: str) -> None:
    """Answer a shell that asks for completions and exit; nothing else asks."""
    variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
    if instruction := os.environ.get(variable):
        from ftpy.cli.completing import complete

        sys.exit(complete(command, name, variable, instruction))


def report(error: BaseException, name: str) -> int:
    """Say what went wrong, in one line: the exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        _forget_stdout()
        return OUTPUT_CLOSED
    if isinstance(error, OSError) and error.errno in UNWRITABLE and error.filename is None:
        _forget_stdout()
        return _say(name, f"standard output: {error.strerror}", 1)
    if os.environ.get("FTPY_DEBUG"):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt | click.Abort):  # click aborts at a prompt: Ctrl-C or Ctrl-D
        return _say(name, "interrupted", INTERRUPTED)
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        click.echo(str(error), err=True)
        return 2
    if isinstance(error, click.UsageError):
        path = (error.ctx.command_path if error.ctx else "") or name
        message = " ".join(error.format_message().split())
        return _say(name, f"{message} ({path} --help)", error.exit_code)
    if isinstance(error, click.ClickException):
        return _say(name, error.format_message(), error.exit_code)
    if isinstance(error, FtpyError):
        return _say(name, str(error), error.exit_code)
    message = f"internal error: {type(error).__name__} (set FTPY_DEBUG=1 for the traceback)"
    return _say(name, message, INTERNAL_ERROR)


def _say(name: str, message: str, code: int) -> int:
    # Whether standard error can be written or not, the exit code says how it ended.
    with contextlib.suppress(OSError):
        click.echo(f"{name}: {display(message)}", err=True)
    return code


def _forget_stdout() -> None:
    """Let Python's last flush go nowhere; it would complain about the closed pipe again."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.close(descriptor)
