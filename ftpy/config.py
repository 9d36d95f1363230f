"""TOML -> frozen typed settings; every key with its unit, unknown keys refused with the nearest known name.

What a key means is said once, in its ``description`` here: ``to_toml`` writes it above the key, and the examples in
``config/`` are held to it by a test. Every error is a ConfigError of one line: file, line, what is wrong.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from ftpy.durable import check_private, locked, read_file, replace_file, writing
from ftpy.errors import ConfigError
from ftpy.files import display, is_reserved
from ftpy.toml import Source, listed, unknown

DEFAULT_PORT = 7421
"""Where a server listens when nobody says otherwise; unassigned by IANA."""
SOCKET_PATH_BYTES = 103
"""Longest path of a Unix socket, bytes: what fits into ``sun_path`` of macOS; Linux takes four more."""

MOST_STREAMS = 32
"""Most connections that one transfer uses: beyond, a line gets no faster and a server has others to serve."""

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
MOST_WORKERS = 256
"""Most processes that serve: more cores than one file server's disks can feed."""
Workers = Annotated[int, Meta(ge=1, le=MOST_WORKERS)]
Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]
Key = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43}\Z")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


def _says(text: str) -> Meta:
    return Meta(description=text)


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one server takes before it refuses; counts, seconds, bytes."""

    connections: Annotated[Count, _says("Connections at once; each is a thread and two or three open files.")] = 1024
    connections_per_address: Annotated[
        Count, _says("Connections at once from one IP address, so that nobody takes all of them.")
    ] = 256
    connections_unauthenticated: Annotated[
        Count, _says("Connections at once without a proof; the oldest makes room for a newcomer.")
    ] = 128
    backlog: Annotated[
        Count, _says("Connections that the kernel keeps waiting for us; it cuts this at net.core.somaxconn.")
    ] = 1024
    handshake_seconds: Annotated[
        Seconds, _says("Seconds from accept to authenticated, TLS included; a silent stranger is gone then.")
    ] = 10.0
    idle_seconds: Annotated[Seconds, _says("Seconds without a request before a connection is closed.")] = 600.0
    stall_seconds: Annotated[
        Seconds, _says("Seconds without a single byte in the middle of a transfer before it is given up; resumable.")
    ] = 60.0
    drain_seconds: Annotated[
        Seconds, _says("Seconds that running transfers may take to finish after SIGTERM; the rest is resumable.")
    ] = 30.0
    inline_bytes: Annotated[
        int,
        Meta(ge=0, le=16 * 1024 * 1024),
        _says("Bytes of the largest file that travels in one piece; held in memory, larger ones become uploads."),
    ] = 1024 * 1024
    pipelined_requests: Annotated[
        Count, _says("Requests under way on one connection; what a client may send ahead of the answers.")
    ] = 16_384


class Uploads(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long unfinished uploads stay."""

    expire_days: Annotated[
        float,
        Meta(gt=0, le=3650),
        _says("Days that an unfinished upload can be resumed after its last byte; then it is swept."),
    ] = 7.0


