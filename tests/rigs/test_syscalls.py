"""System calls of the server fail, a sample of all; ``scripts/rig-syscalls`` takes every one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rigs.processes import told_by
from tests.rigs.syscalls import CONTROLS, missing, rig_syscalls

MISSING = missing()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]

SAMPLE_SECONDS = 10.0
CONTROL_SECONDS = 20.0


def test_every_answer_is_true_and_the_server_as_before_when_a_system_call_fails(tmp_path: Path) -> None:
    report = rig_syscalls(tmp_path / "host", seconds=SAMPLE_SECONDS, seed=7)
    assert report.violations == []
    assert report.fired > 0


@pytest.mark.parametrize("build", CONTROLS)
def test_the_rig_tells_a_build_that_does_not_take_a_failure_for_what_it_is(tmp_path: Path, build: str) -> None:
    """The controls: a sync that fails is believed at once and never tried again, a close means nothing."""
    call, sign = CONTROLS[build]
    report = rig_syscalls(
        tmp_path / "host",
        lambda request, made, error: (request, made, error) in {("put-small", call, "EIO"), ("ls", call, "EIO")},
        build=build,
        seconds=CONTROL_SECONDS,
        signs=(sign,),
    )
    assert told_by(report.violations, (sign,)), report.violations
