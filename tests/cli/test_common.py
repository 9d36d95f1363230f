"""Every way that a command can end: its exit code, its one line, and nothing on standard output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from ftpy.cli.common import EPILOG, EXIT_CODES
from ftpy.errors import FtpyError

posix = pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")


def start(body: str, *arguments: str, **options) -> subprocess.Popen[str]:
    """Start a command ``tool`` whose body is ``body``."""
    script = textwrap.dedent("""
        import click, os, sys
        from ftpy import errors
        from ftpy.cli.common import run_main
        @click.command()
        @click.option("--number", type=int)
        def tool(number):
            {}
        run_main(tool, "tool")
    """).format(body)
    environment = {name: value for name, value in os.environ.items() if name not in ("FTPY_DEBUG", "_TOOL_COMPLETE")}
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        env=environment | options.pop("env", {}),
        **options,
    )


def run(body: str, *arguments: str, **options) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    process = start(body, *arguments, **options)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("body", "code"), [("pass", 0), ("return 0", 0), ("return 5", 5), ("sys.exit(3)", 3), ("sys.exit()", 0)]
)
def test_end_is_the_code_that_the_command_returns(body, code):
    assert run(body) == (code, "", "")


def all_errors(base=FtpyError):
    yield base
    for child in base.__subclasses__():
        yield from all_errors(child)


def test_every_error_of_the_tree_has_a_documented_exit_code():
    assert {kind.exit_code for kind in all_errors()} <= set(EXIT_CODES)
    for code, meaning in EXIT_CODES.items():
        assert f"{code:3}  {meaning}" in EPILOG


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        ("errors.ConfigError('wrong')", 2, "wrong"),
        ("errors.NotFound('a\\n\\x1b[2Jb')", 1, r"a\n\x1b[2Jb"),
        ("errors.ConnectionFailed()", 3, "The server cannot be reached."),
        ("errors.Denied()", 4, "The server refused this user and key."),
        ("errors.DigestMismatch('x')", 5, "x"),
        ("click.ClickException('x')", 1, "x"),
        ("click.UsageError('two\\n\\tlines')", 2, "two lines (tool --help)"),
        ("KeyError('secret')", 70, "internal error: KeyError (set FTPY_DEBUG=1 for the traceback)"),
        ("RecursionError()", 70, "internal error: RecursionError (set FTPY_DEBUG=1 for the traceback)"),
        ("KeyboardInterrupt()", 130, "interrupted"),
        ("click.Abort()", 130, "interrupted"),
    ],
)
def test_error_is_one_clean_line_and_its_exit_code(error, code, line):
    assert run(f"raise {error}") == (code, "", f"tool: {line}\n")


def test_usage_error_says_where_help_is():
    code, out, err = run("pass", "--nonsense")
    assert (code, out) == (2, "")
    assert err.startswith("tool: No such option")
    assert err.endswith("(tool --help)\n")
    assert err.count("\n") == 1


def test_help_goes_to_standard_output_and_is_no_failure():
    code, out, err = run("pass", "--help")
    assert (code, err) == (0, "")
    assert "--number" in out


def test_traceback_comes_before_the_line_when_debugging():
    code, out, err = run("raise KeyError('detail')", env={"FTPY_DEBUG": "1"})
    assert (code, out) == (70, "")
    assert err.startswith("Traceback")
    assert "KeyError: 'detail'" in err
    assert err.splitlines()[-1].startswith("tool: internal error: KeyError")


@posix
def test_interrupt_from_outside_ends_with_130_and_one_line():
    process = start("click.echo('ready'); sys.stdout.flush(); import time; time.sleep(60)")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "tool: interrupted\n")


@posix
@pytest.mark.parametrize("body", ["click.echo('x' * 1_000_000)", "sys.stdout.write('only at the last flush')"])
def test_output_that_nobody_reads_ends_quietly_with_141(body):
    reading, writing = os.pipe()
    os.close(reading)
    script = f"import click, sys\nfrom ftpy.cli.common import run_main\n@click.command()\ndef tool():\n    {body}\n"
    with os.fdopen(writing, "wb") as closed:
        ended = subprocess.run(
            [sys.executable, "-c", script + "run_main(tool, 'tool')"],
            stdout=closed,
            stderr=subprocess.PIPE,
            # Unbuffered there would be no last flush that could fail.
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            timeout=30,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_completion_is_answered_when_a_shell_asks():
    code, out, _ = run("pass", env={"_TOOL_COMPLETE": "bash_complete", "COMP_WORDS": "tool --nu", "COMP_CWORD": "1"})
    assert code == 0
    assert "--number" in out


@posix
def test_a_full_disk_behind_standard_output_is_one_line_and_1():
    with open("/dev/full", "wb") as full:
        process = start("click.echo('y' * 99)", stdout=full)
        assert process.communicate(timeout=30)[1] == "tool: standard output: No space left on device\n"
    assert process.returncode == 1
