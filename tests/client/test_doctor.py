"""The doctor finds what is wrong with each kind of broken set-up, and says what to do about it."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from ftpy.client.doctor import CHECKS, Doctor, Finding, _room_of
from ftpy.config.client import save_profile
from ftpy.errors import Unsupported
from ftpy.server import verbs
from ftpy.server.identity import make_identity
from ftpy.wire.ping import PingRequest
from ftpy.wire.spelling import b64encode
from ftpy.wire.upkeep import DfRequest
from tests.rig import Daemon, Host, eventually, running

BRIEF = "[transfer]\nconnect_seconds = 5.0\n"


class Patient:
    """A workstation with a config, and what the doctor finds there."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "config.toml"

    def write(self, text: str, mode: int = 0o600) -> None:
        """The config as a whole."""
        self.config.write_text(text)
        self.config.chmod(mode)

    def pair(self, host: Host, name: str = "home", user: str = "alice", **changes: object) -> None:
        """A profile."""
        save_profile(self.config, name, structs.replace(host.profile(user), **changes))

    def examined(self, name: str | None = None) -> dict[str, Finding]:
        """What is found, by check; of several findings of one the worst."""
        order = ("ok", "skipped", "warning", "failed")
        found: dict[str, Finding] = {}
        for finding in Doctor(name).examine():
            before = found.get(finding.check)
            if before is None or order.index(finding.verdict) > order.index(before.verdict):
                found[finding.check] = finding
        return found

    def fails_at(self, check: str, said: str, advice: str, name: str | None = None) -> None:
        """All before it is well, it failed, and what needs it was not looked at."""
        found = self.examined(name)
        names = list(CHECKS)
        at = names.index(check)
        assert [found[one].verdict for one in names[:at]] == ["ok"] * at, found
        assert found[check].verdict == "failed" and said in found[check].said and advice in found[check].advice, found
        assert {found[one].verdict for one in names[at + 1 :]} <= {"skipped"}, found
        assert all(one.advice for one in found.values() if one.verdict in ("warning", "failed"))


@pytest.fixture
def patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Patient:
    made = Patient(tmp_path)
    monkeypatch.setenv("FTPY_CONFIG", str(made.config))
    monkeypatch.delenv("FTPY_SERVER", raising=False)
    return made


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with running(tmp_path_factory.mktemp("doctor") / "host") as made:
        yield made


def test_all_is_well_where_all_is_well(patient: Patient, host: Host) -> None:
    patient.pair(host)
    found = patient.examined()
    assert list(found) == list(CHECKS)
    assert {one.verdict for name, one in found.items() if name != "disk"} == {"ok"}, found
    assert not any(one.advice for name, one in found.items() if name != "disk")
    assert "mode 0600" in found["settings"].said and "GiB free" in found["disk"].said


def test_no_settings(patient: Patient) -> None:
    patient.fails_at("settings", "not there", "ftpy pair NAME")


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [("x = [", 0o600, "not TOML"), ("defalt = 'a'\n", 0o600, "unknown key"), (None, 0o644, "others can read it")],
)
def test_broken_settings(patient: Patient, host: Host, text: str | None, mode: int, said: str) -> None:
    patient.pair(host)
    patient.write(text or patient.config.read_text(), mode)
    patient.fails_at("settings", said, "chmod 600")


def test_no_server_is_paired(patient: Patient) -> None:
    patient.write(BRIEF)
    patient.fails_at("profile", "no server is paired yet", "name a server that is paired")


def test_another_name_than_any_that_is_paired(patient: Patient, host: Host) -> None:
    patient.pair(host)
    patient.fails_at("profile", "did you mean home?", "ftpy doctor NAME", "hoem")


def test_a_host_name_that_leads_nowhere(patient: Patient, host: Host) -> None:
    patient.pair(host, addresses=["nowhere.invalid:7421"])
    patient.fails_at("name", "nowhere.invalid", "is the name right?")


def test_a_closed_port(patient: Patient, host: Host) -> None:
    patient.pair(host, addresses=["127.0.0.1:9"])
    patient.fails_at("port", "Connection refused", "does ftpy-server run there")


def test_a_socket_that_is_not_there(patient: Patient, host: Host, tmp_path: Path) -> None:
    patient.pair(host, addresses=[f"unix:{tmp_path}/none"])
    patient.fails_at("port", "No such file", "does ftpy-server run there")


