"""``ftpy-server user``: who may use the server, what each may do and how much of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import click

from ftpy.cli.admin import check_folder, check_root, config_option, say, token_for
from ftpy.cli.common import EPILOG
from ftpy.cli.names import LOCAL_FOLDER
from ftpy.cli.quantities import NONE, Size
from ftpy.cli.words import USER
from ftpy.config.server import ServerConfig, load_server_config
from ftpy.errors import InvalidPath
from ftpy.files import RemotePath, display
from ftpy.server.accounts import Account, Accounts
from ftpy.server.rights import PRESETS, RIGHTS, in_order, spelled
from ftpy.wire.token import PairingToken

F = Callable[..., Any]


class _RuleOption(click.ParamType):  # type: ignore[type-arg]
    """PATH=RIGHT[,RIGHT…], a preset in place of rights, or nothing for none."""

    name = "PATH=RIGHTS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, as it is stored, and the rights."""
        path, equals, words = value.rpartition("=")
        try:
            stored = str(RemotePath.parse(path.strip("/")))
        except InvalidPath as error:
            self.fail(str(error), param, ctx)
        if not equals or not stored:
            self.fail(f"{value!r} is not like inbox=write or logs=list,read", param, ctx)
        rights: set[str] = set()
        for word in filter(None, words.split(",")):
            if word not in RIGHTS and word not in PRESETS:
                self.fail(f"{word!r} is no right; there are {', '.join((*RIGHTS, *PRESETS))}", param, ctx)
            rights.update(PRESETS.get(word, (word,)))
        return stored, tuple(rights)