class Log(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the server speaks on standard error."""

    format: Annotated[Literal["text", "json"], _says('"text" for people, "json" for one object a line.')] = "text"
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        _says('The least that is said: "debug", "info", "warning" or "error".'),
    ] = "info"


class ServerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``server.toml``; relative paths are relative to its folder."""

    root: Annotated[str, Meta(min_length=1), _says("The folder that is served; must not hold any of the files below.")]
    listen: Annotated[
        list[str], Meta(min_length=1), _says('Where to listen: "HOST:PORT", "[IPv6]:PORT" or "unix:/PATH".')
    ]
    advertise: Annotated[
        list[str],
        Meta(max_length=16),
        _says("Addresses that pairing tokens name, tried in turn; empty: found out from `listen`."),
    ] = []
    tls: Annotated[
        Literal["on", "off"], _says('"on": TLS 1.3, always. "off": anybody on the way can read and change everything.')
    ] = "on"
    allow_plaintext: Annotated[bool, _says('Whether tls = "off" may listen where other machines reach it.')] = False
    certificate: Annotated[
        str, Meta(min_length=1), _says("The server's certificate, PEM; clients pin it when they are paired.")
    ] = "certificate.pem"
    private_key: Annotated[str, Meta(min_length=1), _says("Its private key, PEM, mode 0600.")] = "private_key.pem"
    users: Annotated[
        str, Meta(min_length=1), _says("The users' verifiers, mode 0600; written by `ftpy-server user`.")
    ] = "users.json"
    state: Annotated[str, Meta(min_length=1), _says("Folder of what the server remembers, such as digests.")] = "state"
    portable_names: Annotated[
        bool, _says("Refuse new names that Windows or macOS could not hold (CON, a:b, trailing dots, not NFC).")
    ] = True
    workers: Annotated[
        Workers | Literal["auto"],
        _says('Processes that serve at once, sharing all limits; "auto": one for each core that may be used.'),
    ] = 1
    limits: Limits = Limits()
    uploads: Uploads = Uploads()
    log: Log = Log()


class Profile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One paired server in the client's config: where it is, who I am there, what proves it."""

    addresses: Annotated[list[str], Meta(min_length=1), _says("Where the server is; tried in turn.")]
    user: Annotated[
        str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z"), _says("Who I am there: lower-case letters, digits, . _ -")
    ]
    key: Annotated[Key, _says("The key that proves it, 32 bytes in base64url: a secret.")]
    certificate_sha256: Annotated[
        Sha256 | None, _says("SHA-256 of the server's certificate; absent where it speaks plain TCP.")
    ] = None

    def __repr__(self) -> str:
        return (
            f"Profile(addresses={self.addresses!r}, user={self.user!r}, key=…, "
            f"certificate_sha256={self.certificate_sha256!r})"
        )


class Transfer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the client moves files."""

    digest: Annotated[
        Literal["md5", "blake3"], _says('What verifies whole files: "md5" (as md5sum prints it) or "blake3" (faster).')
    ] = "md5"
    stall_seconds: Annotated[
        Seconds, _says("Seconds without a byte acknowledged before a connection counts as dead and is made anew.")
    ] = 30.0
    connect_seconds: Annotated[Seconds, _says("Seconds to connect and authenticate, for each address.")] = 10.0
    retries: Annotated[
        int, Meta(ge=0, le=1000), _says("Times that a lost connection is made again without any progress between.")
    ] = 8
    streams: Annotated[
        Literal["auto"] | Annotated[int, Meta(ge=1, le=MOST_STREAMS)],
        _says(
            'Connections that share one transfer, 1 to 32; "auto": one, and more where that is measured to be faster.'
        ),
    ] = "auto"


class ClientConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The client's ``config.toml``: profiles by name, and how to transfer."""

    default: Annotated[str | None, _says("The server that is meant when neither -s nor $FTPY_SERVER names one.")] = None
    transfer: Transfer = Transfer()
    servers: dict[str, Profile] = {}


# ------------------------------------------------------------------ addresses


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or connect: ``host`` and ``port`` of TCP, or the ``path`` of a Unix socket."""

    kind: Literal["tcp", "unix"]
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it; true of every Unix socket."""
        if self.kind == "unix" or self.host.lower() == "localhost":
            return True
        import ipaddress

        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for every address of this machine."""
        return self.kind == "tcp" and self.host in ("0.0.0.0", "::")  # noqa: S104  (compared, not bound)

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252})\Z")


def parse_address(text: str) -> Address:
    """``HOST:PORT``, ``[IPv6]:PORT`` (DEFAULT_PORT without a port) or ``unix:/PATH``. Raises ConfigError."""
    if text.startswith("unix:"):
        return _unix_address(text, text.removeprefix("unix:"))
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and rest[0] != ":") or not _is_ipv6(host):
            raise ConfigError(f"{display(text)}: not an address; IPv6 is written [::1]:{DEFAULT_PORT}")
        port = rest[1:] if rest else str(DEFAULT_PORT)
    else:
        if text.count(":") > 1:
            raise ConfigError(f"{display(text)}: IPv6 is written in brackets, [::1]:{DEFAULT_PORT}")
        host, colon, port = text.partition(":")
        port = port if colon else str(DEFAULT_PORT)
        if not _HOST.match(host):
            raise ConfigError(f"{display(text)}: not an address; write HOST:PORT, [IPv6]:PORT or unix:/PATH")
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65535):
        raise ConfigError(f"{display(text)}: a port is a number from 0 to 65535")
    return Address("tcp", host=host, port=int(port))


def _unix_address(text: str, path: str) -> Address:
    if not os.path.isabs(path) or "\0" in path:
        raise ConfigError(f"{display(text)}: a Unix socket's path begins with /")
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise ConfigError(f"{display(text)}: a Unix socket's path has at most {SOCKET_PATH_BYTES} bytes")
    return Address("unix", path=path)


def _is_ipv6(host: str) -> bool:
    import ipaddress

    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


# ------------------------------------------------------------------ server


def load_server_config(path: str | os.PathLike[str]) -> ServerConfig:
    """The server's settings, every path in them absolute. Raises ConfigError."""
    name = os.fspath(path)
    source = Source(name, read_file(name)[0])
    config = with_absolute_paths(source.convert(source.raw, ServerConfig), os.path.dirname(os.path.abspath(name)))
    if fault := find_fault(config, name):
        raise source.error((fault.key,), str(fault))
    return config


def with_absolute_paths(config: ServerConfig, folder: str) -> ServerConfig:
    """``config`` as it is meant in a file in ``folder``."""
    paths = {key: os.path.join(folder, getattr(config, key)) for key in ("root", *_OURS)}
    listen = [
        "unix:" + os.path.join(folder, text.removeprefix("unix:")) if text.startswith("unix:") else text
        for text in config.listen
    ]
    return msgspec.structs.replace(config, listen=listen, **paths)


class Fault(ConfigError):
    """What is wrong with settings that are each right on their own."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def find_fault(config: ServerConfig, settings: str) -> Fault | None:
    """What the types cannot say: addresses, plaintext where others listen, our files where users reach them.

    ``settings`` is the file that holds ``config``.
    """
    for key in ("listen", "advertise"):
        for text in getattr(config, key):
            try:
                parse_address(text)
            except ConfigError as error:
                return Fault(key, str(error))
    public = [text for text in config.listen if not parse_address(text).is_loopback]
    if config.tls == "off" and public and not config.allow_plaintext:
        return Fault("tls", f'tls = "off" is refused on {public[0]} unless allow_plaintext = true')
    if worker_count(config) > 1 and not hasattr(os, "fork"):
        return Fault("workers", "several processes need fork(2), which this system does not have; workers = 1")
    if exposed := exposed_by(config, config.root, settings):
        return Fault("root", f"`{exposed}` lies below `root`, so users could read or change it")
    return None


def worker_count(config: ServerConfig) -> int:
    """How many processes serve."""
    if config.workers != "auto":
        return config.workers
    if not hasattr(os, "fork"):
        return 1
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), MOST_WORKERS)  # fewer than there are, in a container
    return min(os.cpu_count() or 1, MOST_WORKERS)


_OURS = ("certificate", "private_key", "users", "state")
"""Settings that are paths which no user may reach."""


def exposed_by(config: ServerConfig, root: str, settings: str | None) -> str | None:
    """The first of our own files that a user whose root is ``root`` could reach, ``settings`` itself among them."""
    paths = {key: getattr(config, key) for key in _OURS}
    if settings is not None:
        paths[display(os.path.basename(settings))] = settings
    return next((name for name, path in paths.items() if is_exposed(root, path)), None)


def is_exposed(root: str, path: str) -> bool:
    """Whether a user whose root is ``root`` could reach ``path``; names that begin with .ftpy are never reachable."""
    below = os.path.relpath(os.path.realpath(path), os.path.realpath(root)).split(os.sep)
    return below[0] != os.pardir and not any(is_reserved(part) for part in below)


# ------------------------------------------------------------------ client


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
