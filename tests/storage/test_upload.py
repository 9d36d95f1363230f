"""Uploads on disk: what is believed after a crash, who may hold one, what is left when it ends."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3
from msgspec import structs

from ftpy.errors import Busy, DigestMismatch, InvalidRequest, IoError, NoSpace, ShuttingDown, UnknownUpload
from ftpy.storage import reserving, syncing, syscalls
from ftpy.storage import upload as upload_module
from ftpy.storage.base import MIB
from ftpy.storage.journal import Journal, parse
from ftpy.storage.local import LocalStorage
from ftpy.storage.uploadbase import PART_BYTES
from ftpy.storage.uploadfiles import UploadFiles
from tests.descriptors import open_files, settled_files
from tests.rig import eventually
from tests.storage.contract import (
    OWNER,
    content,
    digest,
    names,
    new_file,
    part_of,
    put,
    read,
    send,
    send_missing,
)

DATA = content(4 * PART_BYTES + 17)
FILE = new_file("d/big", len(DATA))


def half_sent(storage: LocalStorage, *numbers: int) -> str:
    """An upload with these parts stored, let go: its id."""
    with storage.open_upload(OWNER, FILE) as upload:
        for number in numbers:
            send(upload, number, part_of(upload, DATA, number))
        return upload.id


def journal_of(root: Path, upload_id: str) -> Path:
    return root / ".ftpy" / "uploads" / f"{upload_id}.journal"


def data_of(root: Path, upload_id: str) -> Path:
    return root / ".ftpy" / "uploads" / f"{upload_id}.data"


def overwrite(file: Path, number: int, filling: bytes) -> None:
    with file.open("r+b") as data:
        data.seek(number * PART_BYTES)
        data.write(filling)


def finish(storage: LocalStorage) -> list[int]:
    """Send what is missing and commit: which parts were sent."""
    with storage.open_upload(OWNER, FILE) as upload:
        sent = send_missing(upload, DATA)
        upload.commit(digest(DATA), None)
    assert read(storage, "d/big") == DATA
    assert storage.uploads() == []
    return sent


def test_parts_are_found_by_a_new_storage(storage: LocalStorage, root: Path, tmp_path: Path) -> None:
    half_sent(storage, 0, 3)
    with LocalStorage(root, tmp_path / "state") as again:
        assert finish(again) == [1, 2, 4]


@pytest.mark.parametrize("filling", [bytes(PART_BYTES), b"\0" * 4096, b"x"])
def test_unsynced_part_is_missing_when_its_bytes_are_not_there(
    storage: LocalStorage, root: Path, filling: bytes
) -> None:
    upload_id = half_sent(storage, 0, 1, 2)
    overwrite(data_of(root, upload_id), 1, filling)
    assert finish(storage) == [1, 3, 4]


def test_part_that_was_not_there_stays_missing_when_a_later_sync_covers_its_line(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id = half_sent(storage, 0, 1)
    overwrite(data_of(root, upload_id), 1, bytes(PART_BYTES))
    monkeypatch.setattr(syncing, "SYNC_BYTES", 1)
    half_sent(storage, 2)
    assert re.search(rb"^S \d+$", journal_of(root, upload_id).read_bytes(), re.MULTILINE)
    assert finish(storage) == [1, 3, 4]


def test_synced_part_is_believed_without_reading_it_again(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncing, "SYNC_BYTES", PART_BYTES)
    upload_id = half_sent(storage, 0)
    journal = journal_of(root, upload_id).read_bytes()
    assert journal.endswith(b"S %d\n" % (journal.rindex(b"S ")))
    overwrite(data_of(root, upload_id), 0, b"rotten")
    with storage.open_upload(OWNER, FILE) as upload:
        assert send_missing(upload, DATA) == [1, 2, 3, 4]
        with pytest.raises(DigestMismatch):  # and yet nothing wrong is ever published
            upload.commit(digest(DATA), None)
    assert names(storage) == []


@pytest.mark.parametrize("tail", [b"P 1 8388608 abc", b"\0" * 200, b"S 99999", b"M {", b"\n\n"])
def test_torn_journal_loses_only_its_torn_line(storage: LocalStorage, root: Path, tail: bytes) -> None:
    upload_id = half_sent(storage, 0)
    with journal_of(root, upload_id).open("ab") as journal:
        journal.write(tail)
    half_sent(storage, 2)
    assert finish(storage) == [1, 3, 4]


@pytest.mark.parametrize("damage", ["journal gone", "journal empty", "journal zeros", "data gone", "data short"])
def test_upload_begins_anew_when_half_of_it_is_lost(storage: LocalStorage, root: Path, damage: str) -> None:
    upload_id = half_sent(storage, 0, 1)
    journal, data = journal_of(root, upload_id), data_of(root, upload_id)
    {
        "journal gone": journal.unlink,
        "journal empty": lambda: os.truncate(journal, 0),
        "journal zeros": lambda: journal.write_bytes(bytes(journal.stat().st_size)),
        "data gone": data.unlink,
        "data short": lambda: os.truncate(data, PART_BYTES),
    }[damage]()
    before = settled_files()
    with pytest.raises(UnknownUpload):
        storage.find_upload(OWNER, upload_id)
    assert open_files() == before
    assert not journal.exists() and (damage == "journal gone" or not data.exists())
    assert finish(storage) == [0, 1, 2, 3, 4]


def test_upload_of_unknown_length_is_found_by_a_new_storage(storage: LocalStorage, root: Path, tmp_path: Path) -> None:
    with storage.open_upload(OWNER, new_file("stream", None)) as upload:
        send(upload, 0, part_of(upload, DATA, 0))
    with LocalStorage(root, tmp_path / "state") as again, again.find_upload(OWNER, upload.id) as found:
        for number in range(1, 3):
            send(found, number, part_of(found, DATA, number))
        found.commit(digest(DATA), len(DATA))
        assert read(again, "stream") == DATA


def test_upload_of_unknown_length_stays_as_long_as_its_parts_when_it_is_found_again(
    storage: LocalStorage, root: Path
) -> None:
    with storage.open_upload(OWNER, new_file("stream", None)) as upload:
        assert data_of(root, upload.id).stat().st_size == 0
    with storage.find_upload(OWNER, upload.id):
        assert data_of(root, upload.id).stat().st_size == 0


def test_file_of_unknown_length_ends_where_it_is_said_to_when_a_longer_part_was_given_up(storage: LocalStorage) -> None:
    with storage.open_upload(OWNER, new_file("stream", None)) as upload:
        upload.part(0, PART_BYTES).close()
        send(upload, 0, DATA[:5])
        upload.commit(digest(DATA[:5]), 5)
    assert read(storage, "stream") == DATA[:5]


def test_parts_are_made_durable_in_the_background_while_others_come(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncing, "SYNC_BYTES", 2 * PART_BYTES)
    monkeypatch.setattr(syncing, "MOST_UNSYNCED", 2 * PART_BYTES)
    upload_id = half_sent(storage, 0, 1, 2, 3)
    lines = journal_of(root, upload_id).read_bytes().splitlines()
    assert [line[:1] for line in lines].count(b"S") == 2
    assert finish(storage) == [4]


def test_upload_is_dropped_when_a_background_sync_fails(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(fd: int) -> None:
        raise OSError(5, "disk")

    monkeypatch.setattr(syncing, "SYNC_BYTES", PART_BYTES)
    monkeypatch.setattr(syncing, "MOST_UNSYNCED", PART_BYTES)
    monkeypatch.setattr(syncing, "sync_data", failing)
    put(storage, "d/big", b"old")
    with storage.open_upload(OWNER, FILE) as upload:
        send(upload, 0, part_of(upload, DATA, 0))
        with pytest.raises(IoError):
            upload.part(1, PART_BYTES)
        monkeypatch.undo()
        with pytest.raises(IoError):
            upload.commit(digest(DATA), None)
    assert storage.uploads() == []
    assert read(storage, "d/big") == b"old"


def reserved(monkeypatch: pytest.MonkeyPatch, size: int, seconds: float) -> list[tuple[int, int]]:
    """What is reserved (offset, length) of a file of that size where a step takes so long."""
    asked: list[tuple[int, int]] = []
    now = 0.0

    def reserve(fd: int, offset: int, length: int) -> None:
        nonlocal now
        now += seconds
        asked.append((offset, length))

    with monkeypatch.context() as patched, tempfile.TemporaryFile() as file:
        patched.setattr(syscalls, "reserve", reserve)
        patched.setattr(reserving.time, "monotonic", lambda: now)
        reserving.reserve(file.fileno(), size)
        assert os.fstat(file.fileno()).st_size == size
    return asked


def test_all_space_is_reserved_where_that_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    first = reserving.FIRST_BYTES
    assert reserved(monkeypatch, 100 * first, 0.0001) == [(0, first), (first, 99 * first)]


def test_no_more_space_is_reserved_where_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reserved(monkeypatch, 100 * reserving.FIRST_BYTES, 0.01) == [(0, reserving.FIRST_BYTES)]


def test_upload_opens_without_a_thread_of_its_own(storage: LocalStorage) -> None:
    before = {*threading.enumerate()}
    with storage.open_upload(OWNER, FILE):
        assert {*threading.enumerate()} <= before


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
def test_part_says_no_space_when_the_disk_has_filled_since_the_upload_was_opened(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reserving, "FIRST_BYTES", 4096)
    monkeypatch.setattr(reserving, "FAST_SECONDS", 0)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(root)], check=True)
    try:
        with LocalStorage(root, tmp_path / "state") as storage:
            with storage.open_upload(OWNER, FILE) as upload:
                (root / "filling").write_bytes(bytes(40 * MIB))
                with pytest.raises(NoSpace):
                    send(upload, 0, part_of(upload, DATA, 0))
            (root / "filling").unlink()
            assert finish(storage) == [0, 1, 2, 3, 4]
    finally:
        subprocess.run(["umount", str(root)], check=True)


def test_resumed_upload_needs_only_the_space_that_is_missing_where_none_can_be_reserved(
    disk_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syscalls, "_fallocate", None)
    free = os.statvfs_result((4096, 4096, 0, 0, 1, 0, 0, 0, 0, 255))
    with (disk_path / "data").open("w+b") as data:
        data.write(b"x" * 2 * MIB)
        data.flush()
        monkeypatch.setattr(os, "fstatvfs", lambda _: free)
        syscalls.reserve(data.fileno(), 0, 2 * MIB + 4096)
        with pytest.raises(OSError, match="No space"):
            syscalls.reserve(data.fileno(), 2 * MIB, 8192)


def test_file_of_unknown_length_does_not_grow_while_it_is_committed(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, refused = os.fsync, []

    def with_another_part(fd: int) -> None:
        fsync(fd)
        try:
            other.part(1, PART_BYTES)
        except (Busy, UnknownUpload) as error:
            refused.append(error)

    with storage.open_upload(OWNER, new_file("x", None)) as upload, storage.find_upload(OWNER, upload.id) as other:
        send(upload, 0, b"hello")
        monkeypatch.setattr(os, "fsync", with_another_part)
        info = upload.commit(digest(b"hello"), 5)
    assert isinstance(refused[0], Busy)
    assert info.size == 5
    assert (root / "x").read_bytes() == b"hello"


def test_a_put_in_another_way_that_could_not_be_noted_is_noted_the_next_time(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = structs.replace(FILE, mode=0o600)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with storage.open_upload(OWNER, FILE) as upload:
        with monkeypatch.context() as full:
            full.setattr(Journal, "meta", refuse)
            with pytest.raises(NoSpace):
                storage.open_upload(OWNER, other)
        storage.open_upload(OWNER, other).close()
        meta = parse(journal_of(root, upload.id).read_bytes()).meta
        assert meta is not None and meta.file.mode == 0o600


def test_upload_is_found_again_when_no_thread_could_be_started(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    half_sent(storage, 0)
    before = settled_files()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(Busy):
            storage.open_upload(OWNER, FILE)
        with storage.open_upload(OWNER, new_file("other", 3)) as upload, pytest.raises(Busy):
            send(upload, 0, b"abc")
    assert open_files() == before
    with storage.open_upload(OWNER, new_file("other", 3)) as upload:
        send_missing(upload, b"abc")
        upload.commit(digest(b"abc"), None)
    assert finish(storage) == [1, 2, 3, 4]


def test_part_counts_when_no_thread_can_be_started_to_sync_it(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse_sync(thread: threading.Thread) -> None:
        if thread.name == "ftpy-sync":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(syncing, "SYNC_BYTES", PART_BYTES)
    monkeypatch.setattr(syncing, "MOST_UNSYNCED", PART_BYTES)
    monkeypatch.setattr(threading.Thread, "start", refuse_sync)
    half_sent(storage, 0, 1)
    assert finish(storage) == [2, 3, 4]


def test_second_process_finds_the_upload_busy(storage: LocalStorage, root: Path, tmp_path: Path) -> None:
    with LocalStorage(root, tmp_path / "state") as other:
        with storage.open_upload(OWNER, FILE) as upload:
            with pytest.raises(Busy):
                other.open_upload(OWNER, FILE)
            with pytest.raises(Busy):
                other.find_upload(OWNER, upload.id)
            assert other.sweep(expire_seconds=-1) == 0
            send(upload, 0, part_of(upload, DATA, 0))
        assert finish(other) == [1, 2, 3, 4]


def test_part_goes_on_when_its_hand_lets_go(storage: LocalStorage) -> None:
    upload = storage.open_upload(OWNER, FILE)
    with upload.part(0, PART_BYTES) as part:
        upload.close()
        done = 0
        for view in part:
            view[:] = DATA[done : done + len(view)]
            done += len(view)
        part.finish(blake3(DATA[:PART_BYTES]).hexdigest())
    assert finish(storage) == [1, 2, 3, 4]


def test_part_cannot_land_when_the_upload_was_dropped_under_it(storage: LocalStorage, root: Path) -> None:
    with (
        storage.open_upload(OWNER, FILE) as upload,
        storage.find_upload(OWNER, upload.id) as other,
        upload.part(0, PART_BYTES) as part,
    ):
        views = iter(part)
        next(views)
        other.abort()
        for _ in views:
            pass
        with pytest.raises(UnknownUpload):
            part.finish(blake3(bytes(PART_BYTES)).hexdigest())
    assert storage.uploads() == []
    assert finish(storage) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("size", [None, len(DATA)])
def test_hand_that_let_go_can_do_nothing(storage: LocalStorage, size: int | None) -> None:
    upload = storage.open_upload(OWNER, new_file("x", size))
    upload.close()
    with pytest.raises(UnknownUpload):
        upload.part(0, PART_BYTES)
    with pytest.raises(UnknownUpload):
        upload.commit(digest(b""), len(DATA))


def test_finish_before_the_last_byte_is_a_mistake_of_the_caller(storage: LocalStorage) -> None:
    with storage.open_upload(OWNER, FILE) as upload, upload.part(0, PART_BYTES) as part:
        next(iter(part))
        with pytest.raises(ValueError, match="0 of 8388608 bytes"):
            part.finish(blake3(b"").hexdigest())


@pytest.mark.parametrize("ending", [LocalStorage.close, LocalStorage.interrupt])
def test_commit_that_waits_ends_when_the_storage_is_closed_or_interrupted(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: Callable[[LocalStorage], None]
) -> None:
    reading, go_on = threading.Event(), threading.Event()
    read_at = upload_module.read_at

    def slow(fd: int, offset: int, view: memoryview) -> int:
        reading.set()
        go_on.wait(20)
        return read_at(fd, offset, view)

    storage = LocalStorage(root, tmp_path / "state")
    half_sent(storage, 0, 1, 2, 3, 4)
    monkeypatch.setattr(upload_module, "read_at", slow)
    monkeypatch.setattr(UploadFiles, "_is_there", lambda *_: True)
    outcome: list[object] = []
    with storage.open_upload(OWNER, FILE) as upload:

        def commit() -> None:
            try:
                outcome.append(upload.commit(digest(DATA), None))
            except ShuttingDown as error:
                outcome.append(error)

        committer = threading.Thread(target=commit)
        committer.start()
        assert reading.wait(20)
        live = storage._uploads._live[upload.id]
        follower = live._follower
        assert follower is not None
        eventually(lambda: live._closed_to_parts)  # it waits for the digest
        closer = threading.Thread(target=ending, args=(storage,))
        closer.start()
        eventually(lambda: follower._error)  # before what is read goes on
        go_on.set()
        closer.join(20)
        committer.join(20)
        with pytest.raises(ShuttingDown):
            storage.find_upload(OWNER, upload.id)
    storage.close()
    assert [type(result) for result in outcome] == [ShuttingDown]
    monkeypatch.undo()
    with LocalStorage(root, tmp_path / "state") as again:
        assert finish(again) == []


READ_ONLY = """
import os, signal, sys
from msgspec.structs import replace
from ftpy.storage.local import LocalStorage
from tests.storage.contract import OWNER, digest, new_file, send_missing
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
FILE = replace(new_file("x", 3), mode=0o444)
def put(storage):
    with storage.open_upload(OWNER, FILE) as upload:
        sent = send_missing(upload, b"abc")
        upload.commit(digest(b"abc"), None)
    return sent
