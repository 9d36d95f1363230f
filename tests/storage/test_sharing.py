"""Several processes at one root: an upload that one has open is reached by the others, whoever of them dies."""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from ftpy.errors import Busy, Incomplete, NotFound, PermissionDenied, RequestError, ShuttingDown, UnknownUpload
from ftpy.storage import following, syscalls, uploads
from ftpy.storage import upload as upload_module
from ftpy.storage.base import NewFile, Storage
from ftpy.storage.database import Database
from ftpy.storage.journal import parse
from ftpy.storage.local import LocalStorage
from ftpy.storage.remembered import Remembered
from ftpy.storage.remote import RemoteUpload
from ftpy.storage.sharing import Asked, DescriptorsLost, Link
from ftpy.storage.uploadbase import PART_BYTES, Upload
from ftpy.storage.versions import Version
from tests.descriptors import descriptors_left, open_files, open_numbers, settled_numbers
from tests.rig import eventually
from tests.storage.contract import (
    OWNER,
    StorageContract,
    content,
    digest,
    new_file,
    part_of,
    path,
    put,
    read,
    send,
    send_missing,
)
from tests.storage.contract_changes import ChangesContract
from tests.storage.contract_trees import TreesContract
from tests.storage.unwanted import wanted_while

DATA = content(4 * PART_BYTES + 9)
MOST_FOR_A_HAND = 4
"""Descriptors: two ends of a link, and the owner's two files."""
FILE = new_file("d/big", len(DATA))


class Switchboard:
    """What the server's parent does, in one process: who has which upload open, and ways to it."""

    def __init__(self) -> None:
        self.owners: dict[str, Seat] = {}
        self.seats: list[Seat] = []

    def seat(self) -> Seat:
        """A place for one more storage."""
        self.seats.append(Seat(self))
        return self.seats[-1]


class Seat:
    """One storage's neighbours."""

    def __init__(self, board: Switchboard) -> None:
        self._board = board
        self.storage: LocalStorage | None = None

    def claim(self, upload_id: str) -> None:
        self._board.owners[upload_id] = self

    def release(self, upload_id: str) -> None:
        if self._board.owners.get(upload_id) is self:
            del self._board.owners[upload_id]

    def link(self, upload_id: str) -> Link | None:
        owner = self._board.owners.get(upload_id)
        if owner is None or owner is self or owner.storage is None:
            return None
        try:
            mine, theirs = Link.pair()
        except OSError:  # no descriptor is left
            return None
        try:
            owner.storage.welcome(theirs)
        except RequestError:
            theirs.close()
        return mine


@pytest.fixture
def storages(root: Path, tmp_path: Path) -> Iterator[list[LocalStorage]]:
    """Three at one root."""
    board = Switchboard()
    with ExitStack() as stack:
        for _ in range(3):
            seat = board.seat()
            seat.storage = stack.enter_context(LocalStorage(root, tmp_path / "state", neighbours=seat))
        yield [seat.storage for seat in board.seats if seat.storage is not None]


# ------------------------------------------------------------------ the contract, over a link


class Through:
    """A storage all of whose uploads are open in another one first: each hand goes over a link.

    What is removed, moved or touched is by that other one, what is looked at by this one.
    """

    def __init__(self, owner: LocalStorage, here: LocalStorage) -> None:
        self._owner, self._here = owner, here

    def __getattr__(self, name: str) -> Any:
        return getattr(self._owner if name in ("rm", "mv", "touch", "begin") else self._here, name)

    def _through(self, open_in: Callable[[LocalStorage], Upload]) -> Upload:
        with open_in(self._owner):
            hand = open_in(self._here)
        assert isinstance(hand, RemoteUpload) or hand.file_size is None
        return hand

    def open_upload(self, owner: str, file: NewFile) -> Upload:
        if file.file_size is None:  # each has an id of its own, which can be found elsewhere
            with self._owner.open_upload(owner, file) as begun:
                return self.find_upload(owner, begun.id)
        return self._through(lambda storage: storage.open_upload(owner, file))

    def find_upload(self, owner: str, upload_id: str) -> Upload:
        return self._through(lambda storage: storage.find_upload(owner, upload_id))

    def interrupt(self) -> None:
        self._owner.interrupt()
        self._here.interrupt()


class TestContract(StorageContract, ChangesContract, TreesContract):
    """Every rule holds for uploads that are open in another process, and for what another one removes or moves."""

    @pytest.fixture
    def storage(self, storages: list[LocalStorage]) -> Storage:
        return Through(storages[0], storages[1])


# ------------------------------------------------------------------ several hands, several processes


