"""``ftpy put -r --atomic`` and ``ftpy rollback`` as people type them: what is said, what is refused, how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.desk import Desk


@pytest.fixture
def versions(desk: Desk, root: Path) -> Desk:
    """A workstation with two versions of a folder, ``one`` of which is stored as www/site."""
    for name in ("one", "two"):
        (desk.folder / name / "sub").mkdir(parents=True)
        (desk.folder / name / "sub" / name).write_text(name)
    (root / "www/site/sub").mkdir(parents=True)
    (root / "www/site/sub/one").write_text("one")
    return desk


def stored(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "www/site").rglob("*") if path.is_file())


def test_a_folder_is_put_at_once_and_gone_back_from(versions: Desk, root: Path) -> None:
    put = versions("put", "-r", "--atomic", "two", "www/site")
    assert (put.code, put.err) == (0, "") and put.out.startswith("two: 1 file, 3 B in ")
    assert put.out.endswith(", verified, put in place at once\n") and stored(root) == ["two"]
    back = versions("rollback", "/www/site")
    assert (back.code, back.err) == (0, "") and stored(root) == ["one"]
    assert back.out == ("www/site: back to the folder of before (what was there is kept: the same again returns)\n")
    (told,) = versions("rollback", "--json", "www/site").objects
    assert told == {"source": "www/site", "ok": True, "path": "www/site", "replaced": True} and stored(root) == ["two"]
    versions("rm", "-rq", "www/site")
    assert versions("rollback", "www/site").out.endswith("(nothing was there any more)\n") and stored(root) == ["one"]


def test_each_path_that_cannot_be_gone_back_to_is_a_line_and_stops_no_other(versions: Desk, root: Path) -> None:
    versions("put", "-rq", "--atomic", "two", "www/site")
    versions("put", "-rq", "--atomic", "two", "new")
    (root / "file").touch()
    ended = versions("rollback", "-q", "none", "new", "file", ".", "www/*", "www/site")
    assert (ended.code, ended.out) == (1, "") and stored(root) == ["one"]
    assert ended.err.splitlines() == [
        "ftpy: none: nothing is kept there to go back to",
        "ftpy: new: nothing was there before the tree that was put in place",
        "ftpy: file: not a folder, and a tree takes the place of one only",
        "ftpy: .: the root itself cannot be put in place as a tree",
        "ftpy: www/*: nothing is kept there to go back to",
    ]
    (told,) = versions("rollback", "--json", "none").objects
    assert (told["source"], told["ok"], told["error"]) == ("none", False, "NoPrevious")


def test_what_fails_keeps_the_old_folder_and_says_so(versions: Desk, root: Path) -> None:
    (versions.folder / "two/bad\nname").write_text("x")
    ended = versions("put", "-r", "--atomic", "two", "www/site")
    assert ended.code == 1 and stored(root) == ["one"]
    assert ended.out.endswith("1 FAILED, NOTHING put in place (the same command goes on)\n")
    assert ended.err == "ftpy: www/site/bad\\nname: control characters are not allowed\n"
    (versions.folder / "two/bad\nname").unlink()
    *_, whole = versions("put", "-r", "--atomic", "--json", "two", "www/site").objects
    assert (whole["ok"], whole["swapped"], whole["identical"]) == (True, True, 1) and stored(root) == ["two"]


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("put", "--atomic", "file", "www/site"), 2, "--atomic goes with -r"),
        (("put", "-r", "--atomic", "--if-match", "0" * 32, "two", "www/site"), 2, "without -r"),
        (("put", "-r", "--atomic", "--if-absent", "two", "www/site"), 1, "www/site: something is already there"),
        (("put", "-r", "--atomic", "none", "www/site"), 1, "none: No such file"),
        (("rollback",), 2, "Missing argument 'PATH...'"),
        (("rollback", "../www/site"), 1, ".. is not a name"),
    ],
    ids=["no -r", "if-match", "if-absent", "nothing here", "no path", "dots"],
)
def test_wrong_use_is_one_line_and_changes_nothing(
    versions: Desk, root: Path, arguments: tuple[str, ...], code: int, reason: str
) -> None:
    versions.make("file")
    versions(*arguments).failed(code, reason)
    assert stored(root) == ["one"] and list((root / ".ftpy/trees").iterdir()) == []


def test_a_slash_behind_the_target_is_the_folder_that_it_goes_into(versions: Desk, root: Path) -> None:
    assert versions("put", "-rq", "--atomic", "two", "www/site/").code == 0
    assert stored(root) == ["one", "two"] and (root / "www/site/two/sub/two").is_file()
    dry = versions("put", "-r", "--atomic", "--dry-run", "one", "www/site")
    assert dry.out.endswith("one: 1 file, 3 B to move\n") and stored(root) == ["one", "two"]
