"""What a sync keeps on this side, without any server."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpy.client.kept import KEEP_SECONDS, OWNER, KeptHere, kept_in, note, targets_noted
from ftpy.errors import LocalFileError, UnknownOperation
from ftpy.files import RemotePath
from ftpy.storage.operations import OperationKey

OPERATION, UNDO, AGAIN = "1" * 32, "2" * 32, "3" * 32
FOLDER = RemotePath.parse("folder")
HALF = ".ftpy-0123456789abcdef-0.partial"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder that something is kept in."""
    made = tmp_path / "here"
    made.mkdir()
    return made


@pytest.fixture
def kept(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeptHere]:
    """Its trash, with an operation begun."""
    monkeypatch.setenv("FTPY_CONFIG", str(tmp_path / "settings" / "client.toml"))
    with kept_in(str(here)) as opened:
        opened.begin(OPERATION, "sync")
        yield opened


def test_a_folder_that_was_made_goes_with_what_a_cut_off_get_left_in_it_and_comes_back_with_it(
    kept: KeptHere, here: Path
) -> None:
    kept.make(OPERATION, FOLDER)
    (here / "folder" / HALF).write_bytes(b"half")
    assert kept.undo(OPERATION, UNDO).left == 0
    assert not (here / "folder").exists()
    assert kept.undo(UNDO, AGAIN).left == 0
    assert (here / "folder" / HALF).read_bytes() == b"half"


def test_what_others_keep_there_does_not_expire_by_a_sync_of_ours(kept: KeptHere) -> None:
    old = time.time() - 2 * KEEP_SECONDS
    for operation, owner in ((UNDO, "alice"), (AGAIN, OWNER)):
        kept.trash.begin(OperationKey(owner, operation), "sync")
        os.utime(Path(kept.landing.target) / ".ftpy" / "trash" / operation / "record", (old, old))
    kept.begin("4" * 32, "sync")
    kept.trash.open(OperationKey("alice", UNDO)).close()
    with pytest.raises(UnknownOperation):
        kept.trash.open(OperationKey(OWNER, AGAIN))


def test_targets_that_are_noted_at_once_are_all_remembered(tmp_path: Path, kept: KeptHere) -> None:
    targets = [tmp_path / f"target-{number}" for number in range(20)]
    for target in targets:
        (target / ".ftpy" / "trash").mkdir(parents=True)
    threads = [threading.Thread(target=note, args=[str(target)]) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(targets_noted()) == {kept.landing.target, *map(str, targets)}


def test_a_folder_is_deleted_with_what_a_cut_off_get_left_in_it(kept: KeptHere, here: Path) -> None:
    (here / "folder").mkdir()
    (here / "folder" / HALF).write_bytes(b"half")
    kept.delete(OPERATION, FOLDER, None)
    assert not (here / "folder").exists()
    assert kept.undo(OPERATION, UNDO).left == 0
    assert (here / "folder" / HALF).read_bytes() == b"half"


@pytest.mark.parametrize("name", ["file", ".ftpy"])
def test_a_folder_with_a_file_or_with_a_trash_of_its_own_stays(kept: KeptHere, here: Path, name: str) -> None:
    kept.make(OPERATION, FOLDER)
    (here / "folder" / name).mkdir()
    assert kept.undo(OPERATION, UNDO).left == 1
    with pytest.raises(LocalFileError, match="not empty"):
        kept.delete(OPERATION, FOLDER, None)
    assert (here / "folder" / name).exists()
