"""``[commands.NAME]`` of ``server.toml``: what users may have the host run, with which arguments, as what."""

from __future__ import annotations

import locale
import re
from typing import Annotated

from msgspec import Meta, Struct

from ftpy.config.keys import Seconds, says
from ftpy.encodings import is_text
from ftpy.errors import ConfigError
from ftpy.files import display

MOST_COMMANDS = 256
EVERYBODY = "*"
"""In place of a user's name."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ENCODING = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,63}")

Word = Annotated[str, Meta(min_length=1, max_length=4096)]
Pattern = Annotated[str, Meta(max_length=256)]
UserName = Annotated[str, Meta(pattern=r"^([a-z0-9][a-z0-9._-]{0,63}|\*)\Z")]


class Command(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One command that users may run."""

    run: Annotated[
        tuple[Word, ...], Meta(min_length=1, max_length=64), says("The program and its first arguments; no shell.")
    ]
    summary: Annotated[str, Meta(max_length=256), says("What it is for, in a line.")] = ""
    users: Annotated[tuple[UserName, ...], says('Who may run it: names of users, or "*" for all; empty: nobody.')] = ()
    args: Annotated[
        tuple[Pattern, ...],
        Meta(max_length=64),
        says("For each argument that a user may add a regular expression, which all of it must match."),
    ] = ()
    stdin: Annotated[bool, says("Whether it reads what the user's standard input gives.")] = False
    timeout_seconds: Annotated[Seconds, says("Seconds after which it is ended.")] = 60.0
    encoding: Annotated[
        str, says("Which encoding its output and its arguments have; empty: that of the server's locale.")
    ] = ""
    folder: Annotated[str, says("The folder that it runs in.")] = "/"
    environment: Annotated[
        dict[str, str], says("Variables beside PATH, HOME, USER, LOGNAME, LANG, TZ, FTPY_USER and FTPY_COMMAND.")
    ] = {}
    audit_args: Annotated[bool, says("Whether the audit trail has the arguments, and not just their number.")] = False

    def admits(self, user: str) -> bool:
        """Whether this user may run it."""
        return user in self.users or EVERYBODY in self.users

    @property
    def encoding_name(self) -> str:
        """The encoding of its output, by a name that it is known by."""
        return self.encoding or locale.getpreferredencoding(do_setlocale=False)

    def takes(self, arguments: list[str]) -> int | None:
        """Which argument it does not take, from 1 on; None where it takes them all.

        Left out is what may be empty, at the end.
        """
        given = [*arguments, *[""] * (len(self.args) - len(arguments))]
        for number, (text, pattern) in enumerate(zip(given, self.args, strict=False), 1):
            if not re.fullmatch(pattern, text) or "\0" in text:
                return number
        return len(self.args) + 1 if len(given) > len(self.args) else None


def check_command(name: str, command: Command) -> None:
    """Raises ConfigError for what the types cannot say."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{display(name)}: a command is called by a-z 0-9 _ - (at most 64)")
    for pattern in command.args:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ConfigError(f"{display(pattern)}: no regular expression: {display(str(error))}") from None
    if command.encoding and not is_encoding(command.encoding):
        raise ConfigError(f"{display(command.encoding)}: no encoding of text that Python knows")
    if "/" in command.run[0] and not command.run[0].startswith("/"):
        raise ConfigError(f"{display(command.run[0])}: a program is named by its name or its whole path")
    for variable in command.environment:
        if not _VARIABLE.fullmatch(variable):
            raise ConfigError(f"{display(variable)}: no name of a variable")
    if any("\0" in text for text in (*command.run, command.folder, *command.environment.values())):
        raise ConfigError("a NUL cannot be passed on")


def is_encoding(name: str) -> bool:
    """Whether this is the name of an encoding of text, as Python knows them and the wire can say it."""
    return _ENCODING.fullmatch(name) is not None and is_text(name)
