"""``server.toml`` -> frozen typed settings; every key with its unit, unknown keys refused with the nearest known name.

Every error is a ConfigError of one line: file, line, what is wrong.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from ftpy.config.addresses import parse_address
from ftpy.config.commands import MOST_COMMANDS, Command, check_command
from ftpy.config.keys import Seconds, says
from ftpy.durable import read_file
from ftpy.errors import ConfigError
from ftpy.files import display, is_reserved
from ftpy.toml import Source
from ftpy.wire.beacon import NAME_CHARACTERS

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
MOST_WORKERS = 256
"""Most processes that serve: more cores than one file server's disks can feed."""
Workers = Annotated[int, Meta(ge=1, le=MOST_WORKERS)]
MOST_LINKS = 40
"""Symbolic links on the way to a file, beyond which Linux does not open it (path_resolution(7))."""


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one server takes before it refuses; counts, seconds, bytes."""

    connections: Annotated[Count, says("Connections at once; each is a thread and two or three open files.")] = 1024
    connections_per_address: Annotated[
        Count, says("Connections at once from one IP address, so that nobody takes all of them.")
    ] = 256
    connections_unauthenticated: Annotated[
        Count,
        says("Connections at once without a proof; from half of it on one at random makes room, ever more probably."),
    ] = 128
    backlog: Annotated[
        Count, says("Connections that the kernel keeps waiting for us; it cuts this at net.core.somaxconn.")
    ] = 1024
    handshake_seconds: Annotated[
        Seconds, says("Seconds from accept to authenticated, TLS included; a silent stranger is gone then.")
    ] = 10.0
    idle_seconds: Annotated[Seconds, says("Seconds without a request before a connection is closed.")] = 600.0
    stall_seconds: Annotated[
        Seconds, says("Seconds without a single byte in the middle of a transfer before it is given up; resumable.")
    ] = 60.0
    least_bytes_per_second: Annotated[
        int,
        Meta(ge=0, le=1024 * 1024),
        says("Bytes a second that a peer must move in the middle of things, over stall_seconds; 0: any will do."),
    ] = 128
    drain_seconds: Annotated[
        Seconds, says("Seconds that running transfers may take to finish after SIGTERM; the rest is resumable.")
    ] = 30.0
    inline_bytes: Annotated[
        int,
        Meta(ge=0, le=16 * 1024 * 1024),
        says("Bytes of the largest file that travels in one piece; held in memory, larger ones become uploads."),
    ] = 1024 * 1024
    pipelined_requests: Annotated[
        Count, says("Requests under way on one connection; what a client may send ahead of the answers.")
    ] = 16_384
    commands: Annotated[
        Count, says("Commands that run at once, of all users; of one user as many as are left. Each is two processes.")
    ] = 16


Debt = Annotated[float, Meta(ge=0, le=86_400)]


class Penalties(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What failures before authentication cost their source (an IPv4 address, an IPv6 /64): seconds, 0 is nothing.

    They add up, and every second that passes takes one off.
    """

    denied_seconds: Annotated[Debt, says("Seconds for a wrong proof, and for an unknown user just the same.")] = 5.0
    protocol_seconds: Annotated[Debt, says("Seconds for something that is not the protocol.")] = 10.0
    late_seconds: Annotated[Debt, says("Seconds for a handshake that takes longer than handshake_seconds.")] = 10.0
    threshold_seconds: Annotated[
        Debt, says("Seconds beyond which a source is refused, before TLS; up to that anybody may fail for free.")
    ] = 20.0
    most_seconds: Annotated[
        Debt, says("Seconds that a source is refused at most; 1 where somebody authenticated within a week.")
    ] = 300.0
    exempt: Annotated[
        tuple[str, ...],
        Meta(max_length=256),
        says("Networks that are never refused: this host, or a proxy that hides all."),
    ] = ("127.0.0.0/8", "::1/128")