@contextlib.contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """Something that is no ftpy: it says ``answer`` and hangs up, or (None) nothing, for ever."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(listener.accept()[0])
                    if answer is not None:
                        taken[-1].sendall(answer)
                        taken[-1].shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for one in taken:
                one.close()


def test_something_else_at_that_port(patient: Patient, host: Host) -> None:
    for answer, advice in (
        (b"SSH-2.0-OpenSSH_9.6\r\n", "something else answers"),
        (b"", "it hangs up"),
        (None, "what listens"),
    ):
        patient.write(f"[transfer]\nconnect_seconds = {0.5 if answer is None else 10.0}\n")
        with answering(answer) as address:
            patient.pair(host, addresses=[address])
            patient.fails_at("TLS", address, advice)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def web_server(folder: Path, context: ssl.SSLContext | None = None) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join(10)


def test_a_plain_web_server_at_that_port(patient: Patient, host: Host, tmp_path: Path) -> None:
    with web_server(tmp_path) as address:
        patient.pair(host, addresses=[address])
        patient.fails_at("TLS", "TLS handshake failed", "something else answers, or a server without TLS")


def test_a_web_server_with_tls_at_that_port(patient: Patient, host: Host, tmp_path: Path) -> None:
    make_identity(str(tmp_path / "c.pem"), str(tmp_path / "k.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
    with web_server(tmp_path, context) as address:
        patient.pair(host, addresses=[address])
        patient.fails_at("TLS", "it speaks TLS, but not ftpy over it", "something else answers")


def test_a_web_server_where_plain_tcp_was_paired(patient: Patient, host: Host, tmp_path: Path) -> None:
    patient.write("[transfer]\nconnect_seconds = 1.0\n")
    with web_server(tmp_path) as address:
        patient.pair(host, addresses=[address], certificate_sha256=None)
        found = patient.examined()
    assert found["TLS"].verdict == "ok" and "on this machine only" in found["TLS"].said
    assert found["login"].verdict == "failed" and found["login"].advice


def test_plain_tcp_to_another_machine_is_a_warning(patient: Patient, host: Host) -> None:
    doctor = Doctor()
    doctor._profile = structs.replace(host.profile(), certificate_sha256=None)
    doctor._ways = ["192.0.2.7:7421"]
    (finding,) = doctor._encryption()
    assert finding.verdict == "warning" and "anybody on the way" in finding.advice


def test_another_certificate(patient: Patient, host: Host) -> None:
    patient.pair(host, certificate_sha256="0" * 64)
    patient.fails_at("certificate", "another certificate than the one that was paired", "its certificate is new")


def test_a_user_who_was_removed(patient: Patient, host: Host) -> None:
    host.add_user("gone")
    patient.pair(host, user="gone")
    host.accounts.remove("gone")
    found = patient.examined()
    assert found["login"].verdict == "failed" and "user was removed, or has another key" in found["login"].advice
    assert found["rights"].verdict == "skipped"


def test_another_key(patient: Patient, host: Host) -> None:
    patient.pair(host, key=b64encode(os.urandom(32)))
    patient.fails_at("login", "refused user 'alice' with this key", "ftpy pair NAME --force")


def test_a_server_that_takes_no_more_connections_of_this_user(patient: Patient, host: Host) -> None:
    host.add_user("busy", connections=1)
    patient.pair(host, user="busy")
    with host.client("busy"):
        patient.fails_at("login", "has 1 connections already", "full, or refusing this address")


def test_no_rights_and_a_full_quota(patient: Patient, host: Host) -> None:
    host.add_user("nobody", rights=(), quota_bytes=0)
    patient.pair(host, user="nobody")
    found = patient.examined()
    assert found["rights"].verdict == "failed" and "--preset all" in found["rights"].advice
    assert found["quota"].verdict == "failed" and "ftpy du" in found["quota"].advice
    assert found["limits"].verdict == "ok"


@pytest.mark.parametrize(
    ("most", "free", "verdict"),
    [
        (None, None, "ok"),
        (2**40, 2**39, "ok"),
        (2**40, 2**30 - 1, "warning"),
        (2**40, 2**30, "ok"),
        (10_000, 600, "ok"),
        (10_000, 400, "warning"),
        (10_000, 0, "failed"),
    ],
)
def test_room(most: int | None, free: int | None, verdict: str) -> None:
    assert _room_of("disk", "the disk", most, free, "make room").verdict == verdict


@pytest.mark.slow
@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_differs(patient: Patient, tmp_path: Path, hours: int) -> None:
    there = Host(tmp_path / "host")
    shift = f"import time\nthen = time.time_ns\ntime.time_ns = lambda: then() + {hours * 3600 * 10**9}\n"
    with Daemon(there, before=shift):
        patient.pair(there)
        found = patient.examined()
    assert found["clock"].verdict == "warning" and "NTP" in found["clock"].advice
    assert ("ahead" if hours > 0 else "behind") in found["clock"].said
    assert found["rights"].verdict == "ok"


def test_one_address_of_several_that_works_is_enough(patient: Patient, host: Host) -> None:
    patient.pair(host, addresses=["nowhere.invalid:1", "127.0.0.1:9", host.address])
    findings = list(Doctor().examine())
    assert [one.verdict for one in findings if one.check in ("name", "port")] == [
        "warning",
        "ok",
        "ok",
        "warning",
        "ok",
    ]
    assert [one.verdict for one in findings if one.check == "login"] == ["ok"]
    assert not [one for one in findings if one.verdict == "failed"]


def test_an_older_server_leaves_rows_empty(patient: Patient, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(request: object, context: object) -> None:
        raise Unsupported

    for kind in (DfRequest, PingRequest):
        monkeypatch.setitem(verbs.VERBS, kind, verbs.Verb(unsupported))
    monkeypatch.setattr("ftpy.server.connection.__version__", "0.0.1")
    patient.pair(host)
    found = patient.examined()
    assert found["version"].verdict == "warning" and "there ftpy 0.0.1" in found["version"].said
    assert found["disk"].verdict == "skipped" and "does not tell" in found["disk"].said
    assert found["limits"].verdict == "ok" and "cannot be pinged" in found["limits"].said


def test_nothing_stays_open(patient: Patient, host: Host) -> None:
    patient.pair(host, addresses=["127.0.0.1:9", host.address])
    doctor = Doctor()
    examination = doctor.examine()
    assert any(finding.check == "TLS" for finding in examination)
    (sock,) = doctor._sockets.values()
    examination.close()
    assert sock.fileno() == -1 and doctor._sockets == {}
    doctor = Doctor()
    assert len(list(doctor.examine())) > len(CHECKS) and doctor._connection is not None
    eventually(lambda: doctor._connection is not None and doctor._connection.channel.stream._sock.fileno() == -1)
