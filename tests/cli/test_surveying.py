"""``ftpy df``, ``du``, ``find`` and ``tree`` as users meet them: real processes against a real server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_main import Desk
from tests.rig import Host


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    made = Host(tmp_path_factory.mktemp("surveying") / "host")
    made.add_user("limited", rights=("write",), quota_bytes=10_000, quota_files=100)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def root(host: Host) -> Path:
    """The server's folder, with something in it."""
    for path in host.root.iterdir():
        if path.name != ".ftpy":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return host.root


@pytest.fixture
def desk(tmp_path: Path, host: Host, root: Path) -> Desk:
    """A workstation that is paired."""
    made = Desk(tmp_path / "desk", host)
    made.pair()
    return made


# ---------------------------------------------------------------- df


def test_df_tells_of_the_disk_and_where_there_is_one_of_the_quota(desk: Desk, root: Path) -> None:
    ended = desk("df")
    assert (ended.code, ended.err) == (0, "")
    assert [line.split()[0] for line in ended.out.splitlines()[1:]] in (["disk"], ["disk", "disk"])
    (told,) = desk("df", "--json").objects
    found = shutil.disk_usage(root)
    assert told["disk_bytes"] == found.total and told["quota_bytes"] is told["used_bytes"] is None
    assert told["free_bytes"] == told["disk_free_bytes"] <= found.total


def test_df_needs_no_right_and_counts_what_the_quota_counts(desk: Desk, root: Path) -> None:
    desk.pair("limited", user="limited")
    desk.make("file", 4000)
    assert desk("put", "-s", "limited", "file", "d/file").code == 0
    (told,) = desk("df", "-s", "limited", "--json").objects
    assert (told["quota_bytes"], told["quota_files"], told["used_bytes"]) == (10_000, 100, 4000)
    assert told["free_bytes"] == 6000 and told["used_files"] >= 2
    ended = desk("df", "-h", "-s", "limited")
    assert ["quota", "9.8", "KiB", "3.9", "KiB", "5.9", "KiB", "40%"] in [
        line.split() for line in ended.out.splitlines()
    ]
