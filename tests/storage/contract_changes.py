"""What every storage must do when something is removed or moved; the second half of the contract."""

from __future__ import annotations

import threading
from typing import Literal

import pytest

from ftpy.errors import (
    AlreadyExists,
    Changed,
    InvalidPath,
    InvalidRequest,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
    RequestError,
)
from ftpy.files import FileInfo, RemotePath
from ftpy.storage.base import Moved, NewDirectory, Removed, Storage
from tests.paths import LITERAL, NOT_PORTABLE
from tests.storage.contract import (
    OWNER,
    at_once,
    digest,
    names,
    new_file,
    path,
    put,
    read,
    send_missing,
)


def make_folder(storage: Storage, name: str, mtime_ns: int | None = None) -> None:
    (made,) = storage.publish([storage.stage_directory(NewDirectory(path(name), parents=True, mtime_ns=mtime_ns))])
    assert isinstance(made, FileInfo)


def rm(storage: Storage, name: str, *, recursive: bool = False) -> Removed:
    return storage.rm(path(name), recursive=recursive)


def mv(storage: Storage, name: str, to: str, condition: Literal["absent"] | None = None) -> Moved:
    return storage.mv(path(name), path(to), condition=condition)


class ChangesContract:
    """The rules; ``storage`` is a fixture of the class that inherits."""

    # ---------------------------------------------------------------- touch

    def test_touch_makes_an_empty_file_and_its_folders_where_nothing_is(self, storage: Storage) -> None:
        touched = storage.touch(path("d/e/a"), 5, create=True)
        assert touched.created and (touched.info.size, touched.info.mtime_ns) == (0, 5)
        assert names(storage) == ["d", "d/e", "d/e/a"]
        assert storage.stat(path("d/e/a")).md5 == digest(b"").hex

    @pytest.mark.parametrize("create", [True, False])
    def test_touch_changes_the_time_of_what_is_there_and_nothing_else(self, storage: Storage, create: bool) -> None:
        put(storage, "d/a", b"123")
        before = storage.stat(path("d/a"))
        touched = storage.touch(path("d/a"), -7, create=create)
        assert not touched.created
        after = storage.stat(path("d/a"))
        assert after == touched.info and after.etag != before.etag
        assert (after.mtime_ns, after.size, after.mode, after.md5) == (-7, 3, before.mode, digest(b"123").hex)
        assert read(storage, "d/a") == b"123"
        assert storage.touch(path("d"), 9, create=create).info == storage.stat(path("d"))
        assert storage.stat(path("d")).mtime_ns == 9

    def test_touch_refuses_what_is_not_there_when_it_may_make_nothing(self, storage: Storage) -> None:
        for replacing in (True, False):
            with pytest.raises(NotFound):
                storage.touch(path("d/a"), 5, create=False, replacing=replacing)
        assert names(storage) == []

    def test_touch_leaves_alone_what_may_not_be_replaced(self, storage: Storage) -> None:
        put(storage, "a", b"123")
        before = storage.stat(path("a"))
        with pytest.raises(AlreadyExists):
            storage.touch(path("a"), 5, create=True, replacing=False)
        assert storage.stat(path("a")) == before
        assert storage.touch(path("b"), 5, create=True, replacing=False).created

    def test_touch_refuses_the_root_and_impossible_places_and_names(self, storage: Storage) -> None:
        put(storage, "a", b"123")
        with pytest.raises(InvalidPath):
            storage.touch(RemotePath(), 5, create=True)
        with pytest.raises(NotADirectory):
            storage.touch(path("a/b"), 5, create=True)
        with pytest.raises(InvalidPath):
            storage.touch(path("CON"), 5, create=True)
        assert names(storage) == ["a"]

    # ---------------------------------------------------------------- room

    def test_room_is_what_a_disk_can_have(self, storage: Storage) -> None:
        room = storage.room()
        assert room.bytes is None or room.free_bytes is None or 0 <= room.free_bytes <= room.bytes

    # ---------------------------------------------------------------- rm

    def test_rm_removes_one_file_and_nothing_else(self, storage: Storage) -> None:
        for name in ("d/a", "d/b", "a"):
            put(storage, name, b"123")
        assert rm(storage, "d/a") == Removed(files=1, folders=0, size=3)
        assert names(storage) == ["a", "d", "d/b"]
        with pytest.raises(NotFound):
            storage.open(path("d/a"))
        with pytest.raises(NotFound):
            rm(storage, "d/a")

    def test_rm_removes_an_empty_folder_and_refuses_another(self, storage: Storage) -> None:
        put(storage, "d/a", b"1")
        for recursively_empty in ("e", "d/e"):
            make_folder(storage, recursively_empty)
            assert rm(storage, recursively_empty) == Removed(files=0, folders=1, size=0)
        with pytest.raises(NotEmpty):
            rm(storage, "d")
        assert names(storage) == ["d", "d/a"]

    def test_rm_recursive_removes_a_folder_with_all_below_it_and_counts(self, storage: Storage) -> None:
        for number in range(40):
            put(storage, f"d/{number % 4}/{number}", b"x" * number)
        make_folder(storage, "d/empty/er")
        put(storage, "e", b"")
        heard: list[int] = []
        removed = storage.rm(path("d"), recursive=True, on_removed=heard.append)
        assert removed == Removed(files=40, folders=7, size=sum(range(40)))
        assert heard == sorted(heard) and heard[-1] == 47
        assert names(storage) == ["e"]
        assert rm(storage, "e", recursive=True) == Removed(files=1, folders=0, size=0)

    def test_rm_recursive_takes_a_tree_as_deep_as_a_path_can_be(self, storage: Storage) -> None:
        put(storage, "/".join(["d"] * 64), b"1")
        assert rm(storage, "d", recursive=True) == Removed(files=1, folders=63, size=1)
        assert names(storage) == []

    @pytest.mark.parametrize("recursive", [False, True])
    def test_rm_refuses_the_root_and_what_is_not_there(self, storage: Storage, recursive: bool) -> None:
        put(storage, "a", b"1")
        for name, error in (("", InvalidPath), ("none", NotFound), ("none/a", NotFound), ("a/b", NotADirectory)):
            with pytest.raises(error):
                rm(storage, name, recursive=recursive)
        assert names(storage) == ["a"]

    @pytest.mark.parametrize("text", [*LITERAL.values()], ids=[*LITERAL])
    def test_rm_and_mv_take_a_name_literally(self, storage: Storage, text: str) -> None:
        put(storage, "another-name", b"1")
        if path(text).parent.parts:
            make_folder(storage, str(path(text).parent))
        mv(storage, "another-name", text)
        assert read(storage, text) == b"1"
        mv(storage, text, "another-name")
        mv(storage, "another-name", text)
        assert rm(storage, text).files == 1
        assert not {"another-name", text} & {*names(storage)}

    def test_rm_lets_who_reads_go_on_to_the_end(self, storage: Storage) -> None:
        put(storage, "d/a", b"123")
        with storage.open(path("d/a")) as reader:
            rm(storage, "d", recursive=True)
            view = memoryview(bytearray(3))
            assert reader.read_at(0, view) == 3 and view == b"123"
            reader.check_unchanged()

    def test_rm_has_one_winner_when_many_race(self, storage: Storage) -> None:
        put(storage, "d/a", b"1")
        for work, files in ((lambda _: rm(storage, "d/a"), 1), (lambda _: rm(storage, "d", recursive=True), 0)):
            results = at_once(8, work)
            assert [result.files for result in results if isinstance(result, Removed)] == [files]
            assert sum(isinstance(result, NotFound) for result in results) == 7

    def test_put_after_rm_makes_the_folders_again(self, storage: Storage) -> None:
        put(storage, "d/e/a", b"1")
        rm(storage, "d", recursive=True)
        put(storage, "d/e/a", b"2", "absent")
        assert read(storage, "d/e/a") == b"2"

    # ---------------------------------------------------------------- mv

    def test_mv_gives_a_file_another_path_with_all_that_is_known_of_it(self, storage: Storage) -> None:
        before = put(storage, "a", b"123")
        make_folder(storage, "d")
        moved = mv(storage, "a", "d/b")
        assert moved.replaced is None and moved.info == storage.stat(path("d/b"))
        kept = (before.type, before.size, before.mtime_ns, before.mode, before.md5)
        assert (moved.info.type, moved.info.size, moved.info.mtime_ns, moved.info.mode, moved.info.md5) == kept
        assert names(storage) == ["d", "d/b"] and read(storage, "d/b") == b"123"
        with pytest.raises(NotFound):
            mv(storage, "a", "c")

    def test_mv_gives_a_folder_another_path_with_all_below_it(self, storage: Storage) -> None:
        put(storage, "d/e/a", b"123")
        etag = storage.stat(path("d/e/a")).etag
        assert mv(storage, "d", "f").info.type == "directory"
        assert names(storage) == ["f", "f/e", "f/e/a"]
        info = storage.stat(path("f/e/a"))
        assert (info.md5, info.etag) == (digest(b"123").hex, etag)
        mv(storage, "f/e", "d")
        assert names(storage) == ["d", "d/a", "f"]

    def test_mv_replaces_a_file_unless_it_must_be_absent(self, storage: Storage) -> None:
        put(storage, "a", b"new")
        put(storage, "b", b"older")
        with pytest.raises(AlreadyExists):
            mv(storage, "a", "b", "absent")
        assert read(storage, "a") == b"new" and read(storage, "b") == b"older"
        replaced = mv(storage, "a", "b").replaced
        assert replaced is not None and (replaced.size, str(replaced.path)) == (5, "b")
        assert names(storage) == ["b"] and read(storage, "b") == b"new"
        mv(storage, "b", "c", "absent")
        assert names(storage) == ["c"]

    def test_mv_never_replaces_a_folder_nor_anything_by_one(self, storage: Storage) -> None:
        put(storage, "file", b"1")
        put(storage, "folder/a", b"2")
        make_folder(storage, "empty")
        before = names(storage)
        for name, to, error in (
            ("file", "folder", IsADirectory),
            ("file", "empty", IsADirectory),
            ("folder", "empty", AlreadyExists),
            ("folder", "file", AlreadyExists),
            ("empty", "folder", AlreadyExists),
        ):
            with pytest.raises(error):
                mv(storage, name, to)
            with pytest.raises(AlreadyExists):
                mv(storage, name, to, "absent")
        assert names(storage) == before

    def test_mv_refuses_the_root_itself_and_what_is_below_it(self, storage: Storage) -> None:
        put(storage, "d/e/a", b"1")
        before = names(storage)
        for name, to, error in (
            ("", "x", InvalidPath),
            ("d", "", InvalidPath),
            ("d", "d", InvalidRequest),
            ("d/e/a", "d/e/a", InvalidRequest),
            ("d", "d/x", InvalidRequest),
            ("d", "d/e/x", InvalidRequest),
            ("none", "x", NotFound),
            ("d/e/a/b", "x", NotADirectory),
            ("d/e/a", "d/e/none/x", NotFound),
            ("d", "none/x", NotFound),
        ):
            with pytest.raises(error):
                mv(storage, name, to)
        assert names(storage) == before

    def test_mv_beside_a_name_that_begins_alike_is_no_move_into_itself(self, storage: Storage) -> None:
        put(storage, "d/a", b"1")
        mv(storage, "d", "dd")
        mv(storage, "dd", "d")
        assert names(storage) == ["d", "d/a"]

    @pytest.mark.parametrize("text", list(NOT_PORTABLE.values()), ids=[*NOT_PORTABLE])
    def test_mv_refuses_a_new_name_that_is_not_portable(self, storage: Storage, text: str) -> None:
        put(storage, "a", b"1")
        with pytest.raises(InvalidPath):
            storage.mv(path("a"), path(text))
        assert names(storage) == ["a"]

    def test_mv_if_absent_has_one_winner_when_many_race(self, storage: Storage) -> None:
        for number in range(8):
            put(storage, f"a{number}", b"%d" % number)
        results = at_once(8, lambda n: mv(storage, f"a{n}", "b", "absent"))
        (winner,) = [n for n, result in enumerate(results) if isinstance(result, Moved)]
        assert sum(isinstance(result, AlreadyExists) for result in results) == 7
        assert read(storage, "b") == b"%d" % winner and len(names(storage)) == 8

    def test_mv_of_one_path_has_one_winner_when_many_race(self, storage: Storage) -> None:
        put(storage, "d/a", b"1")
        for name in ("d/a", "d"):
            results = at_once(8, lambda n, name=name: mv(storage, name, f"{len(name)}-{n}"))  # type: ignore[misc]
            assert sum(isinstance(result, Moved) for result in results) == 1
            assert sum(isinstance(result, NotFound) for result in results) == 7

    # ---------------------------------------------------------------- beside puts

    def test_put_if_digest_sees_what_was_removed_or_moved(self, storage: Storage) -> None:
        put(storage, "a", b"1")
        put(storage, "b", b"2")
        rm(storage, "a")
        with pytest.raises(Changed):
            put(storage, "a", b"3", digest(b"1"))
        mv(storage, "b", "a")
        put(storage, "a", b"3", digest(b"2"))
        assert read(storage, "a") == b"3"

    @pytest.mark.parametrize("word", ["rm", "mv"])
    def test_upload_below_a_folder_that_goes_makes_its_folders_anew(self, storage: Storage, word: str) -> None:
        put(storage, "d/e/a", b"1")
        with storage.open_upload(OWNER, new_file("d/e/big", 3)) as upload:
            rm(storage, "d", recursive=True) if word == "rm" else mv(storage, "d", "f")
            send_missing(upload, b"abc")
            upload.commit(digest(b"abc"), None)
        assert read(storage, "d/e/big") == b"abc"
        assert names(storage, "d") == ["d/e", "d/e/big"]

    def test_upload_whose_file_was_removed_or_moved_is_judged_by_its_condition(self, storage: Storage) -> None:
        for word in ("rm", "mv"):
            put(storage, "a", b"1")
            with storage.open_upload(OWNER, new_file("a", 3, digest(b"1"))) as upload:
                rm(storage, "a") if word == "rm" else mv(storage, "a", "b")
                send_missing(upload, b"abc")
                with pytest.raises(Changed):
                    upload.commit(digest(b"abc"), None)
                upload.abort()
            assert "a" not in names(storage)

    def test_nothing_acknowledged_is_lost_while_folders_go_and_come(self, storage: Storage) -> None:
        """Each file is put once; whatever an rm or mv did not take is there, and what they took they have counted."""
        rounds, taken, moved = 60, [0], [0]
        done = threading.Event()

        def shift() -> None:
            while not done.is_set():
                for work in (take, move):
                    try:
                        work()
                    except NotFound:
                        pass  # not there yet

        def take() -> None:
            taken[0] += rm(storage, "d", recursive=True).files

        def move() -> None:
            mv(storage, "d", f"m{moved[0]}")
            moved[0] += 1

        shifting = threading.Thread(target=shift)
        shifting.start()
        try:
            results = at_once(4, lambda n: [put(storage, f"d/e/{n}-{k}", b"x") for k in range(rounds)])
        finally:
            done.set()
            shifting.join()
        assert not [result for result in results if isinstance(result, RequestError)]
        left = sum(info.type == "file" for info in storage.ls(RemotePath(), recursive=True))
        assert left + taken[0] == 4 * rounds
