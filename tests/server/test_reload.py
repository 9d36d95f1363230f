"""SIGHUP: settings and users are read again, no session ends, and a broken file changes nothing."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from ftpy.client.connection import Connection
from ftpy.config.client import Transfer
from ftpy.config.server import Limits, ServerConfig
from ftpy.durable import replace_file
from ftpy.errors import ConfigError, ConnectionFailed, InvalidPath, ServerNotTrusted
from ftpy.server.identity import Identity, certificate_sha256, make_identity
from ftpy.server.reloading import NEEDS_RESTART, reread
from ftpy.wire.messages import MkdirReply, MkdirRequest, PutRequest, StatReply, StatRequest, UploadReply
from tests.rig import Daemon, Host, eventually

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
ONCE = Transfer(stall_seconds=10.0, connect_seconds=10.0, retries=0, streams=1)
INLINE_BYTES = Limits().inline_bytes
either = pytest.mark.parametrize("workers", [1, 2], ids=["alone", "workers"])


@contextmanager
def connected(host: Host) -> Iterator[Connection]:
    connection = Connection.open(host.profile(), ONCE)
    try:
        yield connection
    finally:
        connection.close()


def alive(live: Connection) -> bool:
    return live.call(StatRequest(id=live.next_id()), StatReply).entry.type == "directory"


def refused(host: Host) -> bool:
    try:
        with connected(host):
            return False
    except ConnectionFailed:
        return True


def inline_bytes(host: Host) -> int:
    """What a new connection is told."""
    with connected(host) as fresh:
        return fresh.inline_bytes


def events(daemon: Daemon, *names: str) -> list[str]:
    """The lines of these events, without their time."""
    lines = [line.partition(" ")[2] for line in daemon.log.splitlines()]
    return [line for line in lines if line.split()[1:2] and line.split()[1] in names]


# ------------------------------------------------------------------ what counts at once


@either
def test_new_limits_count_for_new_connections_and_no_session_ends(tmp_path: Path, workers: int) -> None:
    host = Host(tmp_path / "host", tls=False)
    head = f"workers = {workers}\n[limits]\n"
    with Daemon(host, head) as daemon, connected(host) as live:
        assert live.inline_bytes == INLINE_BYTES
        daemon.reload(f"{head}inline_bytes = 1000\nconnections_per_address = 1\n")
        assert alive(live)
        eventually(lambda: refused(host))
        assert refused(host)
        daemon.reload(f"{head}inline_bytes = 1000\n")  # a key that is gone has its default again
        eventually(lambda: not refused(host))
        eventually(lambda: inline_bytes(host) == 1000)
        assert events(daemon, "config-read") == [
            "INFO    config-read changed=limits.connections_per_address,limits.inline_bytes",
            "INFO    config-read changed=limits.connections_per_address",
        ]
        assert (
            alive(live)
            and live.inline_bytes == INLINE_BYTES
            and not events(daemon, "connection-ended", "session-ended")
        )


def test_a_worker_that_is_started_later_has_the_new_settings(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False)
    with Daemon(host, "workers = 2\n") as daemon:
        (pids,) = re.findall(r" workers pids=(\S+)", daemon.log)
        daemon.reload("workers = 2\n[limits]\ninline_bytes = 1000\n")
        first, second = map(int, pids.split(","))
        os.kill(first, signal.SIGKILL)
        eventually(lambda: "worker-died" in daemon.log)
        os.kill(second, signal.SIGKILL)
        eventually(lambda: daemon.log.count("worker-died") == 2)
        assert eventually(lambda: not refused(host) and inline_bytes(host)) == 1000


@either
def test_names_that_are_allowed_now_are_allowed_in_open_sessions(tmp_path: Path, workers: int) -> None:
    host = Host(tmp_path / "host", tls=False)
    with Daemon(host, f"workers = {workers}\n") as daemon, connected(host) as live:

        def make() -> str | None:
            try:
                live.call(MkdirRequest(id=live.next_id(), path="a:b", parents=True), MkdirReply)
            except InvalidPath as error:
                return str(error)
            return None

        assert make()
        daemon.reload(f"workers = {workers}\nportable_names = false\n")
        eventually(lambda: make() is None)
        daemon.reload(f"workers = {workers}\n")
        eventually(make)


@either
def test_the_log_changes_its_format_and_level(tmp_path: Path, workers: int) -> None:
    host = Host(tmp_path / "host", tls=False)
    with Daemon(host, f"workers = {workers}\n") as daemon:
        daemon.reload(f'workers = {workers}\n[log]\nformat = "json"\nlevel = "warning"\n')

        def is_quiet() -> bool:
            before = len(daemon.log)  # anew each time: workers are told after it was said
            return not refused(host) and inline_bytes(host) > 0 and " login " not in daemon.log[before:]

        eventually(is_quiet)
        host.accounts.add("bob")
        (host.folder / "users.json").chmod(0o644)
        daemon.signal(signal.SIGHUP)
        eventually(lambda: "users-broken" in daemon.log)
        line = next(line for line in daemon.log.splitlines() if "users-broken" in line)
        assert json.loads(line)["event"] == "users-broken"


@either
def test_new_connections_get_the_new_certificate_and_open_sessions_go_on(tmp_path: Path, workers: int) -> None:
    host = Host(tmp_path / "host")
    with Daemon(host, f"workers = {workers}\n") as daemon, connected(host) as live:
        old = host.profile()
        make_identity(str(host.folder / "certificate.pem"), str(host.folder / "private_key.pem"))
        daemon.reload(f"workers = {workers}\n")

        def trusted() -> bool:
            try:
                with connected(host) as fresh:
                    return alive(fresh)
            except ServerNotTrusted:
                return False

        def mistrusted() -> bool:
            try:
                Connection.open(old, ONCE).close()
            except ServerNotTrusted:
                return True
            return False  # by a worker that has not been told yet

        eventually(trusted)
        eventually(mistrusted)
        assert alive(live)


def test_certificate_and_binding_are_always_of_one_kind(tmp_path: Path) -> None:
    host = Host(tmp_path / "host")
    before = Identity.load(host.config)
    make_identity(host.config.certificate, host.config.private_key)
    after = Identity.load(host.config)
    assert before.binding != after.binding
    assert after.binding.certificate_sha256 == certificate_sha256(host.config.certificate)


# ------------------------------------------------------------------ what does not


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("[limits]\nidle_secnds = 1\n", "server.toml:8: unknown key `idle_secnds` in [limits]; did you mean"),
        ("[limits\n", "server.toml:7: not TOML"),
        ("x = " + "[" * 100_000, "not TOML"),
        ("x = " + "1" * 10_000, "not TOML"),
        ('certificate = "gone.pem"\n', "gone.pem: No such file or directory"),
        ('certificate = "files/mine.pem"\n', "server.toml:1: `certificate` lies below `root`"),
    ],
    ids=["key", "toml", "depth", "digits", "certificate", "exposed"],
)
@either
def test_a_broken_file_changes_nothing_and_is_said_in_one_line(
    tmp_path: Path, workers: int, broken: str, said: str
) -> None:
    host = Host(tmp_path / "host")
    with Daemon(host, f"workers = {workers}\n") as daemon, connected(host) as live:
        daemon.reload(f"workers = {workers}\n{broken}")
        assert alive(live) and inline_bytes(host) == INLINE_BYTES
        (line,) = events(daemon, "config-broken", "config-read", "config-needs-restart")
        assert line.startswith("ERROR") and said in line.replace('\\"', '"')
        daemon.reload(f"workers = {workers}\n[limits]\ninline_bytes = 1000\n")
        eventually(lambda: inline_bytes(host) == 1000)


@either
def test_a_file_that_is_gone_changes_nothing(tmp_path: Path, workers: int) -> None:
    host = Host(tmp_path / "host", tls=False)
    with Daemon(host, f"workers = {workers}\n") as daemon:
        (host.folder / "server.toml").unlink()
        daemon.signal(signal.SIGHUP)
        eventually(lambda: events(daemon, "config-broken"))
        assert not refused(host)


@either
def test_broken_users_change_nothing_and_are_said_once(tmp_path: Path, workers: int) -> None:
    host = Host(tmp_path / "host", tls=False)
    users = host.folder / "users.json"
    with Daemon(host, f"workers = {workers}\n") as daemon, connected(host) as live:
        for content in (b"{", b"[" * 100_000):
            count = len(events(daemon, "users-broken"))
            replace_file(str(users), content, 0o600)  # at once: half of it, seen, would be said as well
            daemon.reload(f"workers = {workers}\n")
            eventually(lambda count=count: len(events(daemon, "users-broken")) == count + 1)
            assert alive(live) and not refused(host)
        daemon.reload(f"workers = {workers}\n")
        assert len(events(daemon, "users-broken")) == 2 and "Traceback" not in daemon.log


@either
def test_what_needs_a_restart_is_named_once_and_stays_as_it_was(tmp_path: Path, workers: int) -> None:
    host = Host(tmp_path / "host", tls=False)
    (host.folder / "other").mkdir()
    with Daemon(host, f"workers = {workers}\n") as daemon, connected(host) as live:
        text = (host.folder / "server.toml").read_text().replace('root = "files"', 'root = "other"')
        text = text.replace(f"workers = {workers}", 'workers = 7\nstate = "new"').replace(host.address, "127.0.0.1:1")
        (host.folder / "server.toml").write_text(text)
        daemon.signal(signal.SIGHUP)
        eventually(lambda: events(daemon, "config-needs-restart"))
        assert events(daemon, "config-needs-restart") == ["WARNING config-needs-restart keys=listen,root,state,workers"]
        assert events(daemon, "config-read") == ['INFO    config-read changed=""']
        live.call(MkdirRequest(id=live.next_id(), path="here", parents=True), MkdirReply)
        with connected(host) as fresh:
            assert alive(fresh)
        assert (host.root / "here").is_dir() and not (host.folder / "new").exists()


def test_every_key_that_needs_a_restart_is_a_key() -> None:
    assert set(ServerConfig.__struct_fields__) >= NEEDS_RESTART


def test_settings_of_a_running_server_win_where_a_restart_is_needed(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False)
    (host.folder / "server.toml").write_text('root = "files"\nlisten = ["127.0.0.1:1"]\ntls = "off"\n')
    running = msgspec.structs.replace(host.config, workers=3)
    found = reread(running, str(host.folder / "server.toml"))
    assert found is not None and found == msgspec.structs.replace(
        running, certificate=found.certificate, private_key=found.private_key
    )


def test_an_identity_that_is_broken_when_it_is_taken_over_leaves_the_old_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    host = Host(tmp_path / "host")
    host.start()
    assert host.service is not None
    identity = host.service.identity
    Path(host.config.private_key).write_bytes(b"")
    host.service.take_over(host.config)
    assert host.service.identity is identity
    assert "config-broken" in [getattr(record, "event", "") for record in caplog.records]
    with pytest.raises(ConfigError):
        Identity.load(host.config)
    host.stop()


# ------------------------------------------------------------------ the signal


@either
def test_the_signal_does_not_end_a_server_that_drains(tmp_path: Path, workers: int) -> None:
    host = Host(tmp_path / "host", tls=False)
    with Daemon(host, f"workers = {workers}\n[limits]\ndrain_seconds = 60\n") as daemon, connected(host) as live:
        live.call(PutRequest(id=live.next_id(), path="f", file_size=9 << 20, mtime_ns=0), UploadReply)
        daemon.signal(signal.SIGTERM)
        eventually(lambda: "draining" in daemon.log)
        daemon.signal(signal.SIGHUP)
        assert alive(live)
        live.close()
        assert daemon.wait() == 0 and "stopped all_ended=true" in daemon.log
