"""``ftpy sync`` and ``ftpy undo`` as users meet them: real processes against a real server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.cli.desk import Desk
from tests.rig import AS_ROOT, eventually

MTIME_NS = 10**18
NOBODY = 65534


@pytest.fixture
def desk(desk: Desk) -> Desk:
    """A workstation that is paired, with a folder of ten files."""
    for number in range(10):
        put(desk.folder / "src" / str(number), f"content {number}")
    return desk


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, ns=(MTIME_NS, MTIME_NS))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != ".ftpy"}


def test_a_sync_is_told_planned_and_undone(desk: Desk, root: Path) -> None:
    ended = desk("sync", "src", "d")
    assert ended.code == 0 and "src: 10 files, 90 B in " in ended.out and "to undo: ftpy undo " in ended.out
    (desk.folder / "src" / "1").unlink()
    (desk.folder / "src" / "2").rename(desk.folder / "src" / "two")
    put(desk.folder / "src" / "3", "longer than before")
    planned = desk("sync", "--delete", "--dry-run", "src", "d")
    assert planned.out.splitlines() == [
        "move: 2 -> two",
        "replace: 3, 18 B",
        "delete: 1",
        "src: 1 files, 18 B to move, 1 to rename, 1 to delete, 7 identical already",
    ]
    assert names(root / "d") == set("0123456789")
    done = desk("sync", "--delete", "--json", "src", "d").objects
    assert [one.get("do") for one in done] == ["move", None, "delete", None]
    assert (done[-1]["moved"], done[-1]["deleted"], done[-1]["files"], done[-1]["ok"]) == (1, 1, 1, True)
    assert names(root / "d") == names(desk.folder / "src")
    listed = desk("undo").out.splitlines()
    assert listed[0].endswith("sync src d: 1 replaced, 1 deleted, 1 moved")
    undone = desk("undo", done[-1]["operation"][:6])
    assert undone.code == 0 and "3 steps undone (to do it all again: ftpy undo " in undone.out
    assert names(root / "d") == set("0123456789") and (root / "d" / "3").read_text() == "content 3"
    forgotten = desk("undo", "--forget", done[-1]["operation"])
    assert "forgotten" in forgotten.out
    desk("undo", done[-1]["operation"]).failed(1, "There is no such operation")


def test_what_was_changed_since_is_said_and_is_exit_code_1(desk: Desk, root: Path) -> None:
    operation = desk("sync", "--json", "src", "d").objects[-1]["operation"]
    put(root / "d" / "5", "somebody's")
    ended = desk("undo", operation)
    assert ended.code == 1 and "1 LEFT ALONE" not in ended.err
    assert "ftpy: left alone: d/5: it was changed since" in ended.err
    assert names(root / "d") == {"5"}


def test_a_sync_that_would_delete_too_much_is_refused_in_one_line(desk: Desk, root: Path) -> None:
    desk("sync", "src", "d")
    for number in range(7):
        (desk.folder / "src" / str(number)).unlink()
    desk("sync", "--delete", "src", "d").failed(1, "7 of the target's 10 files would be deleted, which is over 50%")
    assert desk("sync", "--delete", "--max-delete", "70%", "src", "d").code == 0
    assert len(names(root / "d")) == 3
    for number in range(7, 10):
        (desk.folder / "src" / str(number)).unlink()
    desk("sync", "--delete", "--max-delete", "100", "src", "d").failed(1, "the source is empty")
    desk("sync", "--delete", "nothere", "d").failed(1, "nothere")
    desk("sync", "--max-delete", "lots", "src", "d").failed(2, "'lots' is not a percentage")
    desk("sync", "src").failed(2, "Missing argument")
    desk("undo", "--forget").failed(2, "--forget needs an ID")


def test_a_pull_is_undone_by_its_id_alone(desk: Desk, root: Path) -> None:
    desk("sync", "src", "d")
    (root / "d" / "1").unlink()
    put(root / "d" / "new", "from there")
    done = desk("sync", "--pull", "--delete", "--json", "src", "d").objects[-1]
    assert names(desk.folder / "src") == names(root / "d")
    assert any("sync --pull src d: 1 added, 1 deleted" in line for line in desk("undo").out.splitlines())
    for few in ("", done["operation"][:3]):
        desk("undo", "--forget", few).failed(1, f"'{few}': at least 4 digits of an operation's id are needed")
    desk("undo", "--forget", "z" * 32).failed(1, "There is no such operation")
    assert desk("undo", done["operation"][:8]).code == 0
    assert names(desk.folder / "src") == set("0123456789")


def test_watch_says_what_it_needs_and_what_it_does_not_go_with(desk: Desk) -> None:
    desk("sync", "--watch", "--pull", "src", "d").failed(2, "--watch goes neither with --pull")
    blocked = "import sys; sys.modules['watchfiles'] = None; from ftpy.cli.main import main; main()"
    command = [sys.executable, "-c", blocked, "sync", "--watch", "src", "d"]
    ended = subprocess.run(
        command, cwd=desk.folder, env=desk.environment(), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2 and "pip install '.[watch]'" in ended.stderr


@pytest.mark.slow
def test_watch_goes_on_with_every_change_until_it_is_interrupted(desk: Desk, root: Path) -> None:
    pytest.importorskip("watchfiles")
    code = "from ftpy.cli.main import main; main()"
    command = [sys.executable, "-c", code, "sync", "--watch", "--delete", "-q", "src", "d"]
    with subprocess.Popen(
        command, cwd=desk.folder, env=desk.environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            eventually(lambda: (root / "d").is_dir() and len(names(root / "d")) == 10, 60)
            put(desk.folder / "later", "one more")  # in place at once: half of it, seen, would be told
            (desk.folder / "later").rename(desk.folder / "src" / "later")
            eventually(lambda: "later" in names(root / "d"), 60)
            (desk.folder / "src" / "4").unlink()
            eventually(lambda: "4" not in names(root / "d"), 60)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
            assert process.stderr is not None and process.stderr.read() == "ftpy: interrupted\n"
        finally:
            process.kill()


@pytest.mark.slow
def test_watch_tries_again_what_failed_though_nothing_changes(desk: Desk, root: Path) -> None:
    pytest.importorskip("watchfiles")
    (root / "d").write_text("no folder")
    code = "from ftpy.cli import syncing; syncing.AGAIN_SECONDS = 0.1; from ftpy.cli.main import main; main()"
    command = [sys.executable, "-c", code, "sync", "--watch", "-q", "src", "d"]
    with subprocess.Popen(
        command, cwd=desk.folder, env=desk.environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            said = [process.stderr.readline() for _ in range(4)]
            assert (
                "not a directory" in said[0] and said[1] == "ftpy: trying again in 0.1 s, or when something changes\n"
            )
            assert said[3] == "ftpy: trying again in 0.2 s, or when something changes\n"
            (root / "d").unlink()
            eventually(lambda: (root / "d").is_dir() and len(names(root / "d")) == 10, 60)
        finally:
            process.kill()


def watched(folder: Path, before: str = "", meanwhile: str = "") -> str:
    """What becomes of watching a folder in a process of its own, which does something first and as it watches."""
    code = f"""
