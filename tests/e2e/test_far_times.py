"""Times that the protocol's 64 bits cannot tell: such files move like others, and stay the same ever after."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftpy.client.syncing import SyncOptions
from ftpy.client.trees import TreeOptions, same_time
from ftpy.files import RemotePath
from ftpy.storage.record import identity
from ftpy.storage.versions import file_info, told_ns, version_of
from tests.rig import Host

LAST_NS, FIRST_NS = 2**63 - 1, -(2**63)
SECOND_NS = 10**9
FAR_NS = (2**63 // SECOND_NS + 10**9) * SECOND_NS
"""In the year 2293; ext4 goes to 2446."""


def dated(path: Path, content: bytes, mtime_ns: int = FAR_NS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    try:
        os.utime(path, ns=(mtime_ns, mtime_ns))
    except OverflowError:
        pytest.skip("this system has no such times")
    if path.stat().st_mtime_ns != mtime_ns:
        pytest.skip("this file system holds no such times")
    return path


@pytest.fixture
def far(tmp_path: Path) -> Path:
    """A tree with far files, small and large, in a far folder, and one of today."""
    tree = tmp_path / "tree"
    dated(tree / "d" / "small", b"small")
    dated(tree / "d" / "large", os.urandom(3 * 1024 * 1024))
    (tree / "d" / "today").write_bytes(b"today")
    os.utime(tree / "d", ns=(FAR_NS, FAR_NS))
    return tree


def test_a_tree_with_far_times_is_put_whole_and_is_then_identical(plain_host: Host, far: Path) -> None:
    with plain_host.client() as client:
        first, second = client.put_tree(far, "t"), client.put_tree(far, "t", TreeOptions(by_digest=True))
    assert (first.files, first.failed) == (3, 0) and (second.identical, second.failed) == (3, 0)
    for name in ("d/small", "d/large", "d"):
        assert (plain_host.root / "t" / name).stat().st_mtime_ns == LAST_NS
    assert (plain_host.root / "t/d/small").read_bytes() == b"small"


def test_a_sync_of_far_times_has_nothing_left_to_do_the_second_time(plain_host: Host, far: Path) -> None:
    with plain_host.client() as client:
        first, second = client.sync(far, "t"), client.sync(far, "t", SyncOptions(delete=True))
    assert (first.tree.files, first.failed) == (3, 0)
    assert second.plan.steps == () and second.plan.identical == 3 and second.operation is None


def test_a_far_file_is_put_alone_with_the_last_time_there_is(plain_host: Host, far: Path) -> None:
    with plain_host.client() as client:
        for name in ("small", "large"):
            client.put(far / "d" / name, name)
            assert client.stat(name).mtime_ns == LAST_NS


def test_a_far_file_of_the_host_is_listed_fetched_touched_and_removed(plain_host: Host, tmp_path: Path) -> None:
    dated(plain_host.root / "d" / "far", b"far")
    (plain_host.root / "d" / "near").write_bytes(b"near")
    with plain_host.client() as client:
        assert [(info.path.name, info.mtime_ns == LAST_NS) for info in client.ls("d")] == [
            ("far", True),
            ("near", False),
        ]
        etag = client.stat("d/far").etag
        assert etag == client.stat("d/far").etag is not None
        client.get("d/far", tmp_path / "got")
        assert client.get_tree("d", tmp_path / "tree").files == 2
        assert client.get_tree("d", tmp_path / "tree").identical == 2
        client.mv("d/far", "d/moved")
        client.touch("d/moved", 0)
        assert client.stat("d/moved").mtime_ns == 0
        dated(plain_host.root / "d" / "moved", b"again")
        client.rm("d/moved")
    assert (tmp_path / "got").read_bytes() == b"far" and (tmp_path / "got").stat().st_mtime_ns == LAST_NS
    assert sorted(path.name for path in (plain_host.root / "d").iterdir()) == ["near"]


def test_a_pull_replaces_a_far_file_of_this_side_and_keeps_what_it_was(plain_host: Host, tmp_path: Path) -> None:
    (plain_host.root / "d").mkdir()
    (plain_host.root / "d" / "f").write_bytes(b"theirs")
    here = dated(tmp_path / "here" / "f", b"far")
    with plain_host.client() as client:
        result = client.sync(tmp_path / "here", "d", pull=True)
    assert result.failed == 0 and result.operation is not None and here.read_bytes() == b"theirs"


@pytest.mark.parametrize(("time_ns", "told"), [(FAR_NS, LAST_NS), (-FAR_NS, FIRST_NS), (0, 0), (LAST_NS, LAST_NS)])
def test_what_is_told_of_a_far_time_is_the_nearest_that_can_be_told(time_ns: int, told: int, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"1")
    found = os.stat(tmp_path / "f")
    far = os.stat_result(tuple(found), {"st_mtime_ns": time_ns, "st_ctime_ns": time_ns})
    assert told_ns(time_ns) == told == file_info(RemotePath(("f",)), far).mtime_ns == identity(far).mtime_ns
    assert version_of(far)[3:] == (told, told) and len(version_of(far).etag()) == 32
    assert same_time(time_ns, told)
