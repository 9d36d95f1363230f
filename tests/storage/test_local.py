"""The local storage: the contract behind every door, and what is its own: journals, crashes, a full disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpy.storage.base import Storage
from ftpy.storage.beneath import Door
from ftpy.storage.local import LocalStorage
from tests.storage.contract import StorageContract


@pytest.fixture(params=["openat2", "walk"])
def door(request: pytest.FixtureRequest) -> Door:
    chosen: Door = request.param
    return chosen


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def storage(root: Path, tmp_path: Path, door: Door) -> Iterator[Storage]:
    with LocalStorage(root, tmp_path / "state", door=door) as storage:
        yield storage


class TestContract(StorageContract):
    """Every rule of the contract, by openat2 and by the walk."""
