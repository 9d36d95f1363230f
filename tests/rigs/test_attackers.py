"""Clients that hold a server up hold nobody else up, and leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rigs.attackers import ROOMY, SPARE_DESCRIPTORS, allow_descriptors, rig_attackers
from tests.rigs.processes import HAS_PROC, serving

pytestmark = pytest.mark.skipif(not HAS_PROC, reason="needs Linux's /proc")


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plaintext"])
@pytest.mark.slow
def test_others_are_served_while_clients_are_silent_slow_stuck_or_idle(tmp_path: Path, tls: bool) -> None:
    with serving(tmp_path / "host", tls=tls, limits=ROOMY) as host:
        report = rig_attackers(host, sessions=40, rounds=2, strangers=20)
    assert report.violations == []


@pytest.mark.slow
def test_others_are_served_while_a_thousand_sessions_are_idle(tmp_path: Path) -> None:
    sessions = 1000
    allowed = allow_descriptors(2 * sessions + SPARE_DESCRIPTORS)
    if allowed < sessions + SPARE_DESCRIPTORS:
        pytest.skip(f"the hard limit of open files is {allowed}")
    with serving(tmp_path / "host", limits=ROOMY) as host:
        report = rig_attackers(host, sessions=sessions, rounds=3)
    assert report.violations == []
    assert report.full is not None and report.full.threads > sessions
