"""put and get between a real client and a real server."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from ftpy.client.client import Client
from ftpy.client.results import Progress
from ftpy.config.client import Transfer
from ftpy.errors import (
    AlreadyExists,
    Changed,
    ConnectionLost,
    DigestMismatch,
    InvalidPath,
    IsADirectory,
    LocalFileError,
    NotAFile,
    NotFound,
    SourceChanged,
    TargetExists,
)
from ftpy.storage.base import KnownDigest
from tests.rig import Fault, Host, Proxy

MIB = 1024 * 1024


def make(path: Path, size: int, seed: int = 0) -> bytes:
    data = hashlib.shake_128(seed.to_bytes(4, "big")).digest(min(size, 65536))
    data = (data * (size // max(1, len(data)) + 1))[:size]
    path.write_bytes(data)
    return data


def partials(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(".ftpy"))


@contextlib.contextmanager
def cut_off(host: Host, *, up: int | None = None, down: int | None = None) -> Iterator[Client]:
    """A client that loses its only connection after that many bytes to the server or from it."""
    faults = tuple(Fault() if after is None else Fault("cut", after) for after in (up, down))
    once = Transfer(stall_seconds=5, connect_seconds=5, retries=0, streams=1)
    with (
        Proxy(host.address, faults) as proxy,
        pytest.raises(ConnectionLost),
        host.client(address=proxy.address, transfer=once) as client,
    ):
        yield client
    host.deserted()


@pytest.mark.parametrize("digest", ["md5", "blake3"])
@pytest.mark.parametrize("size", [0, 1, 65_537, MIB, MIB + 1, 8 * MIB, 20 * MIB + 12_345])
def test_a_file_arrives_equal_and_comes_back_equal(host: Host, tmp_path: Path, size: int, digest: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    data = make(source, size)
    with host.client() as client:
        stored = client.put(source, "a/b/c.bin", digest=digest)
        fetched = client.get("a/b/c.bin", target, digest=digest)
    wanted = hashlib.md5(data).hexdigest() if digest == "md5" else blake3(data).hexdigest()
    assert stored.digest == fetched.digest == KnownDigest(digest, wanted)
    assert (host.root / "a/b/c.bin").read_bytes() == target.read_bytes() == data
    assert stored.size == fetched.size == size and stored.resumed == fetched.resumed == 0
    assert host.uploads == [] and partials(tmp_path) == []


def test_mtime_and_mode_travel(host: Host, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for size in (10, 9 * MIB):
        target.unlink(missing_ok=True)
        make(source, size)
        os.chmod(source, 0o750)
        os.utime(source, ns=(1, 1_234_567_890_123_456_789))
        with host.client() as client:
            client.put(source, "x")
            client.get("x", target)
        for path in (host.root / "x", target):
            status = path.stat()
            assert status.st_mtime_ns == 1_234_567_890_123_456_789 and status.st_mode & 0o777 == 0o750


def test_put_replaces_at_once_and_if_absent_refuses(host: Host, tmp_path: Path) -> None:
    for size in (10, 9 * MIB):
        old, new = tmp_path / "old", tmp_path / "new"
        before = make(old, size, 1)
        after = make(new, size, 2)
        with host.client() as client:
            client.put(old, "x")
            with pytest.raises(AlreadyExists):
                client.put(new, "x", condition="absent")
            assert (host.root / "x").read_bytes() == before
            with pytest.raises(Changed):
                client.put(new, "x", condition=KnownDigest("md5", hashlib.md5(after).hexdigest()))
            client.put(new, "x", condition=KnownDigest("md5", hashlib.md5(before).hexdigest()))
        assert (host.root / "x").read_bytes() == after


def test_progress_counts_what_the_server_has_stored(host: Host, tmp_path: Path) -> None:
    make(tmp_path / "source", 40 * MIB)
    seen: list[Progress] = []
    with host.client() as client:
        client.put(tmp_path / "source", "x", on_progress=seen.append)
    sending = [p.done for p in seen if p.phase == "sending"]
    assert sending == sorted(sending) and sending[0] == 0 and sending[-1] == 40 * MIB and len(sending) >= 6
    assert seen[-1] == Progress("committing", 40 * MIB, 40 * MIB)
    seen.clear()
    with host.client() as client:
        client.get("x", tmp_path / "target", on_progress=seen.append)
    assert [p.phase for p in seen][-1] == "committing"
    assert max(p.done for p in seen if p.phase == "receiving") == 40 * MIB


def test_put_goes_on_where_it_stood_when_the_connection_is_cut(host: Host, tmp_path: Path) -> None:
    data = make(tmp_path / "source", 64 * MIB)
    said: list[str] = []
    with Proxy(host.address, (Fault("cut", 30 * MIB), Fault()), (Fault(), Fault())) as proxy:
        with host.client(address=proxy.address, notify=said.append) as client:
            stored = client.put(tmp_path / "source", "x")
        assert proxy.connections == 2 and all("trying again" in line for line in said)
        assert 1 <= len(said) <= 2  # once more where the server has not noticed yet
        assert proxy.passed[0] < (64 + 5 * 8 + 1) * MIB  # at most the parts in flight were sent again
    assert stored.digest.hex == hashlib.md5(data).hexdigest()
    assert (host.root / "x").read_bytes() == data and host.uploads == []


def test_put_of_a_later_client_goes_on_where_an_earlier_one_stood(host: Host, tmp_path: Path) -> None:
    data = make(tmp_path / "source", 64 * MIB)
    with cut_off(host, up=30 * MIB) as client:
        client.put(tmp_path / "source", "x")
    assert len(host.uploads) == 1 and not (host.root / "x").exists()
    with host.client() as client:
        stored = client.put(tmp_path / "source", "x")
    assert 16 * MIB <= stored.resumed < 30 * MIB and stored.resumed % (8 * MIB) == 0
    assert (host.root / "x").read_bytes() == data and host.uploads == []


def test_put_goes_on_when_the_server_was_restarted(host: Host, tmp_path: Path) -> None:
    make(tmp_path / "source", 64 * MIB)
    with cut_off(host, up=30 * MIB) as client:
        client.put(tmp_path / "source", "x")
    host.stop()
    host.start()
    with host.client() as client:
        assert client.put(tmp_path / "source", "x").resumed >= 16 * MIB


def test_put_of_other_bytes_with_the_same_size_and_time_starts_over(host: Host, tmp_path: Path) -> None:
    source = tmp_path / "source"
    make(source, 64 * MIB, 1)
    os.utime(source, ns=(5, 5))
    with cut_off(host, up=30 * MIB) as client:
        client.put(source, "x")
    data = make(source, 64 * MIB, 2)
    os.utime(source, ns=(5, 5))
    said: list[str] = []
    with host.client(notify=said.append) as client:
        client.put(source, "x")
    assert (host.root / "x").read_bytes() == data and any("starting over" in line for line in said)


def measured(host: Host, source: Path) -> int:
    """How many bytes come from the server when this is put."""
    with Proxy(host.address) as proxy, host.client(address=proxy.address) as client:
        client.put(source, "measured")
    return proxy.passed[1]


def test_put_succeeds_when_only_the_answer_to_its_commit_is_lost(host: Host, tmp_path: Path) -> None:
    """The put happened once; the client finds that out instead of failing or sending it all again."""
    for size in (100, 9 * MIB):
        make(tmp_path / "source", size)
        down = {measured(host, tmp_path / "source") for _ in range(3)}  # a progress more, where the server had to wait
        with Proxy(host.address, (Fault(), Fault("cut", min(down) - 40)), (Fault(), Fault())) as proxy:
            with host.client(address=proxy.address) as client:
                stored = client.put(tmp_path / "source", f"x{size}", condition="absent")
            assert proxy.connections == 2
            assert proxy.passed[0] < size + MIB
        assert stored.size == size


def test_get_goes_on_where_it_stood(host: Host, tmp_path: Path) -> None:
    data = make(host.root / "x", 64 * MIB)
    folder = tmp_path / "here"
    folder.mkdir()
    with cut_off(host, down=30 * MIB) as client:
        client.get("x", folder / "x")
    (partial,) = partials(folder)
    assert (folder / partial).stat().st_size > 20 * MIB
    with host.client() as client:
        fetched = client.get("x", folder / "x")
    assert fetched.resumed > 20 * MIB and (folder / "x").read_bytes() == data and partials(folder) == []


def test_get_starts_over_when_the_file_changed_meanwhile(host: Host, tmp_path: Path) -> None:
    make(host.root / "x", 64 * MIB, 1)
    folder = tmp_path / "here"
    folder.mkdir()
    with cut_off(host, down=30 * MIB) as client:
        client.get("x", folder / "x")
    data = make(host.root / "x", 64 * MIB, 2)
    said: list[str] = []
    with host.client(notify=said.append) as client:
        fetched = client.get("x", folder / "x")
    assert fetched.resumed == 0 and (folder / "x").read_bytes() == data
    assert partials(folder) == [] and any("starting over" in line for line in said)


def test_get_starts_over_when_the_partial_was_spoilt(host: Host, tmp_path: Path) -> None:
    data = make(host.root / "x", 64 * MIB)
    folder = tmp_path / "here"
    folder.mkdir()
    with cut_off(host, down=30 * MIB) as client:
        client.get("x", folder / "x")
    (partial,) = partials(folder)
    with open(folder / partial, "r+b") as file:
        file.write(b"spoilt")
    with host.client() as client:
        assert client.get("x", folder / "x").resumed == 0
    assert (folder / "x").read_bytes() == data and partials(folder) == []


def test_get_keeps_a_different_file_and_recognises_the_same(host: Host, tmp_path: Path) -> None:
    data = make(host.root / "x", 100_000)
    target = tmp_path / "target"
    with host.client() as client:
        target.write_bytes(b"mine")
        with pytest.raises(TargetExists):
            client.get("x", target)
        target.write_bytes(b"y" * len(data))
        with pytest.raises(TargetExists):
            client.get("x", target)
        assert target.read_bytes() == b"y" * len(data)
        assert not client.get("x", target, force=True).identical
        assert client.get("x", target).identical
    assert target.read_bytes() == data and partials(tmp_path) == []


def test_get_replaces_by_force_a_link_and_nothing_that_is_no_file(host: Host, tmp_path: Path) -> None:
    data, elsewhere = make(host.root / "x", 100_000), tmp_path / "elsewhere"
    elsewhere.write_bytes(b"mine")
    os.mkfifo(tmp_path / "queue")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(tmp_path / "socket"))
    links = {"to-file": elsewhere, "to-folder": tmp_path, "to-nothing": tmp_path / "nothing"}
    with host.client() as client, open(elsewhere, "rb") as file:
        kept = {"to-queue": tmp_path / "queue", "to-open-file": Path(f"/proc/self/fd/{file.fileno()}")}
        for name, end in (links | kept).items():
            (tmp_path / name).symlink_to(end)
        for name in ("queue", "socket", *kept):
            before = (tmp_path / name).lstat().st_mode
            for force, if_changed in ((False, False), (True, False), (False, True)):
                with pytest.raises(LocalFileError, match=f"{name}: not a regular file"):
                    client.get("x", tmp_path / name, force=force, if_changed=if_changed)
            assert (tmp_path / name).lstat().st_mode == before
        for name in links:
            client.get("x", tmp_path / name, force=True)
            assert not (tmp_path / name).is_symlink() and (tmp_path / name).read_bytes() == data
    assert elsewhere.read_bytes() == b"mine" and partials(tmp_path) == []


def test_a_current_folder_that_is_gone_is_one_line(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(host.root / "x", 10)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with host.client() as client, pytest.raises(LocalFileError, match=r"^x: No such file or directory$"):
        client.get("x", "x")


def test_get_tells_bit_rot(host: Host, tmp_path: Path) -> None:
    """What is verified is the digest of the day the file was put."""
    make(tmp_path / "source", 2 * MIB)
    with host.client() as client:
        client.put(tmp_path / "source", "x")
        assert client.stat("x").md5 is not None
        (database,) = (host.folder / "state").glob("digests.sqlite")
        with sqlite3.connect(database) as connection:
            for (table,) in connection.execute("select name from sqlite_master where type = 'table'").fetchall():
                columns = [row[1] for row in connection.execute(f"pragma table_info({table})")]
                if "md5" in columns:
                    connection.execute(f"update {table} set md5 = ?", ("0" * 32,))
        connection.close()
        host.stop()
        host.start()
        with pytest.raises(DigestMismatch):
            client.get("x", tmp_path / "target")
    assert not (tmp_path / "target").exists() and partials(tmp_path) == []


def test_standard_input_of_unknown_length_is_stored_whole(host: Host) -> None:
    for size in (0, 5, 40 * MIB + 7):
        data = hashlib.shake_128(b"s").digest(1000) * (size // 1000 + 1)
        with host.client() as client:
            stored = client.put(io.BytesIO(data[:size]), "s")
        assert stored.size == size and (host.root / "s").read_bytes() == data[:size]
    assert host.uploads == []


def test_standard_input_survives_a_lost_connection(host: Host) -> None:
    data = bytes(range(256)) * (40 * MIB // 256)
    with (
        Proxy(host.address, (Fault("cut", 20 * MIB), Fault()), (Fault(), Fault())) as proxy,
        host.client(address=proxy.address) as client,
    ):
        client.put(io.BytesIO(data), "s")
    assert (host.root / "s").read_bytes() == data


def test_get_to_a_stream_survives_a_lost_connection(host: Host) -> None:
    data = bytes(range(256)) * (40 * MIB // 256)
    (host.root / "s").write_bytes(data)
    out = io.BytesIO()
    with (
        Proxy(host.address, (Fault(), Fault("cut", 20 * MIB)), (Fault(), Fault())) as proxy,
        host.client(address=proxy.address) as client,
    ):
        client.get("s", out)
    assert out.getvalue() == data


def test_a_source_that_grows_shrinks_or_is_rewritten_is_told_and_not_stored(host: Host, tmp_path: Path) -> None:
    source = tmp_path / "source"

    def grow() -> None:
        with open(source, "ab") as file:
            file.write(b"more")

    def shrink() -> None:
        os.truncate(source, 1 * MIB)

    def rewrite() -> None:
        status = source.stat()
        with open(source, "r+b") as file:
            file.write(b"other")
        os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))

    for change in (grow, shrink, rewrite):
        make(source, 64 * MIB)
        once = threading.Event()

        def on_progress(progress: Progress, change: object = change, once: threading.Event = once) -> None:
            if progress.done >= 8 * MIB and not once.is_set():
                once.set()
                change()  # type: ignore[operator]

        with host.client() as client, pytest.raises(SourceChanged):
            client.put(source, "x", on_progress=on_progress)
        assert once.is_set() and not (host.root / "x").exists() and host.uploads == []


def test_clear_errors_for_what_is_not_a_file(host: Host, tmp_path: Path) -> None:
    (host.root / "folder").mkdir()
    (host.root / "link").symlink_to("/etc/passwd")
    os.mkfifo(host.root / "fifo")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_bytes(b"x")
    with host.client() as client:
        with pytest.raises(NotFound):
            client.get("nothing", tmp_path / "t")
        with pytest.raises(IsADirectory):
            client.get("folder", tmp_path / "t")
        for name in ("link", "fifo"):
            with pytest.raises(NotAFile):
                client.get(name, tmp_path / "t")
        with pytest.raises(IsADirectory):
            client.put(tmp_path / "file", "folder")
        for bad in ("../x", "a//b", "a/./b", ".ftpy/x", "a\nb", "CON", "a:b"):
            with pytest.raises(InvalidPath):
                client.put(tmp_path / "file", bad)
        for local in (tmp_path, tmp_path / "fifo", tmp_path / "nothing"):
            with pytest.raises(LocalFileError):
                client.put(local, "x")
        (host.root / "x").write_bytes(b"1")
        with pytest.raises(LocalFileError):
            client.get("x", tmp_path / "no/such")
        assert client.put(tmp_path / "file", "after").size == 1
    assert not (tmp_path / "t").exists()


def test_ls_stat_digest_tell_what_is_there(host: Host, tmp_path: Path) -> None:
    (host.root / "d").mkdir()
    for number in range(2500):
        (host.root / "d" / f"{number:04}").write_bytes(b"")
    (host.root / "文件 1").write_bytes(b"abc")
    (host.root / "d" / "bad\nname").write_bytes(b"")
    os.close(os.open(os.fsencode(host.root) + b"/d/\xff", os.O_CREAT))
    with host.client() as client:
        names = [str(info.path) for info in client.ls("d")]
        assert names == sorted([f"d/{number:04}" for number in range(2500)] + ["d/\udcff"])
        everything = list(client.ls(recursive=True))
        assert [str(i.path) for i in everything][:2] == ["d", "d/0000"] and len(everything) == 2503
        info = client.stat("文件 1")
        assert (info.type, info.size, info.md5) == ("file", 3, None)
        assert client.digest("文件 1").hex == hashlib.md5(b"abc").hexdigest()
        assert client.stat("文件 1").md5 == hashlib.md5(b"abc").hexdigest()
        assert client.stat("").type == "directory"
        client.get("d/\udcff", tmp_path / "raw")
        next(iter(client.ls("d")))  # leaving a listing early must not spoil what follows
        assert client.stat("d").type == "directory"


class End(io.RawIOBase):
    """A stream that keeps nothing but the last five bytes."""

    last = b""

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | memoryview) -> int:
        self.last = (self.last + bytes(data[-5:]))[-5:]
        return len(data)


@pytest.mark.slow
def test_a_sparse_file_over_4_gib_goes_both_ways(plain_host: Host, tmp_path: Path) -> None:
    source = tmp_path / "source"
    size = 4 * 1024 * MIB + 12_345
    with open(source, "wb") as file:
        file.truncate(size)
        file.seek(size - 5)
        file.write(b"tail.")
    end = End()
    with plain_host.client() as client:
        assert client.put(source, "x", digest="blake3").size == size
        assert client.get("x", end, digest="blake3").size == size
    assert end.last == b"tail."


def test_put_that_is_refused_for_its_condition_leaves_no_folders(host: Host, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with host.client() as client, pytest.raises(Changed):
        client.put(tmp_path / "file", "new/folder/file", condition=KnownDigest("md5", "0" * 32))
    assert not (host.root / "new").exists()
