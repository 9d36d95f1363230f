"""``ftpy put -r`` and ``get -r`` as people type them: where a tree goes, what is said, how it ends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.desk import Desk


def tree(desk: Desk, name: str = "src") -> Path:
    top = desk.folder / name
    (top / "sub/empty").mkdir(parents=True)
    (top / "a.txt").write_bytes(b"a")
    (top / "sub/b.o").write_bytes(b"bb")
    return top


PUTS = {
    "alone keeps its name": ((), ["src"], "src"),
    "into a folder that is there": (("there",), ["src", "there"], "there/src"),
    "as a folder that is not there": ((), ["src", "new"], "new"),
    "with a slash, into it": ((), ["src", "new/"], "new/src"),
    "a slash behind the source means nothing": ((), ["src/", "new"], "new"),
    "the folder itself": ((), ["src/.", "new"], "new"),
}


@pytest.mark.parametrize("name", PUTS)
def test_put_r_goes_where_cp_would_put_it(desk: Desk, root: Path, name: str) -> None:
    there, arguments, where = PUTS[name]
    tree(desk)
    for folder in there:
        (root / folder).mkdir()
    ended = desk("put", "-r", *arguments)
    assert (ended.code, ended.err) == (0, "")
    assert sorted(str(p.relative_to(root / where)) for p in (root / where).rglob("*")) == [
        "a.txt",
        "sub",
        "sub/b.o",
        "sub/empty",
    ]


GETS = {
    "alone keeps its name": ((), ["src"], "src"),
    "into a folder that is there": (("there",), ["src", "there"], "there/src"),
    "as a folder that is not there": ((), ["src", "new"], "new"),
}


@pytest.mark.parametrize("name", GETS)
def test_get_r_goes_where_cp_would_put_it(desk: Desk, root: Path, name: str) -> None:
    there, arguments, where = GETS[name]
    desk("put", "-r", str(tree(desk, "planted")), "src")
    for folder in there:
        (desk.folder / folder).mkdir()
    ended = desk("get", "-r", *arguments)
    assert (ended.code, ended.err) == (0, "")
    assert (desk.folder / where / "sub/b.o").read_bytes() == b"bb" and (desk.folder / where / "sub/empty").is_dir()


def test_put_r_says_what_was_done_and_again_what_was_there(desk: Desk, root: Path) -> None:
    tree(desk)
    assert desk("put", "-r", "src").out.startswith("src: 2 files, 3 B in ")
    again = desk("put", "-r", "src").out
    assert again.startswith("src: 0 files, 0 B in ") and again.endswith(", 2 identical already\n")


def test_put_r_takes_files_beside_folders(desk: Desk, root: Path) -> None:
    tree(desk)
    desk.make("file")
    ended = desk("put", "-r", "src", "file", "to/")
    assert ended.code == 0 and (root / "to/file").exists() and (root / "to/src/sub/b.o").exists()


def test_a_folder_without_r_is_refused_and_so_are_options_that_need_it(desk: Desk, root: Path) -> None:
    tree(desk)
    desk("put", "src").failed(1, "src: a directory")
    desk("put", "--exclude", "x", "src").failed(2, "go with -r")
    desk("get", "-r", "src", "-").failed(2, "standard output")
    assert list(root.glob("[!.]*")) == []


def test_a_file_of_a_tree_that_fails_is_listed_at_the_end_and_the_exit_code_is_1(
    desk: Desk,
    root: Path,
) -> None:
    (tree(desk) / "con").write_bytes(b"1")
    (desk.folder / "src/bad\x1bname").write_bytes(b"1")
    ended = desk("put", "-r", "src")
    assert ended.code == 1 and ended.out.startswith("src: 2 files") and ended.out.endswith("2 FAILED\n")
    lines = ended.err.splitlines()
    assert len(lines) == 2 and all(line.isprintable() and line.startswith("ftpy: ") for line in lines)
    assert "con" in lines[1] and "bad\\x1bname" in lines[0]


def test_a_dry_run_names_what_would_be_moved(desk: Desk, root: Path) -> None:
    tree(desk)
    ended = desk("put", "-r", "--dry-run", "--exclude", "*.o", "src")
    assert ended.out == f"{os.path.join('src', 'a.txt')}: 1 B\nsrc: 1 file, 1 B to move\n"
    assert list(root.glob("[!.]*")) == []


def test_json_is_an_object_for_each_file_of_a_tree_and_one_for_the_whole(desk: Desk, root: Path) -> None:
    (tree(desk) / "con").write_bytes(b"1")
    *files, whole = desk("put", "-r", "--json", "src").objects
    assert {(told["path"], told["verdict"]) for told in files} == {
        ("src/a.txt", "sent"),
        ("src/con", "failed"),
        ("src/sub/b.o", "sent"),
    }
    assert next(told for told in files if told["verdict"] == "failed")["error"] == "InvalidPath"
    assert (whole["source"], whole["ok"], whole["files"], whole["failed"]) == ("src", False, 2, 1)
