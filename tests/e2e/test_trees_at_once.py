"""Trees put at once, between a real client and a real server: broken lines, kills, rights, and who reads meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from ftpy.client.client import Client
from ftpy.client.results import RolledBack
from ftpy.client.trees import TreeOptions, TreeResult
from ftpy.config.client import Transfer
from ftpy.errors import (
    AlreadyExists,
    Changed,
    ConnectionFailed,
    FtpyError,
    NoPrevious,
    NotADirectory,
    OutcomeUnknown,
    PermissionDenied,
    QuotaExceeded,
    RequestError,
    UnknownTree,
    Unsupported,
)
from ftpy.files import RemotePath
from ftpy.server import verbs
from ftpy.wire.trees import RollbackRequest, StageRequest
from tests.rig import Daemon, Fault, Host, Proxy, eventually, is_free, running
from tests.rigs.peer import RawPeer

MIB = 1024 * 1024
AT_ONCE = TreeOptions(atomic=True)


def write(folder: Path, content: dict[str, bytes]) -> Path:
    """A tree of this side, with nothing else in it."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def found(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def version(number: int, files: int = 12) -> dict[str, bytes]:
    """A tree whose every file tells which one it is of, and that has a file of its own."""
    text = str(number).encode()
    return {f"d{one % 3}/{one}": text for one in range(files)} | {f"only-{number}": text}


def staged(host: Host) -> list[str]:
    return sorted(os.listdir(host.root / ".ftpy" / "trees"))


OLD, NEW = version(1), version(2) | {"large": b"2" * (9 * MIB)}


def test_a_tree_takes_the_place_of_another_at_once_and_rollback_returns(host: Host, tmp_path: Path) -> None:
    with host.client() as client:
        result = client.put_tree(write(tmp_path / "src", OLD), "www/site", AT_ONCE)
        assert result.swapped and result.files == len(OLD) and found(host.root / "www/site") == OLD
        with pytest.raises(NoPrevious):
            client.rollback("www/site")
        (tmp_path / "src" / "empty").mkdir()
        client.put_tree(tmp_path / "src", "www/site", AT_ONCE)
        source = write(tmp_path / "src", NEW)
        (source / "empty/below").mkdir(parents=True)
        os.utime(source / "d1", ns=(7, 7_000_000_000))
        assert client.put_tree(source, "www/site", AT_ONCE).swapped
        assert found(host.root / "www/site") == NEW
        assert (host.root / "www/site/d1").stat().st_mtime_ns == 7_000_000_000
        assert (host.root / "www/site/empty/below").is_dir()
        for there in (OLD, NEW, OLD):
            assert client.rollback("www/site") == RolledBack(RemotePath.parse("www/site"), replaced=True)
            assert found(host.root / "www/site") == there
        assert [str(info.path) for info in client.ls()] == ["www"]
    assert staged(host) == []


def test_only_what_is_meant_of_a_tree_is_put_and_counted(host: Host, tmp_path: Path) -> None:
    from ftpy.client.walking import Selection

    source = write(tmp_path / "src", {"a/b/keep.txt": b"1", "c/drop.bin": b"2", "d.txt": b"3"})
    (source / "hollow").mkdir()
    (source / "link").symlink_to("d.txt")
    with host.client() as client:
        for selection, names in (
            (Selection(include=["*.txt"]), {"a/b/keep.txt", "d.txt"}),
            (Selection(exclude=["*.bin"]), {"a/b/keep.txt", "d.txt"}),
            (Selection(exclude=["/a/"]), {"c/drop.bin", "d.txt"}),
        ):
            options = TreeOptions(atomic=True, selection=selection)
            assert client.put_tree(source, "site", options).swapped
            assert set(found(host.root / "site")) == names


def test_a_file_that_fails_keeps_the_old_tree_and_the_same_put_goes_on(host: Host, tmp_path: Path) -> None:
    with host.client() as client:
        client.put_tree(write(tmp_path / "src", OLD), "site", AT_ONCE)
        source = write(tmp_path / "src", NEW)
        (source / "bad\nname").write_bytes(b"x")
        result = client.put_tree(source, "site", AT_ONCE)
        assert (result.failed, result.swapped) == (1, False) and found(host.root / "site") == OLD
        assert len(staged(host)) == 1
        (source / "bad\nname").unlink()
        again = client.put_tree(source, "site", AT_ONCE)
        assert again.swapped and (again.files, again.identical) == (0, len(NEW))
        assert found(host.root / "site") == NEW and staged(host) == []


