"""A server that runs out of something does not spin, crash or forget how to serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rig import Host
from tests.rigs.processes import HAS_PROC
from tests.rigs.starvation import HELD_BYTES, HOARDS, KINDS, UPLOADS, rig_hoard, rig_starvation

pytestmark = [pytest.mark.skipif(not HAS_PROC, reason="needs Linux's /proc"), pytest.mark.slow]


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_was_starved_serves_again(tmp_path: Path, kind: str) -> None:
    assert rig_starvation(Host(tmp_path / "host", tls=kind == "memory"), kind, seconds=1.0).violations == []


@pytest.mark.parametrize("kind", ["descriptors"])
def test_a_server_that_spins_is_told(tmp_path: Path, kind: str) -> None:
    """The control: without the pause, the processor time says so, unless others leave none to spin on."""

    def told(number: int) -> bool:
        report = rig_starvation(Host(tmp_path / f"host-{number}", tls=False), kind, control=True)
        return any(violation.startswith("it spins") for violation in report.violations)

    assert any(map(told, range(3)))


@pytest.mark.parametrize("kind", HOARDS)
def test_one_connection_cannot_make_a_server_hold_much(tmp_path: Path, kind: str) -> None:
    held, threads = rig_hoard(Host(tmp_path / "host", tls=False), kind)
    assert held <= HELD_BYTES[kind], f"{held} bytes"
    assert threads <= UPLOADS