child = os.fork()
if not child:
    os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL) if os.fstat(fd).st_mode & 0o777 == 0o444 else None
    put(LocalStorage(sys.argv[1], sys.argv[2]))
assert os.waitpid(child, 0)[1] == signal.SIGKILL
with LocalStorage(sys.argv[1], sys.argv[2]) as storage:
    assert put(storage) == []
"""


def test_read_only_file_is_resumed_when_its_commit_was_cut_off(root: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    if os.geteuid() == 0:  # which no mode stops
        tmp_path.chmod(0o755)
        for made in (root, state):
            os.chown(made, 65534, 65534)
    command = [sys.executable, "-c", READ_ONLY, str(root), str(state)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], timeout=30)
    assert (root / "x").read_bytes() == b"abc"
    assert (root / "x").stat().st_mode & 0o777 == 0o444


def test_sweep_removes_halves_that_a_crash_left(storage: LocalStorage, root: Path) -> None:
    uploads = root / ".ftpy" / "uploads"
    (uploads / f"{'0' * 32}.data").write_bytes(b"x")
    (uploads / f"{'1' * 32}.journal").write_bytes(b"M {}\n")
    (uploads / "not ours").write_bytes(b"x")
    assert storage.sweep(expire_seconds=3600) == 2
    assert os.listdir(uploads) == ["not ours"]


def test_sweep_counts_from_the_last_word_about_the_upload(storage: LocalStorage, root: Path) -> None:
    upload_id = half_sent(storage, 0)
    os.utime(journal_of(root, upload_id), (0, 0))
    half_sent(storage)
    assert storage.sweep(expire_seconds=3600) == 0
    os.utime(journal_of(root, upload_id), (0, 0))
    assert storage.sweep(expire_seconds=3600) == 1
    assert storage.uploads() == []


SENDER = """
import sys
from ftpy.storage.local import LocalStorage
from tests.storage.contract import OWNER, part_of, send
from tests.storage.test_upload import DATA, FILE
storage = LocalStorage(sys.argv[1], sys.argv[2])
with storage.open_upload(OWNER, FILE) as upload:
    for number in (4, 0, 2, 1):
        send(upload, number, part_of(upload, DATA, number))
        print(number, flush=True)
    with upload.part(3, upload.part_size) as part:
        for view in part:
            view[:] = bytes(len(view))
            print("in flight", flush=True)
            sys.stdin.read()
