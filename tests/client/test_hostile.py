"""A client trusts no server, not even one that holds the key: what it says is refused, bounded, or told as it is."""

from __future__ import annotations

import io
import itertools
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FrameType

import msgspec
import pytest
from msgspec import structs

from ftpy.client import connection as connections
from ftpy.client import listing, operations, rangeget, treeget
from ftpy.client.client import Client
from ftpy.client.connection import Connection
from ftpy.client.events import LEAST_SECONDS
from ftpy.client.getting import FileGet, Get
from ftpy.client.lines import Alone
from ftpy.client.putting import FilePut, Put
from ftpy.client.rangeget import RANGE_BYTES
from ftpy.client.ranges import Range, cut
from ftpy.client.results import Progress, ignore
from ftpy.client.source import Source
from ftpy.client.trees import Told, TreeOptions
from ftpy.client.work import Job, SharedLine, Work
from ftpy.config.client import Transfer
from ftpy.digests import hexdigest
from ftpy.errors import (
    Busy,
    ConnectionFailed,
    ConnectionLost,
    LocalFileError,
    NotFound,
    ProtocolError,
    ShuttingDown,
    Stalled,
)
from ftpy.files import RemotePath
from ftpy.wire import codec, messages
from ftpy.wire.bases import Request
from ftpy.wire.events import EventsRequest
from ftpy.wire.messages import DigestRequest, LsRequest, PartRequest, PutRequest, StatRequest
from ftpy.wire.operations import OperationsRequest
from tests.descriptors import open_files, settled_files
from tests.rig import eventually
from tests.rigs.disks import SmallDisk
from tests.rigs.lying import Answer, LyingServer, Talk, failure, framed, honestly, lying

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
    assert not (tmp_path / "here" / "z").exists()


@pytest.mark.parametrize("error", ["busy", "shutting-down"])
def test_a_listing_out_of_order_that_is_refused_in_the_middle_is_not_gone_on_with(tmp_path: Path, error: str) -> None:
    """Who goes on behind the last path would pass over what had not come."""

    def tell(talk: Talk, request: Request | None, answers: list[Answer]) -> Iterable[bytes]:
        if isinstance(request, LsRequest) and talk.number == 1:
            yield from (answers[2].data, answers[0].data, failure(request, error))
        else:
            yield from honestly(talk, request, answers)

    with lying(FILES, tell) as server, client_of(server, structs.replace(QUICK, retries=2)) as client:
        server.model.page_entries = 1
        with pytest.raises((Busy, ShuttingDown)):
            client.get_tree("", tmp_path / "here")


def test_a_tree_that_fails_lets_go_of_its_large_files(tmp_path: Path) -> None:
    def tell(talk: Talk, request: Request | None, answers: list[Answer]) -> Iterable[bytes]:
        if isinstance(request, PartRequest) and request.part == 2:
            talk.leave()
        else:
            yield from honestly(talk, request, answers)

    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "large").write_bytes(b"l" * 5000)
    with lying({}, tell) as server, client_of(server) as client:
        before = settled_files()
        with pytest.raises(ConnectionFailed):
            client.put_tree(tmp_path / "here", "there")
        assert "ftpy-digest" not in [thread.name for thread in threading.enumerate()]
        eventually(lambda: open_files() <= before)


def waits_for_work() -> bool:
    """Whether some connection of a tree waits for what another one has in hand."""

    def codes(frame: FrameType | None) -> Iterator[CodeType]:
        while frame is not None:
            yield frame.f_code
            frame = frame.f_back

    return any(
        {Work.take.__code__, threading.Condition.wait.__code__} <= {*codes(at)} for at in sys._current_frames().values()
    )


@pytest.mark.timeout(30)
def test_a_tree_ends_when_one_connection_is_lied_to_while_another_waits_for_it(tmp_path: Path) -> None:
    def tell(talk: Talk, request: Request | None, answers: list[Answer]) -> Iterable[bytes]:
        if isinstance(request, PutRequest):
            eventually(waits_for_work)
            yield answers[0]._replace(fields=answers[0].fields | {"file_size": 7}).data
        else:
            yield from honestly(talk, request, answers)

    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "small").write_bytes(b"small")
    with (
        lying({}, tell) as server,
        client_of(server, structs.replace(QUICK, streams=2)) as client,
        pytest.raises(ProtocolError, match="something else than what was sent"),
    ):
        client.put_tree(tmp_path / "here", "there")