class _Count(click.ParamType):  # type: ignore[type-arg]
    """A number, or "none"."""

    name = "N|none"

    def __init__(self, least: int) -> None:
        self._range = click.IntRange(least, 2**63 - 1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; NONE as it is."""
        return NONE if value == "none" or value is NONE else self._range.convert(value, param, ctx)


_FIELD_OPTIONS = (
    click.option(
        "--root", type=LOCAL_FOLDER, metavar="PATH", help="The user's own folder; the server's root by default."
    ),
    click.option(
        "--right", "rights", type=click.Choice(RIGHTS), multiple=True, help="Allow only this; several may be."
    ),
    click.option("--preset", type=click.Choice(tuple(PRESETS)), help="Several rights in a word; all by default."),
    click.option(
        "--rule",
        "rules",
        type=_RuleOption(),
        multiple=True,
        help="Other rights at PATH and below it, none where nothing follows the =; several may be.",
    ),
    click.option("--quota", "quota_bytes", type=Size(none=True), help="Most bytes below the root, such as 10G."),
    click.option("--quota-files", type=_Count(0), help="Most files below the root."),
    click.option(
        "--rate",
        type=Size("RATE", least=1024, none=True),
        help="Most bytes a second, such as 20M, over all connections.",
    ),
    click.option("--connections", type=_Count(1), help="Most connections at once."),
)


def _field_options(command: F) -> F:
    """Give a command the options that say what a user may, as one argument ``fields`` with those that were given."""

    @functools.wraps(command)
    def with_fields(
        *, root: str | None, rights: tuple[str, ...], preset: str | None, rules: tuple[Any, ...], **given: Any
    ) -> Any:
        names = ("quota_bytes", "quota_files", "rate", "connections")
        quantities = {name: given.pop(name) for name in names}
        fields = {name: None if value is NONE else value for name, value in quantities.items() if value is not None}
        if root is not None:
            fields["root"] = root
        if rights or preset:
            fields["rights"] = (*rights, *PRESETS.get(preset or "", ()))
        if rules:
            fields["rules"] = rules
        return command(fields=fields, **given)

    decorated: F = with_fields
    for option in reversed(_FIELD_OPTIONS):
        decorated = option(decorated)
    return decorated


@click.group(epilog=EPILOG)
def user() -> None:
    """Say who may use the server; a running one notices within a second.

    \b
    Example:
      ftpy-server user add alice -c /srv/ftpy/server.toml | ssh workstation ftpy pair home
    """


@user.command()
@click.argument("name")
@_field_options
@config_option
def add(name: str, fields: dict[str, Any], config_path: str) -> None:
    """Add a user; the pairing token alone goes to standard output.

    \b
    Example:
      ftpy-server user add alice --preset read-only --rule inbox=write --quota 10G -c /srv/ftpy/server.toml
    """
    config, accounts = _load(config_path)
    _check_fields(config, fields, config_path)
    token_for(config, name, b"")  # what hinders a token is found before the user is there
    _hand_over(token_for(config, name, accounts.add(name, **fields)))


@user.command()
@click.argument("name", type=USER)
@_field_options
@click.option("--no-rules", is_flag=True, help="Drop the rules there are.")
@config_option
def change(name: str, fields: dict[str, Any], config_path: str, *, no_rules: bool) -> None:
    """Change what a user may and end their sessions; the key and all that is not named stay.

    Rules that are given take the place of those there are. `none` takes a limit away, --root '' the user's folder.

    \b
    Example:
      ftpy-server user change alice --preset no-delete --quota none -c /srv/ftpy/server.toml
    """
    if no_rules and "rules" in fields:
        raise click.UsageError("--rule and --no-rules contradict each other")
    if no_rules:
        fields["rules"] = ()
    if not fields:
        raise click.UsageError("say what shall change")
    if fields.get("root") == "":
        fields["root"] = None
    config, accounts = _load(config_path)
    _check_fields(config, fields, config_path)
    accounts.change(name, **fields)
    say(f"changed the user {name}")


@user.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@config_option
def list_users(as_json: bool, config_path: str) -> None:
    """List the users.

    \b
    Example:
      ftpy-server user list -c /srv/ftpy/server.toml
    """
    accounts = _load(config_path)[1].all()
    for line in map(_as_json, accounts) if as_json else _as_table(accounts):
        click.echo(line)


@user.command()
@click.argument("name", type=USER)
@config_option
def remove(name: str, config_path: str) -> None:
    """Remove a user and end their sessions; their files stay.

    \b
    Example:
      ftpy-server user remove alice -c /srv/ftpy/server.toml
    """
    _load(config_path)[1].remove(name)
    say(f"removed the user {name}")


@user.command()
@click.argument("name", type=USER)
@config_option
def rotate(name: str, config_path: str) -> None:
    """Give a user a new key; the old one ends at once. The token alone goes to standard output.

    \b
    Example:
      ftpy-server user rotate alice -c /srv/ftpy/server.toml
    """
    config, accounts = _load(config_path)
    token_for(config, name, b"")
    _hand_over(token_for(config, name, accounts.rotate(name)))


def _load(config_path: str) -> tuple[ServerConfig, Accounts]:
    config = load_server_config(config_path)
    return config, Accounts(config.users)


def _check_fields(config: ServerConfig, fields: dict[str, Any], config_path: str) -> None:
    if (root := fields.get("root")) is not None:
        check_root(config, root, config_path)
        check_folder(root)


def _hand_over(token: PairingToken) -> None:
    say(f"the token of {token.user} (a secret), for `ftpy pair`; it leads to {', '.join(token.addresses)}")
    click.echo(token.to_text())


def _as_json(account: Account) -> str:
    import msgspec

    line = {
        "name": account.name,
        "rights": in_order(account.rights),
        "rules": [{"path": str(rule.path), "rights": in_order(rule.rights)} for rule in account.rules],
        "root": account.root,
        "quota_bytes": account.quota_bytes,
        "quota_files": account.quota_files,
        "rate": account.rate,
        "connections": account.connections,
        "created_ns": account.created_ns,
    }
    return msgspec.json.encode(line).decode()


def _as_table(accounts: list[Account]) -> list[str]:
    rows = [("NAME", "RIGHTS", "LIMITS", "SINCE", "ROOT"), *map(_as_row, accounts)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _as_row(account: Account) -> tuple[str, ...]:
    import time

    rights = [",".join(in_order(account.rights)) or "-", *map(display, spelled(account.rules))]
    since = time.strftime("%Y-%m-%d", time.gmtime(account.created_ns / 1e9))
    root = display(account.root) if account.root else "(the server's)"
    return account.name, " ".join(rights), " ".join(_limits(account)) or "-", since, root


def _limits(account: Account) -> Iterable[str]:
    if account.quota_bytes is not None:
        yield Size.text(account.quota_bytes)
    if account.quota_files is not None:
        yield f"{account.quota_files} files"
    if account.rate is not None:
        yield f"{Size.text(account.rate)}/s"
    if account.connections is not None:
        yield f"{account.connections} connections"
