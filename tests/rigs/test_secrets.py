"""A day of a server and its client, searched for secrets; ``scripts/rig-secrets`` is the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rigs.processes import HAS_PROC, told_by
from tests.rigs.secrets import Day, Findings, allow_cores, core_is_a_file, planted

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not HAS_PROC, reason="needs Linux's /proc")]

SECRET = bytes(range(32))


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_secret_is_in_anything_that_is_said_or_left(tmp_path: Path, log_format: str) -> None:
    findings = Day(tmp_path / "day", log_format).live()
    assert findings.violations == []
    assert len(findings.patterns) > 40 and len(findings.said) > 100


def test_a_secret_is_found_however_it_is_written(tmp_path: Path) -> None:
    """The control: every form of a secret, in a file and in what was said."""
    findings = Findings()
    findings.know("the key", SECRET)
    planted(findings.patterns, tmp_path)
    for pattern in findings.patterns.values():
        findings.keep("an output", pattern)
    findings.search_all(tmp_path)
    for name in findings.patterns:
        assert len([violation for violation in findings.violations if violation.startswith(name)]) >= 2


@pytest.mark.skipif(not (HAS_PROC and core_is_a_file()), reason="the kernel does not write cores to the current folder")
def test_a_secret_is_found_in_the_core_of_a_process_that_leaves_one(tmp_path: Path) -> None:
    """The control: this is what the commands would leave if they did not refuse to."""
    code = "import os; secret = bytes(range(32)); os.abort()"
    died = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, preexec_fn=allow_cores, check=False)
    assert died.returncode == -6 and any(name.startswith("core") for name in os.listdir(tmp_path))
    findings = Findings()
    findings.know("the key", SECRET)
    findings.search_all(tmp_path)
    assert told_by(findings.violations, ("the key, raw",)), findings.violations
