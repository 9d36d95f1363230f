"""Symbolic links flipped under every verb for some seconds; ``scripts/rig-races`` does it for minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpy.storage.beneath import Door, best_door
from tests.rigs.races import VERBS, naive_build, race

SECONDS = 2.5
"""For each verb and door."""
NAIVE_SECONDS = 60.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(best_door() != "openat2", reason="needs Linux's openat2(2) and renameat2(2)"),
]


@pytest.mark.parametrize("door", ["openat2", "walk"])
@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_is_led_out_of_the_root_by_links_that_are_flipped(tmp_path: Path, verb: str, door: Door) -> None:
    report = race(tmp_path / "top", verb, door, SECONDS)
    assert report.losses == []
    assert report.is_race, report.line("race")


@pytest.mark.parametrize("verb", VERBS)
def test_a_server_that_looks_first_and_opens_then_is_led_out(tmp_path: Path, verb: str) -> None:
    """The control."""
    with naive_build():
        assert race(tmp_path / "top", verb, "openat2", NAIVE_SECONDS).losses