@pytest.mark.parametrize("change", ["less", "more", "other content", "a file for a folder", "a folder for a file"])
def test_what_an_earlier_put_left_is_never_mixed_with_another_source(host: Host, tmp_path: Path, change: str) -> None:
    """Not even where sizes and times agree."""
    before, after = dict(OLD), dict(OLD)
    if change == "less":
        before |= {"gone/x": b"1"}
    elif change == "more":
        after |= {"came/x": b"1"}
    elif change == "other content":
        after |= {"d0/0": b"X"}
    elif change == "a file for a folder":
        before |= {"x/y": b"1"}
        after |= {"x": b"1"}
    else:
        before |= {"x": b"1"}
        after |= {"x/y": b"1"}
    source = write(tmp_path / "src", before)
    (source / "bad\nname").write_bytes(b"x")
    said: list[str] = []
    with host.client(notify=said.append) as client:
        for content in (before, after):
            if content is after:
                write(source, after)
            for way in source.rglob("*"):
                if way.is_file():
                    os.utime(way, ns=(0, 10**18))
            result = client.put_tree(source, "site", AT_ONCE)
        assert result.swapped and found(host.root / "site") == after
        folders = {path.relative_to(host.root / "site").as_posix() for path in (host.root / "site").rglob("*")}
        assert not folders & {"gone"}
    assert any("starting over" in line for line in said) == (change not in ("more", "other content"))
    assert staged(host) == []


def test_the_second_of_two_that_put_one_tree_goes_on_alone(plain_host: Host, tmp_path: Path) -> None:
    """What the first one sends meanwhile is refused, and nothing of it is in the tree."""
    mine, other = write(tmp_path / "mine", version(1, 60)), write(tmp_path / "other", version(2, 60))
    errors: list[FtpyError] = []
    began, took = threading.Event(), threading.Event()

    def first() -> None:
        def wait(_: object) -> None:
            began.set()
            assert took.wait(60)

        with plain_host.client() as client:
            try:
                client.put_tree(mine, "site", TreeOptions(atomic=True, on_told=wait))
            except FtpyError as error:
                errors.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    assert began.wait(60)
    with plain_host.client() as client:
        client.put_tree(other, "site", TreeOptions(atomic=True, on_told=lambda _: took.set()))
    thread.join()
    assert found(plain_host.root / "site") == version(2, 60)
    assert [type(error) for error in errors] == [UnknownTree]


def test_the_audit_trail_tells_what_was_staged_and_what_became_of_it(tmp_path: Path) -> None:
    large = {"a": b"1", "large": bytes(9 * MIB)}
    with running(tmp_path / "host", audit=True) as host, host.client() as client:
        for _ in range(2):
            client.put_tree(write(tmp_path / "src", large), "site", AT_ONCE)
        client.rollback("site")
    lines = host.audited("stage", "put", "mkdir", "swap", "rollback")
    stages = [line["tree"] for line in lines if line["event"] == "stage"]
    assert len(stages) == 2
    for tree in stages:
        of_it = [(line["event"], line["path"]) for line in lines if line.get("tree") == tree]
        assert sorted(of_it) == sorted(
            [("stage", "site"), ("put", "site/a"), ("put", "site/large"), ("mkdir", "site"), ("swap", "site")]
        )
    swaps = [(line["files"], line["bytes"], line["replaced"]) for line in lines if line["event"] == "swap"]
    assert swaps == [(2, 1 + 9 * MIB, False), (2, 1 + 9 * MIB, True)]
    assert lines[-1]["event"] == "rollback" and lines[-1]["replaced"]


# ------------------------------------------------------------------ rights, quota, what is in the way


def test_rights_are_asked_at_the_final_paths_and_for_what_goes(host: Host, tmp_path: Path) -> None:
    source = write(tmp_path / "src", {"a": b"1", "private/b": b"2"})
    host.add_user("writer", rights=("write",))
    host.add_user("keeper", rights=("list", "read", "write", "replace"))
    host.add_user("guest", rights=("list", "read"))
    with host.client("writer") as client:
        assert client.put_tree(source, "new", AT_ONCE).swapped
        with pytest.raises(AlreadyExists):
            client.put_tree(source, "new", AT_ONCE)
        with pytest.raises(PermissionDenied):
            client.rollback("new")
    with host.client("keeper") as client:
        with pytest.raises(AlreadyExists):
            client.put_tree(source, "new", AT_ONCE)
        with pytest.raises(PermissionDenied):
            client.rollback("new")
    with host.client("guest") as client, pytest.raises(PermissionDenied):
        client.put_tree(source, "other", AT_ONCE)
    assert not (host.root / "other").exists() and found(host.root / "new") == {"a": b"1", "private/b": b"2"}


