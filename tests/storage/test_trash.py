"""Operations: what they replace and remove comes back, whole, wherever they or the undoing were broken off."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftpy.errors import (
    AlreadyExists,
    Changed,
    InvalidRequest,
    IoError,
    NoSpace,
    NotADirectory,
    NotEmpty,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    RequestError,
    UnknownOperation,
)
from ftpy.files import FileInfo, RemotePath
from ftpy.storage import syscalls
from ftpy.storage.base import KnownVersion, NewDirectory, NewFile, Quota, Storage
from ftpy.storage.beneath import Directory
from ftpy.storage.counting import CountedUsage
from ftpy.storage.local import LocalStorage
from ftpy.storage.operations import OperationKey, Undone
from ftpy.storage.publishing import Publisher
from ftpy.storage.record import FOLDER, Identity, Step, decode, encode, identity
from ftpy.storage.trash import Trash
from ftpy.storage.undoing import MOST_TOGETHER
from ftpy.storage.uploadbase import PART_BYTES
from tests.storage.conftest import MEMORY
from tests.storage.contract import MTIME, OWNER, at_once, content, digest, path, put, read, send_missing
from tests.storage.test_counting import Counted
from tests.storage.unwanted import wanted_while

pytestmark = pytest.mark.skipif(not hasattr(os, "preadv"), reason="no server runs here")

Tree = dict[str, Any]


def tree(root: Path) -> Tree:
    """What users see: path -> content, "folder", or where a link leads."""
    found: Tree = {}
    for name in sorted(root.rglob("*")):
        inner = str(name.relative_to(root))
        if not inner.startswith(".ftpy"):
            mode = name.lstat().st_mode
            found[inner] = (
                "folder" if stat.S_ISDIR(mode) else os.readlink(name) if stat.S_ISLNK(mode) else name.read_bytes()
            )
    return found


def begun(storage: Storage, what: str = "a test", owner: str = OWNER) -> OperationKey:
    key = OperationKey(owner, secrets.token_hex(16))
    storage.begin(key, what)
    return key


def staged(storage: Storage, name: str, data: bytes, key: OperationKey | None, condition: Any = None) -> Any:
    file = NewFile(path(name), len(data), MTIME, None, "md5", condition, key)
    return storage.stage(file, memoryview(data), digest(data))


def put_in(storage: Storage, name: str, data: bytes, key: OperationKey, condition: Any = None) -> FileInfo:
    (result,) = storage.publish([staged(storage, name, data, key, condition)])
    if isinstance(result, RequestError):
        raise result
    return result


def undo(storage: Storage, key: OperationKey) -> tuple[OperationKey, Undone]:
    by = begun(storage, "undo")
    return by, storage.undo(key, by, lambda effect, path: True)


# ------------------------------------------------------------------ the record


@pytest.mark.parametrize(
    "step",
    [
        Step(path("a/b"), None, Identity("file", 3, -5, 7)),
        Step(path("a"), Identity("symlink", 0, 1, 2), None, "00ff"),
        Step(path('q"\\x'), Identity("file", 0, 0, 1), Identity("file", 2**62, 2**62, 2**63), "0f", path("o")),
        Step(path("é/\udcff"), None, FOLDER),
    ],
)
def test_a_step_is_read_as_it_was_written_and_cut_off_it_is_none(step: Step) -> None:
    line = encode([step])
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert decode(line[:-1]) == step
    assert [decode(line[:end]) for end in range(len(line) - 1)] == [None] * (len(line) - 1)


@pytest.mark.parametrize("piece", [1, 7, 64, 1000])
@pytest.mark.parametrize("torn", [b"", b'{"do":"added",'])
def test_a_record_is_read_in_pieces_of_any_length_from_either_end(
    local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch, piece: int, torn: bytes
) -> None:
    steps = [Step(path("d/" * number + "x"), None, Identity("file", 3, -5, number)) for number in range(9)]
    steps += [Step(path("gone"), Identity("file", 3, 5, 7), None, "00ff")]
    key = begun(local)
    with open(root / ".ftpy" / "trash" / key.id / "record", "ab") as record:
        record.write(encode(steps) + torn)
    monkeypatch.setattr("ftpy.storage.trash.MIB", piece)
    with local._trash.open(key) as folder:
        assert list(folder.steps()) == steps[::-1]
    (found,) = local.operations(OWNER)
    assert (found.added, found.deleted) == (9 + bool(torn), 1)


# ------------------------------------------------------------------ undo, by example


def test_undo_brings_back_what_was_replaced_removed_and_moved_and_takes_what_was_new(
    local: LocalStorage, root: Path
) -> None:
    for name in ("kept", "replaced", "removed", "moved", "d/e/f", "over"):
        put(local, name, name.encode())
    (root / "link").symlink_to("kept")
    before = tree(root)
    key = begun(local, "everything at once")
    put_in(local, "replaced", b"other", key)
    put_in(local, "new/er/file", b"new", key)
    put_in(local, "link", b"no link any more", key)
    local.rm(path("removed"), recursive=False, operation=key)
    local.mv(path("moved"), path("new/moved"), operation=key)
    local.mv(path("over"), path("kept"), operation=key)
    removed = local.rm(path("d"), recursive=True, operation=key)
    assert (removed.files, removed.folders, removed.size) == (1, 2, 5)
    after = tree(root)
    (told,) = local.operations(OWNER)
    assert (told.id, told.what) == (key.id, "everything at once")
    assert (told.added, told.replaced, told.deleted, told.moved, told.made) == (1, 2, 2, 2, 2)
    by, undone = undo(local, key)
    assert tree(root) == before and undone.left == [] and undone.already == 0
    _, undone = undo(local, by)
    assert tree(root) == after and undone.left == []


def test_undo_is_told_of_what_was_changed_since_and_leaves_it_alone(local: LocalStorage, root: Path) -> None:
    put(local, "a", b"old a")
    put(local, "b", b"old b")
    put(local, "gone", b"was here")
    key = begun(local)
    put_in(local, "a", b"new a", key)
    put_in(local, "b", b"new b", key)
    put_in(local, "f/c", b"new c", key)
    local.rm(path("gone"), recursive=False, operation=key)
    put(local, "a", b"newer a")
    put(local, "gone", b"another")
    put(local, "f/other", b"somebody's")
    _, undone = undo(local, key)
    assert tree(root) == {
        "a": b"newer a",
        "b": b"old b",
        "gone": b"another",
        "f": "folder",
        "f/other": b"somebody's",
    }
    assert [(str(one.path), type(one.error)) for one in undone.left] == [
        ("gone", Changed),
        ("f", NotEmpty),
        ("a", Changed),
    ]


def test_undo_finds_what_it_added_gone_where_its_folder_is_a_file_by_now(local: LocalStorage, root: Path) -> None:
    put(local, "f/went", b"1")
    key = begun(local)
    put_in(local, "f/came", b"2", key)
    local.rm(path("f/went"), recursive=False, operation=key)
    local.rm(path("f"), recursive=True)
    put(local, "f", b"a file")
    _, undone = undo(local, key)
    assert (undone.steps, undone.already, tree(root)) == (0, 1, {"f": b"a file"})
    assert [(str(one.path), type(one.error)) for one in undone.left] == [("f/went", NotADirectory)]


def test_undo_twice_finds_all_as_it_was(local: LocalStorage, root: Path) -> None:
    put(local, "a", b"1")
    key = begun(local)
    put_in(local, "a", b"2", key)
    put_in(local, "b", b"3", key)
    undo(local, key)
    before = tree(root)
    _, undone = undo(local, key)
    assert (undone.steps, undone.already, undone.left) == (0, 2, []) and tree(root) == before


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_undo_finds_as_it_was_is_durable_when_that_is_told(
    local: LocalStorage, root: Path, synced: list[str]
) -> None:
    for name in ("removed/a", "from/b"):
        put(local, name, b"1")
    key = begun(local)
    local.rm(path("removed/a"), recursive=False, operation=key)
    put_in(local, "e/new/c", b"2", key)
    local.mv(path("from/b"), path("e/b"), operation=key)
    undo(local, key)
    by = begun(local)
    synced.clear()  # of one that was killed before it had synced anything
    undone = local.undo(key, by, lambda effect, path: True)
    assert (undone.steps, undone.already, undone.left) == (0, 5, [])
    assert {str(root), f"{root}/removed", f"{root}/from"} <= set(synced)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", ["again", "at once"])
def test_an_operation_that_was_begun_already_is_durable_when_that_is_answered(
    local: LocalStorage, root: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    key = begun(local)
    synced.clear()
    if how == "at once":
        found, is_begun = [False, True], Trash._is_begun
        monkeypatch.setattr(Trash, "_is_begun", lambda *asked: found.pop(0) and is_begun(*asked))
    local.begin(key, "the server was killed before it had synced that")
    assert f"{root}/.ftpy/trash" in synced


def test_what_undo_may_not_do_is_told_and_left(local: LocalStorage, root: Path) -> None:
    put(local, "a", b"1")
    key = begun(local)
    local.rm(path("a"), recursive=False, operation=key)
    put_in(local, "b", b"2", key)
    undone = local.undo(key, begun(local), lambda effect, path: effect == "take")
    assert tree(root) == {} and [type(one.error) for one in undone.left] == [PermissionDenied]


def test_an_upload_keeps_what_it_replaces_also_when_it_is_found_by_its_id(local: LocalStorage, root: Path) -> None:
    data = content(PART_BYTES + 1)
    put(local, "big", b"small")
    key = begun(local)
    file = NewFile(path("big"), len(data), MTIME, None, "md5", None, key)
    with local.open_upload(OWNER, file) as upload:
        send_missing(upload, data)
    with local.find_upload(OWNER, upload.id) as found:
        found.commit(digest(data), None)
    assert read(local, "big") == data
    undo(local, key)
    assert tree(root) == {"big": b"small"} and local.stat(path("big")).md5 == digest(b"small").hex


def test_an_upload_that_keeps_is_judged_once_more_when_nobody_else_publishes(
    local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(local, "big", b"small")
    data, publication = content(PART_BYTES + 1), Publisher.publication
    file = NewFile(path("big"), len(data), MTIME, None, "md5", digest(b"small"), begun(local))

    def after_another(publisher: Publisher, *, exclusive: bool) -> Any:
        (root / "big").write_bytes(b"another's")
        return publication(publisher, exclusive=exclusive)

    with local.open_upload(OWNER, file) as upload:
        send_missing(upload, data)
        monkeypatch.setattr(Publisher, "publication", after_another)
        with pytest.raises(Changed):
            upload.commit(digest(data), None)
    assert tree(root) == {"big": b"another's"}


def test_digests_stay_known_of_what_comes_back(local: LocalStorage) -> None:
    for name in ("replaced", "removed"):
        put(local, name, name.encode())
    key = begun(local)
    put_in(local, "replaced", b"other", key)
    local.rm(path("removed"), recursive=False, operation=key)
    by, _ = undo(local, key)
    assert {info.md5 for info in local.ls(path(""), recursive=True)} == {
        digest(b"replaced").hex,
        digest(b"removed").hex,
    }
    undo(local, by)
    assert local.stat(path("replaced")).md5 == digest(b"other").hex


# ------------------------------------------------------------------ undo, by chance

NAMES = ("a", "b", "d/a", "d/b", "d/e/a", "e")
_ACTIONS = st.one_of(
    st.tuples(st.just("put"), st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=3)), min_size=1)),
    st.tuples(st.just("rm"), st.sampled_from((*NAMES, "d", "d/e")), st.booleans()),
    st.tuples(st.just("mv"), st.sampled_from((*NAMES, "d", "d/e")), st.sampled_from((*NAMES, "d", "f"))),
    st.tuples(st.just("mkdir"), st.sampled_from((*NAMES, "f", "f/g"))),
)


def act(storage: Storage, action: Any, key: OperationKey | None) -> None:
    """Do it; what is refused changes nothing."""
    try:
        match action:
            case ("put", several):
                files = [NewFile(path(name), len(data), MTIME, operation=key) for name, data in several]
                storage.publish(
                    [
                        storage.stage(file, memoryview(data), digest(data))
                        for file, (_, data) in zip(files, several, strict=True)
                    ]
                )
            case ("rm", name, recursive):
                storage.rm(path(name), recursive=recursive, operation=key)
            case ("mv", name, to):
                storage.mv(path(name), path(to), operation=key)
            case ("mkdir", name):
                storage.publish([storage.stage_directory(NewDirectory(path(name), parents=True, operation=key))])
    except RequestError:
        pass


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(first=st.lists(_ACTIONS, max_size=4), then=st.lists(_ACTIONS, max_size=8))
def test_undo_makes_any_operation_undone_and_undone_itself_done_again(first: list[Any], then: list[Any]) -> None:
    with ExitStack() as stack:
        fast = MEMORY if os.access(MEMORY, os.W_OK) else None
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ftpy-test-", dir=fast)))
        (top / "root").mkdir()
        usage = Counted(top, stack)
        storage = usage.open()
        for action in first:
            act(storage, action, None)
        before = tree(top / "root")
        key = begun(storage)
        for action in then:
            act(storage, action, key)
        after = tree(top / "root")
        by, undone = undo(storage, key)
        assert undone.left == [] and tree(top / "root") == before
        _, again = undo(storage, by)
        assert again.left == [] and tree(top / "root") == after
        usage.check()


# ------------------------------------------------------------------ conditions


def test_a_version_guards_put_rm_and_mv(local: LocalStorage, root: Path) -> None:
    old = put(local, "a", b"old").etag
    now = put(local, "a", b"now").etag
    assert old is not None and now is not None
    with pytest.raises(Changed):
        put(local, "a", b"new", KnownVersion(old))
    with pytest.raises(Changed):
        put(local, "absent", b"new", KnownVersion(old))
    with pytest.raises(Changed):
        local.rm(path("a"), recursive=False, version=KnownVersion(old))
    with pytest.raises(Changed):
        local.mv(path("a"), path("b"), version=KnownVersion(old))
    assert tree(root) == {"a": b"now"}
    kept = put(local, "a", b"new", KnownVersion(now)).etag
    assert kept is not None
    local.mv(path("a"), path("b"), version=KnownVersion(kept))
    moved = local.stat(path("b")).etag
    assert moved is not None
    local.rm(path("b"), recursive=False, version=KnownVersion(moved))
    assert tree(root) == {}


def test_a_put_whose_condition_fails_keeps_nothing(local: LocalStorage) -> None:
    put(local, "a", b"1")
    key = begun(local)
    with pytest.raises(AlreadyExists):
        put_in(local, "a", b"2", key, "absent")
    (told,) = local.operations(OWNER)
    assert (told.added, told.replaced) == (0, 0)


@pytest.mark.parametrize("in_operation", [False, True])
def test_of_two_puts_of_a_group_that_replace_the_same_content_one_is_done_also_in_an_operation(
    local: LocalStorage, root: Path, in_operation: bool
) -> None:
    put(local, "a", b"1")
    key = begun(local)
    named = key if in_operation else None
    first, second = digest(b"1"), digest(b"2")
    wanted = [(b"2", first), (b"lost", first), (b"other", "absent"), (b"3", second), (b"late", second)]
    results = local.publish([staged(local, "a", data, named, condition) for data, condition in wanted])
    assert [type(result) for result in results] == [FileInfo, Changed, AlreadyExists, FileInfo, Changed]
    new = [staged(local, "new", data, named, "absent") for data in (b"1", b"2")]
    assert [type(result) for result in local.publish(new)] == [FileInfo, AlreadyExists]
    assert tree(root) == {"a": b"3", "new": b"1"}
    if in_operation:
        _, undone = undo(local, key)
        assert (undone.steps, undone.left, tree(root)) == (3, [], {"a": b"1"})


def test_rm_of_a_folder_with_something_in_it_keeps_nothing(local: LocalStorage) -> None:
    put(local, "d/a", b"1")
    key = begun(local)
    with pytest.raises(NotEmpty):
        local.rm(path("d"), recursive=False, operation=key)
    assert next(local.operations(OWNER)).deleted == 0


# ------------------------------------------------------------------ whose, how long, how much


def test_an_operation_is_its_owners_alone(local: LocalStorage, root: Path) -> None:
    put(local, "a", b"1")
    key = begun(local, owner="alice")
    foreign = OperationKey("bob", key.id)
    assert [len(list(local.operations(owner))) for owner in ("alice", "bob")] == [1, 0]
    for asked in (foreign, OperationKey("alice", "0" * 32), OperationKey("alice", "../" * 10)):
        with pytest.raises(UnknownOperation):
            local.check_operation(asked)
        with pytest.raises(UnknownOperation):
            put_in(local, "a", b"2", asked)
        with pytest.raises(UnknownOperation):
            local.rm(path("a"), recursive=False, operation=asked)
        with pytest.raises(UnknownOperation):
            local.undo(asked, key, lambda effect, path: True)
        with pytest.raises(UnknownOperation):
            local.forget(asked)
    with pytest.raises(InvalidRequest):
        local.begin(foreign, "somebody else's id")
    local.begin(key, "begun twice it goes on")
    assert tree(root) == {"a": b"1"}


@pytest.mark.parametrize("call", ["mkdir", "create", "sync", "rename_noreplace"])
def test_a_begin_that_was_broken_off_anywhere_can_be_made_again_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    with ExitStack() as stack:
        usage = Counted(tmp_path, stack)
        local = usage.open()
        put(local, "a", b"1")
        key = OperationKey(OWNER, secrets.token_hex(16))
        trash = tmp_path / "root" / ".ftpy" / "trash"
        for error in (
            OSError(errno.EIO, "broken off"),
            KeyboardInterrupt(),
        ):  # the second one as a kill: no cleaning up
            with monkeypatch.context() as broken:
                if isinstance(error, KeyboardInterrupt):
                    broken.setattr(Directory, "unlink", lambda *_, **__: None)
                    broken.setattr(Directory, "rmdir", lambda *_, **__: None)

                def fail(*_: Any, error: BaseException = error, **__: Any) -> None:
                    raise error

                broken.setattr(Directory, call, fail)
                with pytest.raises((IoError, KeyboardInterrupt)):
                    local.begin(key, "broken off")
            with pytest.raises(UnknownOperation):
                local.check_operation(key)
            if isinstance(error, OSError):
                assert list(trash.iterdir()) == []
                usage.check()
        assert list(local.operations(OWNER)) == []
        local.begin(key, "again")
        local.rm(path("a"), recursive=False, operation=key)
        assert [one.what for one in local.operations(OWNER)] == ["again"]
        local.sweep(expire_seconds=1e9, trash_seconds=-1)
        assert list(trash.iterdir()) == []
        usage.check()


def test_operations_are_looked_at_in_their_turn(local: LocalStorage) -> None:
    keys = [OperationKey(OWNER, f"{number:032x}") for number in range(3)]
    for key in keys:
        local.begin(key, "sync")
    told = local.operations(OWNER)
    assert next(told).id == keys[2].id
    local.forget(keys[1])
    assert [one.id for one in told] == [keys[0].id]


@pytest.mark.parametrize("failing", ["sync of the trash", "rename and cleaning up"])
def test_never_less_is_counted_than_is_there_when_an_operation_cannot_be_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    with ExitStack() as stack:
        usage = Counted(tmp_path, stack)
        local = usage.open()
        key = OperationKey(OWNER, secrets.token_hex(16))
        sync = Directory.sync

        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        for _ in range(2):
            with monkeypatch.context() as broken:
                if failing == "sync of the trash":
                    broken.setattr(Directory, "sync", lambda one: (refuse if one.path.name == "trash" else sync)(one))
                else:
                    broken.setattr(Directory, "rename_noreplace", refuse)
                    broken.setattr(Directory, "rmdir", refuse)
                with pytest.raises(IoError):
                    local.begin(key, "broken off")
            usage.check_enough()
        local.begin(key, "again")
        local.forget(key)
        usage.check_enough()
        local.sweep(expire_seconds=1e9, trash_seconds=-1)
        usage.check()


@pytest.mark.parametrize("failing", ["a torn line", "fsync"])
def test_what_stays_of_a_step_that_could_not_be_written_down_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    with ExitStack() as stack:
        usage = Counted(tmp_path, stack)
        local = usage.open()
        put(local, "a", b"1")
        key = begun(local)
        write = os.write

        def refuse(_: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        for _ in range(2):
            with monkeypatch.context() as broken:
                if failing == "fsync":
                    broken.setattr(syscalls, "fsync", refuse)
                else:
                    broken.setattr(os, "write", lambda fd, data: write(fd, data[:5]))
                with pytest.raises((IoError, NoSpace)):
                    local.rm(path("a"), recursive=False, operation=key)
            usage.check_enough()
        local.rm(path("a"), recursive=False, operation=key)
        usage.check_enough()
        local.forget(key)
        usage.check_enough()
        local.sweep(expire_seconds=1e9)
        usage.check()


def test_racing_beginnings_of_one_operation_are_one(local: LocalStorage) -> None:
    key = OperationKey(OWNER, secrets.token_hex(16))
    foreign = OperationKey("bob", key.id)
    assert at_once(8, lambda _: local.begin(key, "one of them")) == [None] * 8
    with pytest.raises(InvalidRequest, match="taken"):
        local.begin(foreign, "somebody else's")
    assert len(list(local.operations(OWNER))) == 1 and list(local.operations("bob")) == []


def test_what_is_kept_counts_until_it_is_forgotten_or_expires(tmp_path: Path) -> None:
    with ExitStack() as stack:
        usage = Counted(tmp_path, stack)
        local = usage.open()
        for name in ("a", "d/b", "d/c"):
            put(local, name, b"12345")
        key, other = begun(local), begun(local)
        put_in(local, "a", b"123", key)
        local.rm(path("d"), recursive=True, operation=other)
        usage.check()
        used = usage.used()
        assert used is not None and used[0] > 5 + 3 + 10
        assert local.forget(key).files == 2  # the record is one
        usage.check()
        local.sweep(expire_seconds=1e9, trash_seconds=3600)
        assert len(list(local.operations(OWNER))) == 1
        local.sweep(expire_seconds=1e9, trash_seconds=-1)
        assert list(local.operations(OWNER)) == [] and usage.used() == (3, 1)
        usage.check()


@pytest.mark.parametrize("how", ["a step", "begin"])
def test_an_operation_that_somebody_goes_on_with_in_its_last_moment_is_not_swept(
    local: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    put(local, "a", b"1")
    key, other = begun(local), begun(local)
    for one in (key, other):
        os.utime(root / ".ftpy" / "trash" / one.id / "record", (0, 0))
    expired = Trash.expired

    def and_then(trash: Trash, *arguments: Any) -> list[str]:
        found = expired(trash, *arguments)
        assert sorted(found) == sorted([key.id, other.id])
        if how == "begin":
            local.begin(key, "it goes on")
        else:
            local.rm(path("a"), recursive=False, operation=key)
        local.forget(other)
        return found

    monkeypatch.setattr(Trash, "expired", and_then)
    local.sweep(expire_seconds=1e9, trash_seconds=3600)
    assert [one.id for one in local.operations(OWNER)] == [key.id]
    undo(local, key)
    assert read(local, "a") == b"1"


@pytest.mark.parametrize("verb", ["rm", "forget", "sweep"])
def test_nobody_waits_while_what_went_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    with ExitStack() as stack:
        usage = Counted(tmp_path, stack)
        local = usage.open()
        for name in range(3):
            put(local, f"d/{name}", b"12345")
        key = begun(local)
        if verb != "rm":
            local.rm(path("d"), recursive=True, operation=key)
        measure, measured = CountedUsage.measure, 0

        def meanwhile(self: CountedUsage, where: RemotePath) -> tuple[int, int]:
            nonlocal measured
            measured += 1
            other = threading.Thread(target=put, args=[local, "other", b"1"])
            other.start()
            other.join(30)
            assert not other.is_alive()
            return measure(self, where)

        monkeypatch.setattr(CountedUsage, "measure", meanwhile)
        if verb == "rm":
            assert local.rm(path("d"), recursive=True).files == 3
        elif verb == "forget":
            assert local.forget(key).files == 4
        else:
            local.sweep(expire_seconds=1e9, trash_seconds=-1)
        assert measured == 1 and read(local, "other") == b"1"
        usage.check()


def test_where_the_quota_is_used_up_what_would_be_kept_is_not_replaced_and_rm_still_keeps(tmp_path: Path) -> None:
    with ExitStack() as stack:
        usage = Counted(tmp_path, stack)
        local = usage.open()
        quota = Quota(bytes=1200)
        put(local, "a", b"x" * 600)
        key = begun(local)
        file = NewFile(path("a"), 600, MTIME, operation=key)
        with pytest.raises(QuotaExceeded):
            local.stage(file, memoryview(b"y" * 600), digest(b"y" * 600), quota=quota)
        local.rm(path("a"), recursive=False, operation=key)
        usage.check()
        undo(local, key)
        assert read(local, "a") == b"x" * 600
        usage.check()


@pytest.mark.parametrize("verb", ["put", "put of an upload", "mkdir", "mv"])
def test_what_is_written_down_is_held_to_the_quota(tmp_path: Path, verb: str) -> None:
    with ExitStack() as stack:
        usage = Counted(tmp_path, stack)
        local = usage.open()
        quota = Quota(bytes=2000)
        put(local, "a", b"")
        key = begun(local)

        def publish(number: int) -> None:
            file = NewFile(path("a"), 0, MTIME + number, operation=key)
            made: Storage | Any = local.stage(file, memoryview(b""), digest(b""), quota=quota)
            if verb == "mkdir":
                made.close()
                made = local.stage_directory(NewDirectory(path(str(number)), operation=key), quota=quota)
            (result,) = local.publish([made])
            if isinstance(result, RequestError):
                raise result

        def upload(number: int) -> None:
            file = NewFile(path("a"), 0, MTIME + number, operation=key)
            with local.open_upload(OWNER, file, quota=quota) as hand:
                hand.commit(digest(b""), None)

        def mv(number: int) -> None:
            names = [path("a"), path("b")]
            local.mv(names[number % 2], names[1 - number % 2], operation=key, quota=quota)

        act = {"put": publish, "mkdir": publish, "put of an upload": upload, "mv": mv}[verb]
        before = tree(root := tmp_path / "root")
        with pytest.raises(QuotaExceeded):
            for number in range(100):
                before = tree(root)
                act(number)
        assert tree(root) == before
        assert usage.used() is not None and usage.used()[0] <= 2000  # type: ignore[index]
        for hand in local.uploads():
            local.find_upload(OWNER, hand).abort()
        usage.check()


def test_undo_and_rm_go_on_where_the_quota_is_used_up_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftpy.storage.base.MIB", 10_000)
    with ExitStack() as stack:
        usage = Counted(tmp_path, stack)
        local = usage.open()
        put(local, "a", b"1")
        key = begun(local)
        local.mv(path("a"), path("b"), operation=key)
        full = Quota(bytes=0, files=0)
        by = OperationKey(OWNER, secrets.token_hex(16))
        with pytest.raises(QuotaExceeded):
            local.begin(by, "undo", quota=full)
        local.begin(by, "undo", quota=full.stretched)
        assert local.undo(key, by, lambda effect, path: True, quota=full).steps == 1
        assert read(local, "a") == b"1"
        with pytest.raises(QuotaExceeded):
            for number in range(100):
                put(local, name := f"{'n' * 200}/{'o' * 200}/{number}", b"")
                local.rm(path(name), recursive=False, operation=key, quota=full)
        usage.check()
        assert local.rm(path(name), recursive=False, quota=full).files == 1  # without a record there is no end to it
        usage.check()


def test_operations_of_a_root_have_an_end(local: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftpy.storage.trash.MOST_OPERATIONS", 2)
    first, _ = begun(local), begun(local)
    with pytest.raises(QuotaExceeded, match="forget some"):
        begun(local)
    local.begin(first, "it goes on")
    local.forget(first)
    begun(local)


@pytest.mark.parametrize("operations", [2, 3])
def test_a_group_of_several_operations_keeps_what_each_replaced_and_counts_it_once(
    tmp_path: Path, operations: int
) -> None:
    with ExitStack() as stack:
        usage = Counted(tmp_path, stack)
        local = usage.open()
        put(local, "a", b"0" * 1000)
        keys: list[OperationKey | None] = [None, *(begun(local) for _ in range(operations))]
        group = []
        for number, key in enumerate(keys, 1):
            data = b"%d" % number
            file = NewFile(path("a"), 1, MTIME + number, operation=key)
            group.append(local.stage(file, memoryview(data), digest(data)))
        assert not any(isinstance(result, RequestError) for result in local.publish(group))
        usage.check()
        assert usage.used() < (1000, 100)  # nobody keeps what was replaced without an operation
        for number, key in reversed(list(enumerate(keys, 1))):
            assert read(local, "a") == b"%d" % number
            if key is not None:
                undo(local, key)
                local.forget(key)
                usage.check()


def test_what_is_forgotten_while_it_is_undone_does_not_come_back_uncounted(tmp_path: Path) -> None:
    with ExitStack() as stack:
        usage = Counted(tmp_path, stack)
        local = usage.open()
        put(local, "a", b"first")
        put(local, "b/a", b"second")
        key, by = begun(local), begun(local)
        local.rm(path("b/a"), recursive=False, operation=key)
        local.rm(path("b"), recursive=True, operation=key)
        local.rm(path("a"), recursive=False, operation=key)

        def forget(steps: int) -> None:
            if list(local.operations(OWNER))[-1].id == key.id:
                local.forget(key)

        with pytest.raises(UnknownOperation):
            local.undo(key, by, lambda effect, path: True, on_step=forget)
        usage.check()


def test_what_is_linked_and_then_not_written_down_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        usage = Counted(tmp_path, stack)
        local = usage.open()
        put(local, "a", b"x" * 1000)
        key = begun(local)
        monkeypatch.setattr("ftpy.storage.trash.MOST_RECORD_BYTES", 0)
        for _ in range(3):
            with pytest.raises(InvalidRequest, match="too many steps"):
                put_in(local, "a", b"other", key)
        assert read(local, "a") == b"x" * 1000
        usage.check()
        local.forget(key)
        usage.check()


@pytest.mark.parametrize("verb", ["put", "commit", "mv", "undo"])
def test_what_was_kept_and_then_not_replaced_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    with ExitStack() as stack:
        usage = Counted(tmp_path, stack)
        local = usage.open()
        put(local, "d/a", b"x" * 1000)
        put(local, "b", b"other")
        key, undone = begun(local), begun(local)
        put_in(local, "d/a", b"y" * 2000, undone)
        rename = Directory.rename

        def unless_there(directory: Directory, leaf: str, into: Directory, new: str) -> None:
            if into.path == path("d"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            rename(directory, leaf, into, new)

        def commit() -> None:
            with local.open_upload(OWNER, NewFile(path("d/a"), 1, MTIME, operation=key)) as upload:
                send_missing(upload, b"z")
                try:
                    upload.commit(digest(b"z"), None)
                finally:
                    upload.abort()

        def undo_in_vain() -> None:
            (left,) = local.undo(undone, key, lambda effect, path: True).left
            raise left.error

        act = {
            "put": lambda: put_in(local, "d/a", b"z", key),
            "commit": commit,
            "mv": lambda: local.mv(path("b"), path("d/a"), operation=key),
            "undo": undo_in_vain,
        }[verb]
        with monkeypatch.context() as full:
            full.setattr(Directory, "rename", unless_there)
            with pytest.raises(NoSpace):
                act()
        usage.check()
        local.forget(key)
        usage.check()
        assert read(local, "d/a") == b"y" * 2000


def test_all_is_counted_anew_where_the_second_name_of_what_was_not_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        usage = Counted(tmp_path, stack)
        local = usage.open()
        put(local, "a", b"x" * 1000)
        key = begun(local)

        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        with monkeypatch.context() as broken:
            for call in ("rename", "unlink"):
                broken.setattr(Directory, call, refuse)
            with pytest.raises(RequestError):
                put_in(local, "a", b"y", key)
        assert usage.used() is None
        put(local, "b", b"z")
        usage.check()
        local.forget(key)
        usage.check()


def test_what_is_no_longer_in_the_trash_is_told(local: LocalStorage, root: Path) -> None:
    put(local, "a", b"1")
    key = begun(local)
    local.rm(path("a"), recursive=False, operation=key)
    for kept in (root / ".ftpy" / "trash" / key.id).iterdir():
        if kept.name != "record":
            kept.unlink()
    _, undone = undo(local, key)
    assert [type(one.error) for one in undone.left] == [NotFound]


@pytest.mark.parametrize("kept", ["../../../../outside/secret", "/etc/passwd", "record", "", ".", "..", "a" * 17])
def test_a_record_that_others_have_written_names_nothing_outside_of_its_folder(
    local: LocalStorage, root: Path, tmp_path: Path, kept: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"nobody's business")
    key = begun(local)
    record = root / ".ftpy" / "trash" / key.id / "record"
    with record.open("ab") as file:
        file.write(encode([Step(path("loot"), identity((outside / "secret").stat()), None, kept)]))
    assert local.undo(key, OperationKey(OWNER, begun(local).id), lambda *_: True).steps == 0
    assert (outside / "secret").read_bytes() == b"nobody's business" and not (root / "loot").exists()


def test_an_undo_that_is_not_wanted_any_more_ends_at_its_next_step_and_can_be_asked_for_again(
    local: LocalStorage, root: Path
) -> None:
    key, many = begun(local), 2 * MOST_TOGETHER + 1
    for result in local.publish([staged(local, f"{n:04}", b"x", key) for n in range(many)]):
        assert isinstance(result, FileInfo)
    by, steps = begun(local, "undo"), [0]
    with pytest.raises(PermissionDenied):
        wanted_while(lambda: steps[-1] == 0, lambda: local.undo(key, by, lambda *_: True, on_step=steps.append))
    assert steps == [0, MOST_TOGETHER] and len(tree(root)) == many - MOST_TOGETHER
    again = undo(local, key)[1]
    assert (again.steps, again.already, again.left_alone) == (many - MOST_TOGETHER, MOST_TOGETHER, 0)
    assert tree(root) == {}
