"""``ftpy-server status`` and ``kick`` as an operator types them."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from pathlib import Path

import pytest

from ftpy.cli.control import tables
from ftpy.client.connection import Connection
from ftpy.config.client import Transfer
from ftpy.server.rows import PenaltyRow, ServerRow, SessionRow, UploadRow
from ftpy.wire.messages import PutRequest, UploadReply
from tests.cli.administering import run
from tests.rig import Daemon, Host, eventually

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")
ONCE = Transfer(stall_seconds=10.0, connect_seconds=10.0, retries=0, streams=1)
WHOLE = ServerRow(
    version="1.0",
    pid=7,
    since_ns=0,
    workers=3,
    silent=1,
    listening=["a:1", "b:2"],
    connections=2,
    limit=9,
    draining=True,
)


def test_status_and_kick_by_hand(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False)
    settings = str(host.folder / "server.toml")
    with Daemon(host) as daemon, contextlib.closing(Connection.open(host.profile(), ONCE)) as live:
        live.call(PutRequest(id=live.next_id(), path="d/a file", file_size=9 << 20, mtime_ns=0), UploadReply)
        code, out, err = run("status", "-c", settings)
        assert (code, err) == (0, "") and re.search(r"^1 +alice +127\.0\.0\.1:\d+ .* idle ", out, re.MULTILINE)
        assert re.search(r"^alice +9\.0 MiB +0 B +\d+s +d/a file$", out, re.MULTILINE)
        code, out, err = run("status", "--json", "-c", settings)
        assert [json.loads(line)["row"] for line in out.splitlines()] == ["server", "root", "session", "upload"]
        assert run("kick", "1", "-c", settings) == (0, "", "ended the session 1\n")
        assert live.channel.receive() is None
        eventually(lambda: '"session"' not in run("status", "--json", "-c", settings)[1])
        code, out, err = run("kick", "1", "-c", settings)
        assert (code, out) == (1, "") and err == (
            "ftpy-server: there is no session 1; `ftpy-server status` lists them\n"
        )
        daemon.signal()
        daemon.wait()
    for command in (["status"], ["status", "--json"], ["kick", "1"]):
        code, out, err = run(*command, "-c", settings)
        assert (code, out) == (3, "") and re.fullmatch(r"ftpy-server: no server is running: .*control\.sock\n", err)


def test_tables_are_aligned_and_show_only_what_there_is() -> None:
    assert [line.partition("since")[0] for line in tables([WHOLE])] == ["ftpy-server 1.0, process 7, "]
    (line,) = tables([WHOLE])
    assert line.endswith("3 workers (1 of them silent), at a:1, b:2, 2 of 9 connections, draining")
    put = SessionRow(
        session="2-1",
        user="alice",
        source="[::1]:5",
        since_ns=0,
        state="part",
        path="big",
        bytes=1 << 20,
        size=4 << 20,
        rate=2048,
    )
    idle = SessionRow(session="12-345", user="b", source="unix", since_ns=0, state="idle")
    lines = list(tables([WHOLE, put, idle]))[2:]
    assert [line.index(word) for line, word in zip(lines, ("STATE", "part", "idle"), strict=True)] == [
        lines[0].index("STATE")
    ] * 3
    assert "1.0 MiB of 4.0 MiB  2.0 KiB/s  big" in lines[1]
    assert lines[2].endswith("idle   -                   -")


def test_nothing_that_a_peer_chose_reaches_the_terminal_as_it_is() -> None:
    evil = "\x1b[2J\n\u202e"
    rows = [
        SessionRow(session="1", user=evil, source="s", since_ns=0, state=evil, path=evil),
        UploadRow(owner=evil, path=evil, size=None, stored=1, age_seconds=90_061, root="/"),
    ]
    text = "\n".join(tables([*rows]))
    assert "\x1b" not in text and "\u202e" not in text and text.count("\n") == 5
    assert "1d 1h" in text


def test_penalties_are_a_table_of_their_own() -> None:
    lines = list(tables([PenaltyRow(source="192.0.2.7", seconds=75.2, refused_seconds=0.0, refused=3)]))
    assert lines[1:] == [
        "PENALTY OF  LEFT    REFUSED FOR  REFUSED",
        "192.0.2.7   1m 15s  -            3",
    ]