def test_who_is_to_leave_waits_no_longer_for_what_others_have_in_hand() -> None:
    work: Work[Job, None] = Work(iter([Job(RemotePath.parse("a"), "a", 1)]))
    leaving = threading.Event()
    assert work.take(leaving, idle=True)
    taken: list[object] = []
    thread = threading.Thread(target=lambda: taken.append(work.take(leaving, idle=True)))
    thread.start()
    eventually(waits_for_work)
    leaving.set()
    thread.join(30)
    assert taken == [None]


def test_a_tree_that_is_gone_when_it_is_listed_is_not_found(tmp_path: Path) -> None:
    def tell(talk: Talk, request: Request | None, answers: list[Answer]) -> Iterable[bytes]:
        if isinstance(request, LsRequest):
            yield failure(request, "not-found")
        else:
            yield from honestly(talk, request, answers)

    with lying(FILES, tell) as server, client_of(server) as client, pytest.raises(NotFound):
        client.get_tree("d", tmp_path / "here")


@pytest.mark.parametrize("several", [False, True])
def test_a_worker_that_is_to_leave_does_not_take_a_large_file_for_done(tmp_path: Path, several: bool) -> None:
    with lying({"large": bytes(3_000_000)}) as server:
        connection = Connection.open(server.profile, QUICK)
        connection.leaving.set()
        lines = SharedLine(connection, Work(iter(()))) if several else Alone(connection)
        source = tmp_path / "source"
        source.write_bytes(bytes(20_000))
        put = FilePut(Put(RemotePath.parse("x"), "md5", None, ignore), Source(str(source), "md5"))
        with pytest.raises(ConnectionLost):
            put.send(lines)
        put.close()
        wanted = Get(RemotePath.parse("large"), "md5", ignore)
        with FileGet(wanted, str(tmp_path / "here"), force=False, notify=print) as transfer:
            if several:
                with pytest.raises(ConnectionLost):
                    transfer.fetch(lines)
        connection.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client's patience is over soon."""
    monkeypatch.setattr(connections, "PATIENCE", 0.3)


def signs(talk: Talk, request: Request, numbers: Iterable[int]) -> Iterable[bytes]:
    """Signs of life."""
    for number in numbers:
        yield framed({"id": request.id, "progress": number})
        time.sleep(0.02)


@pytest.mark.usefixtures("impatient")
def test_a_server_that_says_for_ever_that_it_is_at_work_is_given_up() -> None:
    def tell(talk: Talk, request: Request | None, answers: list[Answer]) -> Iterable[bytes]:
        if request is None:
            return honestly(talk, request, answers)
        return signs(talk, request, itertools.repeat(7))

    with lying(FILES, tell) as server, client_of(server) as client, pytest.raises(Stalled, match="gets nowhere"):
        client.digest("a.txt")


@pytest.mark.usefixtures("impatient")
def test_a_server_that_gets_on_is_waited_for_however_long_it_takes_and_that_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def tell(talk: Talk, request: Request | None, answers: list[Answer]) -> Iterable[bytes]:
        if request is not None:
            yield from signs(talk, request, range(30))
        yield from honestly(talk, request, answers)

    monkeypatch.setattr(connections, "SIGN_SECONDS", 0.05)
    said: list[str] = []
    with lying(FILES, tell) as server, Client(server.profile, QUICK, said.append) as client:
        assert client.digest("a.txt").hex == hexdigest("md5", FILES["a.txt"])
    assert 2 <= len(said) <= 6 and "at work" in said[0]


def test_progress_is_never_more_than_there_is(tmp_path: Path) -> None:
    def tell(talk: Talk, request: Request | None, answers: list[Answer]) -> Iterable[bytes]:
        if request is not None:
            yield framed({"id": request.id, "progress": 2**63 - 1})
        yield from honestly(talk, request, answers)

    (tmp_path / "source").write_bytes(bytes(3000))
    said: list[Progress] = []
    with lying({"large": bytes(3000)}, tell) as server, client_of(server) as client:
        server.model.remembers = False
        client.put(tmp_path / "source", "x", on_progress=said.append)
        client.put(io.BytesIO(bytes(3000)), "x", on_progress=said.append)
        client.get("large", tmp_path / "here", on_progress=said.append)
        client.get("large", tmp_path / "here", on_progress=said.append)  # compares digests
    assert len(said) > 10 and max(progress.done for progress in said) == 3000


