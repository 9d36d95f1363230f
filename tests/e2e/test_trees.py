"""Trees in both directions: all of it, in place, verified; what fails is told and stops nothing; again means go on."""

from __future__ import annotations

import itertools
import os
import random
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from ftpy.client import listing
from ftpy.client.trees import Told, TreeOptions, TreeResult
from ftpy.client.walking import Selection
from ftpy.config.server import Limits
from ftpy.errors import LocalFileError, NotADirectory, NotFound, PermissionDenied, TargetExists
from ftpy.files import FileInfo, RemotePath
from ftpy.storage.local import LocalStorage
from tests.descriptors import open_files, settled_files
from tests.rig import FAST, Fault, Host, Proxy, eventually, running

MIB = 1024 * 1024
OLD_NS = 1_600_000_000_123_456_789


def plant(root: Path, files: int = 40, seed: int = 0) -> Path:
    """A tree with files of many sizes, a large one, an empty file, an empty folder, odd names, modes and times."""
    rng = random.Random(seed)
    root.mkdir(parents=True)
    for number in range(files):
        folder = root.joinpath(*(f"d{rng.randrange(3)}" for _ in range(rng.randrange(4))))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_bytes(rng.randbytes(rng.choice([0, 1, 100, 5_000, 70_000])))
    (root / "large").write_bytes(rng.randbytes(9 * MIB + 1))
    (root / "empty" / "deeper").mkdir(parents=True)
    (root / ".hidden").write_bytes(b"h")
    (root / "sp ace é").write_bytes(b"1")
    (root / os.fsdecode(b"not-utf8-\xff")).write_bytes(b"2") if not (root / "x").exists() else None
    (root / "run.sh").write_bytes(b"#!/bin/sh\n")
    (root / "run.sh").chmod(0o750)
    (root / "empty").chmod(0o700)
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        os.utime(path, ns=(OLD_NS + number * 1_000_000_007,) * 2)
    os.utime(root, ns=(OLD_NS, OLD_NS))
    return root


