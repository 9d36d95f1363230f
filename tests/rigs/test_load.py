"""Good clients at work among others that reset, and slow ones; ``scripts/rig-load`` does it for minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpy.config.server import Limits
from tests.rigs.load import SOON, rig_load
from tests.rigs.processes import HAS_PROC, serving

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not HAS_PROC, reason="needs Linux's /proc")]


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
def test_good_clients_meet_no_error_among_bad_ones_which_are_gone_in_time(tmp_path: Path, tls: bool) -> None:
    with serving(tmp_path / "host", tls=tls, limits=SOON) as host:
        report = rig_load(host, active=10, seconds=5, resets=200, seed=3)
    assert report.violations == []
    assert report.transfers >= 20 and len(report.stalled) >= 11


def test_a_server_that_waits_for_ever_is_told(tmp_path: Path) -> None:
    """The control: one whose limits are a minute has let none of the slow ones go after six seconds."""
    patient = Limits(handshake_seconds=60.0, stall_seconds=60.0, idle_seconds=60.0)
    with serving(tmp_path / "host", tls=False, limits=patient) as host:
        report = rig_load(host, active=1, seconds=0, resets=0, seed=3, late_seconds=-54.0)
    assert len([violation for violation in report.violations if "was never closed" in violation]) >= 11