def test_who_may_only_put_goes_on_with_what_they_have_staged(host: Host, tmp_path: Path) -> None:
    host.add_user("dropper", rights=("write",), rules=[("elsewhere", ("list",))])
    source = write(tmp_path / "src", OLD)
    (source / "bad\nname").write_bytes(b"x")
    with host.client("dropper") as client:
        assert not client.put_tree(source, "site", AT_ONCE).swapped
        (source / "bad\nname").unlink()
        again = client.put_tree(source, "site", AT_ONCE)
    assert again.swapped and (again.files, again.identical) == (0, len(OLD))


def test_a_rule_below_a_tree_keeps_it_in_place(host: Host, tmp_path: Path) -> None:
    from ftpy.server.rights import RIGHTS

    source = write(tmp_path / "src", {"a": b"1"})
    write(host.root / "site", {"a": b"old", "kept/b": b"theirs"})
    for name, right in (("bob", "delete"), ("carol", "replace"), ("dave", "write")):
        below = ("site/kept", [one for one in RIGHTS if one != right])
        host.add_user(name, rules=[below])
    for name in ("bob", "carol"):
        with host.client(name) as client:
            with pytest.raises(AlreadyExists):
                client.put_tree(source, "site", AT_ONCE)
            with pytest.raises(PermissionDenied):
                client.rollback("site")
    with host.client("dave") as client, pytest.raises(PermissionDenied):
        client.put_tree(source, "site", AT_ONCE)
    assert found(host.root / "site") == {"a": b"old", "kept/b": b"theirs"}


def test_a_rule_that_came_since_it_was_staged_keeps_a_tree_out_of_place(host: Host) -> None:
    host.add_user("erin")
    peer = RawPeer(host, "erin")
    tree = peer.ask("stage", path="erins").fields["tree"]
    assert peer.ask("put", b"x", path="erins/locked/x", file_size=1, mtime_ns=1, tree=tree).error is None
    peer.close()
    host.accounts.change("erin", rules=[("erins/locked", ["list", "read"])])
    whole = {"files": 1, "folders": 1, "file_bytes": 1}
    with closing(RawPeer(host, "erin")) as peer:
        assert peer.ask("swap", path="erins", tree=tree, **whole).error == "permission-denied"
        assert peer.ask("discard", path="erins", tree=tree).error is None
    assert not (host.root / "erins").exists()


def test_what_is_staged_and_kept_counts_for_the_quota(host: Host, tmp_path: Path) -> None:
    host.add_user("bob", quota_bytes=25_000)
    with host.client("bob") as client:
        for number in range(2):
            client.put_tree(write(tmp_path / "src", {"a": bytes([number]) * 10_000}), "site", AT_ONCE)
        result = client.put_tree(write(tmp_path / "src", {"a": b"x" * 10_000}), "site", AT_ONCE)
        assert not result.swapped and [type(told.error) for told in result.failures] == [QuotaExceeded]
        room = client.df()
        assert room.used_bytes is not None and 20_000 <= room.used_bytes < 21_000
    assert found(host.root / "site") == {"a": b"\1" * 10_000}


def test_a_tree_takes_the_place_of_nothing_else_than_a_folder(host: Host, tmp_path: Path) -> None:
    source = write(tmp_path / "src", OLD)
    (host.root / "file").write_bytes(b"x")
    (host.root / "real").mkdir()
    (host.root / "link").symlink_to("real")
    with host.client() as client:
        for name in ("file", "link", "file/below", "link/below"):
            with pytest.raises(NotADirectory):
                client.put_tree(source, name, AT_ONCE)
        with pytest.raises(RequestError):
            client.put_tree(source, "", AT_ONCE)
        with pytest.raises(AlreadyExists):
            client.put_tree(source, "real", TreeOptions(atomic=True, if_absent=True))
        assert client.put_tree(source, "absent", TreeOptions(atomic=True, if_absent=True)).swapped
    assert (host.root / "file").read_bytes() == b"x" and list((host.root / "real").iterdir()) == []
    assert found(host.root / "absent") == OLD


def test_what_comes_while_a_tree_is_staged_is_not_replaced_under_if_absent(host: Host, tmp_path: Path) -> None:
    def meanwhile(_: object) -> None:
        (host.root / "site").mkdir(exist_ok=True)

    with host.client() as client, pytest.raises(AlreadyExists):
        options = TreeOptions(atomic=True, if_absent=True, on_told=meanwhile)
        client.put_tree(write(tmp_path / "src", OLD), "site", options)
    assert found(host.root / "site") == {}


