"""Scrub: what rotted is told, whatever else happened to a file is not; beside a server that serves."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ftpy.cli.server import cli
from ftpy.server import scrubs
from ftpy.server.scrubs import ScrubAll
from ftpy.storage.beneath import Directory
from ftpy.toml import to_toml
from tests.rig import Host, eventually, running

pytestmark = pytest.mark.skipif(not hasattr(os, "preadv"), reason="no server runs here")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """One that serves, with three files that were put."""
    with running(tmp_path / "host", tls=False) as host:
        with host.client() as client:
            for name in ("a", "d/b", "d/c"):
                (tmp_path / "source").write_bytes(name.encode() * 1000)
                client.put(tmp_path / "source", name)
        (host.folder / "server.toml").write_text(to_toml(host.config, comments=False))
        yield host


@pytest.fixture(autouse=True)
def _priority(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command gives up its process's priority for good: not that of the tests."""
    monkeypatch.setattr(os, "nice", lambda _: 19)


def rot(host: Host, name: str) -> None:
    """Other content, as if by the disk alone.

    Nothing in user space changes a byte and not the ctime; so what is remembered of the file is given the ctime that
    the change has made: to who reads both, it is the same version with other bytes.
    """
    path = host.root / name
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with open(path, "r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    with sqlite3.connect(host.folder / "state" / "digests.sqlite") as database:
        changed = database.execute("UPDATE digests SET ctime_ns = ? WHERE ino = ?", (after.st_ctime_ns, after.st_ino))
        assert changed.rowcount == 1
    database.close()


def scrub(host: Host, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code and the JSON lines."""
    path = str(host.folder / "server.toml")
    result = CliRunner().invoke(cli, ["scrub", "-c", path, "--json", *arguments], standalone_mode=False)
    assert result.exception is None, result.exception
    return result.return_value, [json.loads(line) for line in result.output.splitlines()]


def test_what_was_put_is_right(host: Host) -> None:
    code, lines = scrub(host)
    assert (code, lines[-1]["summary"]["right"], lines[-1]["bytes"]) == (0, 3, 7000)


def test_what_rotted_is_told_by_its_path(host: Host) -> None:
    rot(host, "d/b")
    code, lines = scrub(host)
    assert code == 1
    assert (lines[0]["verdict"], lines[0]["root"], lines[0]["path"]) == ("rotten", str(host.root), "d/b")
    assert lines[0]["expected"] != lines[0]["found"]
    assert lines[-1]["summary"] | {"right": 2, "rotten": 1} == lines[-1]["summary"]


def test_what_the_host_changed_or_made_is_not_rotten_and_can_be_learnt(host: Host) -> None:
    (host.root / "a").write_bytes(b"changed")
    (host.root / "new").write_bytes(b"new")
    (host.root / "link").symlink_to("new")
    os.mkfifo(host.root / "pipe")
    code, lines = scrub(host)
    assert (code, lines[-1]["summary"]["unknown"], lines[-1]["summary"]["right"]) == (0, 2, 2)
    # A digest is not remembered of a file that changed a moment before it was opened.
    eventually(lambda: scrub(host, "--learn") and scrub(host)[1][-1]["summary"]["right"] == 4)
    rot(host, "new")
    assert scrub(host)[0] == 1


def test_each_file_is_told_once_under_its_innermost_root(host: Host) -> None:
    host.add_user("bob", root=str(host.root / "d"))
    rot(host, "d/b")
    _, lines = scrub(host)
    assert [(line["root"], line["path"]) for line in lines[:-1]] == [(str(host.root / "d"), "b")]
    assert sum(lines[-1]["summary"].values()) == 3


def test_what_cannot_be_read_is_told(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(fd: int, offset: int, view: memoryview) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("ftpy.storage.reading.read_at", failing)
    code, lines = scrub(host)
    assert code == 1 and {line["verdict"] for line in lines[:-1]} == {"unreadable"}


def test_a_scrub_that_was_interrupted_goes_on_where_it_was(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    scrubbing = iter(ScrubAll(host.config, learns=False, passed=lambda _: None))
    assert str(next(scrubbing)[1].path) == "a"
    assert str(next(scrubbing)[1].path) == "d/b"
    with pytest.raises(KeyboardInterrupt):
        scrubbing.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    assert sum(scrub(host)[1][-1]["summary"].values()) == 2  # the one that it was at comes again
    assert sum(scrub(host)[1][-1]["summary"].values()) == 3
    monkeypatch.setattr(scrubs, "SAVE_SECONDS", 0.0)
    scrubbing = iter(ScrubAll(host.config, learns=False, passed=lambda _: None))
    for _ in range(3):
        next(scrubbing)
    del scrubbing  # killed: what was written down is a file or two behind
    assert sum(scrub(host, "--restart")[1][-1]["summary"].values()) == 3


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"root": 1}'])
def test_a_note_that_cannot_be_read_begins_anew(host: Host, text: str) -> None:
    (host.folder / "state" / "scrub.json").write_text(text)
    assert sum(scrub(host)[1][-1]["summary"].values()) == 3


@pytest.mark.slow
def test_nothing_is_rotten_while_others_put_move_and_remove(host: Host, tmp_path: Path) -> None:
    stop = threading.Event()
    rounds: list[int] = []

    def work() -> None:
        with host.client() as client:
            while not stop.is_set():
                for number in range(8):
                    (tmp_path / "racing").write_bytes(os.urandom(50_000))
                    client.put(tmp_path / "racing", f"race/{number}")
                client.mv("race/1", "race/moved")
                client.rm("race/2")
                with open(host.root / "race" / "3", "r+b") as file:  # the host, in place
                    file.write(os.urandom(100))
                rounds.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        looks = 0
        while looks < 5 or len(rounds) < 3:
            code, lines = scrub(host)
            assert code == 0, lines
            looks += 1
    finally:
        stop.set()
        thread.join(30)


def test_the_rate_is_kept(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("ftpy.transport.pace.Pace._wait", staticmethod(waited.append))
    (host.root / "big").write_bytes(bytes(2_000_000))
    scrub(host, "--learn", "--rate", "1M")
    assert sum(waited) > 0.5


def test_people_are_told_in_lines(host: Host) -> None:
    rot(host, "a")
    path = str(host.folder / "server.toml")
    result = CliRunner().invoke(cli, ["scrub", "-c", path], standalone_mode=False)
    first, last = result.output.splitlines()
    assert first.startswith(f"{host.root}/a: ROTTEN: it was not changed, and is not what was put (md5 ")
    assert last == "3 files, 6.8 KiB read: 2 right, 1 rotten"


def test_a_folder_that_cannot_be_read_or_leads_too_deep_keeps_no_other_from_being_read(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = os.open(host.root, os.O_RDONLY)
    for _ in range(1500):  # deeper than any path, and than Python's own limit
        os.mkdir("0", dir_fd=at)
        below = os.open("0", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    names = Directory.names

    def failing(directory: Directory) -> list[str]:
        if directory.path.parts == ("d",):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return names(directory)

    monkeypatch.setattr(Directory, "names", failing)
    (host.root / "z").write_bytes(b"z")
    told = {str(one.path): one.verdict for _, one in ScrubAll(host.config, learns=False, passed=lambda _: None)}
    assert told == {"a": "right", "d": "unreadable", "z": "unknown"}
    monkeypatch.undo()
    with host.client() as client:
        assert client.rm("0", recursive=True).folders == 1500