class Uploads(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long unfinished uploads stay."""

    expire_days: Annotated[
        float,
        Meta(gt=0, le=3650),
        says("Days that an unfinished upload can be resumed after its last byte; then it is swept."),
    ] = 7.0


class Events(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The feed of what was published, moved and deleted."""

    days: Annotated[
        float,
        Meta(ge=0, le=3650),
        says("Days that events are kept for `ftpy events`; 0: none are, and those that were are removed at the start."),
    ] = 0.0
    most: Annotated[
        int, Meta(ge=1, le=1_000_000_000), says("Most events kept, about 100 bytes each; the oldest go first.")
    ] = 1_000_000


class Log(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the server speaks on standard error."""

    format: Annotated[Literal["text", "json"], says('"text" for people, "json" for one object a line.')] = "text"
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        says('The least that is said: "debug", "info", "warning" or "error".'),
    ] = "info"
    audit: Annotated[
        str, says("File that is appended to, mode 0600: who did what, one JSON object a line; empty: none.")
    ] = ""


class Beacon(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answers over UDP, off by default: anybody finds the server on a local network, and reads its clock."""

    listen: Annotated[
        list[str],
        Meta(max_length=16),
        says('Where to answer: "HOST:PORT" or "[IPv6]:PORT", mostly what `listen` above says; empty: nowhere.'),
    ] = []
    name: Annotated[
        str,
        Meta(max_length=NAME_CHARACTERS),
        says("What the server calls itself there, up to 64 characters; empty: the host's name."),
    ] = ""
    answers_per_second: Annotated[
        Count, says("Answers a second to one source (an IPv4 address, an IPv6 /64); what comes faster is dropped.")
    ] = 10
    most_answers_per_second: Annotated[
        Count, says("Answers a second to all together; what comes faster is dropped.")
    ] = 500


class ServerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``server.toml``; relative paths are relative to its folder."""

    root: Annotated[str, Meta(min_length=1), says("The folder that is served; must not hold any of the files below.")]
    listen: Annotated[
        list[str], Meta(min_length=1), says('Where to listen: "HOST:PORT", "[IPv6]:PORT" or "unix:/PATH".')
    ]
    advertise: Annotated[
        list[str],
        Meta(max_length=16),
        says("Addresses that pairing tokens name, tried in turn; empty: found out from `listen`."),
    ] = []
    tls: Annotated[
        Literal["on", "off"], says('"on": TLS 1.3, always. "off": anybody on the way can read and change everything.')
    ] = "on"
    allow_plaintext: Annotated[bool, says('Whether tls = "off" may listen where other machines reach it.')] = False
    certificate: Annotated[
        str, Meta(min_length=1), says("The server's certificate, PEM; clients pin it when they are paired.")
    ] = "certificate.pem"
    private_key: Annotated[str, Meta(min_length=1), says("Its private key, PEM, mode 0600.")] = "private_key.pem"
    users: Annotated[
        str, Meta(min_length=1), says("The users' verifiers, mode 0600; written by `ftpy-server user`.")
    ] = "users.json"
    state: Annotated[str, Meta(min_length=1), says("Folder of what the server remembers, such as digests.")] = "state"
    portable_names: Annotated[
        bool, says("Refuse new names that Windows or macOS could not hold (CON, a:b, trailing dots, not NFC).")
    ] = True
    workers: Annotated[
        Workers | Literal["auto"],
        says('Processes that serve at once, sharing all limits; "auto": one for each core that may be used.'),
    ] = 1
    trash_days: Annotated[
        float,
        Meta(gt=0, le=3650),
        says("Days that `ftpy undo` and `rollback` can bring back what was replaced; it counts for quotas till then."),
    ] = 30.0
    sandbox: Annotated[
        Literal["auto", "on", "off"],
        says('Give up all but the files needed (Landlock): "auto" where it can be had, "on" or not at all, "off".'),
    ] = "auto"
    allow_root: Annotated[
        bool, says("Whether it may run as root, as in a container; a user of its own is safer and does as well.")
    ] = False
    limits: Limits = Limits()
    penalties: Penalties = Penalties()
    uploads: Uploads = Uploads()
    events: Events = Events()
    beacon: Beacon = Beacon()
    log: Log = Log()
    commands: Annotated[dict[str, Command], Meta(max_length=MOST_COMMANDS)] = {}


def load_server_config(path: str | os.PathLike[str]) -> ServerConfig:
    """The server's settings, every path in them absolute. Raises ConfigError."""
    name = os.fspath(path)
    source = Source(name, read_file(name)[0])
    raw = dict(source.raw)
    commands: dict[str, Command] = {}
    if isinstance(tables := raw.get("commands"), dict) and len(tables) <= MOST_COMMANDS:
        # One by one: msgspec does not say which entry of a dict is wrong.
        commands = {name: source.convert(table, Command, ("commands", name)) for name, table in tables.items()}
        del raw["commands"]
    config = msgspec.structs.replace(source.convert(raw, ServerConfig), commands=commands)
    config = with_absolute_paths(config, os.path.dirname(os.path.abspath(name)))
    if fault := find_fault(config, name):
        raise source.error(tuple(fault.key.split(".")), str(fault))
    return config


def with_absolute_paths(config: ServerConfig, folder: str) -> ServerConfig:
    """``config`` as it is meant in a file in ``folder``."""
    paths = {key: os.path.join(folder, getattr(config, key)) for key in ("root", *_OURS)}
    listen = [
        "unix:" + os.path.join(folder, text.removeprefix("unix:")) if text.startswith("unix:") else text
        for text in config.listen
    ]
    log = config.log
    if log.audit:
        log = msgspec.structs.replace(log, audit=os.path.join(folder, log.audit))
    commands = {
        name: msgspec.structs.replace(command, folder=os.path.join(folder, command.folder))
        for name, command in config.commands.items()
    }
    return msgspec.structs.replace(config, listen=listen, log=log, commands=commands, **paths)


class Fault(ConfigError):
    """What is wrong with settings that are each right on their own; ``key`` with its table, as "table.key"."""

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
    if fault := _find_beacon_fault(config.beacon):
        return fault
    for text in config.penalties.exempt:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            return Fault("penalties.exempt", f"no network: {display(str(error))}")
    public = [text for text in config.listen if not parse_address(text).is_loopback]
    if config.tls == "off" and public and not config.allow_plaintext:
        return Fault("tls", f'tls = "off" is refused on {public[0]} unless allow_plaintext = true')
    if worker_count(config) > 1 and not hasattr(os, "fork"):
        return Fault("workers", "several processes need fork(2), which this system does not have; workers = 1")
    if config.commands and sys.platform != "linux":
        return Fault("commands", "remote commands need Linux")
    if fault := _find_command_fault(config, settings):
        return fault
    if exposed := exposed_by(config, config.root, settings):
        return Fault("root", f"`{exposed}` lies below `root`, so users could read or change it")
    return None


def _find_command_fault(config: ServerConfig, settings: str) -> Fault | None:
    """Where the server may write lies nothing that the runner, which nothing confines, believes or executes."""
    if not config.commands:
        return None
    for name, command in config.commands.items():
        try:
            check_command(name, command)
        except ConfigError as error:
            return Fault(f"commands.{name}", str(error))
    writable = {"state": config.state}
    if config.log.audit:
        writable["log.audit"] = os.path.dirname(config.log.audit)
    believed = {display(os.path.basename(settings)): settings}
    believed |= {f"commands.{name}": command.run[0] for name, command in config.commands.items()}
    for what, path in believed.items():
        for key, folder in writable.items():
            real = os.path.realpath(folder)
            if "/" in path and any(os.path.commonpath([real, place]) == real for place in _way_to(path)):
                return Fault(key, f"`{what}` lies in a folder that the server writes to: give `{key}` one of its own")
    return None


def _find_beacon_fault(beacon: Beacon) -> Fault | None:
    for text in beacon.listen:
        try:
            if parse_address(text).kind != "tcp":
                return Fault("beacon.listen", f"{display(text)}: UDP has no Unix sockets here")
        except ConfigError as error:
            return Fault("beacon.listen", str(error))
    if display(beacon.name) != beacon.name:
        return Fault("beacon.name", "a name has no control characters")
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
    if config.log.audit:
        paths["log.audit"] = config.log.audit
    paths |= {f"commands.{name}": command.run[0] for name, command in config.commands.items() if "/" in command.run[0]}
    if settings is not None:
        paths[display(os.path.basename(settings))] = settings
    return next((name for name, path in paths.items() if is_exposed(root, path)), None)


def is_exposed(root: str, path: str) -> bool:
    """Whether a user whose root is ``root`` could reach ``path``, or put a file in place of a link that leads there.

    Names that begin with .ftpy are never reachable.
    """
    real = os.path.realpath(root)
    ways = (os.path.relpath(place, real).split(os.sep) for place in _way_to(path))
    return any(way[0] != os.pardir and not any(map(is_reserved, way)) for way in ways)


def _way_to(path: str) -> Iterator[str]:
    """Where ``path`` leads: every symbolic link on the way, in its real folder, and the end."""
    whole = path if os.path.isabs(path) else os.path.join(os.getcwd(), path)  # the current folder may be gone
    here, due = os.sep, whole.split(os.sep)[::-1]
    links = 0
    while due and links < MOST_LINKS:
        name = due.pop()
        if name == os.pardir:
            here = os.path.dirname(here)
        elif name not in ("", os.curdir):
            place = os.path.join(here, name)
            try:
                target = os.readlink(place)
            except OSError:  # no link, or not there yet
                here = place
            else:
                yield place
                links += 1
                due += reversed(target.split(os.sep))
                here = os.sep if os.path.isabs(target) else here
    yield here
