"""``ftpy-server``: set a server up, run it, check its settings, say who may use it."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from ftpy.cli.admin import check_folder, check_root, config_option, say, token_for
from ftpy.cli.common import EPILOG, run_main
from ftpy.cli.completion import completion_of
from ftpy.cli.control import kick, status
from ftpy.cli.names import LOCAL_FOLDER
from ftpy.cli.scrubbing import scrub
from ftpy.cli.users import user
from ftpy.config.addresses import parse_address
from ftpy.config.server import ServerConfig, find_fault, load_server_config, with_absolute_paths
from ftpy.errors import ConfigError
from ftpy.files import display
from ftpy.server.accounts import Accounts, check_user_name, legal_user_name
from ftpy.server.reach import default_listen, token_addresses
from ftpy.version import __version__


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
@click.argument("directory", type=LOCAL_FOLDER, metavar="[DIR]", default="ftpy-server")
@click.option(
    "--root",
    type=LOCAL_FOLDER,
    metavar="PATH",
    help="The folder to serve; DIR/files by default; made where it is missing.",
)
@click.option("--listen", metavar="HOST:PORT", multiple=True, help="Where to listen; several are allowed.")
@click.option("--user", metavar="NAME", help="The first user; your login name by default.")
@click.option("--advertise", metavar="HOST:PORT", multiple=True, help="The address that clients shall use.")
@click.option("--plaintext", is_flag=True, help="No encryption; on this machine only.")
@click.option("--allow-root", is_flag=True, help="Let the server run as root, as in a container.")
def init(
    *,
    directory: str,
    root: str | None,
    listen: tuple[str, ...],
    user: str | None,
    advertise: tuple[str, ...],
    plaintext: bool,
    allow_root: bool,
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
        allow_root=allow_root,
    )
    name = user or _login_name()
    check_user_name(name)
    token_text = _set_up(folder, settings, name)
    path = os.path.join(folder, "server.toml")
    say(f"next: ftpy-server run -c {display(path)}")
    say("then, on the workstation: ftpy pair NAME, with this token (a secret):")
    click.echo(token_text)


def _set_up(folder: str, settings: ServerConfig, user: str) -> str:
    """Write everything; settings last, so that a folder that has them is complete: the first user's token."""
    from ftpy.durable import replace_file, writing
    from ftpy.server.identity import make_identity
    from ftpy.server.sandbox import is_root

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
    token = token_for(config, user, Accounts.create(config.users).add(user))
    with writing(path):
        replace_file(path, settings_text(settings).encode(), 0o644)
    say(f"made {display(path)}, with the user {user}")
    say(f"serves {display(config.root)} at {', '.join(config.listen)}")
    say(f"clients will look for it at {', '.join(token.addresses)}")
    if config.tls == "off":
        say("plaintext: whoever is on the way can read and change everything")
    if is_root() and not config.allow_root:
        say(
            "this is root, and the server refuses to run as root: give the folder to a user of its own, or --allow-root"
        )
    return token.to_text()


HEAD = """\
# Settings of ftpy-server: every key, with its value. Relative paths are relative to this file's folder.
# `ftpy-server check-config -c FILE` says whether they are right.

"""
"""What every server.toml begins with."""
TAIL = """
# What users may have this host run: a table for each command. This is one, without the "# " before each line:

# [commands.disk]
"""
"""What every server.toml ends with, before an example that is commented out."""


def settings_text(settings: ServerConfig) -> str:
    """A server.toml: every key, what it means, and an example of a command."""
    from ftpy.config.commands import Command
    from ftpy.toml import to_toml

    example = Command(run=("df", "-h"), summary="how full the disks are", users=("alice",), args=("(/[a-z]+)?",))
    return HEAD + to_toml(settings) + TAIL + "".join(f"# {line}\n" for line in to_toml(example).splitlines())


@cli.command()
@config_option
def run(config_path: str) -> NoReturn:
    """Serve until SIGTERM or Ctrl-C, then let running transfers finish; SIGHUP reads the settings again.

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
    from ftpy.server.audit import check_audit
    from ftpy.server.identity import check_identity
    from ftpy.toml import to_toml

    config = load_server_config(config_path)
    accounts = Accounts(config.users).all()
    if config.tls == "on":
        check_identity(config.certificate, config.private_key)
    check_folder(config.root)
    check_folder(config.state if os.path.lexists(config.state) else os.path.dirname(config.state))
    if config.log.audit:
        check_audit(config.log.audit)
    for account in accounts:
        if account.root is not None:
            check_root(config, account.root, config_path)
            check_folder(account.root)
    click.echo("ok")
    click.echo(to_toml(config, comments=False), nl=False)
    if not accounts:
        say("there are no users yet: ftpy-server user add NAME")


def _login_name() -> str:
    import getpass

    try:
        return legal_user_name(getpass.getuser())
    except (OSError, KeyError):  # an account number without a name, as in containers
        return "user"


for command in (user, status, kick, scrub, completion_of("ftpy-server")):
    cli.add_command(command)


def main() -> None:
    """The entry point."""
    run_main(cli, "ftpy-server")
