"""What users hold of a process's descriptors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpy.server import shares
from ftpy.server.shares import Shares, descriptors


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3)), max_size=60))
def test_nobody_has_more_than_is_left_and_all_of_it_comes_back(asked: list[tuple[str, int]]) -> None:
    held, total = {"a": 0, "b": 0, "c": 0}, 40
    handed = Shares(total)
    for owner, count in asked:
        left = total - sum(held.values())
        assert handed.take(owner, count) == (held[owner] + count <= left - count)
        if held[owner] + count <= left - count:
            held[owner] += count
    for owner, count in held.items():
        handed.give_back(owner, count)
    assert handed.take("d", total // 2) and not handed.take("d", 1)


@pytest.mark.parametrize(("soft", "connections", "found"), [(1024, 1024, 256), (8192, 1024, 5120), (10**6, 10, 8192)])
def test_unfinished_work_has_what_connections_leave(
    monkeypatch: pytest.MonkeyPatch, soft: int, connections: int, found: int
) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    assert descriptors(connections) == found
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert descriptors(connections) == shares.MOST
