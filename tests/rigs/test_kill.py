"""kill -9 of server and client in the middle of puts, a few times; ``scripts/rig-kill`` does it by the hundred."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.rigs import kill
from tests.rigs.book import Book, version_of
from tests.rigs.processes import HAS_PROC, MIB, serving

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not HAS_PROC, reason="needs Linux's /proc")]

SIZES = (60 * MIB + 1, 48 * MIB)


@pytest.mark.parametrize("victim", ["server", "worker", "client"])
def test_nothing_acknowledged_is_lost_and_every_put_finishes_when_a_side_is_killed(tmp_path: Path, victim: str) -> None:
    with serving(tmp_path / "host", workers=3 if victim == "worker" else 1) as host:
        report = kill.rig_large(host, 3, SIZES, victim, seed=7)
    assert report.violations == []
    assert report.in_the_middle == 3 and report.acknowledged > 3


def test_small_puts_that_were_acknowledged_are_there_when_the_server_is_killed(tmp_path: Path) -> None:
    with serving(tmp_path / "host") as host:
        report = kill.rig_small(host, 3, seed=7)
    assert report.violations == []
    assert report.acknowledged > 10


# ------------------------------------------------------------------ the checker itself


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda root: (root / "large").unlink(), "is gone"),
        (lambda root: (root / "large").write_bytes(bytes(MIB)), "torn or old"),
        (lambda root: shutil.copy(root / "old", root / "large"), "torn or old"),
        (lambda root: (root / "half").write_bytes(b"1"), "never put"),
    ],
    ids=["lost", "torn", "old", "unfinished"],
)
def test_the_checker_tells_what_a_bad_server_would_leave(tmp_path: Path, damage: object, said: str) -> None:
    """The control: each kind of damage done by hand is found, here and in a listing."""
    with serving(tmp_path / "host") as host:
        book = Book()
        for name in ("old", "large"):
            source = host.folder / name
            source.write_bytes(name.encode() * 1000)
            book.begin(name, version_of(source))
            with host.client() as client:
                client.put(source, name)
            book.acknowledge(name)
        good, bad = kill.Report(), kill.Report()
        kill.check_disk(host, book, good)
        assert good.violations == []
        damage(host.root)  # type: ignore[operator]
        kill.check_disk(host, book, bad)
    assert len(bad.violations) == 1 and said in bad.violations[0]
