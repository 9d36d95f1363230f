"""What the figures hold for: processor, kernel, file system, versions."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from benchmark.sites import START_SECONDS, find_program

VERSIONS = {
    "ftpy": ("ftpy", ("ftpy", "--version")),
    "rsync": ("rsync", ("rsync", "--version")),
    "openssh": ("scp", ("ssh", "-V")),  # scp has no option for its version; ssh, which it runs, has
    "rclone": ("rclone", ("rclone", "--version")),
    "nginx": ("nginx", ("nginx", "-v")),
    "curl": ("curl", ("curl", "--version")),
    "lftp": ("lftp", ("lftp", "--version")),
    "aria2": ("aria2c", ("aria2c", "--version")),
}
"""What to tell the version of: a program that takes part, what to ask (vsftpd writes its own into standard input)."""


def describe_machine(programs: Mapping[str, str]) -> dict[str, str]:
    """Processor, kernel, and the versions of those of ``programs`` that matter."""
    described = {
        "processor": f"{len(os.sched_getaffinity(0))} cores, {processor_name()}",
        "kernel": f"{platform.system()} {platform.release()}",
    }
    for title, (program, (asked, option)) in VERSIONS.items():
        if program in programs and (found := find_program(asked)):
            described[title] = " ".join(_ask(found, option).partition("\n")[0].split())
    if "pyftpdlib" in programs:
        query = "import pyftpdlib; print('pyftpdlib', pyftpdlib.__ver__)"
        described["pyftpdlib"] = _ask(programs["pyftpdlib"], "-W", "ignore", "-c", query).strip()
    if "ftpy" in programs and (python := _python_of(programs["ftpy"])):
        query = "import platform, ssl; print('Python', platform.python_version() + ',', ssl.OPENSSL_VERSION)"
        described["ftpy"] += f", {_ask(*python, '-c', query).strip()}"
    return described


def _ask(*argv: str) -> str:
    try:
        said = subprocess.run(argv, capture_output=True, text=True, timeout=START_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown ({error})"
    return said.stdout or said.stderr


def _python_of(script: str) -> list[str] | None:
    """The interpreter that a script's first line names."""
    with open(script, "rb") as opened:
        first = opened.readline().decode(errors="replace")
    return first[2:].split() if first.startswith("#!") and "python" in first else None


def processor_name() -> str:
    """The processor's name as the kernel knows it."""
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def filesystem_of(folder: Path) -> str:
    """The type of the file system that holds ``folder``, after the device numbers in mountinfo."""
    device = os.stat(folder).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields, _, kind = line.partition(" - ")
            if fields.split()[2] == wanted:
                return kind.split()[0]
    return "unknown file system"
