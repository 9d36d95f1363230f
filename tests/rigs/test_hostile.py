"""A client that trusts no server: sessions with one that lies, and builds that trust it, which must be told."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpy import files
from ftpy.client import kept
from ftpy.client.client import Client
from ftpy.client.getting import Get
from ftpy.client.pulling import PlannedGet
from ftpy.storage import beneath
from ftpy.transport.channel import Channel
from tests.rigs.hostile import Campaign, get, get_to_stream, get_tree, put_tree
from tests.rigs.hostilesyncs import pull
from tests.rigs.processes import HAS_PROC
from tests.rigs.sessions import Scene

pytestmark = pytest.mark.skipif(not HAS_PROC, reason="needs Linux's /proc")

CONTROL_SESSIONS = 400
"""Within so many sessions a build that trusts must be told."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: every file of thousands is synced."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as made:
        yield Path(made) / "campaign"


@pytest.mark.parametrize(("tls", "sessions"), [(False, 900), (True, 100)], ids=["plaintext", "tls"])
@pytest.mark.timeout(300)
@pytest.mark.slow
def test_a_hostile_server_gets_nothing_from_a_client(folder: Path, tls: bool, sessions: int) -> None:
    with Campaign(folder, seed=1, tls=tls) as campaign:
        for number in range(sessions):
            campaign.run(number)
    assert campaign.finish().violations == []


def told_within(folder: Path, scene: Scene, what: str) -> bool:
    """Whether ``what`` is found to be wrong before CONTROL_SESSIONS of this kind are through."""
    with Campaign(folder, seed=1, scenes=[scene]) as campaign:
        wrong = (wrong for number in range(CONTROL_SESSIONS) for wrong in campaign.run(number).wrong)
        return any(what in text for text in wrong)


@pytest.mark.slow
def test_a_client_that_takes_any_name_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without refusals and O_NOFOLLOW a server's names lead anywhere."""
    monkeypatch.setattr(beneath, "best_door", lambda: "walk")
    monkeypatch.setattr(beneath, "_DIRECTORY_FLAGS", beneath._DIRECTORY_FLAGS & ~os.O_NOFOLLOW)
    monkeypatch.setattr(beneath, "check_parts", lambda parts: None)
    monkeypatch.setattr(files, "_refusal", lambda part: None)
    assert told_within(folder, get_tree, "outside the target")


@pytest.mark.slow
def test_a_client_that_takes_a_tree_for_put_in_place_unasked_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Client, "_swap", lambda *_: None)
    assert told_within(folder, put_tree, "in place, which nobody said")


@pytest.mark.slow
def test_a_client_that_pulls_another_version_than_was_listed_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PlannedGet, "_as_listed", False)
    assert told_within(folder, pull, "undo left alone")


@pytest.mark.slow
def test_a_client_that_keeps_nothing_of_what_a_pull_deletes_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "take", lambda directory, leaf, *_: directory.rename(leaf, directory, ".ftpy-gone"))
    assert told_within(folder, pull, "is lost")


class Agreeable(str):
    """A digest that is equal to every other."""

    __hash__ = str.__hash__

    def __eq__(self, _: object) -> bool:
        return True

    def __ne__(self, _: object) -> bool:
        return False


@pytest.mark.parametrize(
    ("scene", "what"),
    [(get, "never said"), (get_to_stream, "never said"), (get_tree, "never vouched for")],
    ids=["get", "stream", "tree"],
)
@pytest.mark.slow
def test_a_client_that_compares_no_digests_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, scene: Scene, what: str
) -> None:
    """The control: whatever arrives is what was said."""
    expected, known = Get.expected, Get.known

    def compare_trailer(channel: Channel, *_: Any) -> None:
        channel.receive_trailer()

    monkeypatch.setattr(Get, "expected", lambda *given: Agreeable(expected(*given)))
    monkeypatch.setattr(Get, "known", lambda *given: Agreeable(known(*given)))
    monkeypatch.setattr(Channel, "compare_trailer", compare_trailer)
    assert told_within(folder, scene, what)
