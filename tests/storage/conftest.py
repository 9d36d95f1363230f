"""Folders of these tests lie in memory where there is such a place: what is tested is what is synced, not how fast."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpy.storage import syscalls
from ftpy.storage.local import LocalStorage

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


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What a user's root is: an empty folder."""
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def local(root: Path, tmp_path: Path) -> Iterator[LocalStorage]:
    """The storage of this root, opened as the host of it finds best."""
    with LocalStorage(root, tmp_path / "state") as storage:
        yield storage


@pytest.fixture
def storage(local: LocalStorage) -> LocalStorage:
    """The same, for the contract of all storages."""
    return local


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that are synced, in order."""
    found: list[str] = []
    monkeypatch.setattr(syscalls, "HAS_SYNCFS", False)
    monkeypatch.setattr(syscalls, "fsync", lambda fd: found.append(os.path.realpath(f"/proc/self/fd/{fd}")))
    return found