def portrait(root: Path) -> dict[str, tuple[Any, ...]]:
    """All that a tree must keep: names, kinds, contents, modes, times."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
        mode = stat.S_IMODE(status.st_mode)
        found[str(path.relative_to(root))] = (stat.S_IFMT(status.st_mode), mode, status.st_mtime_ns, content)
    return found


def counts(result: TreeResult) -> dict[str, int]:
    return {
        name: value for name in ("files", "identical", "links", "special", "failed") if (value := getattr(result, name))
    }


@pytest.fixture
def odd_host(tmp_path: Path) -> Any:
    """A server that takes names which other systems could not hold."""
    host = Host(tmp_path / "host", tls=False)
    host.portable_names = False
    host.start()
    yield host
    host.stop()


def test_a_tree_comes_back_as_it_was(odd_host: Host, tmp_path: Path) -> None:
    source = plant(tmp_path / "source")
    files = sum(1 for path in source.rglob("*") if path.is_file())
    with odd_host.client() as client:
        assert counts(client.put_tree(source, "a/tree")) == {"files": files}
        assert portrait(odd_host.root / "a/tree") == portrait(source)
        assert counts(client.get_tree("a/tree", tmp_path / "back")) == {"files": files}
    assert portrait(tmp_path / "back") == portrait(source)


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_here_is_opened_to_others_by_force_only(plain_host: Host, tmp_path: Path, force: bool) -> None:
    theirs, back = plain_host.root / "tree", tmp_path / "back"
    for root, mode in ((theirs, 0o755), (back, 0o700)):
        (root / "shut").mkdir(parents=True)
        (root / "shut").chmod(mode)
        root.chmod(mode)
    (theirs / "shut" / "f").write_bytes(b"1")
    (theirs / "new").mkdir(mode=0o750)
    with plain_host.client() as client:
        client.get_tree("tree", back, TreeOptions(force=force))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (back, back / "shut", back / "new")}
    kept = 0o755 if force else 0o700
    assert modes == {"back": kept, "shut": kept, "new": 0o750}


def test_a_tree_goes_through_tls_as_well(tls_host: Host, tmp_path: Path) -> None:
    source = plant(tmp_path / "source")
    (source / os.fsdecode(b"not-utf8-\xff")).unlink()
    os.utime(source, ns=(OLD_NS, OLD_NS))
    with tls_host.client() as client:
        client.put_tree(source, "tree", TreeOptions(digest="blake3"))
        client.get_tree("tree", tmp_path / "back", TreeOptions(digest="blake3"))
    assert portrait(tls_host.root / "tree") == portrait(tmp_path / "back") == portrait(source)


def test_a_tree_that_is_there_already_is_passed_over(plain_host: Host, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    for name in ("a", "d/b", "d/c"):
        (source / name).write_bytes(name.encode())
    back = tmp_path / "back"
    with plain_host.client() as client:
        client.put_tree(source, "tree")
        assert counts(client.put_tree(source, "tree")) == {"identical": 3}
        client.get_tree("tree", back)
        assert counts(client.get_tree("tree", back)) == {"identical": 3}
        (source / "d/b").write_bytes(b"new content")
        (source / "d/new").write_bytes(b"n")
        assert counts(client.put_tree(source, "tree")) == {"files": 2, "identical": 2}
        assert portrait(plain_host.root / "tree") == portrait(source)
        assert counts(client.get_tree("tree", back, TreeOptions(force=True))) == {"files": 2, "identical": 2}
        assert portrait(back) == portrait(source)


def test_by_digest_a_touched_file_is_identical_and_a_changed_one_of_the_same_size_and_time_is_not(
    plain_host: Host, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("touched", "changed", "unknown"):
        (source / name).write_bytes(b"old content")
        os.utime(source / name, ns=(OLD_NS, OLD_NS))
    options = TreeOptions(by_digest=True, force=True)
    with plain_host.client() as client:
        client.put_tree(source, "tree")
        client.get_tree("tree", tmp_path / "back")
        os.utime(source / "touched", ns=(OLD_NS + 10**9,) * 2)
        (source / "changed").write_bytes(b"new content")
        os.utime(source / "changed", ns=(OLD_NS, OLD_NS))
        there = plain_host.root / "tree/unknown"  # laid there by hand: the server knows no digest of it
        there.unlink()
        there.write_bytes(b"old content")
        assert counts(client.put_tree(source, "tree")) == {"files": 1 + 1, "identical": 1}  # touched, unknown
        (source / "changed").write_bytes(b"NEW content")
        os.utime(source / "changed", ns=(OLD_NS, OLD_NS))
        assert counts(client.put_tree(source, "tree", options)) == {"files": 1, "identical": 2}
        assert (plain_host.root / "tree/changed").read_bytes() == b"NEW content"
        assert counts(client.get_tree("tree", tmp_path / "back", options)) == {"files": 1, "identical": 2}
        assert (tmp_path / "back/changed").read_bytes() == b"NEW content"


def test_get_keeps_a_different_file_unless_forced(plain_host: Host, tmp_path: Path) -> None:
    there, back = plain_host.root / "tree", tmp_path / "back"
    there.mkdir()
    back.mkdir()
    for name in ("longer", "same size", "content", "free"):
        (there / name).write_bytes(b"theirs")
    (back / "longer").write_bytes(b"ours is longer")
    (back / "same size").write_bytes(b"ours!!")
    (back / "content").write_bytes(b"theirs")
    os.utime(back / "content", ns=(OLD_NS, OLD_NS))
    with plain_host.client() as client:
        result = client.get_tree("tree", back)
        assert counts(result) == {"files": 1, "identical": 1, "failed": 2}
        assert {(told.path.name, type(told.error)) for told in result.failures} == {
            ("longer", TargetExists),
            ("same size", TargetExists),
        }
        assert (back / "longer").read_bytes() == b"ours is longer" and (back / "same size").read_bytes() == b"ours!!"
        assert client.get_tree("tree", back, TreeOptions(force=True)).failed == 0
    assert all((back / path.name).read_bytes() == b"theirs" for path in there.iterdir())


def test_a_file_that_fails_is_told_and_stops_no_other(plain_host: Host, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    for name in ("a", "con", "d/b", "line\nfeed", "z"):
        (source / name).write_bytes(b"1")
    (plain_host.root / "tree/a").mkdir(parents=True)  # a folder in a file's place
    told: list[Told] = []
    with plain_host.client() as client:
        result = client.put_tree(source, "tree", TreeOptions(on_told=told.append))
    assert counts(result) == {"files": 2, "failed": 3}
    assert sorted(failed.path.name for failed in result.failures) == ["a", "con", "line\nfeed"]
    assert all(failed.error is not None and failed.name.startswith(str(source)) for failed in result.failures)
    assert len(told) == 5
    assert (plain_host.root / "tree/d/b").exists() and (plain_host.root / "tree/z").exists()


def test_names_that_no_server_could_hold_are_told_before_anything_is_sent(plain_host: Host, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "z").mkdir(parents=True)
    (source / "a").write_bytes(b"1")
    (source / "z/bad\x01").write_bytes(b"1")
    seen: list[tuple[str, bool]] = []

    def on_told(told: Told) -> None:
        seen.append((told.verdict, (plain_host.root / "tree/a").exists()))

    with plain_host.client() as client:
        result = client.put_tree(source, "tree", TreeOptions(on_told=on_told))
    assert counts(result) == {"files": 1, "failed": 1}
    assert seen == [("failed", False), ("sent", True)]


@pytest.mark.parametrize("links", ["skip", "copy"])
def test_links_are_passed_over_or_copied_inside_the_tree_only(plain_host: Host, tmp_path: Path, links: Any) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    (source / "d/f").write_bytes(b"f")
    (source / "to-file").symlink_to("d/f")
    (source / "to-folder").symlink_to("d")
    (source / "to-outside").symlink_to(outside)
    (source / "to-nothing").symlink_to("nothing")
    (source / "d/up").symlink_to("..")
    os.mkfifo(source / "pipe")
    with plain_host.client() as client:
        result = client.put_tree(source, "tree", TreeOptions(links=links))
    found = {str(path.relative_to(plain_host.root)) for path in plain_host.root.glob("tree/**/*") if path.is_file()}
    if links == "skip":
        assert counts(result) == {"files": 1, "links": 5, "special": 1} and found == {"tree/d/f"}
    else:
        assert found == {"tree/d/f", "tree/to-file", "tree/to-folder/f"}
        assert counts(result) == {"files": 3, "links": 4, "special": 1}
    assert not any(path.is_symlink() for path in plain_host.root.glob("tree/**/*"))


def test_links_on_the_server_are_passed_over(plain_host: Host, tmp_path: Path) -> None:
    (plain_host.root / "tree").mkdir()
    (plain_host.root / "tree/link").symlink_to("/etc/passwd")
    os.mkfifo(plain_host.root / "tree/pipe")
    with plain_host.client() as client:
        assert counts(client.get_tree("tree", tmp_path / "back")) == {"links": 1, "special": 1}
    assert list((tmp_path / "back").iterdir()) == []


def test_get_writes_through_no_link_that_lies_in_the_way(plain_host: Host, tmp_path: Path) -> None:
    for name in ("tree/d/small", "tree/d/large", "tree/other"):
        (plain_host.root / name).parent.mkdir(parents=True, exist_ok=True)
        (plain_host.root / name).write_bytes(bytes(2 * MIB if name.endswith("large") else 1))
    outside = tmp_path / "outside"
    outside.mkdir()
    back = tmp_path / "back"
    back.mkdir()
    (back / "d").symlink_to(outside)
    with plain_host.client() as client:
        result = client.get_tree("tree", back, TreeOptions(force=True))
    assert result.files == 1 and result.failed >= 1
    assert list(outside.iterdir()) == []


SELECTIONS = {
    "exclude": (Selection(exclude=["*.o", "/build/"]), {"a.c", "sub/b.c", "sub/build/x"}),
    "include": (Selection(include=["*.c"]), {"a.c", "sub/b.c"}),
    "both": (Selection(include=["keep.o"], exclude=["*.o", "build/"]), {"a.c", "sub/b.c", "keep.o"}),
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_selection_is_read_as_gitignore_reads_it_in_both_directions(
    plain_host: Host, tmp_path: Path, name: str
) -> None:
    source = tmp_path / "source"
    for path in ("a.c", "a.o", "keep.o", "build/x", "sub/b.c", "sub/b.o", "sub/build/x"):
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(b"1")
    selection, wanted = SELECTIONS[name]
    options = TreeOptions(selection=selection)
    with plain_host.client() as client:
        client.put_tree(source, "all")
        client.put_tree(source, "some", options)
        client.get_tree("all", tmp_path / "back", options)
    for root in (plain_host.root / "some", tmp_path / "back"):
        assert {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} == wanted


def test_a_dry_run_tells_what_would_be_done_and_does_nothing(plain_host: Host, tmp_path: Path) -> None:
    source = plant(tmp_path / "source", files=5)
    (source / os.fsdecode(b"not-utf8-\xff")).unlink()
    told: list[Told] = []
    options = TreeOptions(dry_run=True, on_told=told.append)
    with plain_host.client() as client:
        files = client.put_tree(source, "tree", options).files
        assert files == len(told) == sum(1 for path in source.rglob("*") if path.is_file())
        assert list(plain_host.root.iterdir()) == [plain_host.root / ".ftpy"]
        client.put_tree(source, "tree")
        assert client.get_tree("tree", tmp_path / "back", TreeOptions(dry_run=True)).files == files
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("verb", ["put", "get"])
@pytest.mark.parametrize("after", [3_000, 30_000, 200_000, 5_000_000])
def test_a_lost_connection_loses_no_file_of_a_tree(tmp_path: Path, plain_host: Host, verb: str, after: int) -> None:
    source = plant(tmp_path / "source", files=200)
    (source / os.fsdecode(b"not-utf8-\xff")).unlink()
    os.utime(source, ns=(OLD_NS, OLD_NS))
    cut = Fault("cut", after)
    faults = (cut, Fault()) if verb == "put" else (Fault(), cut)
    with plain_host.client() as direct:
        if verb == "get":
            direct.put_tree(source, "tree")
    with (
        Proxy(plain_host.address, faults, faults, (Fault(), Fault())) as proxy,
        plain_host.client(address=proxy.address) as client,
    ):
        result = client.put_tree(source, "tree") if verb == "put" else client.get_tree("tree", tmp_path / "back")
    assert result.failed == 0 and proxy.connections > 1
    assert portrait(plain_host.root / "tree" if verb == "put" else tmp_path / "back") == portrait(source)


def test_a_server_that_shuts_down_fails_no_file_of_a_tree_that_goes_on_when_it_is_back(
    tmp_path: Path, odd_host: Host
) -> None:
    source = plant(tmp_path / "source")
    service = odd_host.service
    assert service is not None

    def shut_down(_: Told) -> None:
        """Once something small was stored: the large file comes after that."""
        if not notes:
            service.draining.set()

    notes: list[str] = []

    def come_back(note: str) -> None:
        notes.append(note)
        service.draining.clear()

    with odd_host.client(notify=come_back) as client:
        result = client.put_tree(source, "t", TreeOptions(on_told=shut_down))
    assert result.failures == [] and notes  # "shutting down", or that the connection is gone: whichever comes first
    assert portrait(odd_host.root / "t") == portrait(source)


def test_if_absent_does_not_take_its_own_files_for_others_when_their_answers_were_lost(
    tmp_path: Path, plain_host: Host
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(50):
        (source / f"{number}").write_bytes(b"%d" % number)
    with (
        Proxy(plain_host.address, (Fault(), Fault("cut", 1_500)), (Fault(), Fault())) as proxy,
        plain_host.client(address=proxy.address) as client,
    ):
        result = client.put_tree(source, "tree", TreeOptions(if_absent=True))
        assert counts(result) == {"files": 50} and proxy.connections == 2
        (source / "0").write_bytes(b"other")
        assert counts(client.put_tree(source, "tree", TreeOptions(if_absent=True))) == {"identical": 49, "failed": 1}
    assert (plain_host.root / "tree/0").read_bytes() == b"0"


def test_a_flipped_bit_in_a_tree_is_sent_again(tmp_path: Path, plain_host: Host) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(3):
        (source / f"{number}").write_bytes(os.urandom(300_000))
    with plain_host.client() as direct:
        direct.put_tree(source, "there")
    for way, verb in ((0, "put"), (1, "get")):
        faults = [Fault(), Fault()]
        faults[way] = Fault("flip", 400_000)
        with (
            Proxy(plain_host.address, (faults[0], faults[1])) as proxy,
            plain_host.client(address=proxy.address) as client,
        ):
            move = {
                "put": lambda c: c.put_tree(source, "tree"),
                "get": lambda c: c.get_tree("there", tmp_path / "back"),
            }
            result = move[verb](client)
        assert result.failed == 0, verb
        assert proxy.passed[way] > 1_000_000  # once more than the files have
    assert portrait(tmp_path / "back") == portrait(plain_host.root / "tree") == portrait(source)


def test_a_tree_needs_no_round_trip_for_each_file(tmp_path: Path, plain_host: Host) -> None:
    """300 files through a server that allows 16 requests under way: the limit is kept, and they all arrive."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(300):
        (source / f"{number}").write_bytes(b"%d" % number)
    narrow = Limits(pipelined_requests=16)
    with running(tmp_path / "narrow", tls=False, limits=narrow) as host, host.client() as client:
        assert client.put_tree(source, "tree").files == client.get_tree("tree", tmp_path / "back").files == 300
    assert portrait(tmp_path / "back") == portrait(source)


