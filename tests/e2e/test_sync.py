"""sync between a real client and a real server: done, undone, refused, broken off and gone on with."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ftpy.client import partial, pulling, syncing
from ftpy.client.kept import KeptHere, find_here, kept_in, operations_here
from ftpy.client.syncing import SyncOptions, SyncResult
from ftpy.client.syncplan import Plan
from ftpy.client.trees import TreeOptions
from ftpy.client.walking import Selection
from ftpy.config.client import Transfer
from ftpy.errors import Changed, ConnectionFailed, LocalFileError, PermissionDenied, SyncRefused
from ftpy.files import RemotePath
from tests.rig import Fault, Host, Proxy

Tree = dict[str, Any]


def make(top: Path, files: dict[str, bytes], mtime_ns: int = 10**18) -> None:
    for name, data in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=(mtime_ns, mtime_ns))


def tree(top: Path) -> Tree:
    """What is there: content and time of files, None for folders."""
    return {
        str(path.relative_to(top)): None if path.is_dir() else (path.read_bytes(), path.stat().st_mtime_ns)
        for path in top.rglob("*")
        if ".ftpy" not in path.parts
    }


def sync(host: Host, local: Path, remote: str = "d", **options: Any) -> SyncResult:
    with host.client() as client:
        return client.sync(local, remote, SyncOptions(**options))


@pytest.fixture
def local(tmp_path: Path) -> Path:
    local = tmp_path / "local"
    make(local, {f"{number % 7}/{number}": b"%d" % number for number in range(40)} | {"top": b"x" * 5000})
    return local


def test_a_sync_makes_the_target_equal_and_undo_makes_it_what_it_was(host: Host, local: Path) -> None:
    sync(host, local)
    assert tree(host.root / "d") == tree(local)
    (local / "1" / "8").write_bytes(b"other")
    (local / "2" / "2").unlink()
    shutil.rmtree(local / "3")
    (local / "4" / "4").rename(local / "renamed")
    (local / "big").write_bytes(os.urandom(3 * 1024 * 1024))
    (local / "empty").mkdir()
    before = tree(host.root / "d")
    plans: list[Plan] = []
    result = sync(host, local, delete=True, on_plan=plans.append)
    assert tree(host.root / "d") == tree(local) and plans == [result.plan]
    assert (result.moved, result.deleted, result.tree.files, result.failed) == (1, 7, 2, 0)
    assert sync(host, local, delete=True).plan.steps == ()
    with host.client() as client:
        assert result.operation is not None
        undone = client.undo(result.operation)
        assert undone.left == 0 and tree(host.root / "d") == before
        client.undo(undone.by)
        assert tree(host.root / "d") == tree(local)


def test_a_dry_run_tells_the_plan_that_is_then_carried_out_and_changes_nothing(plain_host: Host, local: Path) -> None:
    make(plain_host.root / "d", {"gone": b"1", "top": b"old"})
    before = tree(plain_host.root)
    told = sync(plain_host, local, delete=True, dry_run=True, most_deleted=100).plan
    assert tree(plain_host.root) == before and told.steps
    assert sync(plain_host, local, delete=True, most_deleted=100).plan == told


def test_without_delete_nothing_goes(plain_host: Host, local: Path) -> None:
    make(plain_host.root / "d", {"gone": b"1", "3/gone": b"2"})
    sync(plain_host, local)
    found = tree(plain_host.root / "d")
    assert {name for name in found if name not in tree(local)} == {"gone", "3/gone"}


def test_an_empty_or_missing_source_deletes_nothing(plain_host: Host, tmp_path: Path) -> None:
    make(plain_host.root / "d", {"a": b"1"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(SyncRefused, match="empty"):
        sync(plain_host, tmp_path / "empty", delete=True, most_deleted=100)
    with pytest.raises(LocalFileError):
        sync(plain_host, tmp_path / "missing", delete=True)
    assert tree(plain_host.root / "d").keys() == {"a"}
    with plain_host.client() as client:
        assert client.operations() == []


def test_a_source_that_is_unreadable_in_part_deletes_nothing(plain_host: Host, local: Path) -> None:
    make(plain_host.root / "d", {"gone": b"1", "1/1": b"1"})
    os.mkdir(os.fsencode(local / "x") + b"\n")  # a name that no server takes
    with pytest.raises(SyncRefused, match="could not be read"):
        sync(plain_host, local, delete=True)
    assert tree(plain_host.root / "d").keys() == {"gone", "1", "1/1"}
    make(plain_host.root / "d", {"gone": b"no other is like it"})
    with pytest.raises(SyncRefused, match="could not be read"):
        sync(plain_host, local, delete=True)
    result = sync(plain_host, local)
    assert result.failed == 1 and result.tree.files == 40


@pytest.mark.usefixtures("state")
def test_what_cannot_be_named_is_told_and_matters_no_more_once_a_pattern_leaves_it_out(
    plain_host: Host, local: Path
) -> None:
    make(plain_host.root / "d", {"gone": b"no other is like it"})
    make(local, {"Icon\r": b"a mac's", "sub/bad\n/in": b"1"})
    without = Selection(exclude=["Icon?", "bad*/"])
    for way, side in ((sync, "source"), (pull, "target")):
        with pytest.raises(SyncRefused) as refused:
            way(plain_host, local, delete=True, most_deleted=100)
        assert f"part of the {side} could not be read (" in str(refused.value)
        assert "Icon\\r: control characters are not allowed and 1 more)" in str(refused.value)
    assert sync(plain_host, local, delete=True, most_deleted=100, selection=without).failed == 0
    assert not (plain_host.root / "d" / "gone").exists()
    (plain_host.root / "d" / "top").unlink()
    assert pull(plain_host, local, delete=True, selection=without).deleted == 1
    with plain_host.client() as client:
        assert client.put_tree(local, "e", TreeOptions(selection=without)).failed == 0


@pytest.mark.usefixtures("state")
def test_an_operation_is_told_of_whatever_the_folder_here_is_called(plain_host: Host, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xffd\n"))
    long = tmp_path.joinpath(*["x" * 200] * 12)
    for local in (odd, long):
        make(local, {"a": b"1"})
        assert sync(plain_host, local, str(len(str(local)))).failed == 0
        make(local, {"a": b"22"})
        assert pull(plain_host, local, str(len(str(local)))).failed == 0
    with plain_host.client() as client:
        first, last = (one.what for one in reversed(client.operations()))
    assert first.endswith("ffd\\n " + str(len(str(odd)))) and last.endswith("x" * 9)
    assert {one.target for one in operations_here()} == {str(odd), str(long)}


def test_more_than_half_is_refused_with_the_number_and_done_when_it_is_allowed(plain_host: Host, local: Path) -> None:
    sync(plain_host, local)
    for number in range(41 - 20):
        if number < 40:
            (local / str(number % 7) / str(number)).unlink()
    with pytest.raises(SyncRefused, match=r"21 of the target's 41 files .* --max-delete 52%"):
        sync(plain_host, local, delete=True)
    assert sync(plain_host, local, delete=True, most_deleted=52).deleted == 21
    assert tree(plain_host.root / "d") == tree(local)


def test_what_changed_since_the_plan_is_left_alone_and_nothing_is_deleted_behind_it(
    plain_host: Host, local: Path
) -> None:
    sync(plain_host, local)
    (local / "top").write_bytes(b"newer")
    (local / "1" / "1").unlink()

    def meddle(_: Plan) -> None:
        make(plain_host.root / "d", {"top": b"somebody's"}, 2 * 10**18)

    result = sync(plain_host, local, delete=True, on_plan=meddle)
    assert [type(told.error) for told in result.failures] == [Changed]
    assert result.stopped and (plain_host.root / "d" / "top").read_bytes() == b"somebody's"
    assert (plain_host.root / "d" / "1" / "1").exists()
    assert sync(plain_host, local, delete=True).failed == 0
    assert tree(plain_host.root / "d") == tree(local)


def test_what_is_gone_already_when_it_is_to_be_deleted_is_no_failure(plain_host: Host, local: Path) -> None:
    sync(plain_host, local)
    for name in ("1/1", "1/8"):
        (local / name).unlink()
    there = plain_host.root / "d" / "1" / "1"
    result = sync(plain_host, local, delete=True, on_plan=lambda _: there.unlink())
    assert (result.failed, result.stopped) == (0, False) and tree(plain_host.root / "d") == tree(local)


def test_patterns_and_links_leave_the_target_what_they_leave_out(plain_host: Host, local: Path) -> None:
    (local / "link").symlink_to("top")
    make(plain_host.root / "d", {"x.o": b"1", "3/y.o": b"2", "link": b"3", "z": b"4"})
    sync(plain_host, local, delete=True, selection=Selection(exclude=["*.o"]))
    found = tree(plain_host.root / "d")
    assert {name for name in found if name not in tree(local)} == {"x.o", "3/y.o"}
    assert found["link"][0] == b"3"


@pytest.mark.slow
@pytest.mark.parametrize("after", [2000, 6000, 12000, 20000])
def test_broken_off_anywhere_it_goes_on_and_all_can_be_undone(plain_host: Host, local: Path, after: int) -> None:
    make(plain_host.root / "d", {f"old/{number}": b"o%d" % number for number in range(20)} | {"top": b"old"})
    before = tree(plain_host.root)
    impatient = Transfer(stall_seconds=5.0, connect_seconds=5.0, retries=0, streams=1)
    with Proxy(plain_host.address, (Fault("cut", after), Fault())) as proxy:
        try:
            with plain_host.client(address=proxy.address, transfer=impatient) as client:
                client.sync(local, "d", SyncOptions(delete=True, most_deleted=100))
        except ConnectionFailed:
            pass
    plain_host.deserted()
    result = sync(plain_host, local, delete=True, most_deleted=100)
    assert result.failed == 0 and tree(plain_host.root / "d") == tree(local)
    with plain_host.client() as client:
        for operation in client.operations():
            assert client.undo(operation.id).left == 0
    assert tree(plain_host.root) == before


@pytest.mark.parametrize("after", [3000, 9000])
def test_a_client_that_reconnects_does_each_step_once(plain_host: Host, local: Path, after: int) -> None:
    make(plain_host.root / "d", {f"old/{number}": b"o%d" % number for number in range(20)} | {"top": b"old"})
    with (
        Proxy(plain_host.address, (Fault("cut", after), Fault()), (Fault(), Fault())) as proxy,
        plain_host.client(address=proxy.address) as client,
    ):
        result = client.sync(local, "d", SyncOptions(delete=True, most_deleted=100))
    assert result.failed == 0 and tree(plain_host.root / "d") == tree(local)


# ------------------------------------------------------------------ the other way


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTPY_CONFIG", str(tmp_path / "settings" / "config.toml"))


def pull(host: Host, local: Path, remote: str = "d", **options: Any) -> SyncResult:
    with host.client() as client:
        return client.sync(local, remote, SyncOptions(**options), pull=True)


@pytest.mark.usefixtures("state")
def test_a_pull_makes_this_side_equal_and_undo_makes_it_what_it_was(host: Host, local: Path) -> None:
    sync(host, local)
    before = tree(local)
    there = host.root / "d"
    (there / "1" / "8").write_bytes(b"other")
    (there / "2" / "2").unlink()
    shutil.rmtree(there / "3")
    (there / "4" / "4").rename(there / "renamed")
    (there / "big").write_bytes(os.urandom(3 * 1024 * 1024))
    (there / "top").write_bytes(os.urandom(2 * 1024 * 1024))
    (there / "empty").mkdir()
    told = pull(host, local, delete=True, dry_run=True).plan
    assert tree(local) == before
    result = pull(host, local, delete=True)
    assert tree(local) == tree(there) and result.plan == told
    assert (result.moved, result.deleted, result.tree.files, result.failed) == (1, 7, 3, 0)
    assert pull(host, local, delete=True).plan.steps == ()
    assert result.operation is not None
    found = find_here(result.operation[:8])
    assert found is not None and found.target == str(local)
    with kept_in(found.target) as kept:
        undone = kept.undo(found.id, "0" * 32)
        assert undone.left == 0 and tree(local) == before
        assert kept.undo("0" * 32, "1" * 32).left == 0 and tree(local) == tree(there)
        assert kept.forget(found.id) > 0
    with host.client() as client:
        assert [one.what for one in client.operations()] == [f"sync {local} d"]


@pytest.mark.usefixtures("state")
def test_a_pull_from_an_empty_folder_or_beyond_half_deletes_nothing_here(plain_host: Host, local: Path) -> None:
    (plain_host.root / "d").mkdir()
    before = tree(local)
    with pytest.raises(SyncRefused, match="empty"):
        pull(plain_host, local, delete=True, most_deleted=100)
    make(plain_host.root / "d", {"one": b"no other is like it"})
    with pytest.raises(SyncRefused, match=r"41 of the target's 41 files"):
        pull(plain_host, local, delete=True)
    assert tree(local) == before and operations_here() == []


@pytest.mark.usefixtures("state")
def test_a_pull_leaves_alone_what_changed_here_since_the_plan(plain_host: Host, local: Path) -> None:
    sync(plain_host, local)
    (plain_host.root / "d" / "top").write_bytes(b"newer")

    def meddle(_: Plan) -> None:
        make(local, {"top": b"somebody's"}, 2 * 10**18)

    result = pull(plain_host, local, on_plan=meddle)
    assert [type(told.error) for told in result.failures] == [LocalFileError]
    assert (local / "top").read_bytes() == b"somebody's"


@pytest.mark.usefixtures("state")
def test_a_pull_into_a_folder_that_is_not_there_makes_it(plain_host: Host, local: Path, tmp_path: Path) -> None:
    sync(plain_host, local)
    result = pull(plain_host, tmp_path / "new")
    assert result.tree.files == 41 and tree(tmp_path / "new") == tree(local)


@pytest.mark.usefixtures("state")
@pytest.mark.parametrize("streams", [1, 2])
def test_a_pull_fetches_what_was_listed_and_nothing_that_took_its_place(
    plain_host: Host, local: Path, streams: int
) -> None:
    sync(plain_host, local)
    there = plain_host.root / "d" / "top"
    there.write_bytes(os.urandom(3 * 1024 * 1024))
    before = (local / "top").read_bytes()

    def meddle(_: Plan) -> None:
        make(plain_host.root / "d", {"top": b"y" * (3 * 1024 * 1024)}, 2 * 10**18)

    transfer = Transfer(stall_seconds=5.0, connect_seconds=5.0, retries=3, streams=streams)
    with plain_host.client(transfer=transfer) as client:
        result = client.sync(local, "d", SyncOptions(on_plan=meddle), pull=True)
        assert [type(told.error) for told in result.failures] == [Changed]
        assert (local / "top").read_bytes() == before
        assert client.sync(local, "d", pull=True).failed == 0
    assert tree(local) == tree(plain_host.root / "d")


@pytest.mark.usefixtures("state")
@pytest.mark.parametrize("size", [5, 3 * 1024 * 1024])
@pytest.mark.parametrize("how", ["replaced", "written to"])
def test_a_pull_leaves_alone_what_is_changed_here_while_it_is_fetched(
    plain_host: Host, local: Path, monkeypatch: pytest.MonkeyPatch, size: int, how: str
) -> None:
    sync(plain_host, local)
    make(plain_host.root / "d", {"top": os.urandom(size)}, 2 * 10**18)
    announce = KeptHere.announce

    def meddle(kept: KeptHere, *arguments: Any) -> Any:
        announced = announce(kept, *arguments)
        if how == "replaced":
            (local / "saved").write_bytes(b"an editor saves so")
            (local / "saved").replace(local / "top")
        else:
            (local / "top").write_bytes(b"an editor saves so")
        return announced

    monkeypatch.setattr(KeptHere, "announce", meddle)
    result = pull(plain_host, local, delete=True)
    assert [(type(told.error), told.path) for told in result.failures] == [(LocalFileError, RemotePath(("d", "top")))]
    assert "changed" in str(result.failures[0].error)
    assert (local / "top").read_bytes() == b"an editor saves so"


@pytest.mark.usefixtures("state")
def test_a_pull_leaves_alone_what_is_saved_here_while_the_disk_writes_its_replacement(
    plain_host: Host, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(plain_host, local)
    make(plain_host.root / "d", {"top": os.urandom(3 * 1024 * 1024)}, 2 * 10**18)

    def slow(descriptor: int) -> None:
        os.fsync(descriptor)
        (local / "saved").write_bytes(b"an editor saves so")
        (local / "saved").replace(local / "top")

    monkeypatch.setattr(partial, "syscalls", SimpleNamespace(fsync=slow, close=os.close))
    result = pull(plain_host, local)
    assert [(type(told.error), told.path) for told in result.failures] == [(LocalFileError, RemotePath(("d", "top")))]
    assert (local / "top").read_bytes() == b"an editor saves so"


@pytest.mark.usefixtures("state")
@pytest.mark.parametrize("size", [5, 3 * 1024 * 1024])
@pytest.mark.parametrize("gone", [False, True], ids=["a link", "nothing"])
def test_a_pull_leaves_alone_what_takes_the_place_of_a_link_that_it_found(
    plain_host: Host, local: Path, monkeypatch: pytest.MonkeyPatch, size: int, gone: bool
) -> None:
    sync(plain_host, local)
    make(plain_host.root / "d", {"top": os.urandom(size)}, 2 * 10**18)
    (local / "top").unlink()
    (local / "top").symlink_to("nowhere")
    announce = KeptHere.announce

    def meddle(kept: KeptHere, *arguments: Any) -> Any:
        if gone:
            (local / "top").unlink()
        announced = announce(kept, *arguments)
        (local / "top").unlink(missing_ok=gone)
        (local / "top").write_bytes(b"somebody's")
        return announced

    monkeypatch.setattr(KeptHere, "announce", meddle)
    result = pull(plain_host, local)
    assert [told.path for told in result.failures] == [RemotePath(("d", "top"))]
    assert (local / "top").read_bytes() == b"somebody's"


@pytest.mark.usefixtures("state")
@pytest.mark.parametrize("size", [5, 3 * 1024 * 1024])
def test_a_pull_replaces_both_names_of_one_file_and_undo_brings_both_back(
    plain_host: Host, local: Path, size: int
) -> None:
    sync(plain_host, local)
    (local / "other").hardlink_to(local / "top")
    before = (local / "top").read_bytes()
    contents = os.urandom(size), os.urandom(size + 1)
    make(plain_host.root / "d", dict(zip(("top", "other"), contents, strict=True)), 2 * 10**18)
    result = pull(plain_host, local)
    assert result.failed == 0 and result.operation is not None
    assert ((local / "top").read_bytes(), (local / "other").read_bytes()) == contents
    with kept_in(str(local)) as kept:
        assert kept.undo(result.operation, "1" * 32).left == 0
    assert (local / "top").read_bytes() == (local / "other").read_bytes() == before


@pytest.mark.usefixtures("state")
def test_a_pull_takes_no_name_that_is_another_place_on_this_system(
    plain_host: Host, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(plain_host, local)
    make(plain_host.root / "d", {"..\\..\\evil": b"1", "C:x/in": b"2", ".. /up": b"3", "fine": b"4"})
    (local / "mine").write_bytes(b"no other is like it")
    monkeypatch.setattr(pulling, "CHECKS_NAMES", True)
    result = pull(plain_host, local, delete=True)
    assert sorted(str(told.path) for told in result.failures) == ["d/.. ", "d/..\\..\\evil", "d/C:x"]
    assert tree(local).keys() == tree(plain_host.root / "d").keys() - {
        "..\\..\\evil", "C:x", "C:x/in", ".. ", ".. /up"
    } | {"mine"}  # fmt: skip
    assert result.stopped


@pytest.mark.usefixtures("state")
def test_a_listing_that_no_memory_holds_is_refused(
    plain_host: Host, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(plain_host, local)
    for way in (sync, pull):
        monkeypatch.setattr(syncing, "MOST_PLANNED", 48)  # 41 files and 7 folders
        assert way(plain_host, local, delete=True).plan.steps == ()
        monkeypatch.setattr(syncing, "MOST_PLANNED", 47)
        with pytest.raises(SyncRefused, match="the server lists more than 47 files and folders"):
            way(plain_host, local, delete=True)


@pytest.mark.usefixtures("state")
def test_a_pull_deletes_nothing_by_what_the_user_may_not_list(plain_host: Host, local: Path) -> None:
    plain_host.add_user("bob", rules=[("d/3", ()), ("elsewhere", ())])
    sync(plain_host, local)
    (plain_host.root / "d" / "top").unlink()
    before = tree(local)
    with plain_host.client("bob") as client:
        with pytest.raises(SyncRefused, match="may not be listed by this user"):
            client.sync(local, "d", SyncOptions(delete=True), pull=True)
        assert tree(local) == before
        assert client.sync(local, "d", pull=True).failed == 0 and tree(local) == before
        assert client.sync(local / "1", "d/1", SyncOptions(delete=True), pull=True).failed == 0
        with pytest.raises(PermissionDenied):
            list(client.ls("d", recursive=True, whole=True))
        assert len(list(client.ls("d/1", recursive=True, whole=True))) == 6