@pytest.mark.parametrize("entries", [0, 1, 100])
@pytest.mark.parametrize("way", ["get", "put", "ls"])
def test_a_listing_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, entries: int
) -> None:
    """Of nothing, of one name over and over, or of ever more, each before what is looked for."""
    monkeypatch.setattr(listing, "MOST_ENTRIES", 2000)

    def tell(talk: Talk, request: Request | None, answers: list[Answer]) -> Iterable[bytes]:
        if not isinstance(request, LsRequest):
            yield from honestly(talk, request, answers)
            return
        entry = {"type": "other", "size": 0, "mtime_ns": 0, "mode": 0}
        for number in range(100_000):
            names = [{**entry, "name": "a" if entries == 1 else f"{number:09}-{i}"} for i in range(entries)]
            yield framed({"id": request.id, "ok": True, "entries": names, "complete": False})

    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "zz").write_bytes(b"z")
    with lying(FILES, tell) as server, client_of(server) as client:
        ask = {
            "get": lambda: client.get_tree("", tmp_path / "there"),
            "put": lambda: client.put_tree(tmp_path / "here", ""),
            "ls": lambda: list(client.ls()),
        }[way]
        with pytest.raises(ProtocolError):
            ask()


def test_a_list_of_operations_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "MOST_LISTED", 2000)

    def tell(talk: Talk, request: Request | None, answers: list[Answer]) -> Iterable[bytes]:
        for answer in answers if isinstance(request, OperationsRequest) else ():
            for _ in range(100_000):
                yield framed(answer.fields | {"complete": False})
        if not isinstance(request, OperationsRequest):
            yield from honestly(talk, request, answers)

    with lying(FILES, tell) as server, client_of(server) as client, pytest.raises(ProtocolError, match="without end"):
        client.operations()


def test_a_digest_of_another_name_and_the_status_of_another_path_are_refused() -> None:
    def tell(_: Talk, request: Request | None, answers: list[Answer]) -> Iterable[bytes]:
        for answer in answers:
            if isinstance(request, DigestRequest):
                answer = answer._replace(fields=answer.fields | {"digest": {"blake3": "0" * 64}})
            if isinstance(request, StatRequest):
                answer.fields["entry"]["name"] = "elsewhere"
            yield answer.data

    with lying(FILES, tell) as server, client_of(server) as client:
        with pytest.raises(ProtocolError):
            client.digest("a.txt", "md5")
        with pytest.raises(ProtocolError):
            client.stat("a.txt")


def test_force_replaces_what_was_there_and_nothing_that_came_with_the_transfer(tmp_path: Path) -> None:
    """As where two names of the server's are one name here: what comes second would replace the first in silence."""

    def tell(talk: Talk, request: Request | None, answers: list[Answer]) -> Iterable[bytes]:
        if isinstance(request, LsRequest):
            (answer,) = answers
            twice = answer.fields["entries"][1]
            yield framed(answer.fields | {"complete": False})
            eventually(lambda: (tmp_path / "here" / "twice").exists())
            yield framed(answer.fields | {"entries": [twice | {"size": 9000}]})
        else:
            yield from honestly(talk, request, answers)

    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "old").write_bytes(b"older")
    told: list[Told] = []
    others = {f"z{number:03}": b"" for number in range(treeget.GROUP_FILES + 100)}  # enough to be put in place early
    with lying({"old": b"newer", "twice": b"first", **others}, tell) as server, client_of(server) as client:
        server.model.page_entries = 1000
        client.get_tree("", tmp_path / "here", TreeOptions(force=True, on_told=told.append))
    verdicts = [(one.verdict, one.path.name) for one in told if one.path.name not in others]
    assert verdicts == [("received", "old"), ("received", "twice"), ("failed", "twice")]
    assert (tmp_path / "here" / "old").read_bytes() == b"newer"
    assert (tmp_path / "here" / "twice").read_bytes() == b"first"


def test_no_more_folders_are_under_way_than_the_server_takes_requests(tmp_path: Path) -> None:
    for name in range(5):
        (tmp_path / "here" / str(name)).mkdir(parents=True)
    with lying({}) as server:
        server.requests = 1
        with client_of(server) as client:
            assert client.put_tree(tmp_path / "here", "there").failed == 0
        assert server.heard.requests.count("mkdir") == 6