def test_the_staging_area_of_a_get_is_gone_at_the_end_and_spared_where_another_is_at_work(
    tmp_path: Path, plain_host: Host
) -> None:
    from ftpy.client.landing import Landing

    (plain_host.root / "tree").mkdir()
    (plain_host.root / "tree/f").write_bytes(b"1")
    back = tmp_path / "back"
    with plain_host.client() as client:
        with Landing(str(back)):
            client.get_tree("tree", back)
            assert (back / ".ftpy").is_dir()
        assert sorted(path.name for path in back.iterdir()) == ["f"]


def test_a_staging_area_that_cannot_be_taken_away_is_no_error_and_keeps_nothing_open(tmp_path: Path) -> None:
    from ftpy.client.landing import Landing

    before, landing = settled_files(), Landing(str(tmp_path / "back"))
    (lock,) = (tmp_path / "back" / ".ftpy" / "staged").iterdir()
    lock.unlink()
    lock.mkdir()
    landing.close()
    assert open_files() == before


def test_what_a_killed_get_left_staged_is_swept_by_the_next(tmp_path: Path, plain_host: Host) -> None:
    (plain_host.root / "tree").mkdir()
    back = tmp_path / "back"
    for folder in (back / ".ftpy", back / ".ftpy/staged", back / ".ftpy/uploads"):
        folder.mkdir(parents=True, mode=0o700)
    (back / ".ftpy/staged/0123456789abcdef-0").write_bytes(b"left")
    with plain_host.client() as client:
        client.get_tree("tree", back)
    assert list(back.iterdir()) == []


