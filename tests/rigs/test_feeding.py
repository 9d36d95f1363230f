"""kill -9 under puts, moves and removals, a few times, and builds whose feed must be told from the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rigs.feeding import rig_feed
from tests.rigs.processes import HAS_PROC, told_by

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not HAS_PROC, reason="needs Linux's /proc")]


@pytest.mark.parametrize("victim", ["server", "worker"])
def test_feed_and_files_agree_after_every_kill(tmp_path: Path, victim: str) -> None:
    report = rig_feed(tmp_path / "host", 4, victim, seed=7)
    assert report.violations == []
    assert report.acknowledged >= report.kills


def test_they_agree_where_a_kill_is_sure_to_hit_between_event_and_rename(tmp_path: Path) -> None:
    """The control of the control: slow, and right."""
    assert rig_feed(tmp_path / "host", 4, "server", seed=7, builds=("slow-rename",)).violations == []


@pytest.mark.parametrize("build", ["unsettled-feed", "late-feed"])
def test_a_feed_that_is_not_settled_is_told(tmp_path: Path, build: str) -> None:
    report = rig_feed(tmp_path / "host", 100, "server", seed=7, builds=("slow-rename", build))  # up to the first
    assert told_by(report.violations, ("in the feed",)), report.violations
