"""What a put reads on this side: all of a file or nothing, and of a tree only what is in it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ftpy.client import walking
from ftpy.client.source import Source
from ftpy.client.syncing import SyncOptions
from ftpy.client.trees import TreeOptions
from ftpy.client.walking import Links
from ftpy.client.within import Within
from ftpy.errors import LocalFileError, SourceChanged
from ftpy.files import RemotePath
from ftpy.storage import beneath
from tests.descriptors import links
from tests.rig import Host

MIB = 1024 * 1024


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="no /proc, whose files are of size 0")


@needs_proc
def test_a_file_that_holds_more_than_its_size_says_is_refused_and_nothing_is_stored(plain_host: Host) -> None:
    with plain_host.client() as client, pytest.raises(SourceChanged, match="/proc/version holds more than its size"):
        client.put("/proc/version", "x")
    assert not (plain_host.root / "x").exists()


@needs_proc
def test_no_file_of_a_tree_that_holds_more_than_its_size_says_is_stored(plain_host: Host) -> None:
    with plain_host.client() as client:
        result = client.put_tree("/proc/sys/kernel/keys", "t")
    assert result.failed > 0 and result.files == 0
    assert all("holds more than its size" in str(told.error) for told in result.failures)
    assert [path for path in (plain_host.root / "t").rglob("*") if path.is_file()] == []


@needs_proc
def test_a_file_that_holds_more_than_its_size_says_has_no_digest() -> None:
    with Source("/proc/version", "md5") as opened, pytest.raises(SourceChanged):
        opened.read_digest()


def test_a_large_file_that_holds_more_than_its_size_says_is_refused_before_it_is_stored(
    plain_host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "big").write_bytes(os.urandom(3 * MIB + 1))
    opened = Source.__init__

    def says_less(self: Source, *arguments: str) -> None:
        opened(self, *arguments)  # type: ignore[arg-type]
        self.size -= 1

    monkeypatch.setattr(Source, "__init__", says_less)
    with plain_host.client() as client, pytest.raises(SourceChanged, match="holds more than its size"):
        client.put(tmp_path / "big", "x")
    assert not (plain_host.root / "x").exists() and plain_host.uploads == []


# ---- what lies outside a tree, and gets into its place while it is sent


SECRET = b"TOP SECRET"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A tree in which others may write, beside what they may not read."""
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    for folder in ("a", "zz", "zzz"):
        (tree / folder).mkdir(parents=True)
        (tree / folder / "key").write_bytes(b"mine")
    (tree / "a" / "small").write_bytes(b"mine")
    (tree / "large").write_bytes(os.urandom(3 * MIB))
    (tree / "zz" / "large").write_bytes(os.urandom(3 * MIB + 1))
    outside.mkdir()
    (outside / "key").write_bytes(SECRET)
    (outside / "large").write_bytes(SECRET * MIB)
    return tree


def swap(tree: Path, *names: str) -> None:
    """Let links to what has the same name outside take the place of these; a folder's leads to all that is there."""
    for name in names:
        place = tree / name
        if place.is_symlink():
            return
        there = tree.parent / "outside"
        place.rename(tree.parent / f"old-{place.name}")
        place.symlink_to(there if (tree.parent / f"old-{place.name}").is_dir() else there / place.name)


def leaked(host: Host) -> list[str]:
    """What the host has of what lies outside the tree."""
    return [str(path) for path in host.root.rglob("*") if path.is_file() and SECRET in path.read_bytes()]


@pytest.mark.parametrize("kept", ["skip", "copy"])
def test_a_folder_that_becomes_a_link_after_it_was_listed_is_not_entered(
    plain_host: Host, shared: Path, monkeypatch: pytest.MonkeyPatch, kept: Links
) -> None:
    admits = RemotePath.admits
    looks = 0

    def then_swapped(path: RemotePath, names: list[str]) -> bool:
        nonlocal looks
        looks += path == RemotePath(("t",))
        if looks == 2:  # once it is foreseen what cannot be named, and then listed
            swap(shared, "zz")
        return admits(path, names)

    monkeypatch.setattr(RemotePath, "admits", then_swapped)
    with plain_host.client() as client:
        result = client.put_tree(shared, "t", TreeOptions(links=kept))
    assert (shared / "zz").is_symlink() and leaked(plain_host) == []
    assert (result.files, result.failed) == (4, 1)
    assert str(result.failures[0].error) == f"{shared}/zz: Not a directory"


def test_what_a_link_of_the_tree_names_is_copied_from_the_tree_only(
    plain_host: Host, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shared / "copied").symlink_to("zz")
    reserved = walking.is_reserved

    def then_swapped(name: str) -> bool:
        swap(shared, "zz")  # it was looked where the link leads
        return reserved(name)

    monkeypatch.setattr(walking, "is_reserved", then_swapped)
    with plain_host.client() as client:
        result = client.put_tree(shared, "t", TreeOptions(links="copy"))
    assert leaked(plain_host) == [] and (shared / "zz").is_symlink()
    assert (result.files, result.failed, result.links) == (4, 1, 1)


