"""Settings that are read again while the server runs: which ones count at once, and what is said of the others."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from ftpy.config.server import ServerConfig, find_fault, load_server_config
from ftpy.errors import ConfigError
from ftpy.files import display
from ftpy.server.identity import check_identity

log = logging.getLogger("ftpy.server")

NEEDS_RESTART = frozenset({"root", "listen", "tls", "workers", "sandbox", "allow_root", "users", "state", "events"})
"""What a server that runs is built on, and ``beacon.listen``; every other key counts as soon as it is read.

So are the first ``commands``: where there were none, nobody who could run one is outside of the sandbox.
"""


def reread(running: ServerConfig, settings: str) -> ServerConfig | None:
    """What the file ``settings`` says, with all of ``running`` that needs a restart; None where it is broken.

    Says in one line what changed, in one what did not, or why nothing did.
    """
    try:
        read = load_server_config(settings)
        keeps = NEEDS_RESTART if running.commands else NEEDS_RESTART | {"commands"}
        config = msgspec.structs.replace(
            read,
            beacon=msgspec.structs.replace(read.beacon, listen=running.beacon.listen),
            **{key: getattr(running, key) for key in keeps},
        )
        if fault := find_fault(config, settings):
            raise ConfigError(f"{display(settings)}: {fault}")
        if config.tls == "on":
            check_identity(config.certificate, config.private_key)
    except ConfigError as error:
        say_broken(error)
        return None
    log.info("config-read", extra={"event": "config-read", "fields": {"changed": list(_differences(running, config))}})
    if kept := sorted(_differences(config, read)):
        log.warning("config-needs-restart", extra={"event": "config-needs-restart", "fields": {"keys": kept}})
    return config


def say_broken(error: ConfigError) -> None:
    """The settings stay as they were, because of ``error``."""
    log.error("config-broken", extra={"event": "config-broken", "fields": {"reason": str(error)}})


def _differences(old: Struct, new: Struct, table: str = "") -> Iterator[str]:
    """The keys whose values differ, as they are written: ``limits.idle_seconds``."""
    for key in old.__struct_fields__:
        before: Any = getattr(old, key)
        after: Any = getattr(new, key)
        if isinstance(before, Struct):
            yield from _differences(before, after, f"{table}{key}.")
        elif before != after:
            yield table + key