def test_put_tree_works_for_who_may_only_put(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    (source / "d/f").write_bytes(b"1")
    host = Host(tmp_path / "host", tls=False)
    host.add_user("dropper", rights=("write", "replace"))
    host.start()
    try:
        with host.client("dropper") as client:
            assert client.put_tree(source, "tree").files == client.put_tree(source, "tree").files == 1
            with pytest.raises(PermissionDenied):
                client.get_tree("tree", tmp_path / "back")
    finally:
        host.stop()
    assert not (tmp_path / "back").exists()


def test_a_tree_that_is_none_is_refused_before_anything_is_made(tmp_path: Path, plain_host: Host) -> None:
    (plain_host.root / "file").write_bytes(b"1")
    (tmp_path / "file").write_bytes(b"1")
    with plain_host.client() as client:
        for name in ("missing", "file"):
            with pytest.raises(LocalFileError):
                client.put_tree(tmp_path / name, "tree")
        with pytest.raises(NotFound):
            client.get_tree("missing", tmp_path / "back")
        with pytest.raises(NotADirectory):
            client.get_tree("file", tmp_path / "back")
        assert client.ls() is not None and [str(info.path) for info in client.ls()] == ["file"]
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("at_hand", [2, 100])
def test_a_listing_is_read_to_its_end_while_nobody_takes_from_it(
    plain_host: Host, monkeypatch: pytest.MonkeyPatch, at_hand: int
) -> None:
    monkeypatch.setattr(listing, "PAGES_AT_HAND", at_hand)
    (plain_host.root / "tree").mkdir()
    for number in range(3_000):
        (plain_host.root / f"tree/{number:05}").touch()
    with plain_host.client() as client:
        connection = client._connected()
        with listing.Listing(client.stat("tree").path, connection, client._new_line()) as read:
            assert read.wait(10)
            assert [info.path.name for info in read] == [f"{number:05}" for number in range(3_000)]
        assert connection.in_step


def test_a_listing_that_is_cut_goes_on_where_it_was(tmp_path: Path, plain_host: Host) -> None:
    (plain_host.root / "tree").mkdir()
    for number in range(3_000):
        (plain_host.root / f"tree/{number:05}").touch()
    cut = (Fault(), Fault("cut", 200_000))
    with (
        Proxy(plain_host.address, cut, cut, (Fault(), Fault())) as proxy,
        plain_host.client(address=proxy.address) as client,
    ):
        path = client.stat("tree").path
        with listing.Listing(path, client._connected(), client._new_line()) as read:
            assert [info.path.name for info in read] == [f"{number:05}" for number in range(3_000)]
    assert proxy.connections == 3


def test_a_tree_survives_a_listing_that_breaks_and_connections_that_fail(tmp_path: Path, plain_host: Host) -> None:
    """As when a server is started again meanwhile: the listing and the transfer both wait for it."""
    (plain_host.root / "tree").mkdir()
    for number in range(3_000):
        (plain_host.root / f"tree/{number:05}").touch()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "new").write_text("new")
    in_the_listing, in_the_handshake = [(Fault(), Fault("cut", after)) for after in (200_000, 20)]
    with (
        Proxy(plain_host.address, in_the_listing, *[in_the_handshake] * 3, (Fault(), Fault())) as proxy,
        plain_host.client(address=proxy.address) as client,
    ):
        assert client.put_tree(tmp_path / "tree", "tree", TreeOptions()).failures == []
    assert (plain_host.root / "tree" / "new").read_text() == "new"


