"""The client's ``config.toml``: paired servers by name, and how to transfer; read, chosen from, added to.

Every error is a ConfigError of one line: file, line, what is wrong.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from ftpy.config.addresses import parse_address
from ftpy.config.keys import Seconds, says
from ftpy.durable import check_private, locked, read_file, replace_file, writing
from ftpy.errors import ConfigError
from ftpy.files import display
from ftpy.toml import Source, listed, unknown

MOST_STREAMS = 32
"""Most connections that one transfer uses: beyond, a line gets no faster and a server has others to serve."""

Key = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43}\Z")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Profile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One paired server in the client's config: where it is, who I am there, what proves it."""

    addresses: Annotated[list[str], Meta(min_length=1), says("Where the server is; tried in turn.")]
    user: Annotated[
        str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z"), says("Who I am there: lower-case letters, digits, . _ -")
    ]
    key: Annotated[Key, says("The key that proves it, 32 bytes in base64url: a secret.")]
    certificate_sha256: Annotated[
        Sha256 | None, says("SHA-256 of the server's certificate; absent where it speaks plain TCP.")
    ] = None

    def __repr__(self) -> str:
        return (
            f"Profile(addresses={self.addresses!r}, user={self.user!r}, key=…, "
            f"certificate_sha256={self.certificate_sha256!r})"
        )


class Transfer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the client moves files."""

    digest: Annotated[
        Literal["md5", "blake3"], says('What verifies whole files: "md5" (as md5sum prints it) or "blake3" (faster).')
    ] = "md5"
    stall_seconds: Annotated[
        Seconds, says("Seconds without a byte acknowledged before a connection counts as dead and is made anew.")
    ] = 30.0
    connect_seconds: Annotated[Seconds, says("Seconds to connect and authenticate, for each address.")] = 10.0
    retries: Annotated[
        int, Meta(ge=0, le=1000), says("Times that a lost connection is made again without any progress between.")
    ] = 8
    streams: Annotated[
        Literal["auto"] | Annotated[int, Meta(ge=1, le=MOST_STREAMS)],
        says(
            'Connections that share one transfer, 1 to 32; "auto": one, and more where that is measured to be faster.'
        ),
    ] = "auto"


class ClientConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The client's ``config.toml``: profiles by name, and how to transfer."""

    default: Annotated[str | None, says("The server that is meant when neither -s nor $FTPY_SERVER names one.")] = None
    transfer: Transfer = Transfer()
    servers: dict[str, Profile] = {}


def client_config_path() -> str:
    """$FTPY_CONFIG, else ``ftpy/config.toml`` below %APPDATA%, $XDG_CONFIG_HOME or ~/.config."""
    if named := os.environ.get("FTPY_CONFIG"):
        return named
    base = os.environ.get("APPDATA" if sys.platform == "win32" else "XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):  # the XDG specification: a relative one is ignored
        base = os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(base, "ftpy", "config.toml")


def load_client_config(path: str | os.PathLike[str]) -> ClientConfig:
    """The client's settings; the defaults where there is no file.

    Raises ConfigError, also where others can read a file that holds keys.
    """
    name = os.fspath(path)
    if not os.path.lexists(name):
        return ClientConfig()
    data, status = read_file(name)
    config = _parse_client_config(data, name)
    if config.servers:
        check_private(name, status, own=False)
    return config


def _parse_client_config(data: bytes, path: str) -> ClientConfig:
    source = Source(path, data)
    raw = dict(source.raw)
    profiles: dict[str, Profile] = {}
    if isinstance(servers := raw.get("servers"), dict):
        # One by one: msgspec does not say which entry of a dict is wrong.
        profiles = {name: source.convert(table, Profile, ("servers", name)) for name, table in servers.items()}
        del raw["servers"]
    for name, profile in profiles.items():
        for text in profile.addresses:
            with source.blaming("servers", name, "addresses"):
                parse_address(text)
    config = source.convert(raw, ClientConfig)
    if config.default is not None and config.default not in profiles:
        raise source.error(("default",), unknown(f"no server is called {config.default}", config.default, profiles))
    return msgspec.structs.replace(config, servers=profiles)


def choose_profile(config: ClientConfig, name: str | None) -> tuple[str, Profile]:
    """The profile that is meant and its name: ``name``, $FTPY_SERVER, ``default``, or the only one.

    Raises ConfigError, which lists the names.
    """
    chosen = name or os.environ.get("FTPY_SERVER") or config.default
    if not config.servers:
        raise ConfigError("no server is paired yet; `ftpy pair NAME` does that")
    if chosen is None:
        if len(config.servers) > 1:
            raise ConfigError(f"which server? -s NAME, one of: {listed(config.servers)}")
        chosen = next(iter(config.servers))
    if chosen not in config.servers:
        raise ConfigError(unknown(f"no server is called {display(chosen)}", chosen, config.servers))
    return chosen, config.servers[chosen]


def save_profile(path: str | os.PathLike[str], name: str, profile: Profile) -> None:
    """Add or replace a profile and make it durable; comments and everything else in the file stay.

    The file is 0600 in a folder of 0700 (where we make it). Raises ConfigError.
    """
    import tomlkit
    import tomlkit.items

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ConfigError(f"{display(name)}: a server is called by letters, digits, . _ - (at most 64)")
    target = os.path.realpath(path)  # a link into a folder of dotfiles stays a link
    with writing(target):
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        with locked(target):
            text = "# Settings of ftpy; the keys are secrets.\n"
            if os.path.lexists(target):
                load_client_config(target)  # what is broken is not written over
                text = read_file(target)[0].decode("utf-8-sig")
            document = tomlkit.parse(text)
            servers = document.setdefault("servers", tomlkit.table(is_super_table=True))
            if name not in servers:
                inline = isinstance(servers, tomlkit.items.InlineTable)
                servers[name] = tomlkit.inline_table() if inline else tomlkit.table()
            for key, value in msgspec.structs.asdict(profile).items():
                if value is not None:
                    servers[name][key] = value
                elif key in servers[name]:
                    del servers[name][key]
            data = tomlkit.dumps(document).encode()
            _parse_client_config(data, target)
            replace_file(target, data, 0o600)