import os, platform, resource, watchfiles, ftpy.errors
from ftpy.cli.syncing import changes_in
platform.uname()
changes_in({str(folder)!r}).close()  # all that is imported for it
{before}
try:
    changes = changes_in({str(folder)!r})
    {meanwhile}
    open({str(folder / "new")!r}, "w").close()
    print("seen" if any(next(changes) for _ in range(20)) else "not seen")
except ftpy.errors.LocalFileError as error:
    print(error)
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_what_may_not_be_read_or_watched_ends_no_watching_with_a_traceback() -> None:
    pytest.importorskip("watchfiles")
    with tempfile.TemporaryDirectory() as name:  # where others may get, too
        folder = Path(name)
        (folder / "secret").mkdir(mode=0)
        if AS_ROOT:
            os.chown(folder, NOBODY, NOBODY)
        assert watched(folder, f"os.geteuid() or os.seteuid({NOBODY})") == "seen"
        few = "resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))"
        assert ": it cannot be watched: " in watched(folder, few)


@pytest.mark.parametrize("how", ["os.rename(here, here + '-away')", "os.rmdir(here)"])
def test_a_folder_that_takes_the_place_of_what_is_watched_is_watched(tmp_path: Path, how: str) -> None:
    pytest.importorskip("watchfiles")
    here = tmp_path / "here"
    here.mkdir()
    gone, anew = f"here = {str(here)!r}; {how}", "os.mkdir(here); next(one for one in changes if one); next(changes)"
    assert watched(here, meanwhile=f"{gone}; {anew}") == "seen"
    (here / "new").unlink()
    assert watched(here, meanwhile=f"{gone}; next(one for one in changes if one); {anew}") == "seen"


def test_our_own_names_are_told_from_others_below_what_is_watched_alone(tmp_path: Path) -> None:
    pytest.importorskip("watchfiles")
    folder, link = tmp_path / ".ftpy-mine/src", tmp_path / "link"
    folder.mkdir(parents=True)
    link.symlink_to(folder)
    ours = f"open({str(folder / '.ftpy-ours')!r}, 'w').close(); assert not any(next(changes) for _ in range(3))"
    assert watched(folder, meanwhile=ours) == "seen"
    (folder / "new").unlink()
    assert watched(link) == "seen"
