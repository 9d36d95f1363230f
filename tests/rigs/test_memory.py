"""Memory is flat in the size of a file, on both sides; ``scripts/rig-memory`` takes 4 GiB."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from ftpy.config.server import Limits
from tests.rigs.memory import rig_memory, rig_tree_memory
from tests.rigs.processes import MIB, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc/PID/clear_refs"),
]


def test_memory_of_both_sides_is_small_and_flat_in_the_size() -> None:
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="ftpy-", dir=fast) as folder, serving(Path(folder) / "host") as host:
        report = rig_memory(host, (64 * MIB, 512 * MIB))
    assert report.violations == []
    assert len(report.peaks) == 8 and all(above > 0 for above in report.peaks.values())


def test_memory_of_both_sides_is_small_and_flat_in_the_number_of_files() -> None:
    """As many requests are under way as may be with few files too: else the many would cost more for that alone."""
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    narrow = Limits(pipelined_requests=1024)
    with (
        tempfile.TemporaryDirectory(prefix="ftpy-", dir=fast) as folder,
        serving(Path(folder) / "host", limits=narrow) as host,
    ):
        report = rig_tree_memory(host, (8_000, 40_000))
    assert report.violations == []
    assert len(report.peaks) == 8 and all(above > 0 for above in report.peaks.values())