"""


@pytest.mark.parametrize("after", [1, 2, 4, 5])
def test_killed_process_loses_only_what_was_in_flight(root: Path, tmp_path: Path, after: int) -> None:
    command = [sys.executable, "-c", SENDER, str(root), str(tmp_path / "state")]
    repository = Path(__file__).parents[2]
    sender = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=repository, text=True)
    assert sender.stdout is not None
    assert sender.stdin is not None
    said = [sender.stdout.readline().strip() for _ in range(after)]
    sender.send_signal(signal.SIGKILL)
    assert sender.wait(10) == -signal.SIGKILL
    sender.stdout.close()
    sender.stdin.close()
    stored = {int(word) for word in said if word.isdigit()}
    assert stored
    with LocalStorage(root, tmp_path / "state") as storage:
        assert names(storage) == []
        storage.sweep(expire_seconds=3600)
        assert set(finish(storage)).isdisjoint(stored)


def test_an_upload_is_not_put_again_in_other_ways_for_ever(
    root: Path, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a line of the journal, which no quota counts."""
    monkeypatch.setattr(upload_module, "MOST_RENEWED_BYTES", 2000)
    folder = root / ".ftpy/uploads"

    def again(mode: int) -> None:
        storage.open_upload(OWNER, structs.replace(new_file("big", 3), mode=mode)).close()

    with pytest.raises(InvalidRequest, match="too often"):
        for number in range(100):
            again(number % 2)
    (journal,) = folder.glob("*.journal")
    size = journal.stat().st_size
    assert 2000 < size < 2500
    with pytest.raises(InvalidRequest):
        again(0o777)
    assert journal.stat().st_size == size
    with storage.find_upload(OWNER, journal.stem) as upload:  # it is as good as before
        send(upload, 0, b"abc")
        assert upload.commit(digest(b"abc"), None).size == 3
    assert list(folder.iterdir()) == []
