"""Whenever a process dies or the power fails, an operation can be undone to what was there before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rigs.disks import PoweredDisk, missing_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
MISSING = missing_for(PoweredDisk)
FAST = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def run(what: str, folder: str | Path, *build: str) -> tuple[int, str]:
    """A process of its own: it forks, and has no threads."""
    command = [sys.executable, "-m", "tests.rigs.undoing", what, str(folder), *build]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_a_process_that_dies_at_any_call_leaves_what_can_be_undone(tmp_path: Path) -> None:
    code, said = run("kill", FAST or tmp_path)
    assert code == 0, said
    assert int(said.split()[0]) > 60


def test_the_control_that_writes_steps_down_when_they_are_done_loses(tmp_path: Path) -> None:
    code, said = run("kill", FAST or tmp_path, "unsealed")
    assert code == 1 and "is there, not" in said


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_a_power_cut_at_any_call_leaves_what_can_be_undone(tmp_path: Path) -> None:
    code, said = run("power", tmp_path)
    assert code == 0, said
