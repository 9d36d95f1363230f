"""What every storage must do with trees that are put as one thing; a part of the contract."""

from __future__ import annotations

from typing import Literal

import pytest

from ftpy.errors import (
    AlreadyExists,
    Incomplete,
    InvalidPath,
    NoPrevious,
    NotADirectory,
    NotFound,
    RequestError,
    UnknownTree,
    UnknownUpload,
)
from ftpy.files import FileInfo
from ftpy.storage.base import MIB, NewDirectory, NewFile, StagedTree, Storage
from ftpy.storage.treebase import Census, Swapped
from tests.storage.contract import MTIME, OWNER, content, digest, names, part_of, path, put, read, send, send_missing

Content = dict[str, bytes]
OLD: Content = {"a": b"old", "d/b": b"old b", "gone": b"x"}
NEW: Content = {"a": b"new", "d/b": b"new b", "d/e/é": b"new e"}


def stage_tree(storage: Storage, name: str = "site", owner: str = OWNER) -> StagedTree:
    return storage.trees.stage(owner, path(name))[0]


def put_in(storage: Storage, tree: StagedTree, name: str, data: bytes) -> FileInfo:
    """A file into a staged tree, its name relative to the tree."""
    file = NewFile(tree.path / name, len(data), MTIME, tree=tree)
    (result,) = storage.publish([storage.stage(file, memoryview(data), digest(data))])
    if isinstance(result, RequestError):
        raise result
    return result


def fill(storage: Storage, tree: StagedTree, content: Content) -> None:
    for name, data in content.items():
        put_in(storage, tree, name, data)


def census_of(content: Content) -> Census:
    folders = {name.rsplit("/", depth)[0] for name in content for depth in range(1, name.count("/") + 1)}
    return Census(len(content), len(folders), sum(map(len, content.values())))


def put_tree(
    storage: Storage, content: Content, name: str = "site", condition: Literal["absent"] | None = None
) -> Swapped:
    """All of it as one thing."""
    tree = stage_tree(storage, name)
    fill(storage, tree, content)
    return storage.trees.swap(tree, census_of(content), condition=condition)


def content_of(storage: Storage, name: str = "site") -> Content:
    """What a reader finds there."""
    return {
        str(info.path)[len(name) + 1 :]: read(storage, str(info.path))
        for info in storage.ls(path(name), recursive=True)
        if info.type == "file"
    }