def test_a_server_that_cannot_is_not_put_to_in_another_way(
    plain_host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object, **__: object) -> None:
        raise Unsupported

    for verb in (StageRequest, RollbackRequest):
        monkeypatch.setitem(verbs.VERBS, verb, verbs.Verb(unsupported))
    with plain_host.client() as client:
        with pytest.raises(Unsupported):
            client.put_tree(write(tmp_path / "src", OLD), "site", AT_ONCE)
        with pytest.raises(Unsupported):
            client.rollback("site")
        assert list(client.ls()) == []


# ------------------------------------------------------------------ broken lines


@pytest.mark.slow
def test_a_tree_survives_lost_connections_at_any_byte(plain_host: Host, tmp_path: Path) -> None:
    """Each time the same put goes on by itself, and what readers find is one of both."""
    contents = [version(number, 40) | {"large": bytes([number]) * (3 * MIB)} for number in (1, 2)]
    sources = [write(tmp_path / f"src-{number}", content) for number, content in enumerate(contents)]
    with plain_host.client() as client:
        client.put_tree(sources[0], "site", AT_ONCE)
    for at in (500, 5_000, 9_000, 3 * MIB + 3_000):
        for way in ((Fault("cut", at), Fault()), (Fault(), Fault("cut", min(at, 12_000)))):
            with (
                Proxy(plain_host.address, way, (Fault(), Fault())) as proxy,
                plain_host.client(address=proxy.address) as client,
            ):
                assert client.put_tree(sources[1], "site", AT_ONCE).swapped
            assert found(plain_host.root / "site") == contents[1]
            sources.reverse()
            contents.reverse()
    assert staged(plain_host) == [] and plain_host.uploads == []


def test_a_put_that_was_given_up_goes_on_with_what_was_sent(plain_host: Host, tmp_path: Path) -> None:
    source = write(tmp_path / "src", {"a": b"1", "large": os.urandom(24 * MIB)})
    transfer = Transfer(stall_seconds=5.0, connect_seconds=5.0, retries=0, streams=1)
    with (
        Proxy(plain_host.address, (Fault("cut", 18 * MIB), Fault())) as proxy,
        plain_host.client(address=proxy.address, transfer=transfer) as client,
        pytest.raises(ConnectionFailed),
    ):
        client.put_tree(source, "site", AT_ONCE)
    assert not (plain_host.root / "site").exists() and len(staged(plain_host)) == 1
    with Proxy(plain_host.address) as proxy, plain_host.client(address=proxy.address) as client:
        assert client.put_tree(source, "site", AT_ONCE).swapped
        assert proxy.passed[0] < 18 * MIB  # the parts that were there were not sent again
    assert found(plain_host.root / "site") == found(source) and staged(plain_host) == []


@pytest.fixture
def two_trees(plain_host: Host, tmp_path: Path) -> Host:
    """A host with NEW's small files at ``site``, and OLD to go back to."""
    with plain_host.client() as client:
        for content in (OLD, version(2)):
            client.put_tree(write(tmp_path / "src", content), "site", AT_ONCE)
    return plain_host


def said_by(host: Host) -> list[int]:
    """How many bytes go each way until something was looked at, over a new connection."""
    with Proxy(host.address) as proxy, host.client(address=proxy.address) as client:
        client.stat("site")
    return proxy.passed  # after its end: what it has sent is counted a moment later


def test_a_rollback_whose_answer_is_lost_is_not_asked_again(two_trees: Host) -> None:
    lost = Fault("cut", said_by(two_trees)[1] + 10)
    with Proxy(two_trees.address, (Fault(), lost)) as proxy, two_trees.client(address=proxy.address) as client:
        with pytest.raises(OutcomeUnknown):
            client.rollback("site")
        assert proxy.connections == 1
    assert found(two_trees.root / "site") == OLD


def test_a_rollback_over_a_connection_that_broke_before_is_asked_over_another(two_trees: Host) -> None:
    lost = Fault("cut", said_by(two_trees)[0] + 10)
    with (
        Proxy(two_trees.address, (lost, Fault()), (Fault(), Fault())) as proxy,
        two_trees.client(address=proxy.address) as client,
    ):
        client.stat("site")
        assert client.rollback("site").replaced and proxy.connections == 2
    assert found(two_trees.root / "site") == OLD


# ------------------------------------------------------------------ kills


