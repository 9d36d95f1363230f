"""The feed between a real client and a real server: who sees what, pages, waiting, lost connections, restarts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpy.client import events as reading
from ftpy.client.client import Client
from ftpy.client.events import Event
from ftpy.config.client import save_profile
from ftpy.config.server import Events
from ftpy.errors import CursorTooOld, InvalidRequest, PermissionDenied, Unsupported
from ftpy.server import events as serving
from ftpy.wire.events import EventsReply, EventsRequest
from tests.rig import ENVIRONMENT, Daemon, Fault, Host, Proxy, eventually, running

Told = list[tuple[str, ...]]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """One that keeps a feed."""
    with running(tmp_path / "host", tls=False, events=Events(days=1)) as host:
        yield host


def put(client: Client, tmp_path: Path, *names: str) -> None:
    """Small files."""
    (tmp_path / "source").write_bytes(b"content")
    for name in names:
        client.put(tmp_path / "source", name)


def told(events: Iterator[Event]) -> Told:
    """What was told, without times and cursors."""
    return [(one.kind, str(one.path), *([] if one.to is None else [str(one.to)])) for one in events]


def test_what_happened_is_told_in_its_order(host: Host, tmp_path: Path) -> None:
    with host.client() as client:
        put(client, tmp_path, "a", "d/b")
        client.mv("a", "c")
        client.rm("d", recursive=True)
        client.mkdir("e")
        client.touch("f")
        seen = list(client.events())
        assert told(iter(seen)) == [
            ("published", "a"),
            ("published", "d/b"),
            ("moved", "a", "c"),
            ("deleted", "d"),
            ("published", "e"),
            ("published", "f"),
        ]
        for number, event in enumerate(seen):
            assert told(client.events(event.cursor)) == told(iter(seen[number + 1 :]))


def test_an_unfinished_or_refused_put_is_not_told(host: Host, tmp_path: Path) -> None:
    with host.client() as client:
        put(client, tmp_path, "a")
        with pytest.raises(Exception, match="already there"):
            client.put(tmp_path / "source", "a", condition="absent")
        assert told(client.events()) == [("published", "a")]


def test_pages_are_cut_and_nothing_is_lost_between_them(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "PAGE_EVENTS", 3)
    monkeypatch.setattr(serving, "ROWS", 2)
    folder = tmp_path / "tree"
    folder.mkdir()
    for number in range(10):
        (folder / f"f{number}").write_bytes(b"1")
    with host.client() as client:
        client.put_tree(folder, "t")
        put(client, tmp_path, "x", "y")
        names = [path for _, path in told(client.events())]
    assert names[-2:] == ["x", "y"]
    assert sorted(names[:-2]) == [f"t/f{number}" for number in range(10)]  # the folder was made on their way


@pytest.mark.parametrize("days", [0, 1])
def test_a_server_without_a_feed_says_so_and_keeps_nothing(tmp_path: Path, days: float) -> None:
    host = Host(tmp_path / "host", tls=False, events=Events(days=days))
    host.start()
    try:
        with host.client() as client:
            put(client, tmp_path, "a")
            if days:
                assert told(client.events()) == [("published", "a")]
            else:
                with pytest.raises(Unsupported, match="keeps no feed"):
                    list(client.events())
        assert (host.folder / "state" / "events.sqlite").exists() == bool(days)
    finally:
        host.stop()


def test_a_cursor_that_is_too_old_or_none_is_told(tmp_path: Path) -> None:
    few = Events(days=1, most=1)
    with running(tmp_path / "host", tls=False, events=few) as host, host.client() as client:
        put(client, tmp_path, "a", "b", "c")
        first, *_ = client.events()
        assert host.service is not None and host.service.roots.feed is not None
        host.service.roots.feed.sweep(days=1)
        with pytest.raises(CursorTooOld, match="begin the feed anew"):
            list(client.events(first.cursor))
        with pytest.raises(CursorTooOld, match="another feed"):
            list(client.events("0" * 16 + "-1"))
        with pytest.raises(InvalidRequest):
            client.events("yesterday")
        assert told(client.events()) == [("published", "c")]
        assert told(client.events("end")) == []
        put(client, tmp_path, "d")
        assert told(client.events("start")) == [("published", "c"), ("published", "d")]


# ------------------------------------------------------------------ who sees what


def test_users_of_nested_roots_see_what_is_below_their_own(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False, events=Events(days=1))
    for name in ("bob", "carol"):
        (host.root / "homes" / name).mkdir(parents=True)
        host.add_user(name, root=str(host.root / "homes" / name))
    host.start()
    try:
        with host.client() as alice, host.client("bob") as bob, host.client("carol") as carol:
            put(bob, tmp_path, "own")
            put(alice, tmp_path, "elsewhere", "homes/bob/given")
            alice.mv("homes/bob/given", "homes/carol/got")
            alice.rm("homes/bob", recursive=True)
            assert told(bob.events()) == [
                ("published", "own"),
                ("published", "given"),
                ("deleted", "given"),
                ("deleted", ""),
            ]
            assert told(carol.events()) == [("published", "got")]
            assert told(alice.events()) == [
                ("published", "homes/bob/own"),
                ("published", "elsewhere"),
                ("published", "homes/bob/given"),
                ("moved", "homes/bob/given", "homes/carol/got"),
                ("deleted", "homes/bob"),
            ]
    finally:
        host.stop()


def test_rules_hide_events_and_show_what_a_user_may_list(host: Host, tmp_path: Path) -> None:
    host.add_user("hidden", rights=("list",), rules=[("secret", ())])
    host.add_user("visitor", rights=(), rules=[("top/open", ("list",))])
    host.add_user("blind", rights=("read", "write"))
    with host.client() as client:
        put(client, tmp_path, "secret/a", "top/open/b", "c")
        client.mv("secret/a", "shown")
        client.mv("c", "secret/c")
        client.rm("top", recursive=True)
    with host.client("hidden") as client:
        assert told(client.events()) == [
            ("published", "top/open/b"),
            ("published", "c"),
            ("published", "shown"),
            ("deleted", "c"),
            ("deleted", "top"),
        ]
    with host.client("visitor") as client:
        assert told(client.events()) == [("published", "top/open/b"), ("deleted", "top/open")]
    with host.client("blind") as client, pytest.raises(PermissionDenied):
        list(client.events())


def test_what_a_user_sees_parts_of_did_not_move_from_one_part_to_another(host: Host, tmp_path: Path) -> None:
    host.add_user("parts", rights=(), rules=[("one/open", ("list",)), ("two/other", ("list",))])
    with host.client() as client:
        put(client, tmp_path, "one/open/b", "one/secret")
        client.mv("one", "two")
    with host.client("parts") as client:
        assert told(client.events()) == [
            ("published", "one/open/b"),
            ("deleted", "one/open"),
            ("published", "two/other"),
        ]


def test_who_sees_nothing_of_a_long_feed_is_told_that_it_is_looked_through(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.add_user("elsewhere", rights=(), rules=[("mine", ("list",))])
    with host.client() as client:
        put(client, tmp_path, *map(str, range(3 * serving.ROWS)), "mine/a", "x")
    monkeypatch.setattr(serving, "PROGRESS_SECONDS", 0.0)
    heard: list[int] = []
    with host.client("elsewhere") as client:
        live = client._connected()
        request = EventsRequest(id=live.next_id())
        page = live.call(request, EventsReply, heard.append)
        assert [entry.path for entry in page.events] == ["mine/a"] and page.complete
    assert len(heard) >= 3


# ------------------------------------------------------------------ following


class Follower(threading.Thread):
    """Follows in a thread, with a client of its own; ``seen`` grows."""

    def __init__(self, client: Client, since: str) -> None:
        super().__init__(daemon=True)
        self._client, self._since = client, since
        self.seen: list[Event] = []
        self.start()

    def run(self) -> None:
        """Up to the file "last"; then the client is closed."""
        with contextlib.closing(self._client):
            for event in self._client.events(self._since, follow=True):
                self.seen.append(event)
                if event.path.name == "last":
                    return


def test_who_follows_is_told_as_it_happens(host: Host, tmp_path: Path) -> None:
    with host.client() as client, host.client() as other:
        put(client, tmp_path, "before")
        feed = client.feed("end")
        assert list(feed) == []
        follower = Follower(other, feed.cursor)  # from here on, whenever it comes to ask
        for name in ("a", "b"):
            put(client, tmp_path, name)
            eventually(lambda: follower.seen and str(follower.seen[-1].path) == name)  # noqa: B023
        put(client, tmp_path, "last")
        follower.join(20)
        assert told(iter(follower.seen))[-3:] == [("published", "a"), ("published", "b"), ("published", "last")]


def test_who_follows_loses_nothing_when_connections_break(host: Host, tmp_path: Path) -> None:
    faults = [(Fault(), Fault("cut", after)) for after in (1500, 2500, 1501)]
    proxy = Proxy(host.address, *faults, (Fault(), Fault()))
    try:
        with host.client() as client:
            put(client, tmp_path, "first")
            (first,) = client.events()
            follower = Follower(host.client(address=proxy.address), first.cursor)
            names = [f"f{number}" for number in range(60)]
            put(client, tmp_path, *names, "last")
        follower.join(30)
        assert [str(event.path) for event in follower.seen] == [*names, "last"]
        assert proxy.connections == 4
    finally:
        proxy.close()


def test_who_follows_survives_a_restart_of_the_server(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False, events=Events(days=1))
    host.start()
    try:
        with host.client() as client:
            put(client, tmp_path, "a")
        follower = Follower(host.client(), "start")
        eventually(lambda: follower.seen)
        host.stop()  # drains, although somebody waits
        host.start()
        with host.client() as client:
            put(client, tmp_path, "last")
        follower.join(30)
        assert [str(event.path) for event in follower.seen] == ["a", "last"]
    finally:
        host.stop()


def test_a_wait_ends_when_its_time_is_up(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "WAIT_SECONDS", 1)
    with host.client() as client:
        feed = client.feed("end", follow=True)
        page = client._persist(feed._attempt)
        assert page.complete and page.events == []


# ------------------------------------------------------------------ processes


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no workers")
def test_workers_write_one_feed_and_tell_what_others_wrote(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", tls=False)
    with Daemon(host, "workers = 3\n[events]\ndays = 1.0\n"), host.client() as watching:
        follower = Follower(watching, "start")
        names = [f"f{number}" for number in range(12)]
        for name in names:  # connections come to all workers in the end
            with host.client() as client:
                put(client, tmp_path, name)
        with host.client() as client:
            put(client, tmp_path, "last")
        follower.join(30)
        assert [str(event.path) for event in follower.seen] == [*names, "last"]


@pytest.mark.slow
def test_ctrl_c_ends_a_follower_with_130(tmp_path: Path) -> None:
    with running(tmp_path / "host", tls=False, events=Events(days=1)) as host:
        with host.client() as client:
            put(client, tmp_path, "a")
        save_profile(tmp_path / "client.toml", "home", host.profile())
        process = subprocess.Popen(
            [sys.executable, "-c", "from ftpy.cli.main import main; main()", "events", "--follow", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT | {"FTPY_CONFIG": str(tmp_path / "client.toml")},
        )
        assert process.stdout is not None
        assert '"path": "a"' in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert (process.returncode, said) == (130, "ftpy: interrupted\n")
