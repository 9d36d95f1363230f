"""``ftpy run``: the host's commands, their output here as it was said there."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from ftpy.cli.options import examples, json_option, server_option
from ftpy.cli.output import print_json
from ftpy.cli.transfers import client_of
from ftpy.cli.words import COMMAND
from ftpy.cli.working import shell
from ftpy.encodings import decoder
from ftpy.files import display

if TYPE_CHECKING:
    from ftpy.client.client import Client
    from ftpy.client.running import Run

_LINES = re.compile(r"[^\n\r\t]+")
"""What goes to a terminal is cleaned, but for line ends and tabs."""


@click.command(
    epilog=examples(
        "ftpy run",
        "ftpy run disk",
        "ftpy run log-tail -n 100",
        "ftpy run sort < names.txt",
        "ftpy run dump | gzip > dump.gz",
    ),
    context_settings={"allow_interspersed_args": False},
)
@click.argument("name", required=False, type=COMMAND)
@click.argument("arguments", nargs=-1, metavar="[ARG]...")
@click.option(
    "-n",
    "--no-input",
    is_flag=True,
    help="Give it no standard input, as in a background job and in `ftpy shell`.",
)
@click.option("--raw", is_flag=True, help="Pass its bytes to a terminal, too, as they are: escape codes and all.")
@json_option
@server_option
def run(
    *,
    name: str | None,
    arguments: tuple[str, ...],
    no_input: bool,
    raw: bool,
    as_json: bool,
    server: str | None,
) -> int:
    """Run a command of the host's, or list those that you may run.

    The host's settings name the commands, and what arguments each takes; no shell reads them. Options come before
    NAME, all that follows is the command's. Its standard output and error come apart and as they come, its exit code
    becomes this one's: 128 and more where a signal ended it, 124 where its time was up. Errors of ftpy's own have the
    exit codes below, and a line that begins with `ftpy:`. Ctrl-C ends the command on the host, a second one leaves at
    once.

    What goes to a terminal is read in the host's encoding and shown in this one's, with control codes escaped; pipes
    and files get the bytes as they were.
    """
    with client_of(server) as client:
        if name is None:
            _list(client, as_json=as_json)
            return 0
        began = time.monotonic()
        with _stdin(none=no_input or shell() is not None) as stdin, client.run(name, arguments, stdin=stdin) as running:
            streams = _streams(running, raw=raw, as_json=as_json)
            with _cancelled_by_ctrl_c(running):
                for output in running:
                    streams[output.stream].write(output.data)
            for stream in streams.values():
                stream.write(b"", final=True)
    assert running.code is not None
    return _end(running, time.monotonic() - began, as_json=as_json)


def _end(running: Run, seconds: float, *, as_json: bool) -> int:
    """Say how it ended, where that is not plain: the exit code. Raises KeyboardInterrupt."""
    code = running.code or 0
    if as_json:
        fields = {"command": running.command, "ok": not code, "code": code, "ended": running.ended}
        print_json({**fields, "seconds": round(seconds, 3)})
    if running.ended == "timeout":
        click.echo(f"ftpy: {running.command}: its time on the host was up; it was ended there", err=True)
    if running.ended == "cancel":
        raise KeyboardInterrupt
    return code


def _list(client: Client, *, as_json: bool) -> None:
    """A line for each command: how it is called, what it is for."""
    commands = client.commands()
    if as_json:
        for one in commands:
            print_json({**one._asdict(), "arguments": list(one.arguments)})
        return
    usages = [" ".join([one.name, *map(display, one.arguments), *(["<"] if one.stdin else [])]) for one in commands]
    width = max(map(len, usages), default=0)
    for usage, one in zip(usages, commands, strict=True):
        click.echo(f"{usage:{width}}  {display(one.summary)}".rstrip())
    if not commands:
        click.echo("this server has no command that you may run", err=True)


@contextlib.contextmanager
def _stdin(*, none: bool) -> Iterator[BinaryIO | None]:
    """Standard input without a buffer: a thread that waits for it must hold nothing that the end of Python wants."""
    if none or sys.stdin is None:
        yield None
        return
    yield open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)  # noqa: SIM115  (the thread may still read it)


@contextlib.contextmanager
def _cancelled_by_ctrl_c(running: Run) -> Iterator[None]:
    """The first Ctrl-C ends the command, and what it still says is shown; the second one is as always."""

    def cancel(number: int, _: Any) -> None:
        signal.signal(number, signal.default_int_handler)
        running.cancel()

    before = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# ------------------------------------------------------------------ what it says


class _Bytes:
    """To a file or pipe: as it was."""

    def __init__(self, descriptor: int) -> None:
        # Past the buffer of sys.stdout: what is said is there at once, and in the order in which it was said.
        self._file = open(descriptor, "wb", buffering=0, closefd=False)  # noqa: SIM115  (not ours to close)

    def write(self, data: bytes, *, final: bool = False) -> None:  # noqa: ARG002
        """Write all of it."""
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) or 0 :]


class _Text:
    """To a terminal: read in the host's encoding, cut anywhere; shown in ours, without control codes."""

    def __init__(self, descriptor: int, encoding: str, shown: str) -> None:
        self._decode, self._shown = decoder(encoding), shown
        self._file = _Bytes(descriptor)

    def write(self, data: bytes, *, final: bool = False) -> None:
        """Show what is whole of it; at the end the rest as well."""
        text = _LINES.sub(lambda line: display(line[0]), self._decode.decode(data, final))
        self._file.write(text.encode(self._shown, "backslashreplace"))


class _Json:
    """As JSON objects: text in the host's encoding, or bytes."""

    def __init__(self, name: str, encoding: str, *, raw: bool) -> None:
        self._name, self._raw, self._decode = name, raw, decoder(encoding)

    def write(self, data: bytes, *, final: bool = False) -> None:
        """One object."""
        if self._raw:
            import base64

            said = {"base64": base64.b64encode(data).decode()} if data else {}
        else:
            text = self._decode.decode(data, final)
            said = {"text": text} if text else {}
        if said:
            print_json({"stream": self._name, **said})


def _streams(running: Run, *, raw: bool, as_json: bool) -> dict[str, _Bytes | _Text | _Json]:
    """Where each stream of the command goes."""
    streams: dict[str, _Bytes | _Text | _Json] = {}
    for name, ours in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        descriptor = ours.fileno()
        if as_json:
            streams[name] = _Json(name, running.encoding, raw=raw)
        elif raw or not os.isatty(descriptor):
            streams[name] = _Bytes(descriptor)
        else:
            streams[name] = _Text(descriptor, running.encoding, ours.encoding)
    return streams
