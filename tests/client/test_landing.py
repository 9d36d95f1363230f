"""The folder that a tree comes down in, and other gets of it at the same moment."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftpy.client import landing
from ftpy.client.landing import Landing
from ftpy.errors import LocalFileError
from ftpy.storage.area import Area
from ftpy.storage.beneath import Beneath


class Taken:
    """Other gets that take the staging area away as soon as it is made, until they have ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, pauses: int) -> None:
        self.pauses: list[float] = []
        self._until = pauses
        monkeypatch.setattr(landing, "Area", self._area)
        monkeypatch.setattr(time, "sleep", self.pauses.append)

    def _area(self, beneath: Beneath) -> Area:
        if len(self.pauses) >= self._until:
            return Area(beneath)
        beneath.root.mkdir(".ftpy", 0o700)
        with beneath.root.open_dir(".ftpy") as top:
            beneath.root.rmdir(".ftpy")
            top.mkdir("staged")  # fails as it does there: in a folder that is gone
        raise AssertionError


def test_a_staging_area_that_others_take_away_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = Taken(monkeypatch, pauses=5)
    with Landing(str(tmp_path)) as here:
        assert here.groups
    assert others.pauses == sorted(set(others.pauses)) and len(others.pauses) == 5
    assert list(tmp_path.iterdir()) == []


def test_it_is_waited_for_less_than_half_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = Taken(monkeypatch, pauses=1000)
    with pytest.raises(LocalFileError, match="No such file"):
        Landing(str(tmp_path))
    assert 0.1 < sum(others.pauses) < 0.5


KILLED = """
import os, signal, sys
from ftpy.client.landing import Landing
from ftpy.storage.beneath import Directory
Directory.unlink = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
Landing(sys.argv[1])
"""


def test_what_a_get_that_is_killed_as_it_begins_leaves_goes_with_the_next(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL and list(tmp_path.iterdir()) != []
    with Landing(str(tmp_path)):
        pass
    assert list(tmp_path.iterdir()) == []
