"""``ftpy-server``: set a server up, run it, check its settings, say who may use it."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import click

from ftpy.cli.common import EPILOG, run_main
from ftpy.config.addresses import parse_address
from ftpy.config.server import ServerConfig, exposed_by, find_fault, load_server_config, with_absolute_paths
from ftpy.errors import ConfigError
from ftpy.files import display
from ftpy.server.accounts import RIGHTS, Account, Accounts, check_user_name, legal_user_name
from ftpy.server.reach import default_listen, token_addresses
from ftpy.version import __version__
from ftpy.wire.spelling import b64encode
from ftpy.wire.token import PairingToken

config_option = click.option(
    "-c",
    "--config",
    "config_path",
    metavar="FILE",
    envvar="FTPY_SERVER_CONFIG",
    show_envvar=True,
    required=True,
    help="The server's settings, server.toml.",
)


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ftpy-server")
def cli() -> None:
    """Serve a folder to paired clients: encrypted, verified, resumable.

    \b
    Example:
      ftpy-server init /srv/ftpy --root /srv/files
      ftpy-server run -c /srv/ftpy/server.toml
    """


@cli.command()
@click.argument("directory", metavar="[DIR]", default="ftpy-server")
@click.option("--root", metavar="PATH", help="The folder to serve; DIR/files by default; made where it is missing.")
@click.option("--listen", metavar="HOST:PORT", multiple=True, help="Where to listen; several are allowed.")
@click.option("--user", metavar="NAME", help="The first user; your login name by default.")
@click.option("--advertise", metavar="HOST:PORT", multiple=True, help="The address that clients shall use.")
@click.option("--plaintext", is_flag=True, help="No encryption; on this machine only.")
def init(
    *,
    directory: str,
    root: str | None,
    listen: tuple[str, ...],
    user: str | None,
    advertise: tuple[str, ...],
    plaintext: bool,
) -> None:
    """Make a server's folder: settings, first user, certificate.

    DIR is ./ftpy-server by default. The pairing token alone goes to standard output: it is a secret, for
    `ftpy pair` on the workstation.

    \b
    Example:
      ftpy-server init /srv/ftpy --root /srv/files --advertise files.example.org:7421
    """
    folder = os.path.abspath(directory)
    settings = ServerConfig(
        root=os.path.abspath(root) if root else "files",
        listen=list(listen) or default_listen(plaintext=plaintext),
        advertise=list(advertise),
        tls="off" if plaintext else "on",
    )
    name = user or _login_name()
    check_user_name(name)
    token_text = _set_up(folder, settings, name)
    path = os.path.join(folder, "server.toml")
    _say(f"next: ftpy-server run -c {display(path)}")
    _say("then, on the workstation: ftpy pair NAME, with this token (a secret):")
    click.echo(token_text)


def _set_up(folder: str, settings: ServerConfig, user: str) -> str:
    """Write everything; settings last, so that a folder that has them is complete: the first user's token."""
    from ftpy.durable import replace_file, writing
    from ftpy.server.identity import make_identity
    from ftpy.toml import to_toml

    path = os.path.join(folder, "server.toml")
    config = with_absolute_paths(settings, folder)
    if fault := find_fault(config, path):
        raise fault
    for address in map(parse_address, config.listen):
        if address.kind == "tcp" and address.port == 0:
            raise ConfigError(f"{address}: port 0 is another one at every start; name one for clients to find")
    token_addresses(config)
    for made in (path, config.users, config.certificate, config.private_key):
        if os.path.lexists(made):
            raise ConfigError(f"{display(made)}: exists already; nothing was changed")
    with writing(folder):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        os.makedirs(config.state, mode=0o700, exist_ok=True)
        os.makedirs(config.root, exist_ok=True)
    if config.tls == "on":
        make_identity(config.certificate, config.private_key)
    token = _token(config, user, Accounts.create(config.users).add(user))
    with writing(path):
        replace_file(path, (HEAD + to_toml(settings)).encode(), 0o644)
    _say(f"made {display(path)}, with the user {user}")
    _say(f"serves {display(config.root)} at {', '.join(config.listen)}")
    _say(f"clients will look for it at {', '.join(token.addresses)}")
    if config.tls == "off":
        _say("plaintext: whoever is on the way can read and change everything")
    return token.to_text()


HEAD = """\
# Settings of ftpy-server: every key, with its value. Relative paths are relative to this file's folder.
# `ftpy-server check-config -c FILE` says whether they are right.

"""
"""What every server.toml begins with."""


@cli.command()
@config_option
def run(config_path: str) -> NoReturn:
    """Serve until SIGTERM or Ctrl-C, then let running transfers finish.

    \b
    Example:
      ftpy-server run -c /srv/ftpy/server.toml
    """
    config = load_server_config(config_path)
    from ftpy.server.server import serve

    sys.exit(serve(config, config_path))


