"""What every storage must do, whatever it is made of. A test class inherits ``StorageContract`` and gives ``storage``.

Only the contract of ``ftpy.storage.base`` is used here: nothing is looked up on a disk.
"""

from __future__ import annotations

import functools
import os
import random
import threading
import time
from collections.abc import Callable

import pytest
from blake3 import blake3

from ftpy.digests import DigestName, hexdigest
from ftpy.errors import (
    AlreadyExists,
    Busy,
    Changed,
    DigestMismatch,
    Incomplete,
    InvalidPath,
    InvalidRequest,
    IsADirectory,
    NotADirectory,
    NotFound,
    RequestError,
    ShuttingDown,
    UnknownUpload,
)
from ftpy.files import FileInfo, RemotePath
from ftpy.storage.base import MIB, Condition, KnownDigest, NewDirectory, NewFile, Staged, Storage
from ftpy.storage.following import BUFFERS
from ftpy.storage.uploadbase import PART_BYTES, Upload
from tests.paths import LITERAL, NOT_PORTABLE

MTIME = 1_700_000_000_123_456_789
OWNER = "alice"


def path(text: str) -> RemotePath:
    return RemotePath.parse(text)


def digest(data: bytes, name: DigestName = "md5") -> KnownDigest:
    return KnownDigest(name, hexdigest(name, data))


@functools.lru_cache(maxsize=16)
def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def new_file(name: str, size: int | None, condition: Condition = None, mtime_ns: int = MTIME) -> NewFile:
    return NewFile(path(name), size, mtime_ns, None, "md5", condition)


def stage(storage: Storage, name: str, data: bytes, condition: Condition = None, mode: int | None = None) -> Staged:
    file = NewFile(path(name), len(data), MTIME, mode, "md5", condition)
    return storage.stage(file, memoryview(data), digest(data))


def settled() -> None:
    """Wait until what was written is old enough for its times to tell later writes apart."""
    time.sleep(0.03)


def put(storage: Storage, name: str, data: bytes, condition: Condition = None) -> FileInfo:
    (result,) = storage.publish([stage(storage, name, data, condition)])
    if isinstance(result, RequestError):
        raise result
    return result


def read(storage: Storage, name: str) -> bytes:
    with storage.open(path(name)) as reader:
        view = memoryview(bytearray(reader.info.size))
        assert reader.read_at(0, view) == len(view)
        reader.check_unchanged()
        return bytes(view)


def names(storage: Storage, below: str = "", *, recursive: bool = True) -> list[str]:
    return [str(info.path) for info in storage.ls(path(below), recursive=recursive)]


def part_of(upload: Upload, data: bytes, number: int) -> bytes:
    return data[number * upload.part_size : (number + 1) * upload.part_size]


def send(upload: Upload, number: int, piece: bytes, *, claim: str | None = None) -> None:
    with upload.part(number, len(piece)) as part:
        done = 0
        for view in part:
            view[:] = piece[done : done + len(view)]
            done += len(view)
        assert done == len(piece)
        part.finish(claim or blake3(piece).hexdigest())


def send_missing(upload: Upload, data: bytes) -> list[int]:
    numbers = [number for first, last in upload.missing() for number in range(first, last + 1)]
    for number in numbers:
        send(upload, number, part_of(upload, data, number))
    return numbers


