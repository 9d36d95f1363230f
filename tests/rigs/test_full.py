"""Disks without a block or an inode left, quotas used up, a few times; ``scripts/rig-full`` does it by the hundred."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rigs.disks import SmallDisk, missing_for, unmount_below
from tests.rigs.full import CONTROLS, rig_full
from tests.rigs.processes import told_by
from tests.rigs.shortages import SHORTAGES

MISSING = missing_for(SmallDisk)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]


def test_what_does_not_fit_is_refused_in_time_and_nothing_is_torn_when_room_runs_out(tmp_path: Path) -> None:
    report = rig_full(tmp_path, 20, seed=7)
    assert report.violations == []
    assert set(report.rounds) == set(SHORTAGES) and sum(report.rounds.values()) == 20
    assert report.refused > 20 and report.done > 20 and report.resumed > 10


@pytest.mark.parametrize("build", CONTROLS)
def test_the_rig_tells_a_build_that_looks_too_late_or_away(tmp_path: Path, build: str) -> None:
    """The controls: without a reservation the body is sent in vain, without a look at ENOSPC it is lost."""
    short, sign = CONTROLS[build]
    report = rig_full(tmp_path, 5, seed=7, build=build, only=(short,), signs=(sign,))
    assert told_by(report.violations, (sign,)), report.violations


def test_what_a_killed_rig_left_mounted_is_unmounted_and_nothing_beside_it(tmp_path: Path) -> None:
    left, beside = SmallDisk(tmp_path / "left"), SmallDisk(tmp_path / "left-beside")
    left.mount()
    with beside:
        unmount_below(tmp_path / "left")
        assert not left.place.is_mount() and beside.place.is_mount()