class TreesContract:
    """The rules; ``storage`` is a fixture of the class that inherits."""

    def test_a_tree_is_seen_whole_once_it_is_in_place_and_nothing_of_it_before(self, storage: Storage) -> None:
        tree = stage_tree(storage)
        fill(storage, tree, NEW)
        assert names(storage) == []
        with pytest.raises(NotFound):
            storage.stat(path("site/a"))
        assert storage.trees.swap(tree, census_of(NEW)) == Swapped(replaced=False)
        assert content_of(storage) == NEW
        assert storage.stat(path("site/a")).md5 == digest(b"new").hex  # it stays known

    def test_a_tree_takes_the_place_of_another_with_all_that_is_in_that(self, storage: Storage) -> None:
        for name, data in OLD.items():
            put(storage, f"site/{name}", data)
        assert put_tree(storage, NEW) == Swapped(replaced=True)
        assert content_of(storage) == NEW
        assert [info for info in names(storage) if not info.startswith("site")] == []

    def test_an_incomplete_tree_is_never_put_in_place_and_goes_on(self, storage: Storage) -> None:
        put(storage, "site/a", b"old")
        tree, census = stage_tree(storage), census_of(NEW)
        put_in(storage, tree, "a", NEW["a"])
        wrong = [
            census,
            Census(0, 0, 0),
            Census(1, 0, 4),
            Census(1, 1, 3),
            Census(2, 0, 3),
        ]
        for one in wrong:
            with pytest.raises(Incomplete, match="1 files of 3 bytes in 0 folders are staged"):
                storage.trees.swap(tree, one)
        assert content_of(storage) == {"a": b"old"}
        fill(storage, tree, NEW)
        assert storage.trees.swap(tree, census).replaced and content_of(storage) == NEW

    def test_an_empty_tree_is_a_tree(self, storage: Storage) -> None:
        put(storage, "site/a", b"old")
        assert put_tree(storage, {}).replaced and content_of(storage) == {}

    def test_a_swap_asked_again_says_what_it_said_and_does_nothing(self, storage: Storage) -> None:
        for replaced in (False, True):
            tree = stage_tree(storage)
            fill(storage, tree, NEW)
            first = storage.trees.swap(tree, census_of(NEW))
            put(storage, "site/a", b"put since")
            assert storage.trees.swap(tree, census_of(NEW)) == first == Swapped(replaced=replaced)
            assert read(storage, "site/a") == b"put since"

    def test_a_tree_under_the_condition_absent_replaces_nothing(self, storage: Storage) -> None:
        tree, _ = storage.trees.stage(OWNER, path("site"), condition="absent")
        fill(storage, tree, NEW)
        put(storage, "site/a", b"came meanwhile")
        with pytest.raises(AlreadyExists):
            storage.trees.swap(tree, census_of(NEW), condition="absent")
        with pytest.raises(AlreadyExists):
            storage.trees.stage(OWNER, path("site"), condition="absent")
        assert content_of(storage) == {"a": b"came meanwhile"}
        storage.rm(path("site"), recursive=True)
        assert storage.trees.swap(tree, census_of(NEW), condition="absent") == Swapped(replaced=False)

    def test_a_tree_takes_the_place_of_a_folder_only(self, storage: Storage) -> None:
        put(storage, "file", b"x")
        with pytest.raises(NotADirectory):
            stage_tree(storage, "file")
        with pytest.raises(NotADirectory):
            stage_tree(storage, "file/below")
        with pytest.raises(InvalidPath):
            storage.trees.stage(OWNER, path(""))
        with pytest.raises(InvalidPath):
            storage.trees.rollback(path(""))
        tree = stage_tree(storage)
        put(storage, "site", b"a file by now")
        with pytest.raises(NotADirectory):
            storage.trees.swap(tree, Census(0, 0, 0))
        assert read(storage, "site") == b"a file by now" and read(storage, "file") == b"x"

    def test_the_folders_above_a_tree_are_made(self, storage: Storage) -> None:
        put_tree(storage, NEW, "some/where/site")
        assert content_of(storage, "some/where/site") == NEW

    def test_rollback_goes_back_and_a_second_one_returns(self, storage: Storage) -> None:
        put_tree(storage, OLD)
        put_tree(storage, NEW)
        for there in (OLD, NEW, OLD):
            assert storage.trees.rollback(path("site")) == Swapped(replaced=True)
            assert content_of(storage) == there
        put_tree(storage, {"third": b"3"})
        assert storage.trees.rollback(path("site")).replaced and content_of(storage) == OLD

    def test_rollback_brings_back_what_was_before_also_where_nothing_is_now(self, storage: Storage) -> None:
        put_tree(storage, OLD)
        put_tree(storage, NEW)
        storage.rm(path("site"), recursive=True)
        assert storage.trees.rollback(path("site")) == Swapped(replaced=False)
        assert content_of(storage) == OLD
        with pytest.raises(NoPrevious):
            storage.trees.rollback(path("site"))

    def test_there_is_nothing_to_go_back_to_where_nothing_was_before(self, storage: Storage) -> None:
        put(storage, "other/a", b"x")
        for name in ("none", "other", "other/a"):
            with pytest.raises((NoPrevious, NotADirectory)):
                storage.trees.rollback(path(name))
        put_tree(storage, NEW)
        with pytest.raises(NoPrevious, match="nothing was there before"):
            storage.trees.rollback(path("site"))
        assert content_of(storage) == NEW

    def test_a_tree_is_found_again_by_its_owner_and_path_and_taken_over(self, storage: Storage) -> None:
        first, again = storage.trees.stage(OWNER, path("site"))
        assert not again
        put_in(storage, first, "a", NEW["a"])
        with storage.open_upload(OWNER, NewFile(path("site/large"), 3, MTIME, tree=first)) as late:
            send_missing(late, b"abc")
            second, again = storage.trees.stage(OWNER, path("site"))
            assert again and second.id != first.id
            for refused in (
                lambda: put_in(storage, first, "b", b"late"),
                lambda: storage.trees.swap(first, Census(1, 0, 3)),
                lambda: storage.trees.discard(first),
                lambda: storage.trees.find(OWNER, path("site"), first.id),
                lambda: late.commit(digest(b"abc"), None),
            ):
                with pytest.raises(UnknownTree):
                    refused()
            late.abort()
        for owner, name in (("bob", "site"), (OWNER, "other"), (OWNER, "site/below")):
            assert not storage.trees.stage(owner, path(name))[1]
        fill(storage, second, NEW)
        storage.trees.swap(second, census_of(NEW))
        assert content_of(storage) == NEW

    def test_a_tree_is_its_owners_and_holds_what_is_below_its_path(self, storage: Storage) -> None:
        tree = stage_tree(storage)
        assert storage.trees.find(OWNER, path("site/a/b"), tree.id) == tree
        for owner, tree_id in (("bob", tree.id), (OWNER, "0" * 32), (OWNER, "../" * 10), (OWNER, tree.id.upper())):
            with pytest.raises(UnknownTree):
                storage.trees.find(owner, path("site"), tree_id)
        for foreign in (StagedTree("bob", tree.path, tree.id), StagedTree(OWNER, path("other"), tree.id)):
            with pytest.raises(UnknownTree):
                storage.trees.swap(foreign, Census(0, 0, 0))
            with pytest.raises(UnknownTree):
                storage.trees.discard(foreign)
        assert names(storage) == []
        for name in ("sit", "site2", "other/site", ""):
            with pytest.raises(InvalidPath):
                storage.trees.find(OWNER, path(name), tree.id)

    def test_a_tree_that_is_discarded_is_no_more(self, storage: Storage) -> None:
        tree = stage_tree(storage)
        fill(storage, tree, NEW)
        storage.trees.discard(tree)
        for refused in (
            lambda: put_in(storage, tree, "d/a", b"x"),
            lambda: storage.trees.discard(tree),
            lambda: storage.trees.swap(tree, census_of(NEW)),
        ):
            with pytest.raises(UnknownTree):
                refused()
        assert names(storage) == [] and not storage.trees.stage(OWNER, path("site"))[1]

    def test_folders_and_their_times_are_put_into_a_tree(self, storage: Storage) -> None:
        tree = stage_tree(storage)
        for name, mode in (("empty", 0o750), ("", 0o711)):
            folder = NewDirectory(
                tree.path / name if name else tree.path, parents=True, mode=mode, mtime_ns=MTIME, tree=tree
            )
            assert isinstance(storage.publish([storage.stage_directory(folder)])[0], FileInfo)
        assert names(storage) == []
        storage.trees.swap(tree, Census(0, 1, 0))
        for name, mode in (("site/empty", 0o750), ("site", 0o711)):
            info = storage.stat(path(name))
            assert (info.type, info.mode, info.mtime_ns) == ("directory", mode, MTIME)

    def test_what_is_staged_is_listed_and_read_by_who_names_the_tree(self, storage: Storage) -> None:
        put(storage, "site/a", b"old")
        tree = stage_tree(storage)
        fill(storage, tree, NEW)
        listed = list(storage.ls(path("site"), recursive=True, tree=tree))
        assert [str(info.path) for info in listed] == ["site/a", "site/d", "site/d/b", "site/d/e", "site/d/e/é"]
        assert listed[0].md5 == digest(b"new").hex
        assert [str(info.path) for info in storage.ls(path("site/d"), recursive=False, tree=tree)] == [
            "site/d/b",
            "site/d/e",
        ]
        with storage.open(path("site/d/e/é"), tree=tree) as reader:
            assert reader.read(0, 100) == b"new e" and reader.info.path == path("site/d/e/é")
        assert names(storage) == ["site", "site/a"]

    def test_uploads_go_into_a_tree_and_on_after_it_is_taken_over(self, storage: Storage) -> None:
        data = content(9 * MIB)
        tree = stage_tree(storage)
        file = NewFile(path("site/d/large"), len(data), MTIME, tree=tree)
        with storage.open_upload(OWNER, file) as upload:
            send(upload, 1, part_of(upload, data, 1))
            assert upload.path == path("site/d/large")
        tree = stage_tree(storage)
        file = NewFile(path("site/d/large"), len(data), MTIME, tree=tree)
        with storage.open_upload(OWNER, file) as upload:
            assert upload.missing() == [(0, 0)]  # the other one is there
            send_missing(upload, data)
            info = upload.commit(digest(data), None, replacing=False)
            assert info.path == path("site/d/large") and names(storage) == []
            storage.trees.swap(tree, Census(1, 1, len(data)))
            assert read(storage, "site/d/large") == data
            with pytest.raises(UnknownUpload):
                storage.find_upload(OWNER, upload.id).close()

    def test_an_upload_in_a_tree_is_not_the_one_at_its_path(self, storage: Storage) -> None:
        tree = stage_tree(storage)
        with (
            storage.open_upload(OWNER, NewFile(path("site/a"), 3, MTIME, tree=tree)) as staged,
            storage.open_upload(OWNER, NewFile(path("site/a"), 3, MTIME)) as plain,
        ):
            assert staged.id != plain.id
            send_missing(plain, b"abc")
            plain.commit(digest(b"abc"), None)
            assert content_of(storage) == {"a": b"abc"}
            send_missing(staged, b"xyz")
            staged.commit(digest(b"xyz"), None)
            assert content_of(storage) == {"a": b"abc"}
        assert storage.trees.swap(tree, Census(1, 0, 3)).replaced
        assert content_of(storage) == {"a": b"xyz"}

    def test_what_is_staged_expires_and_what_is_kept_too(self, storage: Storage) -> None:
        put_tree(storage, OLD)
        put_tree(storage, NEW)
        tree = stage_tree(storage, "other")
        fill(storage, tree, NEW)
        storage.sweep(expire_seconds=3600, trash_seconds=3600)
        assert storage.trees.find(OWNER, path("other"), tree.id) == tree
        assert storage.trees.rollback(path("site")).replaced and content_of(storage) == OLD
        storage.sweep(expire_seconds=-1, trash_seconds=-1)
        with pytest.raises(UnknownTree):
            storage.trees.find(OWNER, path("other"), tree.id)
        with pytest.raises(NoPrevious):
            storage.trees.rollback(path("site"))
        assert content_of(storage) == OLD
