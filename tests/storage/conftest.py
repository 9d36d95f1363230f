"""Folders of these tests lie in memory where there is such a place: what is tested is what is synced, not how fast."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path(os.environ.get("FTPY_TEST_MEMORY", "/dev/shm"))


@pytest.fixture
def disk_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on a real disk."""
    return tmp_path_factory.mktemp("disk")


@pytest.fixture
def tmp_path(disk_path: Path) -> Iterator[Path]:
    """A folder of the test's own, removed after it."""
    if not os.access(MEMORY, os.W_OK):
        yield disk_path
        return
    made = Path(tempfile.mkdtemp(prefix="ftpy-test-", dir=MEMORY))
    yield made
    shutil.rmtree(made)
