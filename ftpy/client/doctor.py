"""Why does it not work? One thing after the other is looked at, from the settings here to the disk there.

Each check is a row of ``CHECKS``, and says what it found; the first one that fails keeps those that need it from being
looked at. Where one of several addresses works, what is wrong with the others is a warning.
"""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from msgspec import structs

from ftpy.client.connection import Connection, dial
from ftpy.client.probing import round_trip
from ftpy.config.addresses import parse_address
from ftpy.config.client import ClientConfig, Profile, choose_profile, client_config_path, load_client_config
from ftpy.errors import (
    AuthenticationFailed,
    ConfigError,
    ConnectionFailed,
    ConnectionLost,
    Denied,
    FtpyError,
    ProtocolError,
    RequestError,
    ServerNotTrusted,
    Stalled,
    TlsFailed,
    TurnedAway,
    Unsupported,
)
from ftpy.files import display
from ftpy.transport import tls
from ftpy.transport.datagrams import targets_of
from ftpy.transport.deadline import Deadline
from ftpy.version import __version__
from ftpy.wire.upkeep import DfReply, DfRequest

Verdict = Literal["ok", "warning", "failed", "skipped"]

CLOCK_SECONDS = 2.0
"""Clocks that differ by more are worth a word: so coarse are the times of files on some disks."""
LEAST_FREE_BYTES, LEAST_FREE_SHARE = 1024**3, 0.05
"""A disk or quota with less room than both is nearly full."""

PAIR = "pair again: `ftpy-server user add` or `rotate` on the host, then `ftpy pair NAME --force` here"
_ELSE = "look what listens at that port on the host; is it the port of `listen` in its server.toml?"
_ADVICE: dict[tuple[str, type[FtpyError]], str] = {
    ("settings", ConfigError): "mend the file as the line says; it must be yours alone (chmod 600)",
    ("profile", ConfigError): "name a server that is paired: `ftpy doctor NAME`, or `default` in the settings",
    ("name", ConnectionFailed): "is the name right? ask the host's operator, or pair with --address",
    ("port", Stalled): "is the host up? a packet filter on the way may drop: open the port for TCP",
    ("port", ConnectionFailed): "does ftpy-server run there, at this port? `ftpy-server status` on the host says so",
    ("TLS", Stalled): _ELSE,
    ("TLS", TlsFailed): f"something else answers, or a server without TLS: {_ELSE}",
    ("TLS", ProtocolError): f"something else answers, over TLS: {_ELSE}",
    ("TLS", ConnectionLost): "it hangs up: full, refusing this address for a while (its log says so), or none of ours",
    ("certificate", ServerNotTrusted): f"not the server that was paired, or its certificate is new: ask, then {PAIR}",
    ("login", Denied): f"the user was removed, or has another key now: {PAIR}",
    ("login", TurnedAway): "full, or refusing this address for a while: wait, then look into the server's log",
    ("login", ProtocolError): _ELSE,
    ("login", ConnectionFailed): "look into the server's log",
    ("login", ConfigError): PAIR,
    ("login", AuthenticationFailed): f"somebody else may pose as the server: ask its operator, then {PAIR}",
}
"""What to do where a check fails, by the nearest class of the error."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, and (unless all is well) what to do about it."""

    check: str
    verdict: Verdict
    said: str
    advice: str = ""


