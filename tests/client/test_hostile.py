"""A client trusts no server, not even one that holds the key: what it says is refused, bounded, or told as it is."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from msgspec import structs

from ftpy.client.client import Client
from ftpy.config.client import Transfer
from ftpy.errors import ConnectionFailed
from ftpy.wire.messages import LsRequest, PartRequest, Request
from tests.rig import eventually
from tests.rigs.lying import Answer, LyingServer, Talk, honestly, lying

QUICK = Transfer(stall_seconds=2.0, connect_seconds=5.0, retries=0, streams=1)
FILES = {"a.txt": b"a" * 40, "d/b": b"b" * 3000, "d/e": b"", "z": b"z" * 40}


def client_of(server: LyingServer, transfer: Transfer = QUICK) -> Client:
    """A client that gives up soon."""
    return Client(server.profile, transfer)


def test_a_tree_fails_when_its_listing_was_lost_and_cannot_be_had_again(tmp_path: Path) -> None:
    def tell(talk: Talk, request: Request | None, answers: list[Answer]) -> Iterable[bytes]:
        if talk.number == 2:
            yield b"\1\0\0\0x"  # the listing's own attempt to go on
        elif isinstance(request, LsRequest):
            yield answers[0].data
            talk.leave()
        else:
            yield from honestly(talk, request, answers)

    with lying(FILES, tell) as server, client_of(server, structs.replace(QUICK, retries=2)) as client:
        server.model.page_entries = 1
        with pytest.raises(ConnectionFailed):
            client.get_tree("", tmp_path / "here")
    assert (tmp_path / "here" / "a.txt").read_bytes() == FILES["a.txt"]
    assert not (tmp_path / "here" / "z").exists()


def test_a_tree_that_fails_lets_go_of_its_large_files(tmp_path: Path) -> None:
    def tell(talk: Talk, request: Request | None, answers: list[Answer]) -> Iterable[bytes]:
        if isinstance(request, PartRequest) and request.part == 2:
            talk.leave()
        else:
            yield from honestly(talk, request, answers)

    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "large").write_bytes(b"l" * 5000)
    with lying({}, tell) as server, client_of(server) as client:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(ConnectionFailed):
            client.put_tree(tmp_path / "here", "there")
        assert "ftpy-digest" not in [thread.name for thread in threading.enumerate()]
        eventually(lambda: len(os.listdir("/proc/self/fd")) <= len(before))
