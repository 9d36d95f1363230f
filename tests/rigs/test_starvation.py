"""A server that runs out of something does not spin, crash or forget how to serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rig import Host
from tests.rigs.processes import HAS_PROC
from tests.rigs.starvation import KINDS, rig_starvation

pytestmark = [pytest.mark.skipif(not HAS_PROC, reason="needs Linux's /proc"), pytest.mark.slow]


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_was_starved_serves_again(tmp_path: Path, kind: str, tls: bool) -> None:
    assert rig_starvation(Host(tmp_path / "host", tls=tls), kind).violations == []


@pytest.mark.parametrize("kind", ["descriptors"])
def test_a_server_that_spins_is_told(tmp_path: Path, kind: str) -> None:
    """The control: without the pause, the processor time says so."""
    report = rig_starvation(Host(tmp_path / "host", tls=False), kind, control=True)
    assert any(violation.startswith("it spins") for violation in report.violations), report.line()