def test_a_listing_without_end_is_given_up_before_it_fills_the_disk(
    plain_host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(_: LocalStorage, path: RemotePath, **how: object) -> Iterator[FileInfo]:
        for number in itertools.count():
            yield FileInfo(path / f"{number:012}", "file", 0, 0, 0o644)

    (plain_host.root / "tree").mkdir()
    monkeypatch.setattr(LocalStorage, "ls", endless)
    monkeypatch.setattr(listing, "PAGES_AT_HAND", 1)
    monkeypatch.setattr(listing, "LOOK_BYTES", MIB)
    monkeypatch.setattr(listing, "SPARE_BYTES", 1 << 62)  # more than any disk has free
    with plain_host.client() as client:
        with listing.Listing(client.stat("tree").path, client._connected(), client._new_line()) as endless_one:
            assert endless_one.wait(10)
            assert MIB <= endless_one._spooled_bytes < 2 * MIB
            with pytest.raises(LocalFileError, match="TMPDIR"):
                list(endless_one)
        assert not client._connected().in_step  # whoever worked on it closes it
        client.close()
        assert client.stat("tree").type == "directory"


def test_a_listing_that_cannot_be_kept_is_never_taken_for_a_complete_one(
    plain_host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plain_host.root / "tree").mkdir()
    for number in range(3_000):
        (plain_host.root / f"tree/{number:05}").touch()
    monkeypatch.setattr(listing, "PAGES_AT_HAND", 1)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: open("/dev/full", "r+b", buffering=0))  # noqa: SIM115
    with plain_host.client() as client:
        connection = client._connected()
        with listing.Listing(client.stat("tree").path, connection, client._new_line()) as full:
            assert full.wait(10)
            with pytest.raises(LocalFileError, match="No space"):
                list(full)


