"""Whoever has taken the server over can do what the server does, and nothing else; without the sandbox, all of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ftpy.client.client import Client
from ftpy.server import landlock
from tests.rig import AS_ROOT, ENVIRONMENT, Daemon, Host, eventually
from tests.rigs.sandbox import ATTEMPTS, DUTIES, attempt, infiltrated

try:
    ABI = landlock.abi()
except OSError:
    ABI = 0

pytestmark = pytest.mark.skipif(ABI < 6, reason="needs a kernel whose Landlock knows all (6.12)")
REFUSALS = {"EACCES", "EPERM", "EXDEV"}
"""What Landlock answers (landlock(7)); EXDEV for a rename that would gain rights."""


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_but_the_servers_own_can_be_done_in_the_sandbox(tmp_path: Path, workers: int) -> None:
    with infiltrated(tmp_path, f"workers = {workers}\n") as (host, daemon), host.client() as client:
        assert f"abi={ABI}" in daemon.log
        assert {name for name in ATTEMPTS if attempt(client, name) not in REFUSALS} == set()
        assert {name: attempt(client, name) for name in DUTIES} == dict.fromkeys(DUTIES, "")
        assert (tmp_path / "outside" / "precious").read_bytes() == b"precious"
        assert (tmp_path / "outside" / "doomed").exists() and not (tmp_path / "outside" / "new").exists()


def test_everything_can_be_done_without_the_sandbox(tmp_path: Path) -> None:
    """The control: each attempt does what it says, so that its refusal means something."""
    with infiltrated(tmp_path, sandbox="off") as (host, daemon), host.client() as client:
        assert "sandbox" not in daemon.log
        assert {name: attempt(client, name) for name in ATTEMPTS} == dict.fromkeys(ATTEMPTS, "")


@pytest.mark.slow
def test_all_that_a_server_does_is_done_in_the_sandbox(tmp_path: Path) -> None:
    """Transfers of every size, folders, a worker that dies and is replaced, a reload, an orderly end."""
    settings = 'workers = 2\n[log]\naudit = "trail/audit.jsonl"\n'
    (tmp_path / "host" / "trail").mkdir(parents=True)
    source, tree = tmp_path / "source", tmp_path / "tree"
    source.write_bytes(os.urandom(20 << 20))
    (tree / "below").mkdir(parents=True)
    for number in range(300):
        (tree / "below" / f"{number}").write_bytes(b"%d" % number)
    with infiltrated(tmp_path, settings) as (host, daemon):
        with host.client() as client:
            transfer(client, tmp_path)
        kill_workers(daemon)
        with host.client() as client:
            transfer(client, tmp_path)
            assert attempt(client, "read a file outside") in REFUSALS
            (host.folder / "trail" / "audit.jsonl").rename(host.folder / "trail" / "old")
            host.add_user("bob")
            daemon.signal(signal.SIGHUP)
            eventually((host.folder / "trail" / "audit.jsonl").exists)
        with host.client("bob") as client:
            assert {info.path.name for info in client.ls("")} >= {"source", "tree"}
        daemon.signal()
        assert daemon.wait() == 0
        assert "Traceback" not in daemon.log and "failed" not in daemon.log


def transfer(client: Client, folder: Path) -> None:
    client.put(folder / "source", "source")
    client.get("source", folder / "back", force=True)
    assert (folder / "back").read_bytes() == (folder / "source").read_bytes()
    assert client.put_tree(folder / "tree", "tree").failures == []
    assert client.get_tree("tree", folder / "tree back").failures == []
    assert client.digest("source").hex


def kill_workers(daemon: Daemon) -> None:
    assert daemon.process is not None
    pid = daemon.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children")
    for worker in (before := children.read_text().split()):
        os.kill(int(worker), signal.SIGKILL)
    eventually(lambda: len(now := children.read_text().split()) == 2 and not {*now} & {*before})


def test_root_of_a_user_is_served_where_it_was_there_at_the_start_and_refused_where_it_came_later(
    tmp_path: Path,
) -> None:
    early, late = tmp_path / "early", tmp_path / "late"
    early.mkdir()
    late.mkdir()
    host = Host(tmp_path / "host")
    host.add_user("early", root=str(early))
    with Daemon(host, sandbox="on") as daemon:
        host.add_user("late", root=str(late))
        host.add_user("inner", root=str(host.root))
        (tmp_path / "f").write_bytes(b"x")
        for user in ("early", "inner"):
            with host.client(user) as client:
                client.put(tmp_path / "f", "f")
        with pytest.raises(Exception, match="its log says why"), host.client("late") as client:
            client.stat("")
        assert "root-unusable" in daemon.log and "outside the sandbox" in daemon.log
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        daemon.start()
        with host.client("late") as client:
            client.put(tmp_path / "f", "f")
    assert (late / "f").read_bytes() == b"x"


CONFINED = """
import errno, os, sys
from ftpy.client.client import Client
from ftpy.server import landlock
rules = landlock.Ruleset({abi})
rules.allow({inside!r}, landlock.READ_FILE | landlock.READ_DIR | landlock.WRITE_FILE | landlock.MAKE_REG)
rules.allow({file!r}, landlock.READ_FILE | landlock.MAKE_REG)
rules.enforce()
rules.close()
open({inside!r} + "/new", "w").close()
open({file!r}).close()
try:
    open({outside!r})
except PermissionError:
    sys.exit(0)
sys.exit("not confined")
"""


@pytest.mark.parametrize("abi", range(1, 8))
def test_every_version_of_landlock_is_spoken(tmp_path: Path, abi: int) -> None:
    """A kernel takes what an older one would have been told."""
    if abi > ABI:
        pytest.skip("this kernel does not know it")
    (tmp_path / "inside").mkdir()
    for name in ("file", "outside"):
        (tmp_path / name).touch()
    places = {name: str(tmp_path / name) for name in ("inside", "file", "outside")}
    code = CONFINED.format(abi=abi, **places)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ("from ftpy.server import landlock; landlock._CREATE_RULESET = 9999", "Function not implemented"),
        ("from ftpy.server import landlock; landlock.abi = lambda: 1", "forbids every rename"),
    ],
    ids=["none", "too old"],
)
def test_without_landlock_auto_serves_and_says_so_and_on_refuses(tmp_path: Path, before: str, reason: str) -> None:
    host = Host(tmp_path / "host")
    with Daemon(host, before=before, sandbox="auto") as daemon, host.client() as client:
        assert client.stat("").type == "directory"
        assert "no-sandbox" in daemon.log and reason in daemon.log
    daemon = Daemon(host, before=before, sandbox="on")
    with pytest.raises(AssertionError, match='sandbox = "on"'):
        daemon.start()
    assert daemon.wait() == 2


@pytest.mark.skipif(not AS_ROOT, reason="needs root, to be refused")
def test_root_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False)
    (host.folder / "server.toml").write_text('root = "files"\nlisten = ["127.0.0.1:0"]\ntls = "off"\n')
    command: list[str] = [sys.executable, "-c", "from ftpy.cli.server import main; main()", "run", "-c"]
    command.append(str(host.folder / "server.toml"))
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert "refused to run as root" in ended.stderr and "allow_root = true" in ended.stderr
