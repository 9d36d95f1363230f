"""TOML -> frozen typed settings; every key with its unit, unknown keys refused with the nearest known name."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]
Bytes = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one server takes before it refuses; counts, seconds, bytes."""

    connections: Count = 1024
    connections_per_address: Count = 256
    connections_unauthenticated: Count = 128
    backlog: Count = 1024
    handshake_seconds: Seconds = 10.0
    idle_seconds: Seconds = 600.0
    stall_seconds: Seconds = 60.0
    drain_seconds: Seconds = 30.0
    inline_bytes: Annotated[int, Meta(ge=0, le=16 * 1024 * 1024)] = 1024 * 1024
    pipelined_requests: Count = 256


class Uploads(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long unfinished uploads stay."""

    expire_days: Annotated[float, Meta(gt=0, le=3650)] = 7.0


class Log(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the server speaks on standard error."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class ServerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``server.toml``; relative paths are relative to its folder."""

    root: str
    listen: Annotated[list[str], Meta(min_length=1)]
    advertise: list[str] = []
    tls: Literal["on", "off"] = "on"
    allow_plaintext: bool = False
    certificate: str = "certificate.pem"
    private_key: str = "private_key.pem"
    users: str = "users.json"
    state: str = "state"
    portable_names: bool = True
    limits: Limits = Limits()
    uploads: Uploads = Uploads()
    log: Log = Log()


class Profile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One paired server in the client's config: where it is, who I am there, what proves it."""

    addresses: Annotated[list[str], Meta(min_length=1)]
    user: str
    key: str
    certificate_sha256: str | None = None


class Transfer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the client moves files."""

    digest: Literal["md5", "blake3"] = "md5"
    stall_seconds: Seconds = 30.0
    connect_seconds: Seconds = 10.0
    retries: Annotated[int, Meta(ge=0, le=1000)] = 8


class ClientConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The client's ``config.toml``: profiles by name, and how to transfer."""

    default: str | None = None
    transfer: Transfer = Transfer()
    servers: dict[str, Profile] = {}