def test_memory_and_descriptors_do_not_grow_with_a_tree(tmp_path: Path, plain_host: Host) -> None:
    source = tmp_path / "source"
    for number in range(1_500):
        (source / f"{number % 30}").mkdir(parents=True, exist_ok=True)
        (source / f"{number % 30}/{number}").write_bytes(b"1")
    most = 0

    def on_told(_: Told) -> None:
        nonlocal most
        most = max(most, open_files())

    before, threads = settled_files(), threading.active_count()
    with plain_host.client() as client:
        client.put_tree(source, "tree", TreeOptions(on_told=on_told))
        client.get_tree("tree", tmp_path / "back", TreeOptions(on_told=on_told))
    assert most < before + 2 * 256 + 60  # two groups of staged files, in this one process of both ends
    eventually(lambda: threading.active_count() <= threads)


@pytest.mark.parametrize("after", [0, 300_000])
def test_a_tree_moves_over_several_connections_and_the_loss_of_one_loses_no_file(
    tmp_path: Path, plain_host: Host, after: int
) -> None:
    source = plant(tmp_path / "source", files=300)
    (source / os.fsdecode(b"not-utf8-\xff")).unlink()
    for number in range(4):
        (source / f"large{number}").write_bytes(os.urandom(3 * MIB + number))
    cut = (Fault("cut", after), Fault("cut", after)) if after else (Fault(), Fault())
    transfer = structs.replace(FAST, streams=3)
    with (
        Proxy(plain_host.address, (Fault(), Fault()), cut, (Fault(), Fault())) as proxy,
        plain_host.client(address=proxy.address, transfer=transfer) as client,
    ):
        assert client.put_tree(source, "tree").failed == 0
        assert proxy.connections >= 3
        assert client.get_tree("tree", tmp_path / "back").failed == 0
    assert portrait(plain_host.root / "tree") == portrait(tmp_path / "back") == portrait(source)


def test_a_tree_replaces_by_force_nothing_that_is_no_file(host: Host, tmp_path: Path) -> None:
    (host.root / "tree").mkdir()
    for name, size in (("large", 4 * 1024 * 1024), ("small", 10), ("other", 10)):
        (host.root / "tree" / name).write_bytes(bytes(size))
    here = tmp_path / "here"
    here.mkdir()
    for name in ("large", "small"):
        os.mkfifo(here / name)
    with host.client() as client:
        result = client.get_tree("tree", here, TreeOptions(force=True))
    errors = sorted(str(failure.error) for failure in result.failures)
    assert errors == [f"{here / name}: not a regular file" for name in ("large", "small")]
    assert (here / "large").is_fifo() and (here / "small").is_fifo() and (here / "other").is_file()
