"""``ftpy df``, ``du``, ``find`` and ``tree`` as users meet them: real processes against a real server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.desk import Desk
from tests.rig import Fault, Host, Proxy


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    made = Host(tmp_path_factory.mktemp("surveying") / "host")
    made.add_user("limited", rights=("write",), quota_bytes=10_000, quota_files=100)
    made.start()
    yield made
    made.stop()


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


# ---------------------------------------------------------------- du, find, tree


@pytest.fixture
def filled(root: Path) -> Path:
    """Files of known sizes and times."""
    for name, size in {"a.txt": 5, "d/b.gz": 100, "d/e/c.gz": 2000, "d/e/.hidden": 1, "f/g/h": 0}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bytes(size))
    (root / "link").symlink_to("a.txt")
    os.utime(root / "d/b.gz", (1_000_000_000, 1_000_000_000))
    return root


def test_du_sums_up_folders(desk: Desk, filled: Path) -> None:
    assert desk("du").out == "2001\td/e\n2101\td\n0\tf/g\n0\tf\n2106\t.\n"
    assert desk("du", "d", "a.txt").out == "2001\td/e\n2101\td\n5\ta.txt\n"
    assert desk("du", "-s").out == "2106\t.\n"
    assert desk("du", "-sh", "*").out == "5 B\ta.txt\n2.1 KiB\td\n0 B\tf\n0 B\tlink\n"
    assert desk("du", "-d", "1", "--server", "home").out == "2101\td\n0\tf\n2106\t.\n"
    assert desk("du", "--json", "d/e").objects == [{"path": "d/e", "size": 2001, "files": 2, "folders": 0}]


def test_du_says_what_failed_and_sums_up_the_others(desk: Desk, filled: Path) -> None:
    ended = desk("du", "-s", "gone", "d", "*.none")
    assert (ended.code, ended.out) == (1, "2101\td\n")
    assert ended.err.splitlines() == [
        "ftpy: gone: There is no such file.",
        "ftpy: *.none: Nothing on the server matches this pattern.",
    ]
    desk("du", "-s", "-d", "1").failed(2, "exclude each other")
    desk.pair("limited", user="limited")
    desk("du", "--server", "limited").failed(1, "user limited has no right to list")


def test_find_prints_what_fits(desk: Desk, filled: Path) -> None:
    assert desk("find", "--name", "*.gz").out == "d/b.gz\nd/e/c.gz\n"
    assert desk("find", "d", "a.txt", "--type", "f").out == "d/b.gz\nd/e/.hidden\nd/e/c.gz\na.txt\n"
    assert desk("find", "--larger", "1K").out == "d/e/c.gz\n"
    assert desk("find", "--smaller", "5", "--type", "f").out == "a.txt\nd/e/.hidden\nf/g/h\n"
    assert desk("find", "--type", "d", "--type", "l").out == "d/\nd/e/\nf/\nf/g/\nlink\n"
    assert desk("find", "--older", "1000d", "--type", "f").out == "d/b.gz\n"
    assert desk("find", "*/*", "--newer", "1h", "--name", "*.gz").out == "d/e/c.gz\n"
    assert [one["size"] for one in desk("find", "--json", "--name", "c*").objects] == [2000]
    assert desk("find", "-l", "--name", "b.gz").out.split()[:2] == ["-rw-r--r--", "100"]
    assert desk("find", "--name", "none").out == ""


def test_find_refuses_wrong_use(desk: Desk, filled: Path) -> None:
    desk("find", "gone").failed(1, "gone: There is no such file")
    desk("find", "--larger", "big").failed(2, "not a number of bytes")
    desk("find", "--newer", "soon").failed(2, "'soon' is not a date")
    desk("find", "--type", "x").failed(2, "'x' is not one of")


def test_tree_draws_what_is_there(desk: Desk, filled: Path) -> None:
    assert desk("tree").out == (
        ".\n"
        "├── a.txt\n"
        "├── d/\n"
        "│   ├── b.gz\n"
        "│   └── e/\n"
        "│       ├── .hidden\n"
        "│       └── c.gz\n"
        "├── f/\n"
        "│   └── g/\n"
        "│       └── h\n"
        "└── link\n"
        "\n4 folders, 6 files\n"
    )
    assert desk("tree", "-L", "1", "d").out == "d\n├── b.gz\n└── e/\n\n1 folder, 1 file\n"
    assert desk("tree", "-d", "f").out == "f\n└── g/\n\n1 folder\n"
    assert [(one["path"], one["depth"]) for one in desk("tree", "--json", "f").objects] == [("f/g", 1), ("f/g/h", 2)]
    desk("tree", "gone").failed(1, "gone: There is no such file")
    desk("tree", "a.txt").failed(1, "not a directory")
    desk("tree", "-L", "0").failed(2, "0")
    desk("tree", "[df]").failed(2, "matches 2 files")


def test_tree_shows_names_escaped(desk: Desk, root: Path) -> None:
    (root / "evil\u202e.gz").write_bytes(b"")
    assert desk("tree").out.splitlines()[1] == "└── evil\\u202e.gz"
    assert desk("find").out == "evil\\u202e.gz\n"


@pytest.mark.parametrize("command", ["find", "tree", "du"])
def test_a_listing_that_cannot_be_had_whole_ends_with_3(desk: Desk, host: Host, root: Path, command: str) -> None:
    (root / "many").mkdir()
    for number in range(120):
        (root / "many" / f"{number:04}-{'x' * 200}").write_bytes(b"1")
    whole = desk(command, "many").out
    desk.config.write_text(desk.config.read_text() + "\n[transfer]\nretries = 1\n")
    with Proxy(host.address, (Fault(), Fault("cut", after=25_000)), (Fault(), Fault("cut", after=0))) as proxy:
        desk.pair("cut", addresses=[proxy.address])
        ended = desk(command, "--server", "cut", "many")
        assert ended.code == 3, ended
        assert ended.err.startswith("ftpy: ")
        assert "total" not in ended.out and "folders" not in ended.out and "\tmany" not in ended.out
        assert command != "find" or ended.out == ""
    with Proxy(host.address, (Fault(), Fault("cut", after=25_000)), (Fault(), Fault())) as proxy:
        desk.pair("cut", addresses=[proxy.address])
        ended = desk(command, "--server", "cut", "many")
        assert (ended.code, ended.out == whole, proxy.connections) == (0, True, 2), ended