def test_a_large_file_that_becomes_a_link_or_whose_folder_does_is_not_sent(plain_host: Host, shared: Path) -> None:
    with plain_host.client() as client:
        result = client.put_tree(shared, "t", TreeOptions(on_told=lambda _: swap(shared, "large", "zz")))
    assert leaked(plain_host) == [] and (result.files, result.failed) == (4, 2)
    assert sorted(str(told.error) for told in result.failures) == [
        f"{shared}/large: no longer a regular file",
        f"{shared}/zz/large: Not a directory",
    ]
    assert plain_host.uploads == []


def test_a_sync_sends_nothing_of_what_became_a_link_after_it_was_planned(plain_host: Host, shared: Path) -> None:
    with plain_host.client() as client:
        options = SyncOptions(on_plan=lambda _: swap(shared, "large", "zz", "a/key"))
        result = client.sync(shared, "t", options)
    assert leaked(plain_host) == [] and (result.tree.files, result.failed) == (2, 4)
    assert (plain_host.root / "t/a/small").read_bytes() == b"mine"


def test_what_the_user_names_may_be_a_link(plain_host: Host, shared: Path) -> None:
    (shared.parent / "to-file").symlink_to(shared / "large")
    (shared.parent / "to-tree").symlink_to(shared)
    with plain_host.client() as client:
        client.put(shared.parent / "to-file", "x")
        assert client.put_tree(shared.parent / "to-tree", "t").files == 6
        assert client.sync(shared.parent / "to-tree", "t").plan.steps == ()
    assert (plain_host.root / "x").read_bytes() == (shared / "large").read_bytes()


@pytest.mark.parametrize("door", ["walk", "path"])
def test_a_tree_is_sent_whatever_way_there_is_to_its_folders(
    plain_host: Host, shared: Path, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    (shared / "copied").symlink_to("zz")
    monkeypatch.setattr(beneath, "best_door", lambda: door)
    with plain_host.client() as client:
        result = client.put_tree(shared, "t", TreeOptions(links="copy"))
    assert (result.files, result.failed) == (8, 0)
    assert (plain_host.root / "t/copied/key").read_bytes() == b"mine"


def test_a_folder_that_another_one_took_the_place_of_is_found_again(shared: Path) -> None:
    with Within(str(shared)) as within:
        within.lstat(f"{shared}/zz/key")
        (shared / "zz").rename(shared.parent / "moved")
        (shared / "zz").mkdir()
        (shared / "zz" / "new").write_bytes(b"")
        assert within.lstat(f"{shared}/zz/new").st_size == 0
        with pytest.raises(LocalFileError, match="zz/none: No such file"):
            within.open_file(f"{shared}/zz/none")


def opened(folder: Path) -> list[str]:
    """What is open of a folder here, and of what it holds."""
    return sorted(name for name in links(os.getpid()).values() if name == str(folder) or f"{folder}/" in name)


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
def test_no_folder_of_a_tree_is_left_open_however_its_put_ends(plain_host: Host, shared: Path) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with plain_host.client() as client:
        client.put_tree(shared, "t", TreeOptions(dry_run=True))
        client.put_tree(shared, "t")
        client.sync(shared, "t")
        with pytest.raises(LocalFileError, match="large: not a folder"):
            client.put_tree(shared / "large", "t")
        with pytest.raises(LocalFileError, match="none: No such file"):
            client.put_tree(shared / "none", "t")
        with pytest.raises(KeyboardInterrupt) as interrupted:
            client.put_tree(shared, "u", TreeOptions(on_told=interrupt))
        assert interrupted.tb is not None  # what it holds is closed all the same
        assert opened(shared) == []


def test_no_name_is_not_the_current_folder(plain_host: Host, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shared)
    with plain_host.client() as client:
        for way in (client.put_tree, client.sync):
            with pytest.raises(LocalFileError, match="No such file"):
                way("", "t")
        assert client.put_tree(".", "t", TreeOptions(links="copy")).files == 6
    assert not (plain_host.root / "t/tree").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="a current folder cannot be deleted there")
def test_a_current_folder_that_was_deleted_is_no_tree(
    plain_host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plain_host.root / "there").mkdir()
    (plain_host.root / "there" / "f").write_bytes(b"1")
    (tmp_path / "gone").mkdir()
    with plain_host.client() as client:
        client.stat("")  # the server, in this process, lets nobody in from such a folder
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        for name in (".", "d"):
            with pytest.raises(LocalFileError, match=f"{name}: No such file or directory"):
                client.put_tree(name, "t")
            with pytest.raises(LocalFileError, match=f"{name}: No such file or directory"):
                client.put_tree(name, "t", TreeOptions(atomic=True, operation=client.begin("x")))
            with pytest.raises(LocalFileError, match=f"{name}: No such file or directory"):
                client.sync(name, "t")
            with pytest.raises(LocalFileError):
                client.sync(name, "there", pull=True)
            with pytest.raises(LocalFileError):
                client.get_tree("there", name)
        with pytest.raises(LocalFileError, match="f: No such file or directory"):
            client.put("f", "t")
    assert not (plain_host.root / "t").exists()
