"""Roots: one inside another whose users move it away, and those that nobody has come to since the start."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from ftpy.errors import ConnectionLost
from ftpy.server.server import Service
from tests.descriptors import links
from tests.rig import Host, eventually, running
from tests.rigs.peer import Answer, RawPeer

DAY_SECONDS = 86400


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A server whose user bob has a root in that of alice."""
    with running(tmp_path / "host", tls=False) as made:
        (made.root / "bob").mkdir()
        made.add_user("bob", root=str(made.root / "bob"))
        yield made


# ------------------------------------------------------------------ roots that are moved or replaced


def swap(alice: RawPeer) -> None:
    tree = alice.ask("stage", path="bob").fields["tree"]
    assert alice.ask("swap", path="bob", tree=tree, files=0, folders=0, file_bytes=0).error is None


def remove_and_make(alice: RawPeer) -> None:
    assert alice.ask("rm", path="bob", recursive=True).error is None
    assert alice.ask("mkdir", path="bob").error is None


def move_and_make(alice: RawPeer) -> None:
    assert alice.ask("mv", path="bob", to="elsewhere").error is None
    assert alice.ask("mkdir", path="bob").error is None


def put(peer: RawPeer, path: str = "f") -> Answer:
    return peer.ask("put", b"data", path=path, file_size=4, mtime_ns=5)


def mv(peer: RawPeer) -> Answer:
    return peer.ask("mv", path="there", to="f")


def commit(peer: RawPeer) -> Answer:
    opened = peer.ask("put", path="large", file_size=4, mtime_ns=5)
    if opened.error is not None:
        return opened
    upload = opened.fields["upload"]
    assert peer.ask("part", b"data", "blake3", upload=upload, part=0).error is None
    return peer.ask("commit", upload=upload, digest={"md5": hashlib.md5(b"data").hexdigest()})


REPLACING = [swap, remove_and_make, move_and_make]


@pytest.mark.parametrize("replace", REPLACING)
@pytest.mark.parametrize("change", [put, commit, mv])
def test_nothing_is_acknowledged_in_a_root_that_is_elsewhere_by_now_and_its_sessions_end(
    host: Host, replace: Callable[[RawPeer], None], change: Callable[[RawPeer], Answer]
) -> None:
    service = host.service
    assert service is not None
    with closing(RawPeer(host, "alice")) as alice, closing(RawPeer(host, "bob")) as bob:
        assert put(bob, "there").error is None
        replace(alice)
        with suppress(ConnectionLost):  # where the look at all sessions comes before the word
            assert change(bob).error == "busy"
        eventually(lambda: [row.user for row in service.session_rows()] == ["alice"])


@pytest.mark.parametrize("replace", REPLACING)
def test_who_puts_into_a_root_that_was_replaced_comes_back_to_the_new_one(
    host: Host, replace: Callable[[RawPeer], None], tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(b"data")
    with closing(RawPeer(host, "alice")) as alice, host.client("bob") as bob:
        bob.put(tmp_path / "f", "before")
        replace(alice)
        bob.put(tmp_path / "f", "f")
        assert [str(info.path) for info in bob.ls()] == ["f"]
    assert (host.root / "bob" / "f").read_bytes() == b"data"


def open_folders(below: Path) -> set[str]:
    """Open folders of this process that are, or were, below a folder."""
    return {path for path in links(os.getpid()).values() if path.startswith(str(below))}


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs Linux's /proc")
def test_a_root_that_was_replaced_is_let_go_of_with_its_last_session(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Service, "_look_after_sessions", lambda _: 1)  # which would end that session at any moment
    with closing(RawPeer(host, "alice")) as alice:
        with closing(RawPeer(host, "bob")) as bob, closing(RawPeer(host, "bob")) as again:
            assert put(bob).error is None and put(again).error is None
            move_and_make(alice)
            again.close()
            assert put(again).error is None  # in the new one
            assert open_folders(host.root / "elsewhere")
        eventually(lambda: not open_folders(host.root / "elsewhere"))
        assert open_folders(host.root / "bob")
    assert {path.name for path in (host.root / "bob").iterdir()} == {".ftpy", "f"}


# ------------------------------------------------------------------ roots that nobody has come to


def age(host: Host, *names: str) -> None:
    """Let what a user has begun be older than anything is kept."""
    long_ago = time.time() - 1000 * DAY_SECONDS
    for name in names:
        for path in (host.root / "bob" / ".ftpy" / name).rglob("*"):
            os.utime(path, (long_ago, long_ago), follow_symlinks=False)


def left_by(host: Host) -> set[str]:
    """What lies in the staging area of bob's root, but for what is always there."""
    area = host.root / "bob" / ".ftpy"
    return {f"{path.parent.name}/{path.suffix}" for path in area.glob("*/*") if path.suffix != ".lock"}


def test_a_root_that_nobody_came_to_since_the_start_is_swept_and_closed(host: Host) -> None:
    operation = "0" * 31 + "1"
    with closing(RawPeer(host, "bob")) as bob:
        assert bob.ask("begin", operation=operation, what="a test").error is None
        assert bob.ask("put", path="large", file_size=9 * 1024 * 1024, mtime_ns=5).error is None
        assert bob.ask("stage", path="site").error is None
    host.stop()
    (host.root / "bob" / ".ftpy" / "staged" / "dead-1").write_bytes(b"left")
    (host.root / "bob" / ".ftpy" / "removed" / "dead-2").mkdir()
    assert len(left_by(host)) == 6
    age(host, "uploads", "trees", "trash")
    host.start()
    eventually(lambda: not left_by(host))
    if os.path.exists("/proc/self/fd"):
        eventually(lambda: not open_folders(host.root / "bob"))


def test_a_root_that_is_not_there_or_has_nothing_to_sweep_is_left_as_it_is(host: Host, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    host.add_user("carol", root=str(tmp_path / "own"))
    host.add_user("dave", root=str(tmp_path / "gone"))
    service = Service(host.config)
    try:
        for root in service.roots.known(host.accounts.roots()):
            service.roots.sweep(root, expire_seconds=0, trash_seconds=0)
    finally:
        service.close()
    assert list((tmp_path / "own").iterdir()) == [] and not (tmp_path / "gone").exists()
    assert not (host.root / "bob" / ".ftpy").exists()