def stored(root: Path) -> set[int]:
    """The parts that the one journal there knows of."""
    (journal,) = (root / ".ftpy" / "uploads").glob("*.journal")
    return set(parse(journal.read_bytes()).parts)


def test_parts_that_come_through_every_process_make_one_file(storages: list[LocalStorage], root: Path) -> None:
    hands = [storage.open_upload(OWNER, FILE) for storage in storages]
    threads = [
        threading.Thread(target=send, args=(hands[number % 3], number, part_of(hands[0], DATA, number)))
        for number in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [hand.missing() for hand in hands] == [[], [], []] and stored(root) == {0, 1, 2, 3, 4}
    assert hands[2].commit(digest(DATA), None) == hands[0].commit(digest(DATA), None)
    for hand in hands:
        hand.close()
    assert read(storages[1], "d/big") == DATA and os.listdir(root / ".ftpy" / "uploads") == []


def test_the_whole_is_hashed_while_parts_come_through_another_process(storages: list[LocalStorage]) -> None:
    with storages[0].open_upload(OWNER, FILE) as here, storages[1].open_upload(OWNER, FILE) as there:
        for number in (0, 1):
            send(there, number, part_of(there, DATA, number))
        eventually(lambda: here.verified == 2 * PART_BYTES)


def test_upload_is_taken_over_when_its_owner_let_go(storages: list[LocalStorage]) -> None:
    for number, storage in enumerate([*storages, storages[0]]):
        with storage.open_upload(OWNER, FILE) as upload:
            assert not isinstance(upload, RemoteUpload)
            send(upload, number, part_of(upload, DATA, number))
            assert upload.missing() == [(number + 1, 4)]


def test_owner_keeps_an_upload_open_for_hands_of_others(storages: list[LocalStorage]) -> None:
    with storages[0].open_upload(OWNER, FILE) as here:
        there = storages[1].open_upload(OWNER, FILE)
    here.close()
    send_missing(there, DATA)
    with storages[2].open_upload(OWNER, FILE) as third:
        assert isinstance(third, RemoteUpload)
        third.commit(digest(DATA), None)
    there.close()
    assert read(storages[0], "d/big") == DATA


def test_no_hand_is_given_on_an_upload_that_is_being_closed(
    storages: list[LocalStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    closing, asked, go_on = threading.Event(), threading.Event(), threading.Event()
    here = storages[0].open_upload(OWNER, FILE)
    assert isinstance(here, uploads.LocalUpload)
    close, find_open = here.live.close, uploads.Uploads._find_open

    def close_late() -> None:
        closing.set()
        assert go_on.wait(30)
        close()

    def find(owner: uploads.Uploads, wanted: Asked) -> uploads.LocalUpload | None:
        try:
            return find_open(owner, wanted)
        finally:
            asked.set()

    monkeypatch.setattr(here.live, "close", close_late)
    monkeypatch.setattr(uploads.Uploads, "_find_open", find)
    monkeypatch.setattr(uploads, "HANDOVER_SECONDS", 30.0)
    with ThreadPoolExecutor(2) as threads:
        closed = threads.submit(here.close)
        assert closing.wait(30)
        opened = threads.submit(storages[1].open_upload, OWNER, FILE)
        assert asked.wait(30)
        go_on.set()
        closed.result(30)
        with opened.result(30) as there:
            send_missing(there, DATA)
            there.commit(digest(DATA), None)
    assert read(storages[2], "d/big") == DATA


def test_no_hand_is_given_on_an_upload_that_is_gone(storages: list[LocalStorage]) -> None:
    owner = storages[0]._uploads
    with storages[0].open_upload(OWNER, FILE) as upload:
        upload.abort()
        assert owner._find_open(Asked(upload.id, OWNER)) is None
    assert owner._live == {}


def test_an_upload_whose_first_hand_finds_no_thread_is_opened_by_the_next_and_found_by_others(
    storages: list[LocalStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    with storages[0].open_upload(OWNER, FILE) as upload:
        send(upload, 0, part_of(upload, DATA, 0))
    start_thread, opening = following.start_thread, threading.Event()

    def refuse(*_: object) -> threading.Thread:
        monkeypatch.setattr(following, "start_thread", start_thread)
        opening.set()
        eventually(lambda: storages[0]._uploads._live[upload.id].holders == 2)
        raise Busy("no more threads can be started")

    monkeypatch.setattr(following, "start_thread", refuse)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(storages[0].open_upload, OWNER, FILE)
        assert opening.wait(30)
        second = threads.submit(storages[0].open_upload, OWNER, FILE)
        with pytest.raises(Busy):
            first.result(30)
        with second.result(30), storages[1].open_upload(OWNER, FILE) as there:
            assert isinstance(there, RemoteUpload) and there.missing() == [(1, 4)]


def test_a_remote_hand_that_let_go_is_forgotten(storages: list[LocalStorage]) -> None:
    with storages[0].open_upload(OWNER, FILE):
        there = storages[1].open_upload(OWNER, FILE)
        assert isinstance(there, RemoteUpload)
        forgotten = weakref.ref(there)
        there.close()
        del there
        gc.collect()
        assert forgotten() is None
        eventually(lambda: not storages[0]._uploads._guests)  # the other end sees it go


def test_part_goes_on_when_its_remote_hand_lets_go(storages: list[LocalStorage]) -> None:
    with storages[0].open_upload(OWNER, FILE) as here:
        there = storages[1].open_upload(OWNER, FILE)
        piece = part_of(here, DATA, 4)
        with there.part(4, len(piece)) as part:
            there.close()
            for view in part:
                view[:] = piece
            part.finish(blake3(piece).hexdigest())
        assert here.missing() == [(0, 3)]
        with pytest.raises(Busy):
            there.missing()


def test_part_counts_as_never_sent_when_the_process_that_receives_it_dies(storages: list[LocalStorage]) -> None:
    with storages[0].open_upload(OWNER, FILE) as here:
        there = storages[1].open_upload(OWNER, FILE)
        part = there.part(4, 9)
        next(iter(part))[:] = b"not right"
        with pytest.raises(Busy):
            here.part(4, 9)
        with pytest.raises(Incomplete):
            here.commit(digest(DATA), None)
        assert isinstance(there, RemoteUpload)
        there._link.shutdown()
        eventually(lambda: not storages[0]._uploads._guests)  # the other end has seen it go
        send_missing(here, DATA)
        here.commit(digest(DATA), None)
        part.close()
        there.close()
    assert read(storages[2], "d/big") == DATA


def hashing_waits(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Set when what is committed is being read, and to be set for that to go on."""
    hashing, release = threading.Event(), threading.Event()
    read_at = upload_module.read_at

    def slow(fd: int, offset: int, view: memoryview) -> int:
        hashing.set()
        release.wait(20)
        return read_at(fd, offset, view)

    monkeypatch.setattr(upload_module, "read_at", slow)
    return hashing, release


def test_remote_commit_ends_when_its_storage_is_interrupted(
    storages: list[LocalStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    hashing, release = hashing_waits(monkeypatch)
    errors: list[BaseException] = []

    def commit() -> None:
        try:
            there.commit(digest(DATA), None)
        except RequestError as error:
            errors.append(error)

    with storages[0].open_upload(OWNER, FILE), storages[1].open_upload(OWNER, FILE) as there:
        send_missing(there, DATA)
        thread = threading.Thread(target=commit)
        thread.start()
        hashing.wait(20)
        storages[1].interrupt()
        thread.join(20)
        release.set()
        assert [type(error) for error in errors] == [ShuttingDown]
        with pytest.raises(ShuttingDown):
            there.missing()


def test_remote_commit_that_is_not_wanted_any_more_publishes_nothing_and_can_be_asked_for_again(
    storages: list[LocalStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    hashing, release = hashing_waits(monkeypatch)
    with storages[0].open_upload(OWNER, FILE) as upload:
        with storages[1].open_upload(OWNER, FILE) as there:
            send_missing(there, DATA)
            with pytest.raises(PermissionDenied):
                wanted_while(lambda: not hashing.is_set(), lambda: there.commit(digest(DATA), None))
            release.set()
        assert isinstance(upload, uploads.LocalUpload)
        upload.live.wait()
        with pytest.raises(NotFound):
            storages[2].stat(path("d/big"))
        upload.commit(digest(DATA), None)
    assert read(storages[2], "d/big") == DATA


def test_only_the_owner_of_an_upload_reaches_it_in_another_process(storages: list[LocalStorage]) -> None:
    with storages[0].open_upload(OWNER, FILE) as upload, pytest.raises(UnknownUpload):
        storages[1].find_upload("mallory", upload.id)


def test_defect_in_the_owner_is_told_without_detail_and_harms_nobody(
    storages: list[LocalStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> list[tuple[int, int]]:
        raise ZeroDivisionError("secret")

    with storages[0].open_upload(OWNER, FILE), storages[1].open_upload(OWNER, FILE) as there:
        with monkeypatch.context() as patched, pytest.raises(RequestError, match="log says why") as caught:
            patched.setattr(upload_module.LiveUpload, "missing", broken)
            there.missing()
        assert caught.value.code == "internal"
        assert there.missing() == [(0, 4)]


def test_descriptors_and_threads_return_to_base_after_remote_hands(storages: list[LocalStorage]) -> None:
    def usage() -> tuple[int, int]:
        return open_files(), threading.active_count()

    def once() -> None:
        with storages[0].open_upload(OWNER, FILE), storages[1].open_upload(OWNER, FILE) as there:
            send(there, 0, part_of(there, DATA, 0))
            there.abort()

    once()
    eventually(lambda: not storages[0]._uploads._guests)
    gc.collect()
    base = usage()
    for _ in range(20):
        once()
    eventually(lambda: all(now <= before for now, before in zip(usage(), base, strict=True)))


# ------------------------------------------------------------------ a process without descriptors

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="sees in /proc which descriptors are free")


@needs_linux
@pytest.mark.parametrize("room", [0, 1])
def test_a_message_whose_open_files_find_no_room_is_told_apart_and_the_next_one_comes(
    room: int, tmp_path: Path
) -> None:
    here, there = Link.pair()
    with here, there, open(tmp_path / "file", "wb") as file:
        here.send("both", [file.fileno(), file.fileno()])
        here.send("next", [file.fileno()])
        before = settled_numbers()
        with descriptors_left(room), pytest.raises(DescriptorsLost) as lost:
            there.receive()
        assert lost.value.message == "both" and open_numbers() == before
        message, (descriptor,) = there.receive()
        os.close(descriptor)
        assert message == "next"


@needs_linux
@pytest.mark.parametrize("room", range(7))
def test_a_remote_hand_has_both_of_the_owners_files_or_is_busy_when_descriptors_run_out(
    room: int, storages: list[LocalStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the journal's it would write to what another process may have taken over."""
    monkeypatch.setattr(uploads, "HANDOVER_SECONDS", 0.05)
    piece = DATA[:PART_BYTES]
    with storages[0].open_upload(OWNER, FILE) as here:
        with descriptors_left(room), ExitStack() as stack:
            try:
                there = stack.enter_context(storages[1].open_upload(OWNER, FILE))
            except Busy:
                assert room < MOST_FOR_A_HAND
            else:
                assert isinstance(there, RemoteUpload) and len(there._descriptors) == 2
                assert room >= MOST_FOR_A_HAND
        with storages[1].open_upload(OWNER, FILE) as there:
            send(there, 0, piece)
        assert here.missing() == [(1, 4)]


# ------------------------------------------------------------------ an owner that dies

OWNER_PROCESS = """
import socket, sys
from ftpy.storage.local import LocalStorage
from ftpy.storage.sharing import Link
from ftpy.storage.versions import Version
from tests.storage.contract import OWNER
from tests.storage.test_sharing import FILE, Seat, Switchboard

root, state, *ends = sys.argv[1:]
with LocalStorage(root, state, neighbours=Seat(Switchboard())) as storage:
    upload = storage.open_upload(OWNER, FILE)
    for end in ends:
        storage.welcome(Link(socket.socket(fileno=int(end))))
    print("open", flush=True)
    sys.stdin.read()
"""


class ElsewhereSeat(Seat):
    """Neighbours one of which is a real process; ``ways`` are links to it."""

    def __init__(self, ways: list[Link]) -> None:
        super().__init__(Switchboard())
        self.ways = ways

    def link(self, upload_id: str) -> Link | None:
        return self.ways.pop() if self.ways else None


def test_upload_is_taken_over_when_its_owner_is_killed_and_nobody_writes_to_it_any_more(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "HANDOVER_SECONDS", 0.1)
    mine, its = socket.socketpair()
    state = str(tmp_path / "state")
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER_PROCESS, str(root), state, str(its.fileno())],
        pass_fds=[its.fileno()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    its.close()
    assert process.stdin is not None and process.stdout is not None
    with process.stdin, process.stdout, ExitStack() as stack:
        assert process.stdout.readline() == b"open\n"
        here = stack.enter_context(LocalStorage(root, state, neighbours=ElsewhereSeat([Link(mine)])))
        third = stack.enter_context(LocalStorage(root, state, neighbours=ElsewhereSeat([])))
        there = stack.enter_context(here.open_upload(OWNER, FILE))
        assert isinstance(there, RemoteUpload)
        send(there, 0, part_of(there, DATA, 0))
        part = stack.enter_context(there.part(1, PART_BYTES))
        views = iter(part)
        next(views)[:] = bytes(following.CHUNK_BYTES // 4)
        process.send_signal(signal.SIGKILL)
        process.wait()
        next(views)[:] = bytes(following.CHUNK_BYTES // 4)
        with pytest.raises(Busy):  # a hand that may still write holds the lock
            third.open_upload(OWNER, FILE)
        here.look_after_remote()
        with pytest.raises(Busy):
            next(views)
        with third.open_upload(OWNER, FILE) as upload:
            assert send_missing(upload, DATA) == [1, 2, 3, 4]
            with pytest.raises(Busy):
                there.missing()
            upload.commit(digest(DATA), None)
    with LocalStorage(root, state) as afterwards:
        assert read(afterwards, "d/big") == DATA


# ------------------------------------------------------------------ what is durable


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_put_into_a_directory_that_another_process_has_just_made_makes_its_way_durable(
    storages: list[LocalStorage], root: Path, synced: list[str]
) -> None:
    (root / "a" / "b").mkdir(parents=True)  # by another process, which has not synced them yet
    put(storages[0], "a/b/file", b"1")
    assert {str(root), str(root / "a"), str(root / "a" / "b")} <= set(synced)
    synced.clear()
    put(storages[0], "a/b/file", b"2")
    assert str(root / "a" / "b") in synced and str(root / "a") not in synced
    synced.clear()
    put(storages[1], "a/b/file", b"3")  # which way another one trusts is not known here
    assert {str(root), str(root / "a"), str(root / "a" / "b")} <= set(synced)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_directory_is_not_trusted_any_more_when_it_was_made_anew(
    storages: list[LocalStorage], root: Path, synced: list[str]
) -> None:
    put(storages[0], "a/file", b"1")
    (root / "a").rename(root / "old")
    (root / "a").mkdir()
    synced.clear()
    put(storages[0], "a/file", b"2")
    assert {str(root), str(root / "a")} <= set(synced)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("maker", ["another", "this one"])
def test_directory_is_not_trusted_any_more_when_another_has_its_inode(
    disk_path: Path, synced: list[str], maker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, seat = disk_path / "root", Switchboard().seat()
    root.mkdir()
    if maker == "this one":
        monkeypatch.setattr(syscalls, "generation", lambda _: 0)  # as on disks that do not tell it
    with LocalStorage(root, disk_path / "state", neighbours=seat) as storage:
        for _ in range(20):
            put(storage, "a/file", b"1")
            before = (root / "a").stat().st_ino
            shutil.rmtree(root / "a")
            if maker == "another":
                (root / "a").mkdir()
            synced.clear()
            put(storage, "a/file", b"2")
            assert {str(root), str(root / "a")} <= set(synced)
            if (root / "a").stat().st_ino == before:
                return
    pytest.skip("the disk of the temporary folder gives no inode out again")


REMEMBERING = """
import sys
from pathlib import Path
from typing import Any
from ftpy.storage.remembered import Remembered
from ftpy.storage.versions import Digests, Version

database, base = sys.argv[1:]
with Remembered(Path(database)) as remembered:
    for number in range(100):
        remembered.keep([(Version(1, int(base) + number, 1, 1, 1), Digests("a" * 32, None))])
"""


def test_no_digest_is_lost_when_several_processes_remember_at_once(tmp_path: Path) -> None:
    database = tmp_path / "digests.sqlite"
    processes = [
        subprocess.Popen([sys.executable, "-c", REMEMBERING, str(database), str(base)], stderr=subprocess.PIPE)
        for base in range(0, 400, 100)
    ]
    assert [(process.communicate()[1], process.returncode) for process in processes] == [(b"", 0)] * 4
    versions = [Version(1, number, 1, 1, 1) for number in range(400)]
    with Remembered(database) as remembered:
        assert len(remembered.look_all(versions)) == 400


def connect_at_once(databases: list[Path], begin: Barrier, locked: multiprocessing.Queue[list[str]]) -> None:
    found = []
    for file in databases:
        database = Database(file, "CREATE TABLE IF NOT EXISTS names (name TEXT)", busy_seconds=5)
        begin.wait()
        try:
            database.connection()
        except sqlite3.Error as error:
            found.append(str(error))
        database.disconnect()
    locked.put(found)


def test_no_process_finds_a_database_locked_that_others_are_making(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    databases = [tmp_path / f"{number}.sqlite" for number in range(50)]
    begin, locked = context.Barrier(4, timeout=60), context.Queue()
    processes = [context.Process(target=connect_at_once, args=(databases, begin, locked)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [locked.get(timeout=60) for _ in processes] == [[]] * 4
    for process in processes:
        process.join(60)
