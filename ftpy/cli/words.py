"""Words of which there are only some, as names of servers, users and commands: any text is let through, as it is said
later and better what it is not; what there is, is told where a shell completes it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from ftpy.errors import FtpyError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Known = Iterable[tuple[str, str]]
"""Words, each with what it is."""


class Word(click.ParamType):  # type: ignore[type-arg]
    """A word of those that ``known`` finds, from what was typed before it."""

    def __init__(self, name: str, known: Callable[[click.Context], Known]) -> None:
        self.name = name
        self._known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        """The text."""
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        """Those that begin like this; none where they cannot be found."""
        from ftpy.cli.completing import words

        with contextlib.suppress(FtpyError, OSError):
            return words(incomplete, self._known(ctx))
        return []


def _servers(_: click.Context) -> Known:
    from ftpy.config.client import client_config_path, load_client_config

    servers = load_client_config(client_config_path()).servers
    return [(name, f"{profile.user} at {profile.addresses[0]}") for name, profile in servers.items()]


def _commands(ctx: click.Context) -> Known:
    from ftpy.cli.completing import ask

    return [(one.name, one.summary) for one in ask(ctx.params.get("server"), lambda client: client.commands())]


def _operations(ctx: click.Context) -> Known:
    from ftpy.cli.completing import ask

    return [(one.id[:12], one.what) for one in ask(ctx.params.get("server"), lambda client: client.operations())]


def _users(ctx: click.Context) -> Known:
    from ftpy.config.server import load_server_config
    from ftpy.server.accounts import Accounts

    path = ctx.params.get("config_path")
    return [(one.name, "") for one in Accounts(load_server_config(path).users).all()] if path else []


def _sessions(ctx: click.Context) -> Known:
    from ftpy.config.server import load_server_config
    from ftpy.server.rows import SessionRow
    from ftpy.server.status import status

    path = ctx.params.get("config_path")
    rows = status(load_server_config(path).state) if path else []
    return [(row.session, f"{row.user} from {row.source}") for row in rows if isinstance(row, SessionRow)]


SERVER = Word("name", _servers)
COMMAND = Word("name", _commands)
OPERATION = Word("id", _operations)
USER = Word("name", _users)
SESSION = Word("session", _sessions)
