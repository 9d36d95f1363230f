"""The matrix: every verb x every right x every place around a rule's path, and builds that must fail it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from ftpy.server import handlers, reading, rights, verbs
from ftpy.server.verbs import Need, Verb
from ftpy.wire.messages import CommitRequest, GetRequest, LsRequest, MvRequest, PutRequest, RmRequest, StatRequest
from tests.rig import Host
from tests.rigs.rights import PAIRS, VERBS, World, judge

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with ExitStack() as stack:
        fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ftpy-rights-", dir=fast)))
        made = World(Host(folder / "host", tls=False))
        stack.callback(made.close)
        yield made


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_does_what_the_rights_at_its_path_allow_and_nothing_else(world: World, verb: str) -> None:
    assert len(PAIRS) > 40
    assert list(judge(world, verb)) == []


def test_every_verb_of_the_server_is_in_the_matrix() -> None:
    asked = {name.split()[0] for name in VERBS}
    of_no_path = {"times", "commands", "run"}  # who may run what is asked in tests/e2e/test_commands.py
    assert asked == {str(kind.__struct_config__.tag) for kind in verbs.VERBS} - of_no_path


# ------------------------------------------------------------------ controls


def _parent(request: Any, _: object) -> Any:
    return request.remote_path().parent


def _as_text(permissions: rights.Permissions, path: Any) -> frozenset[str]:
    """Rules matched as text: what begins with the same letters is taken for what is below."""
    for rule in permissions.rules:
        if str(path).startswith(str(rule.path)):
            return rule.rights
    return permissions.rights


BROKEN: dict[str, tuple[str, type[Any], Verb]] = {
    "looks at the parent": ("get", GetRequest, Verb(reading.handle_get, (Need("read", path=_parent),))),
    "skips a verb": ("stat", StatRequest, Verb(reading.handle_stat)),
    "asks for another right": ("stat", StatRequest, Verb(reading.handle_stat, (Need("read"),))),
    "tells digests to who may only list": ("ls", LsRequest, Verb(reading.handle_ls, (Need("list"),), shows="list")),
    "does not look again at the end": (
        "commit",
        CommitRequest,
        Verb(handlers.handle_commit, replaces=verbs.VERBS[CommitRequest].replaces),
    ),
    "looks at one end of a move": (
        "mv to",
        MvRequest,
        Verb(handlers.handle_mv, verbs.VERBS[MvRequest].needs[:2], replaces=verbs.VERBS[MvRequest].replaces),
    ),
    "does not look below": ("rm below", RmRequest, Verb(handlers.handle_rm, (Need("delete"),))),
    "forgets what may be replaced": (
        "put",
        PutRequest,
        Verb(lambda request, context, **_: handlers.handle_put(request, context, replacing=True), (Need("write"),)),
    ),
}
"""The verb that finds it, and the row that is wrong."""


@pytest.mark.parametrize("build", BROKEN)
def test_a_build_with_a_wrong_row_fails(world: World, monkeypatch: pytest.MonkeyPatch, build: str) -> None:
    verb, request, row = BROKEN[build]
    monkeypatch.setitem(verbs.VERBS, request, row)
    with closing(judge(world, verb)) as violations:
        assert next(violations, None) is not None


def test_a_build_that_matches_rules_as_text_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rights.Permissions, "at", _as_text)
    assert any("sibling" in violation for violation in judge(world, "stat"))


def test_a_build_that_shows_all_it_finds_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftpy.storage.local.listing", _unfiltered)
    assert any("was listed" in violation for violation in judge(world, "ls below"))


def _unfiltered(*args: Any, admits: object = None, **kw: Any) -> Any:
    from ftpy.storage.reading import listing

    return listing(*args, **kw)
