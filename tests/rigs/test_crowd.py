"""kill -9 under eight uploads and a tree, some times; ``scripts/rig-kill --only crowd`` does it by the thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rigs.crowd import rig_crowd
from tests.rigs.processes import HAS_PROC

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not HAS_PROC, reason="needs Linux's /proc")]


@pytest.mark.parametrize("victim", ["server", "worker", "client"])
def test_nothing_acknowledged_is_lost_under_a_crowd(tmp_path: Path, victim: str) -> None:
    report = rig_crowd(tmp_path / "host", 7, victim, seed=5)
    assert report.violations == []
    assert report.kills == 7 and report.acknowledged > 7
