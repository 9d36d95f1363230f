"""SIGTERM under load, a few times; ``scripts/rig-drain`` does it by the hundred."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rigs.drain import rig_drain
from tests.rigs.processes import HAS_PROC, told_by

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not HAS_PROC, reason="needs Linux's /proc")]


@pytest.mark.parametrize(("workers", "rounds"), [(1, 1), (3, 2)], ids=["alone", "workers"])
def test_sigterm_under_load_loses_nothing_and_cuts_off_nothing_that_has_time(
    tmp_path: Path, workers: int, rounds: int
) -> None:
    report = rig_drain(tmp_path / "host", rounds, workers, seed=3)
    assert report.violations == []
    assert report.finished > 0 and (report.cut, len(report.twice)) == (1, rounds - 1)


def test_a_server_that_does_not_drain_is_told(tmp_path: Path) -> None:
    """The control."""
    report = rig_drain(tmp_path / "host", 1, 1, seed=3, build="no-drain")
    assert told_by(report.violations, ("that had time to finish was cut",)), report.violations
