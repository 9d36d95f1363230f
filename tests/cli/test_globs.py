"""Patterns of remote paths, as users type them: what each command makes of them, and what it leaves alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpy.server import verbs
from ftpy.wire.messages import StatRequest
from tests.cli.desk import Desk, content
from tests.rig import Fault, Host, Proxy

NAMES = ("a.gz", "b.gz", "c.txt", "logs/1.gz", "logs/2.gz", "logs/old/0.gz", "logs/old/keep.txt")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    made = Host(tmp_path_factory.mktemp("globs") / "host")
    made.add_user("taker", rights=("read",))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def root(root: Path) -> Path:
    """The server's folder, with something in it."""
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def test_rm_removes_what_a_pattern_means_and_nothing_else(desk: Desk, root: Path) -> None:
    ended = desk("rm", "logs/*.gz", "*.gz", "logs/1*")
    assert ended.code == 0, ended
    assert ended.out == "logs/1.gz: removed\nlogs/2.gz: removed\na.gz: removed\nb.gz: removed\n"
    assert sorted(content(root)) == ["c.txt", "logs/old/0.gz", "logs/old/keep.txt"]


def test_rm_r_asks_once_for_a_folder_and_what_is_in_it(desk: Desk, root: Path) -> None:
    ended = desk("rm", "-r", "logs/**")
    assert (ended.code, ended.err) == (0, ""), ended
    assert ended.out.splitlines()[-1] == "logs/old: removed, 2 files and 1 folder"
    assert (root / "logs").is_dir() and sorted(content(root)) == ["a.gz", "b.gz", "c.txt"]


@pytest.mark.parametrize(
    "command", [("rm",), ("ls",), ("stat",), ("digest",), ("get",), ("mv", "--literal"), ("rm", "--literal"), ("mv",)]
)
def test_a_pattern_that_means_nothing_is_named(desk: Desk, root: Path, command: tuple[str, ...]) -> None:
    before = content(root)
    last = ["."] if command[0] == "mv" else []
    ended = desk(*command, "*.tar", *last)
    ended.failed(1, r"\*\.tar: " + ("there is no such" if "--literal" in command else "Nothing on the server matches"))
    assert content(root) == before
    ended = desk("rm", "-f", "*.tar")
    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_what_has_exactly_that_name_is_meant_alone(desk: Desk, root: Path) -> None:
    for name in ("x[1]", "x1", "*"):
        (root / name).write_bytes(b"")
    assert desk("rm", "x[1]").out == "x[1]: removed\n"
    assert desk("rm", "*").out == "*: removed\n"
    assert desk("rm", "--literal", "x[1]").code == 1
    assert desk("rm", "x[[]1]").code == 1
    assert (root / "x1").exists()
    assert desk("rm", "x[1]").out == "x1: removed\n"
    assert sorted(content(root)) == sorted(NAMES)


def test_nothing_is_removed_while_the_listing_does_not_come_whole(desk: Desk, host: Host, root: Path) -> None:
    (root / "many").mkdir()
    for number in range(120):
        (root / "many" / f"{number:04}-{'x' * 200}").write_bytes(b"")
    before = content(root)
    with Proxy(host.address, (Fault(), Fault("cut", after=25_000))) as proxy:
        desk.pair("cut", addresses=[proxy.address])
        desk.config.write_text(desk.config.read_text() + "\n[transfer]\nretries = 1\n")
        ended = desk("rm", "-s", "cut", "many/*")
        assert ended.code == 3 and "removed" not in ended.out, ended
        assert proxy.connections >= 2
    assert content(root) == before


def test_a_listing_that_broke_off_is_asked_for_again(desk: Desk, host: Host, root: Path) -> None:
    (root / "many").mkdir()
    for number in range(120):
        (root / "many" / f"{number:04}-{'x' * 200}").write_bytes(b"")
    with Proxy(host.address, (Fault(), Fault("cut", after=25_000)), (Fault(), Fault())) as proxy:
        desk.pair("cut", addresses=[proxy.address])
        ended = desk("rm", "-q", "-s", "cut", "many/*")
        assert (ended.code, proxy.connections) == (0, 2), ended
    assert list((root / "many").iterdir()) == []


def test_get_fetches_what_a_pattern_means(desk: Desk) -> None:
    (desk.folder / "to").mkdir()
    assert desk("get", "logs/*.gz", "to").code == 0
    assert sorted(content(desk.folder)) == ["to/1.gz", "to/2.gz"]
    assert desk("get", "*.gz", "none.gz", "to").code == 1
    assert sorted(content(desk.folder)) == ["to/1.gz", "to/2.gz", "to/a.gz", "to/b.gz"]
    assert desk("get", "logs/old/0*").code == 0
    assert (desk.folder / "0.gz").read_bytes() == b"logs/old/0.gz"
    desk("get", "logs/*.gz", "0.gz").failed(2, "0.gz is not a folder")


def test_mv_takes_all_of_a_pattern_into_a_folder(desk: Desk, root: Path) -> None:
    assert desk("mv", "*.gz", "logs/old").code == 0
    assert sorted(content(root)) == [
        "c.txt",
        "logs/1.gz",
        "logs/2.gz",
        *(f"logs/old/{name}" for name in ("0.gz", "a.gz", "b.gz", "keep.txt")),
    ]


@pytest.mark.parametrize("command", [("rm",), ("mv", "new")])
def test_what_a_listing_told_is_not_looked_at_again(
    desk: Desk, root: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    (root / "new").mkdir()
    for number in range(20):
        (root / f"{number}.tmp").write_bytes(b"")
    looks: list[str] = []
    row = verbs.VERBS[StatRequest]

    def counted(request: StatRequest, *about: Any, **more: Any) -> Any:
        looks.append(str(request.remote_path()))
        return row.handler(request, *about, **more)

    monkeypatch.setitem(verbs.VERBS, StatRequest, dataclasses.replace(row, handler=counted))
    assert desk(command[0], "*.tmp", *command[1:]).code == 0
    assert set(looks) <= {"*.tmp", "new"} and not list(root.glob("*.tmp"))


def test_ls_stat_and_digest_show_what_a_pattern_means(desk: Desk) -> None:
    assert desk("ls", "logs/*").out == "logs/1.gz\nlogs/2.gz\nlogs/old/\n"
    assert desk("ls", "-R", "logs/o*").out == "logs/old/\nlogs/old/0.gz\nlogs/old/keep.txt\n"
    assert desk("ls", "-R", "logs/**").out == "logs/1.gz\nlogs/2.gz\nlogs/old/\nlogs/old/0.gz\nlogs/old/keep.txt\n"
    assert [one["path"] for one in desk("ls", "--json", "**/*.txt").objects] == ["c.txt", "logs/old/keep.txt"]
    assert [one["path"] for one in desk("stat", "--json", "*.gz", "c.txt").objects] == ["a.gz", "b.gz", "c.txt"]
    assert [line[34:] for line in desk("digest", "*.gz").out.splitlines()] == ["a.gz", "b.gz"]


def test_who_may_not_list_names_files_exactly(desk: Desk, root: Path) -> None:
    desk.pair("taker", user="taker")
    (root / "odd[1]").write_bytes(b"odd")
    assert desk("get", "-s", "taker", "odd[1]", "-").out == "odd"
    desk("get", "-s", "taker", "*.gz", "-").failed(1, "there is no such file")


def test_names_are_shown_escaped(desk: Desk, root: Path) -> None:
    (root / "evil\u202e.gz").write_bytes(b"")
    ended = desk("rm", "evil*")
    assert ended.out == "evil\\u202e.gz: removed\n"
