"""``ftpy rm`` and ``ftpy mv`` as users meet them: real processes against a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.desk import Desk, content


@pytest.fixture
def root(root: Path) -> Path:
    """The server's folder, with something in it."""
    for name in ("a", "b", "d/x", "d/e/y"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def test_mkdir_makes_folders(desk: Desk, root: Path) -> None:
    ended = desk("mkdir", "new", "d/new/")
    assert (ended.code, ended.out, ended.err) == (0, "new: made\nd/new: made\n", "")
    assert desk("mkdir", "-p", "x/y/z", "d").out == "x/y/z: there, a folder\nd: there, a folder\n"
    assert (root / "x/y/z").is_dir() and (root / "d/new").is_dir()
    assert desk("mkdir", "--json", "w").objects == [{"source": "w", "ok": True, "path": "w"}]
    assert desk("mkdir", "[*]").code == 0 and (root / "[*]").is_dir()


def test_mkdir_says_what_failed_and_makes_the_others(desk: Desk, root: Path) -> None:
    ended = desk("mkdir", "d", "no/such", "a/b", "e")
    assert (ended.code, ended.out) == (1, "e: made\n")
    assert ended.err.splitlines() == [
        "ftpy: d: something is already there",
        "ftpy: no/such: there is no such file or directory",
        "ftpy: a/b: something on the way is not a directory",
    ]
    desk("mkdir", "-p", "a").failed(1, "a: something on the way is not a directory")
    desk("mkdir").failed(2, "Missing argument")


def test_mv_replaces_nothing_that_it_has_just_moved(desk: Desk, root: Path) -> None:
    (root / "d/e/x").write_bytes(b"another x")
    ended = desk("mv", "d/x", "d/e/x", "a", "new/")
    assert (ended.code, ended.out) == (1, "")  # no such folder
    (root / "new").mkdir()
    ended = desk("mv", "**/x", "a", "new/")
    assert ended.code == 1 and ended.out.endswith("a: now new/a\n")
    assert ended.err == "ftpy: d/x: this command has just put d/e/x at new/x\n"
    assert content(root) == {"b": b"b", "d/x": b"d/x", "d/e/y": b"d/e/y", "new/a": b"a", "new/x": b"another x"}


def test_touch_makes_files_and_sets_times(desk: Desk, root: Path) -> None:
    ended = desk("touch", "-d", "@1700000000", "new/file", "a", "d", TZ="UTC")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "new/file: made, empty, 2023-11-14 22:13:20",
        "a: 2023-11-14 22:13:20",
        "d: 2023-11-14 22:13:20",
    ]
    assert {(root / name).stat().st_mtime_ns for name in ("new/file", "a", "d")} == {1_700_000_000_000_000_000}
    assert content(root) == {"new/file": b"", "a": b"a", "b": b"b", "d/x": b"d/x", "d/e/y": b"d/e/y"}
    (told,) = desk("touch", "--json", "a").objects
    assert told["created"] is False and (root / "a").stat().st_mtime_ns == told["mtime_ns"] > 1_700_000_000_000_000_000


def test_touch_says_what_failed(desk: Desk, root: Path) -> None:
    (root / "link").symlink_to("a")
    before = (root / "a").stat().st_mtime_ns
    ended = desk("touch", "-c", "none", "link", "a/b", ".")
    assert (ended.code, ended.out) == (1, "")
    first, second, third, fourth = ended.err.splitlines()
    assert first == "ftpy: none: there is no such file or directory"
    assert second == "ftpy: link: symbolic links are never followed"
    assert third == "ftpy: a/b: something on the way is not a directory"
    assert fourth.startswith("ftpy: .: the root itself can be neither")
    assert not (root / "none").exists() and (root / "a").stat().st_mtime_ns == before
    desk("touch", "-d", "yesterday", "a").failed(2, "'yesterday' is not a date")
    for far in ("2300-01-01", "@-9999999999", "1000-01-01", "9999999999d"):
        desk("touch", "-d", far, "a").failed(2, f"'{far}' is not between 1678 and 2262")


def test_rm_removes_each_and_says_so(desk: Desk, root: Path) -> None:
    (root / "empty").mkdir()
    ended = desk("rm", "/a", "empty")
    assert (ended.code, ended.out, ended.err) == (0, "a: removed\nempty: removed, an empty folder\n", "")
    ended = desk("rm", "-r", "d/", "b")
    assert (ended.code, ended.out) == (0, "d: removed, 2 files and 2 folders\nb: removed\n")
    assert content(root) == {} and not (root / "d").exists()


