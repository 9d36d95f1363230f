"""rm and mv as a client by hand meets them: order among puts, rights, rules, the audit trail, progress."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpy.client.connection import Connection
from ftpy.errors import AlreadyExists, InvalidPath, NotEmpty, NotFound, PermissionDenied, RequestError
from ftpy.server.rights import PRESETS, RIGHTS
from ftpy.transport import channel
from ftpy.wire.bases import FailureReply, ProgressReply
from ftpy.wire.messages import MvReply, MvRequest, RmReply, RmRequest, StoredReply
from tests.rig import Host, eventually, running
from tests.rigs.book import visible
from tests.server.test_connection import connected, put_small, replies


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A server without TLS that keeps a trail."""
    with running(tmp_path / "host", tls=False, audit=True) as made:
        yield made


def rm(live: Connection, path: str, *, recursive: bool = False) -> RmReply:
    return live.call(RmRequest(id=live.next_id(), path=path, recursive=recursive), RmReply)


def mv(live: Connection, path: str, to: str, **fields: Any) -> MvReply:
    return live.call(MvRequest(id=live.next_id(), path=path, to=to, **fields), MvReply)


def make(host: Host, *names: str) -> None:
    for name in names:
        (host.root / name).parent.mkdir(parents=True, exist_ok=True)
        (host.root / name).write_bytes(name.encode())


def seen(host: Host) -> list[str]:
    """Files below the root, as readers see them."""
    return sorted(visible(host.root))


def test_rm_and_mv_see_what_was_put_before_them_in_one_train(host: Host) -> None:
    with connected(host) as live:
        put_small(live, "d/a", b"1")
        put_small(live, "d/b", b"2")
        live.channel.send(MvRequest(id=live.next_id(), path="d", to="e"))
        put_small(live, "d/a", b"3")
        live.channel.send(RmRequest(id=live.next_id(), path="e", recursive=True))
        live.channel.send(RmRequest(id=live.next_id(), path="e"))
        put_small(live, "e", b"4")
        said = replies(live, 7)
    kinds = [StoredReply, StoredReply, MvReply, StoredReply, RmReply, FailureReply, StoredReply]
    assert [type(reply) for reply in said] == kinds
    assert (said[4].files, said[4].folders, said[5].error) == (2, 1, "not-found")
    assert seen(host) == ["d/a", "e"] and (host.root / "d/a").read_bytes() == b"3"


def test_rm_and_mv_refuse_the_root_and_the_session_goes_on(host: Host) -> None:
    make(host, "a")
    with connected(host) as live:
        for work in (lambda: rm(live, "", recursive=True), lambda: mv(live, "", "b"), lambda: mv(live, "a", "")):
            with pytest.raises(InvalidPath):
                work()
        rm(live, "a")


def test_rm_says_how_many_names_are_gone_while_it_takes_long(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "PROGRESS_SECONDS", 0.001)
    make(host, *(f"d/{number % 20}/{number}" for number in range(1000)))
    heard: list[int] = []
    with connected(host) as live:
        live.channel.send(RmRequest(id=live.next_id(), path="d", recursive=True))
        while isinstance(message := live.channel.receive(), ProgressReply):
            heard.append(message.progress)
    assert isinstance(message, RmReply) and (message.files, message.folders) == (1000, 21)
    assert heard == sorted(heard) and 0 < heard[-1] <= 1021


# ------------------------------------------------------------------ rights

MV_TAKES = {"list", "read", "delete", "write"}


@pytest.mark.parametrize("lacking", RIGHTS)
def test_rm_takes_delete_and_mv_takes_all_that_looks_and_delete_here_and_write_there(host: Host, lacking: str) -> None:
    make(host, "d/a", "d/b", "there")
    host.add_user("bob", rights=tuple(right for right in RIGHTS if right != lacking))
    before = seen(host)
    with connected(host, "bob") as live:
        if lacking in MV_TAKES:
            with pytest.raises(PermissionDenied, match=f"no right to {lacking}"):
                mv(live, "d/a", "d/c")
            assert seen(host) == before
        else:
            mv(live, "d/a", "d/c")
            mv(live, "d/c", "d/a")
        if lacking == "delete":
            for work in (lambda: rm(live, "d/a"), lambda: rm(live, "d", recursive=True)):
                with pytest.raises(PermissionDenied, match="no right to delete"):
                    work()
            assert seen(host) == before
        else:
            rm(live, "d", recursive=True)
            assert seen(host) == ["there"]


