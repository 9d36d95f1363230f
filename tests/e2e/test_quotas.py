"""Quotas over real sockets: told before a large body, kept by racing clients of two workers, and after a kill."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import threading
from pathlib import Path

import pytest

from ftpy.client.connection import Connection
from ftpy.errors import ConnectionFailed, FtpyError, QuotaExceeded
from ftpy.wire.messages import PutRequest, UploadReply
from tests.rig import FAST, Host, eventually, running
from tests.server.test_workers import Crew
from tests.storage.test_counting import on_disk

MIB = 1024 * 1024
linux = pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs Linux's /proc")


def used(host: Host) -> tuple[int, int] | None:
    """What the server has counted below its root; None where it has to count anew."""
    with contextlib.closing(sqlite3.connect(host.folder / "state" / "usage.sqlite")) as database:
        found = database.execute(
            "SELECT bytes, files FROM usage WHERE root = ? AND trusted", (os.fsencode(host.root),)
        ).fetchone()
    return found and tuple(found)


def test_a_large_put_over_the_quota_is_refused_before_its_body_is_sent(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False)
    host.add_user("ann", quota_bytes=20 * MIB)
    host.start()
    try:
        connection = Connection.open(host.profile("ann"), FAST)
        with contextlib.closing(connection):
            request = PutRequest(id=1, path="large", file_size=20 * MIB + 1, mtime_ns=1)
            with pytest.raises(QuotaExceeded, match="has room for 20971520, not for 20971521"):
                connection.call(request, UploadReply)
            assert host.uploads == []
            fits = PutRequest(id=2, path="large", file_size=20 * MIB, mtime_ns=1)
            connection.call(fits, UploadReply)
        with host.client("ann") as client, pytest.raises(QuotaExceeded):  # the unfinished one counts whole
            (tmp_path / "one").write_bytes(b"1")
            client.put(tmp_path / "one", "one")
        assert on_disk(host.root) == (20 * MIB, 1)
    finally:
        host.stop()


def test_a_tree_stops_at_the_quota_and_what_was_stored_stays(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(30):
        (source / f"{number:02}").write_bytes(bytes(1000))
    with running(tmp_path / "host", tls=False) as host:
        host.add_user("ann", quota_bytes=10_000)
        with host.client("ann") as client:
            result = client.put_tree(source, "t")
        assert (result.files, result.failed) == (10, 20)
        assert {type(told.error) for told in result.failures} == {QuotaExceeded}
        assert on_disk(host.root) == (10_000, 11) == used(host)


def test_a_quota_that_is_given_while_the_server_runs_counts_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(bytes(1000))
    with running(tmp_path / "host", tls=False) as host:
        with host.client() as client:
            client.put(tmp_path / "one", "a")
        host.accounts.change("alice", quota_bytes=1999)
        with host.client() as client, pytest.raises(QuotaExceeded):
            client.put(tmp_path / "one", "b")
        host.accounts.change("alice", quota_bytes=2000)
        with host.client() as client:
            client.put(tmp_path / "one", "b")
        host.accounts.change("alice", quota_bytes=None)
        with host.client() as client:
            client.put(tmp_path / "one", "c")
    assert on_disk(host.root) == (3000, 3)


@linux
@pytest.mark.slow
def test_racing_clients_of_two_workers_fill_a_quota_exactly_and_a_killed_worker_changes_nothing(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False)
    host.add_user("ann", quota_bytes=50_000, quota_files=60)
    files = []
    for size in (500, 700, 1100):
        files.append(tmp_path / str(size))
        files[-1].write_bytes(bytes(size))
    stop = threading.Event()
    refused: list[str] = []

    def race(number: int) -> None:
        again = 0
        while not stop.is_set() and again < 400:
            again += 1
            try:
                with host.client("ann") as client:
                    for file in files:
                        client.put(file, f"{number}-{again % 9}-{file.name}")
            except QuotaExceeded as error:
                refused.append(str(error))
            except ConnectionFailed:
                pass  # its worker was killed
            except FtpyError as error:
                refused.append(f"unexpected: {error!r}")
            size, count = on_disk(host.root)
            if size > 50_000 or count > 60:
                refused.append(f"unexpected: {size} bytes in {count} files")

    with Crew(host, workers=2) as crew:
        threads = [threading.Thread(target=race, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(refused) > 10, 60)
        os.kill(crew.workers[0], signal.SIGKILL)
        seen = len(refused)
        eventually(lambda: len(refused) > seen + 20, 60)
        stop.set()
        for thread in threads:
            thread.join()
        assert [said for said in refused if "unexpected" in said] == []
        with host.client("ann") as client, contextlib.suppress(QuotaExceeded):
            client.put(files[0], "last")  # whoever comes after a kill counts anew first
        eventually(lambda: used(host) == on_disk(host.root), 30)
        assert on_disk(host.root)[0] > 40_000 or on_disk(host.root)[1] > 50
