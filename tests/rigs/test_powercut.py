"""The power fails under a server at work, a few times; ``scripts/rig-powercut`` does it by the thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rigs.book import Book, version_of_bytes
from tests.rigs.disks import PoweredDisk, missing_for
from tests.rigs.powercut import CONTROLS, cycles_to_a_loss, rig_powercut
from tests.rigs.processes import told_by

MISSING = missing_for(PoweredDisk)
needs_disk = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


@needs_disk
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_acknowledged_is_lost_and_uploads_go_on_when_the_power_fails(tmp_path: Path) -> None:
    report = rig_powercut(tmp_path, 20, seed=7)
    assert report.violations == []
    assert report.cycles == 20 and sum(report.acknowledged.values()) > 20


@needs_disk
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("build", CONTROLS)
def test_the_power_cut_tells_a_build_that_leaves_a_sync_out_or_writes_its_feed_too_late(
    tmp_path: Path, build: str
) -> None:
    """The control: without the sync of a folder names are lost, without that of a file their bytes."""
    report = cycles_to_a_loss(tmp_path, 150, 7, build)
    assert told_by(report.violations, CONTROLS[build]), report.violations


# ------------------------------------------------------------------ the checker itself

OLD, NEW = version_of_bytes(b"old"), version_of_bytes(b"new")


def _book() -> Book:
    book = Book()
    book.begin("a", OLD)
    book.acknowledge("a")
    return book


def test_the_book_allows_old_and_new_while_a_put_is_not_acknowledged(tmp_path: Path) -> None:
    book = _book()
    book.begin("a", NEW)
    for data, faults in ((b"old", 0), (b"new", 0), (b"ne", 1)):
        (tmp_path / "a").write_bytes(data)
        assert len(book.faults(tmp_path)) == faults


def test_the_book_tells_a_removed_file_that_is_back(tmp_path: Path) -> None:
    book = _book()
    (tmp_path / "a").write_bytes(b"old")
    book.begin("a", None)
    assert book.faults(tmp_path) == []
    book.acknowledge("a")
    (fault,) = book.faults(tmp_path)
    assert "removed and is back" in fault


@pytest.mark.parametrize(
    ("there", "faults"), [(["a"], 0), (["b"], 0), (["a", "b"], 1), ([], 1)], ids=["before", "after", "twice", "nowhere"]
)
def test_the_book_wants_a_moving_file_at_exactly_one_place(tmp_path: Path, there: list[str], faults: int) -> None:
    book = _book()
    book.begin_move("a", "b")
    for name in there:
        (tmp_path / name).write_bytes(b"old")
    assert len(book.faults(tmp_path)) == faults


def test_the_book_wants_a_moved_file_at_its_target_once_that_is_acknowledged(tmp_path: Path) -> None:
    book = _book()
    book.acknowledge_move(book.begin_move("a", "b"))
    (tmp_path / "a").write_bytes(b"old")
    assert len(book.faults(tmp_path)) == 2
    (tmp_path / "a").rename(tmp_path / "b")
    assert book.faults(tmp_path) == []


def test_the_book_counts_from_what_is_there_once_it_is_settled(tmp_path: Path) -> None:
    book = _book()
    book.begin("a", NEW)
    (tmp_path / "a").write_bytes(b"new")
    assert book.settle(tmp_path) == []
    (tmp_path / "a").write_bytes(b"old")
    assert len(book.faults(tmp_path)) == 1