def test_mv_without_the_right_to_replace_is_one_that_must_find_nothing(host: Host) -> None:
    make(host, "a", "b")
    host.add_user("bob", rights=("list", "read", "write", "delete"))
    with connected(host, "bob") as live:
        with pytest.raises(AlreadyExists):
            mv(live, "a", "b")
        mv(live, "a", "c")
    assert seen(host) == ["b", "c"] and (host.root / "b").read_bytes() == b"b"


def test_rm_and_mv_of_a_folder_take_their_rights_everywhere_below(host: Host) -> None:
    make(host, "d/a", "d/kept/a", "e/a")
    (host.root / "d/empty").mkdir()
    host.add_user("bob", rules=[("d/kept", PRESETS["no-delete"])])
    refused = (
        lambda: rm(live, "d", recursive=True),
        lambda: rm(live, "d/kept/a"),
        lambda: mv(live, "d", "f"),
        lambda: mv(live, "d/kept/a", "b"),
    )
    before = seen(host)
    with connected(host, "bob") as live:
        for work in refused:
            with pytest.raises(PermissionDenied, match="no right to delete"):
                work()
        with pytest.raises(NotEmpty):
            rm(live, "d")  # of an empty one nothing is below
        assert seen(host) == before
        rm(live, "d/empty")
        mv(live, "d/a", "d/kept/b")
    assert seen(host) == ["d/kept/a", "d/kept/b", "e/a"]


def test_mv_into_a_place_takes_write_everywhere_below_it(host: Host) -> None:
    make(host, "new/secret/a")
    host.add_user("bob", rules=[("d/secret", ("read",))])
    with connected(host, "bob") as live:
        with pytest.raises(PermissionDenied, match="no right to write d"):
            mv(live, "new", "d")
        mv(live, "new", "e")
    assert seen(host) == ["e/secret/a"]


def test_who_may_not_is_not_told_whether_anything_is_there(host: Host) -> None:
    make(host, "something")
    host.add_user("bob", rights=("list",))
    said = []
    with connected(host, "bob") as live:
        for path in ("something", "nothing"):
            for work in (lambda path=path: rm(live, path), lambda path=path: mv(live, path, "b")):  # type: ignore[misc]
                with pytest.raises(PermissionDenied) as refused:
                    work()
                said.append(str(refused.value).replace(path, "PATH"))
    assert said[:2] == said[2:]


# ------------------------------------------------------------------ the audit trail


def test_rm_and_mv_are_told_with_what_went_where(host: Host) -> None:
    make(host, "d/aa", "d/bb")
    with connected(host) as live:
        mv(live, "d", "e")
        rm(live, "e", recursive=True)
        for work in (lambda: rm(live, "e"), lambda: mv(live, "e", "f")):
            with pytest.raises(NotFound):
                work()
    eventually(lambda: host.service is not None and not host.service._handlers)
    facts = ("event", "outcome", "path", "to", "files", "folders", "bytes", "verb")
    lines = [{name: line[name] for name in facts if name in line} for line in host.audited("delete", "move")]
    assert lines == [
        {"event": "move", "outcome": "ok", "path": "d", "to": "e", "bytes": 0},
        {"event": "delete", "outcome": "ok", "path": "e", "files": 2, "folders": 1, "bytes": 8},
        {"event": "delete", "outcome": "not-found", "path": "e", "verb": "rm"},
        {"event": "move", "outcome": "not-found", "path": "e", "to": "f", "verb": "mv"},
    ]


def test_rm_and_mv_are_in_the_log_for_people(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("ftpy").propagate = True
    caplog.set_level(logging.INFO, "ftpy")
    make(host, "a\u202eb")
    with connected(host) as live:
        mv(live, "a\u202eb", "c")
        rm(live, "c")
        with pytest.raises(RequestError):
            mv(live, "c", "x\u202ey")
    eventually(lambda: host.service is not None and not host.service._handlers)
    told = [record for record in caplog.records if getattr(record, "event", "") in ("delete", "move", "refused")]
    said = [str(record.fields) for record in {id(record): record for record in told}.values()]  # type: ignore[attr-defined]
    assert len(said) == 3 and not any("\u202e" in line for line in said)
    assert os.listdir(host.root) == [".ftpy"]
