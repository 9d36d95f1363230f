"""The systemd unit: hardened as systemd itself counts, and no hindrance to the server's own sandbox."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parent.parent / "scripts" / "deploy" / "ftpy-server.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_unit_is_rated_under_two_by_systemd() -> None:
    told = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", UNIT], capture_output=True, text=True, check=False
    )
    if "unrecognized option" in told.stderr:
        pytest.skip("needs systemd 250")
    rated = re.search(r"Overall exposure level for ftpy-server.service: (\d+\.\d)", told.stdout)
    assert rated is not None and float(rated[1]) < 2.0, told.stdout + told.stderr


def test_unit_lets_the_server_make_its_sandbox_and_reload() -> None:
    lines = UNIT.read_text().splitlines()
    allowed = {word for line in lines if line.startswith("SystemCallFilter=") for word in line.split("=")[1].split()}
    assert {"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"} <= allowed
    assert "ExecReload=/bin/kill -HUP $MAINPID" in lines and "NoNewPrivileges=yes" in lines