@cli.command()
@config_option
def check_config(config_path: str) -> None:
    """Load everything that `run` would; print ok and the settings in force.

    \b
    Example:
      ftpy-server check-config -c /srv/ftpy/server.toml
    """
    from ftpy.server.identity import check_identity
    from ftpy.toml import to_toml

    config = load_server_config(config_path)
    accounts = Accounts(config.users).all()
    if config.tls == "on":
        check_identity(config.certificate, config.private_key)
    _check_folder(config.root)
    _check_folder(config.state if os.path.lexists(config.state) else os.path.dirname(config.state))
    for account in accounts:
        if account.root is not None:
            _check_root(config, account.root, config_path)
            _check_folder(account.root)
    click.echo("ok")
    click.echo(to_toml(config, comments=False), nl=False)
    if not accounts:
        _say("there are no users yet: ftpy-server user add NAME")


def _check_folder(path: str) -> None:
    if not os.path.isdir(path):
        raise ConfigError(f"{display(path)}: not a folder")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"{display(path)}: may not be read and written by this user")


def _check_root(config: ServerConfig, root: str, settings: str) -> None:
    if exposed := exposed_by(config, root, settings):
        message = f"the server's own `{exposed}` lies below it, so the user could read or change it"
        raise ConfigError(f"{display(root)}: {message}")


# ------------------------------------------------------------------ users


@cli.group(epilog=EPILOG)
def user() -> None:
    """Say who may use the server; a running one notices within a second.

    \b
    Example:
      ftpy-server user add alice -c /srv/ftpy/server.toml | ssh workstation ftpy pair home
    """


@user.command()
@click.argument("name")
@click.option("--root", metavar="PATH", help="The user's own folder; the server's root by default.")
@click.option("--right", "rights", type=click.Choice(RIGHTS), multiple=True, help="Allow only this; several may be.")
@config_option
def add(name: str, root: str | None, rights: tuple[str, ...], config_path: str) -> None:
    """Add a user; the pairing token alone goes to standard output.

    \b
    Example:
      ftpy-server user add alice --right ls --right get -c /srv/ftpy/server.toml
    """
    config, accounts = _load(config_path)
    if root is not None:
        _check_root(config, root, config_path)
        _check_folder(root)
    _token(config, name, b"")  # what hinders a token is found before the user is there
    _hand_over(_token(config, name, accounts.add(name, root=root, rights=rights or RIGHTS)))


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
@click.argument("name")
@config_option
def remove(name: str, config_path: str) -> None:
    """Remove a user and end their sessions; their files stay.

    \b
    Example:
      ftpy-server user remove alice -c /srv/ftpy/server.toml
    """
    _load(config_path)[1].remove(name)
    _say(f"removed the user {name}")


@user.command()
@click.argument("name")
@config_option
def rotate(name: str, config_path: str) -> None:
    """Give a user a new key; the old one ends at once. The token alone goes to standard output.

    \b
    Example:
      ftpy-server user rotate alice -c /srv/ftpy/server.toml
    """
    config, accounts = _load(config_path)
    _token(config, name, b"")
    _hand_over(_token(config, name, accounts.rotate(name)))


def _load(config_path: str) -> tuple[ServerConfig, Accounts]:
    config = load_server_config(config_path)
    return config, Accounts(config.users)


def _hand_over(token: PairingToken) -> None:
    _say(f"the token of {token.user} (a secret), for `ftpy pair`; it leads to {', '.join(token.addresses)}")
    click.echo(token.to_text())


def _as_json(account: Account) -> str:
    import msgspec

    rights = [right for right in RIGHTS if right in account.rights]
    line: dict[str, Any] = {"name": account.name, "rights": rights, "root": account.root}
    return msgspec.json.encode(line | {"created_ns": account.created_ns}).decode()


def _as_table(accounts: list[Account]) -> list[str]:
    import time

    rows = [("NAME", "RIGHTS", "SINCE", "ROOT")]
    for account in accounts:
        rights = ",".join(right for right in RIGHTS if right in account.rights)
        since = time.strftime("%Y-%m-%d", time.gmtime(account.created_ns / 1e9))
        rows.append((account.name, rights or "-", since, display(account.root) if account.root else "(the server's)"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _token(config: ServerConfig, name: str, key: bytes) -> PairingToken:
    from ftpy.server.identity import certificate_sha256

    return PairingToken(
        addresses=token_addresses(config),
        user=name,
        key=b64encode(key),
        certificate_sha256=certificate_sha256(config.certificate).hex() if config.tls == "on" else None,
    )


def _login_name() -> str:
    import getpass

    try:
        return legal_user_name(getpass.getuser())
    except (OSError, KeyError):  # an account number without a name, as in containers
        return "user"


def _say(text: str) -> None:
    click.echo(text, err=True)


def main() -> None:
    """The entry point."""
    run_main(cli, "ftpy-server")