def test_rm_says_what_failed_and_removes_the_others(desk: Desk, root: Path) -> None:
    ended = desk("rm", "none", "d", "a", ".", "b/x")
    assert (ended.code, ended.out) == (1, "a: removed\n")
    first, second, third, fourth = ended.err.splitlines()
    assert first == "ftpy: none: there is no such file or directory"
    assert second == "ftpy: d: the folder is not empty"
    assert third.startswith("ftpy: .: the root itself can be neither removed")
    assert fourth.startswith("ftpy: b/x: something on the way is not a directory")
    assert set(content(root)) == {"b", "d/x", "d/e/y"}


def test_rm_with_force_does_not_mind_what_is_not_there(desk: Desk, root: Path) -> None:
    ended = desk("rm", "-f", "none", "a", "none/x")
    assert (ended.code, ended.out, ended.err) == (0, "a: removed\n", "")
    ended = desk("rm", "-f", "d")
    ended.failed(1, "d: the folder is not empty")
    assert set(content(root)) == {"b", "d/x", "d/e/y"}


def test_rm_in_json_is_one_object_for_each(desk: Desk) -> None:
    ended = desk("rm", "--json", "-rf", "d", "none", "a", ".")
    assert ended.code == 1
    removed, missing, file, refused = ended.objects
    assert removed == {"source": "d", "ok": True, "path": "d", "files": 2, "folders": 2, "durable": True}
    assert missing == {"source": "none", "ok": True, "path": "none", "files": 0, "folders": 0, "durable": True}
    assert file == {"source": "a", "ok": True, "path": "a", "files": 1, "folders": 0, "durable": True}
    assert (refused["source"], refused["ok"], refused["error"]) == (".", False, "InvalidPath")


def test_quiet_says_only_errors(desk: Desk, root: Path) -> None:
    assert desk("rm", "-q", "a").out == "" and desk("mv", "-q", "b", "c").out == ""
    desk("rm", "-q", "a").failed(1, "a: there is no such file")
    assert set(content(root)) == {"c", "d/x", "d/e/y"}


@pytest.mark.parametrize(
    ("arguments", "moved"),
    [
        (("a", "c"), {"a": "c"}),
        (("a", "d"), {"a": "d/a"}),
        (("a", "d/"), {"a": "d/a"}),
        (("/a", "/d/c"), {"a": "d/c"}),
        (("d/e/y", "."), {"d/e/y": "y"}),
        (("a", "b", "d"), {"a": "d/a", "b": "d/b"}),
        (("a", "b"), {"a": "b"}),
        (("d", "f"), {"d/x": "f/x", "d/e/y": "f/e/y"}),
        (("d/e", "d/e2"), {"d/e/y": "d/e2/y"}),
        (("d/e/", "/"), {"d/e/y": "e/y"}),
        (("--if-absent", "a", "d/e"), {"a": "d/e/a"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mv_moves_as_mv_does(desk: Desk, root: Path, arguments: tuple[str, ...], moved: dict[str, str]) -> None:
    before = content(root)
    ended = desk("mv", *arguments)
    assert (ended.code, ended.err) == (0, "")
    kept = {name: data for name, data in before.items() if name not in {*moved, *moved.values()}}
    assert content(root) == kept | {to: before[name] for name, to in moved.items()}


def test_mv_says_what_is_true_now(desk: Desk) -> None:
    assert desk("mv", "a", "b", "d/").out == "a: now d/a\nb: now d/b\n"
    assert desk("mv", "--json", "d", "f").objects == [
        {"source": "d", "ok": True, "path": "d", "to": "f", "durable": True}
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("a",), 2, "a source and a target are needed"),
        (("a", "none/x"), 1, "none/x: there is no such file or directory"),
        (("a", "none/"), 1, "none/a: there is no such file or directory"),
        (("none", "c"), 1, "none: there is no such file or directory"),
        (("--if-absent", "a", "b"), 1, "b: something is already there"),
        (("d", "d/e"), 1, "d: cannot be moved to itself, nor into itself"),
        (("d", "b"), 1, "b: something is already there"),
        (("/", "c"), 1, "the root itself can be neither removed nor moved"),
        (("a", "c:"), 1, "backslash and colon"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mv_that_is_refused_changes_nothing(
    desk: Desk, root: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    before = content(root)
    desk("mv", *arguments).failed(code, said)
    assert content(root) == before


def test_mv_moves_the_others_when_one_fails(desk: Desk, root: Path) -> None:
    ended = desk("mv", "a", "none", "b", "d", "--json")
    assert ended.code == 1 and [one["ok"] for one in ended.objects] == [True, False, True]
    assert set(content(root)) == {"d/a", "d/b", "d/x", "d/e/y"}
