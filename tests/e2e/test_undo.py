"""Operations between a real client and a real server: begun, listed, undone, forgotten; rights, old servers."""

from __future__ import annotations

import hashlib
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ftpy.client.client import Client
from ftpy.errors import Changed, InvalidRequest, PermissionDenied, UnknownOperation, Unsupported
from ftpy.server import verbs
from ftpy.wire.messages import BeginRequest
from tests.rig import Host
from tests.rigs.peer import RawPeer


def put(peer: RawPeer, path: str, data: bytes, **fields: Any) -> Any:
    return peer.ask("put", data, path=path, file_size=len(data), mtime_ns=0, **fields)


def test_an_operation_is_listed_undone_and_done_again(plain_host: Host) -> None:
    (plain_host.root / "old").write_bytes(b"old")
    (plain_host.root / "gone").write_bytes(b"gone")
    with plain_host.client() as client, closing(RawPeer(plain_host, "alice")) as peer:
        operation = client.begin("by hand")
        etags = {str(info.path): info.etag for info in client.ls()}
        assert put(peer, "old", b"new", etag=etags["old"], operation=operation).error is None
        assert put(peer, "d/e", b"more", condition="absent", operation=operation).error is None
        assert peer.ask("rm", path="gone", etag=etags["gone"], operation=operation).error is None
        assert peer.ask("mv", path="d/e", to="d/f", operation=operation).error is None
        (kept,) = client.operations()
        assert (kept.id, kept.what) == (operation, "by hand")
        assert (kept.added, kept.replaced, kept.deleted, kept.moved, kept.made) == (1, 1, 1, 1, 1)
        undone = client.undo(client.find_operation(operation[:8]))
        assert (undone.steps, undone.already, undone.left) == (5, 0, 0)
        assert {info.name: info.read_bytes() for info in plain_host.root.iterdir() if info.name != ".ftpy"} == {
            "old": b"old",
            "gone": b"gone",
        }
        assert [one.what for one in client.operations()] == [f"undo {operation}", "by hand"]
        assert client.undo(undone.by).steps == 5
        assert (plain_host.root / "d" / "f").read_bytes() == b"more" and not (plain_host.root / "gone").exists()
        assert client.forget(operation) > 0
        with pytest.raises(UnknownOperation):
            client.undo(operation)


def test_what_changed_since_is_told_by_its_path_and_left(plain_host: Host) -> None:
    with plain_host.client() as client, closing(RawPeer(plain_host, "alice")) as peer:
        operation = client.begin("by hand")
        for name in range(150):
            assert put(peer, f"{name:03}", b"1", operation=operation).error is None
        for name in range(120):
            os.utime(plain_host.root / f"{name:03}", ns=(1, 1))
        undone = client.undo(operation)
        assert (undone.steps, undone.left, len(undone.paths)) == (30, 120, 100)
        assert {type(one.error) for one in undone.paths} == {Changed}
        assert str(undone.paths[0].path) == "119"


def test_an_etag_and_a_condition_together_are_refused(plain_host: Host) -> None:
    with closing(RawPeer(plain_host, "alice")) as peer:
        assert put(peer, "a", b"1", etag="0" * 32, condition="absent").error == InvalidRequest.code
        assert put(peer, "a", b"1", etag="0" * 32).error == Changed.code
        assert put(peer, "a", b"1", operation="0" * 32).error == UnknownOperation.code
        assert put(peer, "a", b"1").error is None


def test_where_the_quota_is_used_up_mv_is_refused_and_undo_rm_and_forget_go_on(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False)
    host.add_user("ann", quota_bytes=2000, quota_files=10)
    host.start()
    try:
        with host.client("ann") as client, closing(RawPeer(host, "ann")) as peer:
            operation = client.begin("to and fro")
            assert put(peer, "a", b"a", operation=operation).error is None
            names, moves = ["a", "b"], 0
            while (error := peer.ask("mv", path=names[0], to=names[1], operation=operation).error) is None:
                names, moves = names[::-1], moves + 1
                assert moves < 100
            assert error == "quota-exceeded" and moves > 0
            assert put(peer, "full", b"x" * 2000).error == "quota-exceeded"
            host.accounts.change("ann", quota_bytes=1, quota_files=1)
        with host.client("ann") as client, closing(RawPeer(host, "ann")) as peer:
            assert client.undo(operation).steps == moves + 1
            assert not (host.root / "a").exists()
            by = client.operations()[0].id
            assert client.undo(by).steps > 0 and (host.root / names[0]).read_bytes() == b"a"
            assert peer.ask("rm", path=names[0], operation=by).error is None
            for one in client.operations():
                client.forget(one.id)
            host.accounts.change("ann", quota_bytes=2000, quota_files=10)
        with closing(RawPeer(host, "ann")) as peer:
            assert put(peer, "again", b"x" * 2000).error is None
    finally:
        host.stop()