@pytest.mark.slow
def test_whenever_a_server_is_killed_the_path_shows_one_tree_and_the_put_goes_on(tmp_path: Path) -> None:
    host = Host(tmp_path / "host")
    contents = [version(number, 100) | {"large": bytes([number]) * (2 * MIB)} for number in (0, 1)]
    sources = [write(tmp_path / f"src-{number}", content) for number, content in enumerate(contents)]
    transfer = Transfer(stall_seconds=20.0, connect_seconds=20.0, retries=30)

    def run(source: Path, connected: threading.Event, ended: list[TreeResult | FtpyError]) -> None:
        try:
            with host.client(transfer=transfer) as client:
                connected.set()
                ended.append(client.put_tree(source, "site", AT_ONCE))
        except FtpyError as error:
            ended.append(error)

    with Daemon(host, "workers = 2\n") as daemon:
        with host.client(transfer=transfer) as client:
            client.put_tree(sources[0], "site", AT_ONCE)
        for round_ in range(1, 4):
            new, old = contents[round_ % 2], contents[(round_ + 1) % 2]
            ended: list[TreeResult | FtpyError] = []
            connected = threading.Event()
            thread = threading.Thread(target=run, args=(sources[round_ % 2], connected, ended))
            thread.start()
            assert connected.wait(30)
            time.sleep(0.08 * round_)  # at another moment each time: that is what is looked for, not waited for
            daemon.signal(signal.SIGKILL)
            daemon.wait()
            eventually(lambda: found(host.root / "site") in (old, new))  # noqa: B023  (workers end a moment later)
            eventually(lambda: is_free(host.address))  # they have let go of that, too
            daemon.start()
            thread.join()
            assert isinstance(ended[0], TreeResult) and ended[0].swapped, ended
            assert found(host.root / "site") == new and staged(host) == []
        with host.client(transfer=transfer) as client:
            client.rollback("site")
        assert found(host.root / "site") == contents[0]


# ------------------------------------------------------------------ readers

FILES, SWAPS, LOOKS = 30, 100, 10


class Reader(threading.Thread):
    """Lists a tree over and over; what it finds of two trees at once is a ``mix``."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self._host = host
        self.stop = threading.Event()
        self.looks = 0
        self.mixes: list[str] = []
        self.error: FtpyError | None = None

    def run(self) -> None:
        try:
            with self._host.client() as client:
                while not self.stop.is_set():
                    self._look(client)
        except FtpyError as error:
            self.error = error

    def _look(self, client: Client) -> None:
        try:
            listed = {str(info.path): info for info in client.ls("site", recursive=True) if info.type == "file"}
        except Changed:
            return  # the tree of before the one before: as it says
        self.looks += 1
        own = [name for name in listed if name.startswith("site/only-")]
        digests = {info.md5 for info in listed.values()}
        if len(own) != 1 or len(digests) != 1 or len(listed) != FILES + 1:
            self.mixes.append(f"{len(listed)} files of {own}, {len(digests)} contents")

    def __enter__(self) -> Reader:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.join()


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """Two versions of one tree."""
    made = [write(tmp_path / f"src-{number}", version(number, FILES)) for number in range(2)]
    for number, source in enumerate(made):
        for way in source.rglob("*"):
            os.utime(way, ns=(0, 10**18 + number * 10**9))
    return made


@pytest.mark.slow
def test_a_reader_never_sees_a_mix_while_trees_are_swapped(plain_host: Host, sources: list[Path]) -> None:
    with plain_host.client() as client:
        for source in sources:
            client.put_tree(source, "site", AT_ONCE)
        with Reader(plain_host) as reader:
            for _ in range(5):
                for _ in range(SWAPS // 5):
                    client.rollback("site")
                client.put_tree(sources[0], "site", AT_ONCE)
                client.put_tree(sources[1], "site", AT_ONCE)
            eventually(lambda: reader.looks >= LOOKS or not reader.is_alive())
    assert reader.error is None and reader.mixes == []


@pytest.mark.slow
def test_the_same_reader_tells_a_tree_that_is_put_file_by_file(plain_host: Host, sources: list[Path]) -> None:
    """The control: without ``atomic`` it must see mixes, or the test above shows nothing."""
    with plain_host.client() as client:
        client.put_tree(sources[0], "site")
        with Reader(plain_host) as reader:
            for number in range(1, 200):
                client.rm(f"site/only-{(number + 1) % 2}")  # as who puts a tree that is to have nothing else
                client.put_tree(sources[number % 2], "site")
                if reader.mixes:
                    break
    assert reader.error is None and reader.mixes