class Doctor:
    """Looks at one server from here; ``examine`` once."""

    def __init__(self, name: str | None = None) -> None:
        self._name = name
        self._config = ClientConfig()
        self._profile: Profile
        self._ways: list[str] = []
        """Addresses that nothing was wrong with so far."""
        self._sockets: dict[str, socket.socket] = {}
        self._pins: dict[str, bytes] = {}
        self._connection: Connection | None = None

    def examine(self) -> Iterator[Finding]:
        """Every check in turn, as it is done."""
        blocked = ""
        try:
            for check, look in CHECKS.items():
                if blocked:
                    yield Finding(check, "skipped", f"not looked at: {blocked} comes first")
                    continue
                findings = self._look(check, look)
                yield from findings
                if check in _VITAL and any(finding.verdict == "failed" for finding in findings):
                    blocked = check
        finally:
            self._close_sockets()
            if self._connection is not None:
                self._connection.close()

    def _look(self, check: str, look: Callable[[Doctor], Iterator[Finding]]) -> list[Finding]:
        try:
            return list(look(self))
        except FtpyError as error:
            return [_failed(check, str(error), error)]

    def _each(self, check: str, look: Callable[[str], str]) -> Iterator[Finding]:
        """What is found at each address that is left; those where something is wrong are left no longer."""
        findings, good = [], []
        for address in self._ways:
            try:
                findings.append(Finding(check, "ok", f"{address}: {look(address)}"))
                good.append(address)
            except FtpyError as error:
                findings.append(_failed(check, f"{address}: {error}", error))
        for finding in findings:
            yield replace(finding, verdict="warning") if good and finding.verdict == "failed" else finding
        self._ways = good

    # ---- on this side

    def _settings(self) -> Iterator[Finding]:
        path = client_config_path()
        if not os.path.lexists(path):
            yield Finding("settings", "failed", f"{display(path)}: not there", "`ftpy pair NAME` makes it")
            return
        self._config = load_client_config(path)
        mode = stat.S_IMODE(os.stat(path).st_mode)
        private = "" if sys.platform == "win32" else f", mode {mode:04o}"
        yield Finding("settings", "ok", f"{display(path)}{private}")

    def _chosen(self) -> Iterator[Finding]:
        name, self._profile = choose_profile(self._config, self._name)
        self._ways = list(self._profile.addresses)
        yield Finding("profile", "ok", f"{display(name)}: {self._profile.user} at {', '.join(self._ways)}")

    # ---- on the way

    def _names(self) -> Iterator[Finding]:
        def look(address: str) -> str:
            target = parse_address(address)
            if target.kind == "unix":
                return "a Unix socket of this machine"
            hosts = dict.fromkeys(str(found[1][0]) for found in targets_of(target.host, target.port))
            return ", ".join(hosts)

        yield from self._each("name", look)

    def _ports(self) -> Iterator[Finding]:
        def look(address: str) -> str:
            self._sockets[address] = dial(address, Deadline(self._config.transfer.connect_seconds, "connecting"))
            return "somebody answers"

        yield from self._each("port", look)

    def _encryption(self) -> Iterator[Finding]:
        if self._profile.certificate_sha256 is None:
            public = [address for address in self._ways if not parse_address(address).is_loopback]
            said = "off: this profile speaks plain TCP"
            if public:
                advice = 'anybody on the way can read and change everything: tls = "on" in server.toml, then pair again'
                yield Finding("TLS", "warning", said, advice)
            else:
                yield Finding("TLS", "ok", f"{said}, on this machine only")
            return

        def look(address: str) -> str:
            secure = tls.wrap(self._sockets[address], tls.client_context(), server_side=False)
            self._sockets[address] = secure
            tls.shake_hands(secure, self._config.transfer.connect_seconds)
            if secure.selected_alpn_protocol() != tls.ALPN:
                raise ProtocolError("it speaks TLS, but not ftpy over it")
            return f"{secure.version()}, {tls.ALPN}"

        yield from self._each("TLS", look)

    def _certificate(self) -> Iterator[Finding]:
        pin = self._profile.certificate_sha256

        def look(address: str) -> str:
            sock = self._sockets[address]
            assert isinstance(sock, ssl.SSLSocket)
            if hashlib.sha256(sock.getpeercert(binary_form=True) or b"").hexdigest() != pin:
                raise ServerNotTrusted("another certificate than the one that was paired")
            return f"the one that was paired ({pin[:16]}…)"

        if pin is None:
            yield Finding("certificate", "ok", "none, without TLS")
        else:
            yield from self._each("certificate", look)
        self._close_sockets()

    # ---- there

    def _login(self) -> Iterator[Finding]:
        profile = structs.replace(self._profile, addresses=self._ways)
        self._connection = Connection.open(profile, self._config.transfer)
        yield Finding("login", "ok", f"the server knows {profile.user} and its key, and has proven itself")

    def _versions(self) -> Iterator[Finding]:
        there = self._there.welcome.server
        said = f"here ftpy {__version__}, there {display(there)}"
        if there == f"ftpy {__version__}":
            yield Finding("version", "ok", said)
        else:
            yield Finding("version", "warning", said, "the older one lacks what the newer one has: upgrade it")

    def _clocks(self) -> Iterator[Finding]:
        clock = self._there.clock
        off, unsure = clock.offset_ns / 1e9, clock.delay_ns / 2e9
        said = f"the host's is {abs(off):.3f} s {'ahead' if off >= 0 else 'behind'}, to within {unsure:.3f} s"
        if abs(off) - unsure <= CLOCK_SECONDS:
            yield Finding("clock", "ok", said)
        else:
            advice = "set the wrong one by NTP (timedatectl): what is newer is told by the times of files"
            yield Finding("clock", "warning", said, advice)

    def _rights(self) -> Iterator[Finding]:
        rights = sorted(self._there.welcome.rights)
        if rights:
            yield Finding("rights", "ok", ", ".join(map(display, rights)))
        else:
            advice = "on the host: `ftpy-server user change USER --preset all`, or --right"
            yield Finding("rights", "failed", "none, but for what rules may allow in some folders", advice)

    def _room(self) -> Iterator[Finding]:
        try:
            room = self._there.call(DfRequest(id=self._there.next_id()), DfReply)
        except Unsupported:
            yield Finding("disk", "skipped", "this server does not tell how much room there is")
            return
        yield _room_of("disk", "the host's disk", room.disk_bytes, room.disk_free_bytes, "make room on the host's disk")
        if room.quota_bytes is not None:
            free = max(0, room.quota_bytes - (room.used_bytes or 0))
            advice = "remove something (`ftpy du`), or ask the host's operator for more"
            yield _room_of("quota", f"the quota of {self._profile.user}", room.quota_bytes, free, advice)

    def _limits(self) -> Iterator[Finding]:
        limits = self._there.welcome.limits
        said = f"{limits.requests:,} requests under way, {limits.least_bytes_per_second:,} bytes a second at least"
        try:
            said += f"; round trip {round_trip(self._there) * 1000:.1f} ms"
        except RequestError:
            said += "; this server cannot be pinged"
        yield Finding("limits", "ok", said)

    @property
    def _there(self) -> Connection:
        assert self._connection is not None
        return self._connection

    def _close_sockets(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()


CHECKS: dict[str, Callable[[Doctor], Iterator[Finding]]] = {
    "settings": Doctor._settings,
    "profile": Doctor._chosen,
    "name": Doctor._names,
    "port": Doctor._ports,
    "TLS": Doctor._encryption,
    "certificate": Doctor._certificate,
    "login": Doctor._login,
    "version": Doctor._versions,
    "clock": Doctor._clocks,
    "rights": Doctor._rights,
    "disk": Doctor._room,
    "limits": Doctor._limits,
}
_VITAL = frozenset({"settings", "profile", "name", "port", "TLS", "certificate", "login"})
"""Without these nothing behind them can be looked at."""


def _failed(check: str, said: str, error: FtpyError) -> Finding:
    advice = next((_ADVICE[check, kind] for kind in type(error).__mro__ if (check, kind) in _ADVICE), "")
    return Finding(check, "failed", said, advice or "look into the server's log")


def _room_of(check: str, what: str, most: int | None, free: int | None, advice: str) -> Finding:
    if most is None or free is None:
        return Finding(check, "ok", f"{what} has no limit that is told")
    said = f"{what} has {free / 1024**3:.1f} of {most / 1024**3:.1f} GiB free"
    if not free:
        return Finding(check, "failed", said, advice)
    if free < min(LEAST_FREE_BYTES, most * LEAST_FREE_SHARE):
        return Finding(check, "warning", said, advice)
    return Finding(check, "ok", said)
