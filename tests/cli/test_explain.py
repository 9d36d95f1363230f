"""``--explain`` and ``--limit`` as users meet them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.desk import MIB, Desk
from tests.rig import running


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with running(tmp_path / "host") as host:
        desk = Desk(tmp_path / "desk", host)
        desk.pair()
        yield desk


def test_explain_ends_with_a_table_of_both_ends_and_a_verdict(desk: Desk) -> None:
    desk.make("a", 20 * MIB)
    for arguments in (["put", "a"], ["get", "a", "back"]):
        ended = desk(*arguments, "--explain")
        head, *rows, verdict = ended.out.splitlines()[1:]
        assert ended.code == 0 and ended.err == "" and head.split() == ["here", "there"]
        assert "encryption" in {row.rsplit(None, 2)[0].strip() for row in rows}
        for column in (-1, -2):
            assert 90 <= sum(int(row.split()[column].rstrip("%")) for row in rows) <= 105
        assert verdict.startswith("limited by ") and "; to try: " in verdict


def test_explain_of_a_tree_and_as_json(desk: Desk) -> None:
    (desk.folder / "t").mkdir()
    desk.make("t/a"), desk.make("t/b")
    ended = desk("put", "-r", "t", "--explain", "--json")
    explain = json.loads(ended.out.splitlines()[-1])["explain"]
    assert set(explain) == {"here", "there", "limit"} and set(explain["limit"]) == {"name", "share", "try"}
    assert sum(explain["there"].values()) > 0


def test_explain_stays_out_of_a_file_on_standard_output(desk: Desk) -> None:
    data = desk.make("a", 1000)
    desk("put", "a")
    ended = desk("get", "a", "-", "--explain")
    assert ended.raw == data and "limited by" in ended.err


def test_limit_bounds_the_rate(desk: Desk) -> None:
    desk.make("a", MIB)
    began = time.monotonic()
    assert desk("put", "a", "--limit", "1M", "-q").code == 0
    assert time.monotonic() - began > 0.85


@pytest.mark.parametrize("rate", ["", "20X", "-1M", "1023", "M", "1e6", "٣M"])
def test_what_is_no_rate_is_wrong_usage(desk: Desk, rate: str) -> None:
    ended = desk("put", "a", "--limit", rate)
    assert ended.code == 2 and ended.err.startswith("ftpy: ") and len(ended.err.splitlines()) == 1


@pytest.mark.parametrize("rate", ["500K", "1.5M", "2g", "20MiB/s", "4096", "1 MB/s"])
def test_rates_are_read_as_people_write_them(desk: Desk, rate: str) -> None:
    desk.make("a")
    assert desk("put", "a", "--limit", rate).code == 0