def test_who_may_change_nothing_has_no_operations(plain_host: Host) -> None:
    plain_host.add_user("reader", rights=("list", "read"))
    with plain_host.client("reader") as client:
        with pytest.raises(PermissionDenied):
            client.begin("in vain")
        with pytest.raises(PermissionDenied):
            client.operations()


def test_an_old_server_is_told_in_one_line(plain_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise Unsupported

    monkeypatch.setitem(verbs.VERBS, BeginRequest, verbs.Verb(unsupported))
    with plain_host.client() as client, pytest.raises(Unsupported, match="older than `ftpy undo`"):
        client.begin("in vain")


def test_every_operation_is_in_the_listing_however_many_there_are(plain_host: Host) -> None:
    with plain_host.client() as client:
        begun = [client.begin("é" * 1000) for _ in range(250)]
        assert [one.id for one in client.operations()] == begun[::-1]
        assert isinstance(client, Client)


def test_who_has_a_removed_users_name_has_none_of_their_operations_uploads_and_trees(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False)
    host.add_user("ann")
    host.start()
    try:
        with closing(RawPeer(host, "ann")) as peer, host.client("ann") as client:
            operation = client.begin("before")
            assert put(peer, "a", b"a", operation=operation).error is None
            large = {"path": "large", "file_size": 9 * 1024 * 1024, "mtime_ns": 5}
            upload = peer.ask("put", **large).fields["upload"]
            tree = peer.ask("stage", path="site").fields["tree"]
        host.keys["ann"] = host.accounts.rotate("ann")
        with closing(RawPeer(host, "ann")) as peer, host.client("ann") as client:  # another key, the same user
            assert [one.id for one in client.operations()] == [operation]
            assert peer.ask("put", **large).fields["upload"] == upload
            assert peer.ask("ls", path="site", tree=tree).error is None
        host.accounts.remove("ann")
        host.add_user("ann")
        with closing(RawPeer(host, "ann")) as peer, host.client("ann") as client:
            assert client.operations() == []
            with pytest.raises(UnknownOperation):
                client.undo(operation)
            assert peer.ask("begin", operation=operation).error == "invalid-request"
            assert peer.ask("abort", upload=upload).error == "unknown-upload"
            assert peer.ask("put", **large).fields["upload"] != upload
            for verb in ("ls", "discard"):
                assert peer.ask(verb, path="site", tree=tree).error == "unknown-tree"
            assert not peer.ask("stage", path="site").fields["resumed"]
        assert (host.root / "a").read_bytes() == b"a"
    finally:
        host.stop()


def test_undo_is_audited(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False, audit=True)
    host.start()
    try:
        with host.client() as client:
            operation = client.begin("by hand")
            by = client.undo(operation).by
            client.forget(operation)
        lines = host.audited("undo", "forget")
        assert [(line["event"], line["outcome"], line["operation"]) for line in lines] == [
            ("undo", "ok", operation),
            ("forget", "ok", operation),
        ]
        assert (lines[0]["by"], lines[0]["steps"], lines[0]["left"]) == (by, 0, 0)
    finally:
        host.stop()


def test_the_audit_trail_tells_which_paths_an_undo_was_about(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False, audit=True)
    host.start()
    try:
        with closing(RawPeer(host, "alice")) as peer, host.client() as client:
            operation = client.begin("by hand")
            assert put(peer, "a", b"a", operation=operation).error is None
            upload = peer.ask("put", path="large", file_size=1, mtime_ns=0, operation=operation).fields["upload"]
            assert peer.ask("part", b"l", "blake3", upload=upload, part=0).error is None
            digest = {"md5": hashlib.md5(b"l").hexdigest()}
            assert peer.ask("commit", upload=upload, digest=digest).error is None
            assert peer.ask("mkdir", path="d", operation=operation).error is None
            assert peer.ask("mv", path="a", to="d/a", operation=operation).error is None
            assert peer.ask("rm", path="large", operation=operation).error is None
            assert put(peer, "b", b"b").error is None
            (host.root / "d" / "a").write_bytes(b"another")
            by = client.undo(operation).by
            assert peer.ask("undo", operation="0" * 32, by="1" * 32).error == "unknown-operation"
        about = host.audited("put", "mkdir", "move", "delete")
        assert [line["path"] for line in about if line.get("operation") == operation] == [
            "a",
            "large",
            "d",
            "a",
            "large",
        ]
        assert [line["path"] for line in about if "operation" not in line] == ["b"]
        done, refused = host.audited("undo")
        told = {"operation": operation, "by": by, "steps": 2, "already": 1, "left": 2}
        assert {name: done[name] for name in told} == told
        assert (refused["outcome"], refused["operation"], refused["by"]) == ("unknown-operation", "0" * 32, "1" * 32)
    finally:
        host.stop()
