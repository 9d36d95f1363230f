"""The sandbox: before it serves anyone the server gives up what it does not need, where the kernel has Landlock.

Left to it: to read and write its roots and its state folder; to read its settings, users and certificate, and what
Python may still import; to write the audit trail. No other file, no TCP connection or port, no program, no signal to
others. So whoever took the server over, by a defect that nobody knows, has what the server has and no more.
"""

from __future__ import annotations

import logging
import os
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ftpy.config.addresses import parse_address
from ftpy.config.server import ServerConfig
from ftpy.errors import ConfigError
from ftpy.files import display
from ftpy.server import landlock
from ftpy.server.landlock import (
    MAKE_DIR,
    MAKE_REG,
    MAKE_SOCK,
    READ_DIR,
    READ_FILE,
    REFER,
    REMOVE_DIR,
    REMOVE_FILE,
    TRUNCATE,
    WRITE_FILE,
)

log = logging.getLogger("ftpy.server")

LEAST_ABI = 2
"""The first version forbids every rename from one folder to another, and so every put."""

_GIVEN_UP = {1: ["files"], 3: ["truncate"], 4: ["tcp"], 5: ["devices"], 6: ["signals", "abstract sockets"]}
"""What is confined from which version on."""

_SERVED = READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE | MAKE_DIR | MAKE_REG | REMOVE_DIR | REMOVE_FILE | REFER
_STATE = _SERVED | MAKE_SOCK
_IMPORTED = READ_FILE | READ_DIR

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo")
_SYSTEM_FILES = {
    "/etc/ld.so.cache": READ_FILE,  # where libraries are
    "/etc/localtime": READ_FILE,
    "/sys/devices/system/cpu/online": READ_FILE,  # the C library's malloc asks how many there are
    "/dev/null": READ_FILE | WRITE_FILE,
}


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What this process and its children are confined to; ``writable`` are real paths."""

    abi: int
    writable: tuple[str, ...]

    def covers(self, folder: str) -> bool:
        """Whether a folder is one of those that may be written, or lies below one."""
        real = os.path.realpath(folder)
        return any(os.path.commonpath([real, place]) == place for place in self.writable)


_in_force: Sandbox | None = None
"""Of the process, as the kernel has it: set once, never taken back."""


def admits(root: str) -> bool:
    """Whether the sandbox, if there is one, lets this folder be served."""
    return _in_force is None or _in_force.covers(root)


def confine(config: ServerConfig, settings: str, roots: Iterable[str]) -> None:
    """Confine this process and all that it will ever start, as ``config.sandbox`` says; before any thread is made.

    ``settings`` is the file that ``config`` came from, ``roots`` are the folders of users. All sockets listen already.
    Raises ConfigError where the sandbox is "on" and cannot be had.
    """
    global _in_force  # noqa: PLW0603  (the process itself is confined, not an object)
    if config.sandbox == "off":
        return
    try:
        _in_force = _enforce(config, settings, [config.root, *roots])
    except OSError as error:
        _do_without(config, error.strerror or str(error))
        return
    except _TooOld as error:
        _do_without(config, str(error))
        return
    confined = [what for since, several in _GIVEN_UP.items() if since <= _in_force.abi for what in several]
    log.info("sandbox", extra={"event": "sandbox", "fields": {"abi": _in_force.abi, "confined": confined}})


def is_root() -> bool:
    """Whether this process may do everything."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def check_user(config: ServerConfig) -> None:
    """Raises ConfigError for root, unless that was asked for: nothing here needs it, and a defect would have it."""
    if is_root() and not config.allow_root:
        raise ConfigError(
            "refused to run as root: start it as a user of its own, or set allow_root = true in its settings"
        )


class _TooOld(Exception):
    """The kernel's Landlock lacks what we need."""


def _do_without(config: ServerConfig, reason: str) -> None:
    if config.sandbox == "on":
        raise ConfigError(f'sandbox = "on", and this system has no Landlock for us: {display(reason)}')
    log.warning("no-sandbox", extra={"event": "no-sandbox", "fields": {"reason": reason}})


def _enforce(config: ServerConfig, settings: str, roots: list[str]) -> Sandbox:
    abi = landlock.abi()
    if abi < LEAST_ABI:
        raise _TooOld(f"its version {abi} forbids every rename from one folder to another")
    assert threading.active_count() == 1, "a thread that is there already would not be confined"
    ruleset = landlock.Ruleset(abi)
    try:
        writable = []
        for path, rights in _needed(config, settings, roots):
            try:
                ruleset.allow(path, rights)
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                continue  # what is out of reach now is out of reach from now on
            if rights & _SERVED == _SERVED:
                writable.append(os.path.realpath(path))
        ruleset.enforce()
    finally:
        ruleset.close()
    return Sandbox(abi, tuple(writable))


def _needed(config: ServerConfig, settings: str, roots: list[str]) -> Iterator[tuple[str, int]]:
    """Paths and what is needed there, and below them."""
    yield from ((root, _SERVED) for root in roots)
    yield config.state, _STATE
    # By their folders: they are replaced whole, by a file of the same name.
    for path in (settings, config.users, config.certificate, config.private_key):
        yield os.path.dirname(os.path.realpath(path)), READ_FILE
    if config.log.audit:
        yield os.path.dirname(os.path.realpath(config.log.audit)), WRITE_FILE | MAKE_REG
    for address in map(parse_address, config.listen):
        if address.kind == "unix":
            yield os.path.dirname(address.path), REMOVE_FILE  # our socket, at the end
    yield from ((path, _IMPORTED) for path in _imported())
    yield from _SYSTEM_FILES.items()


def _imported() -> set[str]:
    """Where modules and libraries that were not needed yet come from."""
    paths = {*sys.path, *sysconfig.get_paths().values(), sys.prefix, sys.exec_prefix, sys.base_prefix}
    paths |= {sys.base_exec_prefix, os.path.dirname(os.path.dirname(__file__)), *_LIBRARIES}
    return {path for path in paths if os.path.isabs(path) and path != os.sep}
