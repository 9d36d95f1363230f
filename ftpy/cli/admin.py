"""What the commands of ``ftpy-server`` have in common."""

from __future__ import annotations

import os

import click

from ftpy.cli.names import LOCAL_PATH
from ftpy.config.server import ServerConfig, exposed_by
from ftpy.errors import ConfigError
from ftpy.files import display
from ftpy.server.reach import token_addresses
from ftpy.wire.spelling import b64encode
from ftpy.wire.token import PairingToken

config_option = click.option(
    "-c",
    "--config",
    "config_path",
    type=LOCAL_PATH,
    metavar="FILE",
    envvar="FTPY_SERVER_CONFIG",
    show_envvar=True,
    required=True,
    help="The server's settings, server.toml.",
)


def check_folder(path: str) -> None:
    """Raises ConfigError for what is no folder to serve."""
    if not os.path.isdir(path):
        raise ConfigError(f"{display(path)}: not a folder")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"{display(path)}: may not be read and written by this user")


def check_root(config: ServerConfig, root: str, settings: str) -> None:
    """Raises ConfigError for a root that holds the server's own files."""
    if exposed := exposed_by(config, root, settings):
        message = f"the server's own `{exposed}` lies below it, so the user could read or change it"
        raise ConfigError(f"{display(root)}: {message}")


def token_for(config: ServerConfig, name: str, key: bytes) -> PairingToken:
    """What a client is paired with. Raises ConfigError where no client could use it."""
    from ftpy.server.identity import certificate_sha256

    return PairingToken(
        addresses=token_addresses(config),
        user=name,
        key=b64encode(key),
        certificate_sha256=certificate_sha256(config.certificate).hex() if config.tls == "on" else None,
    )


def say(text: str) -> None:
    """Tell the administrator, on standard error: standard output is for tokens and lists."""
    click.echo(text, err=True)