class StorageContract:
    """The rules; ``storage`` is a fixture of the class that inherits."""

    # ---------------------------------------------------------------- small files

    @pytest.mark.parametrize("size", [0, 1, 4096, MIB])
    def test_put_is_read_back_whole_at_every_size(self, storage: Storage, size: int) -> None:
        data = content(size)
        info = put(storage, "dir/file", data)
        assert (info.type, info.size, info.mtime_ns, info.md5) == ("file", size, MTIME, digest(data).hex)
        assert info.etag is not None
        assert read(storage, "dir/file") == data
        assert storage.stat(path("dir/file")) == info

    @pytest.mark.parametrize("text", list(LITERAL.values()), ids=[*LITERAL])
    def test_put_keeps_the_name_literal(self, storage: Storage, text: str) -> None:
        put(storage, text, b"x")
        assert read(storage, text) == b"x"
        assert names(storage)[-1] == text

    @pytest.mark.parametrize("text", list(NOT_PORTABLE.values()), ids=[*NOT_PORTABLE])
    def test_put_refuses_a_name_that_is_not_portable(self, storage: Storage, text: str) -> None:
        with pytest.raises(InvalidPath):
            stage(storage, text, b"x")
        with pytest.raises(InvalidPath):
            storage.open_upload(OWNER, new_file(text, 5))
        with pytest.raises((NotFound, NotADirectory)):
            storage.stat(path(text))
        assert names(storage) == []

    def test_put_refuses_the_root(self, storage: Storage) -> None:
        with pytest.raises(IsADirectory):
            stage(storage, "", b"x")
        with pytest.raises(IsADirectory):
            storage.open_upload(OWNER, new_file("", 1))

    def test_put_replaces_the_old_file_when_nothing_is_asked(self, storage: Storage) -> None:
        old = put(storage, "a", b"old")
        new = put(storage, "a", b"newer")
        assert read(storage, "a") == b"newer"
        assert old.etag != new.etag

    def test_put_gives_the_mode_that_was_asked_for(self, storage: Storage) -> None:
        (info,) = storage.publish([stage(storage, "a", b"x", mode=0o751)])
        assert isinstance(info, FileInfo)
        assert info.mode == 0o751

    def test_put_refuses_another_size_than_announced(self, storage: Storage) -> None:
        with pytest.raises(InvalidRequest):
            storage.stage(new_file("a", 4), memoryview(b"abc"), digest(b"abc"))
        assert names(storage) == []

    def test_put_refuses_the_place_of_a_directory(self, storage: Storage) -> None:
        put(storage, "a/b", b"x")
        with pytest.raises(IsADirectory):
            put(storage, "a", b"y")
        assert read(storage, "a/b") == b"x"

    def test_put_refuses_a_path_below_a_file(self, storage: Storage) -> None:
        put(storage, "a", b"x")
        with pytest.raises(NotADirectory):
            put(storage, "a/b", b"y")
        assert read(storage, "a") == b"x"

    def test_staged_file_is_invisible_until_it_is_published(self, storage: Storage) -> None:
        with stage(storage, "a", b"x") as staged:
            assert names(storage) == []
            with pytest.raises(NotFound):
                storage.stat(path("a"))
            assert staged.path == path("a")

    def test_staged_file_is_gone_when_it_is_closed(self, storage: Storage) -> None:
        put(storage, "a", b"old")
        staged = stage(storage, "a", b"new")
        staged.close()
        staged.close()
        assert read(storage, "a") == b"old"
        assert names(storage) == ["a"]

    def test_group_is_answered_in_order_and_later_files_of_a_path_win(self, storage: Storage) -> None:
        group = [stage(storage, f"d{n % 3}/f{n}", b"%d" % n) for n in range(20)]
        group.append(stage(storage, "d0/f0", b"later"))
        results = storage.publish(group)
        assert [str(result.path) for result in results if isinstance(result, FileInfo)] == [
            str(staged.path) for staged in group
        ]
        assert read(storage, "d0/f0") == b"later"
        assert storage.stat(path("d0/f0")).md5 == digest(b"later").hex

    def test_group_publishes_the_others_when_one_is_refused(self, storage: Storage) -> None:
        put(storage, "there", b"old")
        results = storage.publish(
            [stage(storage, "a", b"1"), stage(storage, "there", b"2", "absent"), stage(storage, "b", b"3")]
        )
        assert [type(result) for result in results] == [FileInfo, AlreadyExists, FileInfo]
        assert [read(storage, name) for name in ("a", "there", "b")] == [b"1", b"old", b"3"]

    def test_empty_group_has_no_results(self, storage: Storage) -> None:
        assert storage.publish([]) == []

    # ---------------------------------------------------------------- directories

    @pytest.mark.parametrize(("asked", "given"), [(0o300, 0o700), (0o000, 0o500), (0o555, 0o555)])
    def test_directory_can_be_looked_into_whatever_mode_is_asked_for(
        self, storage: Storage, asked: int, given: int
    ) -> None:
        # Else what lies in it would not be counted, and no quota hold.
        for _ in range(2):
            (info,) = storage.publish([storage.stage_directory(NewDirectory(path("d"), parents=True, mode=asked))])
            assert info.mode == storage.stat(path("d")).mode == given

    def test_directory_is_made_with_its_mode_and_the_time_that_it_had_after_its_files(self, storage: Storage) -> None:
        results = storage.publish(
            [
                stage(storage, "d/f", b"1"),
                storage.stage_directory(NewDirectory(path("d/empty"), parents=True, mode=0o750, mtime_ns=MTIME)),
                storage.stage_directory(NewDirectory(path("d"), parents=True, mode=0o700, mtime_ns=MTIME + 1)),
            ]
        )
        assert [type(result) for result in results] == [FileInfo] * 3
        assert names(storage) == ["d", "d/empty", "d/f"]
        for name, mode, mtime_ns in (("d/empty", 0o750, MTIME), ("d", 0o700, MTIME + 1)):
            info = storage.stat(path(name))
            assert (info.type, info.mode, info.mtime_ns) == ("directory", mode, mtime_ns)

    def test_directory_without_parents_is_made_only_where_its_place_is_free_and_its_parent_there(
        self, storage: Storage
    ) -> None:
        wanted = ["a", "a", "b/c", "a/c"]
        results = storage.publish([storage.stage_directory(NewDirectory(path(name))) for name in wanted])
        assert [type(result) for result in results] == [FileInfo, AlreadyExists, NotFound, FileInfo]
        assert names(storage) == ["a", "a/c"]

    def test_directory_is_refused_in_the_place_of_a_file_and_below_one(self, storage: Storage) -> None:
        put(storage, "a", b"1")
        wanted = [NewDirectory(path(name), parents=parents) for name in ("a", "a/b") for parents in (True, False)]
        results = storage.publish([storage.stage_directory(directory) for directory in wanted])
        assert [type(result) for result in results] == [NotADirectory, AlreadyExists, NotADirectory, NotADirectory]
        assert read(storage, "a") == b"1"

    def test_directory_refuses_the_root_and_names_that_are_not_portable(self, storage: Storage) -> None:
        with pytest.raises(IsADirectory):
            storage.stage_directory(NewDirectory(RemotePath(), parents=True))
        for text in NOT_PORTABLE.values():
            with pytest.raises(InvalidPath):
                storage.stage_directory(NewDirectory(path(text)))

    # ---------------------------------------------------------------- conditions

    def test_put_if_absent_is_refused_when_something_is_there(self, storage: Storage) -> None:
        put(storage, "a", b"1", "absent")
        with pytest.raises(AlreadyExists):
            put(storage, "a", b"2", "absent")
        with pytest.raises(AlreadyExists):
            storage.open_upload(OWNER, new_file("a", 5, "absent"))
        assert read(storage, "a") == b"1"

    def test_put_if_absent_has_one_winner_when_many_race(self, storage: Storage) -> None:
        results = at_once(8, lambda n: put(storage, "a", b"%d" % n, "absent"))
        winners = [n for n, result in enumerate(results) if isinstance(result, FileInfo)]
        assert len(winners) == 1
        assert sum(isinstance(result, AlreadyExists) for result in results) == 7
        assert read(storage, "a") == b"%d" % winners[0]

    def test_put_if_digest_replaces_that_content_only(self, storage: Storage) -> None:
        put(storage, "a", b"1")
        put(storage, "a", b"2", digest(b"1"))
        with pytest.raises(Changed):
            put(storage, "a", b"3", digest(b"1"))
        with pytest.raises(Changed):
            storage.open_upload(OWNER, new_file("a", 5, digest(b"1")))
        with pytest.raises(Changed):
            put(storage, "nothing", b"3", digest(b"1"))
        put(storage, "a", b"4", digest(b"2", "blake3"))
        assert read(storage, "a") == b"4"

    def test_put_if_digest_has_one_winner_when_many_race(self, storage: Storage) -> None:
        put(storage, "a", b"base")
        results = at_once(8, lambda n: put(storage, "a", b"%d" % n, digest(b"base")))
        winners = [n for n, result in enumerate(results) if isinstance(result, FileInfo)]
        assert len(winners) == 1
        assert sum(isinstance(result, Changed) for result in results) == 7
        assert read(storage, "a") == b"%d" % winners[0]

    def test_group_sees_its_own_earlier_files_when_it_compares(self, storage: Storage) -> None:
        results = storage.publish([stage(storage, "a", b"1"), stage(storage, "a", b"2", digest(b"1"))])
        assert [type(result) for result in results] == [FileInfo, FileInfo]
        assert read(storage, "a") == b"2"

    # ---------------------------------------------------------------- reading

    def test_open_refuses_what_is_no_file(self, storage: Storage) -> None:
        put(storage, "d/f", b"x")
        for name, error in [("", IsADirectory), ("d", IsADirectory), ("none", NotFound), ("d/f/x", NotADirectory)]:
            with pytest.raises(error):
                storage.open(path(name))

    def test_reader_reads_any_range_and_stops_at_the_end(self, storage: Storage) -> None:
        data = content(100_000)
        put(storage, "a", data)
        with storage.open(path("a")) as reader:
            view = memoryview(bytearray(1000))
            assert reader.read_at(54_321, view) == 1000
            assert view == data[54_321:55_321]
            assert reader.read_at(99_999, view) == 1
            assert reader.read_at(100_000, view) == 0

    def test_reader_stays_with_its_version_when_another_is_published(self, storage: Storage) -> None:
        put(storage, "a", b"old")
        with storage.open(path("a")) as reader:
            put(storage, "a", b"new")
            view = memoryview(bytearray(3))
            assert reader.read_at(0, view) == 3
            assert view == b"old"
            reader.check_unchanged()
            assert reader.info.etag != storage.stat(path("a")).etag

    def test_reader_remembers_another_digest_beside_the_first(self, storage: Storage) -> None:
        put(storage, "a", b"x")
        with storage.open(path("a")) as reader:
            assert (reader.info.md5, reader.info.blake3) == (digest(b"x").hex, None)

    def test_ls_lists_directories_before_their_content_in_order(self, storage: Storage) -> None:
        for name in ("b/x", "a/z/y", "a/b", "c", "a.txt"):
            put(storage, name, b"1")
        expected = ["a", "a/b", "a/z", "a/z/y", "a.txt", "b", "b/x", "c"]
        assert names(storage) == expected
        assert names(storage, recursive=False) == ["a", "a.txt", "b", "c"]
        assert names(storage, "a") == ["a/b", "a/z", "a/z/y"]

    def test_ls_tells_the_remembered_digests(self, storage: Storage) -> None:
        storage.publish([stage(storage, f"f{n:04}", b"%d" % n) for n in range(600)])
        infos = list(storage.ls(path(""), recursive=False))
        assert [info.md5 for info in infos] == [digest(b"%d" % n).hex for n in range(600)]
        assert infos[17] == storage.stat(path("f0017"))

    def test_ls_refuses_what_is_no_directory(self, storage: Storage) -> None:
        put(storage, "f", b"x")
        with pytest.raises(NotADirectory):
            storage.ls(path("f"), recursive=False)
        with pytest.raises(NotFound):
            storage.ls(path("none"), recursive=True)

    def test_stat_of_the_root_is_a_directory(self, storage: Storage) -> None:
        assert storage.stat(path("")).type == "directory"

    # ---------------------------------------------------------------- uploads

    @pytest.mark.parametrize("name", ["md5", "blake3"])
    @pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES + 7])
    def test_upload_is_published_whole_at_every_size(self, storage: Storage, size: int, name: DigestName) -> None:
        data = content(size)
        file = NewFile(path("d/big"), size, MTIME, 0o641, name)
        with storage.open_upload(OWNER, file) as upload:
            assert (upload.path, upload.file_size) == (path("d/big"), size)
            send_missing(upload, data)
            assert names(storage) in ([], ["d"])
            info = upload.commit(digest(data, name), None)
            assert upload.verified == size
        assert (info.size, info.mtime_ns, info.mode) == (size, MTIME, 0o641)
        assert getattr(info, name) == digest(data, name).hex
        assert read(storage, "d/big") == data
        assert storage.stat(path("d/big")) == info
        assert storage.uploads() == []

    @pytest.mark.parametrize("order", [[2, 1, 0, 3], [1, 0, 3, 2], [3, 2, 1, 0], [0, 2, 3, 1]])
    def test_upload_is_published_whole_when_parts_come_in_any_order(self, storage: Storage, order: list[int]) -> None:
        data = content(3 * PART_BYTES + 99)
        with storage.open_upload(OWNER, new_file("big", len(data))) as upload:
            for number in order:
                send(upload, number, part_of(upload, data, number))
            upload.commit(digest(data), None)
        assert read(storage, "big") == data

    def test_upload_is_published_whole_when_parts_come_at_once(self, storage: Storage) -> None:
        data = content(6 * PART_BYTES)

        def one(number: int) -> None:
            with storage.open_upload(OWNER, new_file("big", len(data))) as upload:
                send(upload, number, part_of(upload, data, number))

        with storage.open_upload(OWNER, new_file("big", len(data))) as upload:
            assert at_once(6, one) == [None] * 6
            upload.commit(digest(data), None)
        assert read(storage, "big") == data

    def test_upload_tells_what_is_missing(self, storage: Storage) -> None:
        data = content(5 * PART_BYTES)
        with storage.open_upload(OWNER, new_file("big", len(data))) as upload:
            assert upload.missing() == [(0, 4)]
            send(upload, 2, part_of(upload, data, 2))
            assert upload.missing() == [(0, 1), (3, 4)]
            with pytest.raises(Incomplete):
                upload.commit(digest(data), None)
            assert send_missing(upload, data) == [0, 1, 3, 4]
            upload.commit(digest(data), None)

    def test_upload_is_found_again_when_every_hand_let_go(self, storage: Storage) -> None:
        data = content(3 * PART_BYTES)
        with storage.open_upload(OWNER, new_file("big", len(data))) as upload:
            send(upload, 1, part_of(upload, data, 1))
            first = upload.id
        assert storage.uploads() == [first]
        with storage.open_upload(OWNER, new_file("big", len(data))) as upload:
            assert upload.id == first
            assert send_missing(upload, data) == [0, 2]
            upload.commit(digest(data), None)
        assert read(storage, "big") == data

    def test_upload_is_another_when_owner_path_size_or_time_differ(self, storage: Storage) -> None:
        variants = [
            (OWNER, new_file("big", 10)),
            ("bob", new_file("big", 10)),
            (OWNER, new_file("big2", 10)),
            (OWNER, new_file("big", 11)),
            (OWNER, new_file("big", 10, mtime_ns=MTIME + 1)),
            (OWNER, new_file("big", None)),
            (OWNER, new_file("big", None)),
        ]
        ids = []
        for owner, file in variants:
            with storage.open_upload(owner, file) as upload:
                ids.append(upload.id)
        assert len(set(ids)) == len(variants)
        assert sorted(ids) == sorted(storage.uploads())

    def test_upload_is_found_by_its_owner_only(self, storage: Storage) -> None:
        with storage.open_upload(OWNER, new_file("big", 10)) as upload:
            with storage.find_upload(OWNER, upload.id) as found:
                assert found.id == upload.id
            with pytest.raises(UnknownUpload):
                storage.find_upload("bob", upload.id)
        with storage.find_upload(OWNER, upload.id) as found:
            assert found.missing() == [(0, 0)]
        with pytest.raises(UnknownUpload):
            storage.find_upload("bob", upload.id)

    @pytest.mark.parametrize("wanted", ["", "x", "0" * 32, "0" * 31, "../" * 8, "A" * 32])
    def test_find_upload_refuses_an_id_that_is_none(self, storage: Storage, wanted: str) -> None:
        with pytest.raises(UnknownUpload):
            storage.find_upload(OWNER, wanted)
        assert storage.uploads() == []

    def test_part_stays_missing_when_its_digest_differs(self, storage: Storage) -> None:
        data = content(2 * PART_BYTES + 5)
        with storage.open_upload(OWNER, new_file("big", len(data))) as upload:
            send(upload, 0, part_of(upload, data, 0))
            with pytest.raises(DigestMismatch):
                send(upload, 1, content(PART_BYTES, seed=9), claim=blake3(part_of(upload, data, 1)).hexdigest())
            assert upload.missing() == [(1, 2)]
            send_missing(upload, data)
            upload.commit(digest(data), None)
        assert read(storage, "big") == data

    def test_part_stays_missing_when_it_ends_early(self, storage: Storage) -> None:
        data = content(2 * PART_BYTES + 5)
        with storage.open_upload(OWNER, new_file("big", len(data))) as upload:
            for number in (1, *[0] * (BUFFERS + 1)):  # more often than there are buffers: each comes back
                with upload.part(number, PART_BYTES) as part:
                    view = next(iter(part))
                    view[:] = b"\xff" * len(view)
            with upload.part(0, PART_BYTES) as part:
                views = iter(part)
                for _ in range(3):
                    next(views)[:4] = b"torn"
            assert upload.missing() == [(0, 2)]
            send_missing(upload, data)
            upload.commit(digest(data), None)
        assert read(storage, "big") == data

    def test_part_that_is_stored_never_changes(self, storage: Storage) -> None:
        data = content(2 * PART_BYTES)
        with storage.open_upload(OWNER, new_file("big", len(data))) as upload:
            send_missing(upload, data)
            send(upload, 0, part_of(upload, data, 0))
            with pytest.raises(DigestMismatch):
                send(upload, 0, content(PART_BYTES, seed=9))
            assert upload.missing() == []
            upload.commit(digest(data), None)
        assert read(storage, "big") == data

    def test_part_is_refused_when_another_connection_is_sending_it(self, storage: Storage) -> None:
        with (
            storage.open_upload(OWNER, new_file("big", 10)) as one,
            storage.find_upload(OWNER, one.id) as other,
        ):
            with one.part(0, 10):
                with pytest.raises(Busy):
                    other.part(0, 10)
                with pytest.raises(Incomplete):
                    other.commit(digest(b"0123456789"), None)
            send(other, 0, b"0123456789")
            other.commit(digest(b"0123456789"), None)

    @pytest.mark.parametrize(
        ("number", "length"),
        [(-1, PART_BYTES), (0, 0), (0, PART_BYTES - 1), (0, PART_BYTES + 1), (1, 6), (1, 4), (2, 5), (2, 0), (1, -5)],
    )
    def test_part_is_refused_when_the_upload_cannot_have_it(self, storage: Storage, number: int, length: int) -> None:
        with storage.open_upload(OWNER, new_file("big", PART_BYTES + 5)) as upload, pytest.raises(InvalidRequest):
            upload.part(number, length)

    def test_commit_drops_the_upload_when_the_whole_digest_differs(self, storage: Storage) -> None:
        put(storage, "big", b"old")
        data = content(PART_BYTES + 5)
        with storage.open_upload(OWNER, new_file("big", len(data))) as upload:
            send_missing(upload, data)
            with pytest.raises(DigestMismatch):
                upload.commit(digest(b"other"), None)
            with pytest.raises(UnknownUpload):
                upload.commit(digest(data), None)
            with pytest.raises(UnknownUpload):
                upload.part(0, PART_BYTES)
        assert storage.uploads() == []
        assert read(storage, "big") == b"old"
        with storage.open_upload(OWNER, new_file("big", len(data))) as upload:
            assert upload.missing() == [(0, 1)]

    def test_commit_refuses_another_size_than_announced(self, storage: Storage) -> None:
        with storage.open_upload(OWNER, new_file("big", 3)) as upload:
            send(upload, 0, b"abc")
            with pytest.raises(InvalidRequest):
                upload.commit(digest(b"abc"), 4)
            upload.commit(digest(b"abc"), 3)

    def test_commit_twice_has_the_same_answer(self, storage: Storage) -> None:
        with (
            storage.open_upload(OWNER, new_file("big", 3)) as upload,
            storage.find_upload(OWNER, upload.id) as other,
        ):
            send(upload, 0, b"abc")
            info = upload.commit(digest(b"abc"), None)
            assert other.commit(digest(b"abc"), None) == info
            with pytest.raises(UnknownUpload):
                other.commit(digest(b"abd"), None)

    def test_commit_is_refused_when_the_condition_fails_at_the_end(self, storage: Storage) -> None:
        for condition, error in (("absent", AlreadyExists), (digest(b"1"), Changed)):
            if error is Changed:
                put(storage, "big", b"1")
            with storage.open_upload(OWNER, new_file("big", 3, condition)) as upload:
                send_missing(upload, b"abc")
                put(storage, "big", b"2")
                with pytest.raises(error):
                    upload.commit(digest(b"abc"), None)
            assert read(storage, "big") == b"2"

    def test_commit_keeps_the_condition_of_its_own_put_when_another_asks_for_none(self, storage: Storage) -> None:
        with storage.open_upload(OWNER, new_file("big", 3, "absent")) as upload:
            storage.open_upload(OWNER, new_file("big", 3)).close()
            send_missing(upload, b"abc")
            put(storage, "big", b"theirs")
            with pytest.raises(AlreadyExists):
                upload.commit(digest(b"abc"), None)
        assert read(storage, "big") == b"theirs"

    def test_commit_if_absent_is_refused_when_a_put_without_condition_published_the_same_upload(
        self, storage: Storage
    ) -> None:
        with (
            storage.open_upload(OWNER, new_file("big", 3, "absent")) as upload,
            storage.open_upload(OWNER, new_file("big", 3)) as other,
        ):
            send_missing(other, b"abc")
            info = other.commit(digest(b"abc"), None)
            with pytest.raises(AlreadyExists):
                upload.commit(digest(b"abc"), None)
            assert other.commit(digest(b"abc"), None) == info

    def test_upload_is_refused_at_once_when_nothing_could_be_published(self, storage: Storage) -> None:
        put(storage, "d/file", b"x")
        with pytest.raises(IsADirectory):
            storage.open_upload(OWNER, new_file("d", 3))
        with pytest.raises(NotADirectory):
            storage.open_upload(OWNER, new_file("d/file/x", 3))
        with pytest.raises(NotADirectory):
            storage.open_upload(OWNER, new_file("d/file/x", 3, "absent"))
        assert storage.uploads() == []

    def test_interrupted_storage_opens_no_upload(self, storage: Storage) -> None:
        storage.interrupt()
        with pytest.raises(ShuttingDown):
            storage.open_upload(OWNER, new_file("a", 3))

    def test_commit_takes_mode_and_condition_of_the_last_put(self, storage: Storage) -> None:
        with storage.open_upload(OWNER, new_file("big", 3, "absent")) as upload:
            send(upload, 0, b"abc")
        put(storage, "big", b"there")
        file = NewFile(path("big"), 3, MTIME, 0o600, "blake3", digest(b"there"))
        with storage.open_upload(OWNER, file) as upload:
            assert upload.missing() == []
            assert upload.commit(digest(b"abc", "blake3"), None).mode == 0o600
        assert read(storage, "big") == b"abc"

    def test_commit_verifies_with_the_digest_that_it_names(self, storage: Storage) -> None:
        data = content(PART_BYTES + 5)
        with storage.open_upload(OWNER, new_file("big", len(data))) as upload:
            send_missing(upload, data)
            info = upload.commit(digest(data, "blake3"), None)
        assert info.blake3 == blake3(data).hexdigest()

    @pytest.mark.parametrize("size", [0, 1, 16 * MIB, 16 * MIB + 3])
    def test_upload_of_unknown_length_is_named_at_commit(self, storage: Storage, size: int) -> None:
        data = content(size)
        with storage.open_upload(OWNER, new_file("stream", None)) as upload:
            assert upload.missing() == [] and upload.file_size is None
            for number in range(-(-size // upload.part_size)):
                with storage.find_upload(OWNER, upload.id) as again:
                    send(again, number, part_of(upload, data, number))
            with pytest.raises(InvalidRequest):
                upload.commit(digest(data), None)
            info = upload.commit(digest(data), size)
        assert info.size == size
        assert read(storage, "stream") == data

    def test_upload_of_unknown_length_refuses_parts_that_make_no_file(self, storage: Storage) -> None:
        with storage.open_upload(OWNER, new_file("stream", None)) as upload:
            for length in (0, upload.part_size + 1):
                with pytest.raises(InvalidRequest):
                    upload.part(0, length)
            send(upload, 0, b"short")
            send(upload, 1, b"tail")
            for size in (9, 5, 0):
                with pytest.raises((InvalidRequest, Incomplete)):
                    upload.commit(digest(b"shorttail"), size)
        assert names(storage) == []

    def test_abort_leaves_nothing(self, storage: Storage) -> None:
        with storage.open_upload(OWNER, new_file("big", 10)) as upload:
            send(upload, 0, b"0123456789")
            upload.abort()
            upload.abort()
            with pytest.raises(UnknownUpload):
                upload.commit(digest(b"0123456789"), None)
        assert storage.uploads() == []
        assert names(storage) == []

    def test_close_lets_go_of_one_hand_only(self, storage: Storage) -> None:
        one = storage.open_upload(OWNER, new_file("big", 3))
        other = storage.open_upload(OWNER, new_file("big", 3))
        one.close()
        one.close()
        send(other, 0, b"abc")
        other.commit(digest(b"abc"), None)
        other.close()

    def test_sweep_drops_what_expired_and_spares_what_is_open(self, storage: Storage) -> None:
        with storage.open_upload(OWNER, new_file("kept", 10)) as kept:
            with storage.open_upload(OWNER, new_file("left", 10)) as left:
                pass
            assert storage.sweep(expire_seconds=3600) == 0
            assert sorted(storage.uploads()) == sorted([kept.id, left.id])
            assert storage.sweep(expire_seconds=-1) == 1
            assert storage.uploads() == [kept.id]
            with pytest.raises(UnknownUpload):
                storage.find_upload(OWNER, left.id)
            send(kept, 0, b"0123456789")
            kept.commit(digest(b"0123456789"), None)

    def test_refusals_name_the_path_and_nothing_of_the_host(self, storage: Storage) -> None:
        for work in (storage.stat, storage.open, lambda where: storage.ls(where, recursive=False)):
            with pytest.raises(NotFound) as refused:
                work(path("no/such"))
            assert str(refused.value).startswith("no/such: ")
            assert os.sep + "tmp" not in str(refused.value)


def at_once(count: int, work: Callable[[int], object]) -> list[object]:
    """``work(n)`` for n < count in threads that start together: each one's result, or the RequestError it raised."""
    start = threading.Barrier(count)
    results: list[object] = [None] * count

    def one(number: int) -> None:
        start.wait()
        try:
            results[number] = work(number)
        except RequestError as error:
            results[number] = error

    threads = [threading.Thread(target=one, args=[number]) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
