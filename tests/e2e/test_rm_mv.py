"""rm and mv between a real client and a real server; connections that break in between, and servers that are killed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftpy.client.client import Client
from ftpy.client.results import Moved, Removed
from ftpy.config.client import Transfer
from ftpy.errors import (
    AlreadyExists,
    ConnectionFailed,
    NotEmpty,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    RequestError,
)
from ftpy.files import RemotePath
from tests.rig import Daemon, Fault, Host, Proxy, eventually

QUICK = Transfer(stall_seconds=5.0, connect_seconds=5.0, retries=1, streams=1)
FILES, FOLDERS = 400, 20
SLOW_DISK = "import os, time; unlink = os.unlink; os.unlink = lambda *a, **k: (time.sleep(0.01), unlink(*a, **k))"
"""So that there is time to kill a server before it has removed FILES."""


def path(text: str) -> RemotePath:
    return RemotePath.parse(text)


def test_rm_and_mv_change_what_the_next_request_sees(host: Host, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"content")
    with host.client() as client:
        client.put(tmp_path / "source", "d/e/a")
        client.put(tmp_path / "source", "b")
        assert client.mv("d/e/a", "/b") == Moved(path("d/e/a"), path("b"), durable=True)
        client.put(tmp_path / "source", "d/e/c")
        with pytest.raises(AlreadyExists):
            client.mv("b", "d/e/c", condition="absent")
        with pytest.raises(NotEmpty):
            client.rm("d")
        assert client.mv("d", "f") == Moved(path("d"), path("f"), durable=True)
        assert [str(info.path) for info in client.ls(recursive=True)] == ["b", "f", "f/e", "f/e/c"]
        assert client.rm("f", recursive=True) == Removed(path("f"), 1, 2, durable=True)
        assert client.rm("b") == Removed(path("b"), 1, 0, durable=True)
        for gone in ("b", "f"):
            with pytest.raises(NotFound):
                client.rm(gone)
            with pytest.raises(NotFound):
                client.mv(gone, "x")
        assert list(client.ls()) == []


# ------------------------------------------------------------------ the connection breaks

Work = Callable[[Client], Removed | Moved]
WORKS: dict[str, Work] = {
    "rm": lambda client: client.rm("a"),
    "rm of a folder": lambda client: client.rm("a", recursive=True),
    "mv": lambda client: client.mv("a", "b"),
    "mv if absent": lambda client: client.mv("a", "b", condition="absent"),
    "listed and removed": lambda client: client.rm("a", listed=client.stat("a")),
    "mv of what was listed": lambda client: client.mv("a", "b", listed=client.stat("a")),
}


def make(host: Host, work: str) -> None:
    """What is to be removed or moved."""
    if work == "rm of a folder":
        (host.root / "a").mkdir()
        (host.root / "a" / "x").write_bytes(b"old")
    else:
        (host.root / "a").write_bytes(b"old")


@contextlib.contextmanager
def broken(
    host: Host, way: str, notify: Callable[[str], None] = lambda _: None, *, user: str = "alice", again: bool = True
) -> Iterator[Client]:
    """A client whose connection breaks in the first byte of the request (``up``) or of its answer (``down``).

    ``again``: another connection can be made.
    """
    with (
        Proxy(host.address) as counting,
        host.client(user, address=counting.address) as client,
        contextlib.suppress(RequestError),
    ):
        client.stat("a")
    up, down = counting.passed
    fault = (Fault("cut", up + 1), Fault()) if way == "up" else (Fault(), Fault("cut", down + 1))
    for_good = (Fault(), Fault("cut", 0))
    with (
        Proxy(host.address, fault, (Fault(), Fault()) if again else for_good) as proxy,
        host.client(user, address=proxy.address, transfer=QUICK, notify=notify) as client,
    ):
        yield client


@pytest.mark.parametrize("work", WORKS)
def test_what_was_not_done_when_the_connection_broke_is_done_over_the_next(plain_host: Host, work: str) -> None:
    make(plain_host, work)
    said: list[str] = []
    with broken(plain_host, "up", said.append) as client:
        assert WORKS[work](client).durable
    assert not (plain_host.root / "a").exists() and len(said) == 1
    assert (plain_host.root / "b").exists() == work.startswith("mv")


@pytest.mark.parametrize("work", WORKS)
def test_what_was_done_when_the_answer_was_lost_is_no_failure(plain_host: Host, work: str) -> None:
    make(plain_host, work)
    with broken(plain_host, "down") as client:
        result = WORKS[work](client)
    if isinstance(result, Removed):
        assert result == Removed(path("a"), None, None, durable=False)
    else:
        assert result == Moved(path("a"), path("b"), durable=False)
        assert (plain_host.root / "b").read_bytes() == b"old"
    assert not (plain_host.root / "a").exists()


@pytest.mark.parametrize("work", WORKS)
def test_what_came_to_the_path_meanwhile_is_neither_removed_nor_moved(plain_host: Host, work: str) -> None:
    make(plain_host, work)

    def come(_: str) -> None:
        eventually(lambda: not (plain_host.root / "a").exists())
        (plain_host.root / "a").write_bytes(b"new")

    with broken(plain_host, "down", come) as client, pytest.raises(OutcomeUnknown, match="look before you try again"):
        WORKS[work](client)
    assert (plain_host.root / "a").read_bytes() == b"new"
    if work.startswith("mv"):
        assert (plain_host.root / "b").read_bytes() == b"old"


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("work", WORKS)
def test_outcome_is_not_known_to_who_may_not_look_or_cannot_come_back(plain_host: Host, work: str, way: str) -> None:
    plain_host.add_user("bob", rights=("read", "write", "delete"))
    # Who may not list may not move, either.
    may_not_look = [("bob", True)] if work.startswith("rm") else []
    for user, again in (*may_not_look, ("alice", False)):
        make(plain_host, work)
        with broken(plain_host, way, user=user, again=again) as client, pytest.raises(OutcomeUnknown):
            WORKS[work](client)
        eventually(lambda: (plain_host.root / "a").exists() == (way == "up"))
        for name in ("a", "b"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(plain_host.root / name / "x" if work == "rm of a folder" else plain_host.root / name)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(plain_host.root / "a")


def test_mv_whose_source_is_gone_and_whose_target_is_another_is_not_taken_for_done(plain_host: Host) -> None:
    make(plain_host, "mv")

    def come(_: str) -> None:
        eventually(lambda: not (plain_host.root / "a").exists())
        (plain_host.root / "b").write_bytes(b"another")

    with broken(plain_host, "down", come) as client, pytest.raises(OutcomeUnknown):
        client.mv("a", "b")


# ------------------------------------------------------------------ the server is killed


def files_below(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def test_no_reader_ever_sees_a_folder_half_removed_when_the_server_is_killed(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False)
    removed, folder = host.root / ".ftpy" / "removed", host.root / "d"
    halves: list[int] = []
    for most in (FILES, FILES // 2):
        for number in range(FILES):
            name = folder / str(number % FOLDERS) / str(number)
            name.parent.mkdir(parents=True, exist_ok=True)
            name.touch()
        with Daemon(host, before=SLOW_DISK) as daemon:
            eventually(lambda: files_below(removed) == 0)
            client = threading.Thread(target=remove, args=(host,))
            client.start()
            eventually(lambda most=most: 0 < files_below(removed) <= most)  # type: ignore[misc]
            daemon.signal(signal.SIGKILL)
            daemon.wait()
            client.join()
        seen, unseen = files_below(folder), files_below(removed)
        assert (seen, unseen) == (FILES, 0) or (seen == 0 and not folder.exists())
        halves.append(unseen)
        with Daemon(host), host.client() as again:
            assert len(list(again.ls(recursive=True))) in (0, 1 + FOLDERS + FILES)
            eventually(lambda: not any(removed.iterdir()))
    assert any(0 < half < FILES for half in halves), halves  # else this has shown nothing


def remove(host: Host) -> None:
    """Remove the folder, as long as there is a server."""
    once = Transfer(stall_seconds=5.0, connect_seconds=5.0, retries=0, streams=1)
    with contextlib.suppress(ConnectionFailed), host.client(transfer=once) as client:
        client.rm("d", recursive=True)


def test_what_a_sandboxed_server_may_remove_and_move(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False)
    (host.root / "d").mkdir()
    for name in ("link", "d/link"):
        (host.root / name).symlink_to("nothing")
    (host.root / "a").write_bytes(b"x")
    with Daemon(host) as daemon, host.client() as client:
        if "sandbox abi=" not in daemon.log:
            pytest.skip("this kernel has no Landlock")
        client.mv("a", "d/a")
        client.mv("d", "e")
        with pytest.raises(PermissionDenied):  # it would take the right to make links
            client.mv("link", "other")
        assert client.rm("e", recursive=True) == Removed(path("e"), 2, 1, durable=True)
        client.rm("link")
    assert os.listdir(host.root) == [".ftpy"]
