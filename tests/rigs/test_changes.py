"""Sources that change while they are put, a few times; ``scripts/rig-changes`` does it by the hundred."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpy.client.source import Source
from tests.rig import running
from tests.rigs.changes import CHANGES, WAYS, Changing

pytestmark = pytest.mark.slow

EACH_ONCE = len(CHANGES) * len(WAYS)
MOST_ROUNDS = 8 * EACH_ONCE


def test_a_source_that_changes_is_told_and_never_stored_silently(tmp_path: Path) -> None:
    with running(tmp_path / "host", tls=False) as host:
        report = Changing(host, tmp_path, seed=4).run(EACH_ONCE)
    assert report.violations == []
    assert report.outcomes["told"] > 0 and report.outcomes["stored"] > 0


def test_a_client_that_does_not_look_again_is_told_by_the_rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the look after the last byte a mix of two versions goes to the server, or half of one."""
    monkeypatch.setattr(Source, "check_unchanged", lambda _: None)
    with running(tmp_path / "host", tls=False) as host:
        rig = Changing(host, tmp_path, seed=4)
        while not rig.report.violations and rig.report.rounds < MOST_ROUNDS:
            rig.run(EACH_ONCE)
    assert rig.report.violations
