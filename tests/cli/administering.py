"""``ftpy-server`` called as an administrator calls it."""

from __future__ import annotations

import os
import subprocess
import sys

from click.testing import CliRunner

from ftpy.cli.server import cli
from ftpy.errors import ConfigError
from ftpy.wire.token import PairingToken


def invoke(*arguments: object):
    """Run in this process: the result; a refusal is its ``exception``."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, ConfigError | SystemExit):
        raise result.exception
    return result


def refused(*arguments: object) -> str:
    """Run what must be refused: the error's line."""
    result = invoke(*arguments)
    assert isinstance(result.exception, ConfigError), result.output
    assert result.stdout == ""
    message = str(result.exception)
    assert message.isprintable()
    return message


def run(*arguments: object, cwd=None, **env: str) -> tuple[int, str, str]:
    """Run as a process: exit code, standard output, standard error."""
    process = subprocess.run(
        [sys.executable, "-c", "from ftpy.cli.server import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if not name.startswith("FTPY_")} | env,
        timeout=60,
        check=False,
    )
    return process.returncode, process.stdout, process.stderr


def token_of(stdout: str) -> PairingToken:
    """The token, which must be all there is."""
    assert stdout.count("\n") == 1
    return PairingToken.from_text(stdout)