def test_the_size_that_a_server_names_costs_no_memory() -> None:
    size = 2**62
    assert len(cut([Range(0, size)], max(RANGE_BYTES, size // rangeget.MOST_RANGES))) <= rangeget.MOST_RANGES + 1


def test_what_is_wrong_with_a_header_is_told_in_few_words() -> None:
    with pytest.raises(ProtocolError) as raised:
        codec.decode(b'{"' + b"x" * 60_000 + b'":1}', messages.ProgressReply)
    assert len(str(raised.value)) < 300


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small file system")
def test_a_tree_ends_when_the_disk_here_is_full(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    files = {f"f{number:04}": bytes(1000) for number in range(2000)}
    told: list[Told] = []
    with SmallDisk(tmp_path / "here", size=1024 * 1024) as disk, lying(files) as server, client_of(server) as client:
        server.model.page_entries = 200
        with pytest.raises(LocalFileError, match="No space left"):
            client.get_tree("", disk.place / "there", TreeOptions(on_told=told.append))
        assert not list(disk.place.rglob(".ftpy*"))
    verdicts = [one.verdict for one in told]
    assert "received" in verdicts and verdicts.count("failed") < 600


def test_digests_are_asked_for_while_a_listing_goes_on() -> None:
    def endless(talk: Talk, request: Request | None, answers: list[Answer]) -> Iterable[bytes]:
        if not isinstance(request, LsRequest):
            yield from honestly(talk, request, answers)
            return
        while True:
            yield framed(answers[0].fields | {"complete": False})

    with lying(FILES, endless) as server, client_of(server) as client:
        server.model.remembers = False
        with client.listing("", recursive=True) as entries:
            known = [client.digest(info.path).hex for info in itertools.islice(entries, 5) if info.type == "file"]
    assert known[:2] == [hexdigest("md5", FILES["a.txt"]), hexdigest("md5", FILES["d/b"])]


@pytest.mark.parametrize("recursive", [False, True])
def test_a_listing_that_is_read_ahead_tells_what_ls_tells(recursive: bool) -> None:
    with lying(FILES) as server, client_of(server) as client:
        with client.listing("", recursive=recursive) as entries:
            assert list(entries) == list(client.ls("", recursive=recursive))
        with client.listing("nowhere") as entries, pytest.raises(NotFound):
            list(entries)


@pytest.mark.parametrize("name", ["a.txt", "large"])
def test_a_server_cannot_have_a_pull_that_no_undo_reverses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("FTPY_CONFIG", str(tmp_path / "settings" / "config.toml"))

    def tell(talk: Talk, request: Request | None, answers: list[Answer]) -> Iterable[bytes]:
        if isinstance(request, LsRequest):
            fields = msgspec.json.decode(answers[0].data[4:])
            for entry in fields["entries"]:
                entry["mtime_ns"] += 1
            yield framed(fields)
        else:
            yield from honestly(talk, request, answers)

    here = tmp_path / "here"
    here.mkdir()
    (here / name).write_bytes(b"ours")
    files = {name: bytes(30_000 if name == "large" else 40)}
    refused = pytest.raises(ProtocolError, match="another version than the one that it listed")
    with lying(files, tell) as server, client_of(server) as client, refused:
        client.sync(here, "", pull=True)
    assert (here / name).read_bytes() == b"ours"


@pytest.mark.parametrize("below", ["a/x", "a/x/y"])
def test_a_pull_refuses_a_listing_with_something_below_a_file_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    monkeypatch.setenv("FTPY_CONFIG", str(tmp_path / "settings" / "config.toml"))

    def tell(talk: Talk, request: Request | None, answers: list[Answer]) -> Iterable[bytes]:
        if isinstance(request, LsRequest):
            fields = msgspec.json.decode(answers[0].data[4:])
            fields["entries"].insert(0, fields["entries"][0] | {"name": below})
            yield framed(fields)
        else:
            yield from honestly(talk, request, answers)

    here = tmp_path / "here"
    here.mkdir()
    refused = pytest.raises(ProtocolError, match=f"lists {below} below what it lists as a file")
    with lying({"a": b"theirs", "a.txt": b"b"}, tell) as server, client_of(server) as client, refused:
        client.sync(here, "", pull=True)
    assert not list(here.iterdir())


def test_who_follows_events_is_not_kept_busy_by_a_server_that_waits_for_nothing() -> None:
    asked: list[float] = []

    def tell(talk: Talk, request: Request | None, answers: list[Answer]) -> Iterable[bytes]:
        if not isinstance(request, EventsRequest):
            yield from honestly(talk, request, answers)
            return
        asked.append(time.monotonic())
        told = [{"event": "published", "path": "a", "time_ns": 0, "cursor": f"{'0' * 16}-2"}] if len(asked) > 5 else []
        yield framed(
            {"id": request.id, "ok": True, "events": told, "cursor": f"{'0' * 16}-{len(asked)}", "complete": True}
        )

    with lying({}, tell) as server, client_of(server) as client:
        assert str(next(client.events("end", follow=True)).path) == "a"
    assert len(asked) == 6 and asked[-1] - asked[0] >= 4 * LEAST_SECONDS  # the first may have been heard late
