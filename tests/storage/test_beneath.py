"""The one door: nothing outside the root is opened or changed, whatever lies in the way and whenever it appears."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftpy.files import RemotePath
from ftpy.storage import syscalls
from ftpy.storage.beneath import Beneath, Directory, Door, best_door
from tests.capabilities import without_overriding
from tests.descriptors import open_files, settled_files

RACE_SECONDS = 0.7
"""How long each flip race runs; the naive control loses within a few milliseconds."""
LEAST_DONE = 100
"""How often what is raced must have succeeded, however long that takes: else it proves nothing."""

SECRET = b"outside"
LEAVES = ["link_out", "link_in", "link_dangling", "link_up", "link_self", "link_dir", "link_proc"]


def path(text: str) -> RemotePath:
    return RemotePath.parse(text)


@pytest.fixture(params=["openat2", "walk", "path"])
def door(request: pytest.FixtureRequest) -> Door:
    chosen: Door = request.param
    if chosen == "openat2" and best_door() != "openat2":
        pytest.skip("this kernel or sandbox has no openat2(2)")
    return chosen


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a file, a directory, every kind of link and special; beside it what must not be touched."""
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "file").write_bytes(SECRET)
    (outside / "deep" / "file").write_bytes(SECRET)
    root = tmp_path / "root"
    (root / "dir" / "deep").mkdir(parents=True)
    (root / "dir" / "file").write_bytes(b"inside")
    (root / "file").write_bytes(b"inside")
    targets = {
        "link_out": outside / "file",
        "link_in": "file",
        "link_dangling": "nowhere",
        "link_up": "../outside/file",
        "link_self": "link_self",
        "link_dir": outside,
        "link_proc": f"/proc/self/root{outside}",  # a magic link on the way; no further, for mutants do follow it
    }
    for name, target in targets.items():
        for where in (root, root / "dir"):
            (where / name).symlink_to(target)
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(root)  # a socket's address is short
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
    return root


@pytest.fixture
def outside(tmp_path: Path, root: Path) -> Iterator[Path]:
    """What lies beside the root: the same after every test, to the nanosecond."""

    def all_of_it() -> list[tuple[str, int, int, bytes]]:
        found = []
        for at, _, files in os.walk(tmp_path / "outside"):
            status = os.stat(at)
            found.append((at, status.st_mtime_ns, status.st_ctime_ns, b""))
            for name in files:
                status = os.stat(Path(at, name))
                found.append((name, status.st_mtime_ns, status.st_ctime_ns, Path(at, name).read_bytes()))
        return found

    before = all_of_it()
    yield tmp_path / "outside"
    assert all_of_it() == before


@pytest.fixture
def beneath(root: Path, outside: Path, door: Door) -> Iterator[Beneath]:
    with Beneath(root, door=door) as beneath:
        yield beneath


def code_of(work: Callable[[], object]) -> int | None:
    with pytest.raises(OSError) as refused:
        work()
    return refused.value.errno


# -------------------------------------------------------------------- directories


def test_open_dir_reaches_what_is_below(beneath: Beneath) -> None:
    for text in ("", "dir", "dir/deep"):
        with beneath.open_dir(path(text)) as directory:
            assert directory.path == path(text)
    with beneath.open_dir(path("dir")) as directory:
        assert sorted(directory.names()) == sorted(["deep", "file", *LEAVES])
        assert sorted(directory.names()) == sorted(["deep", "file", *LEAVES])


@pytest.fixture
def nested(tmp_path: Path, door: Door) -> Iterator[Beneath]:
    """A root with ``dir/deep`` and ``other``, through descriptors."""
    if door == "path":
        pytest.skip("no storage goes through this door, and only storages ask what is below what")
    for name in ("dir/deep", "other"):
        (tmp_path / "root" / name).mkdir(parents=True)
    with Beneath(tmp_path / "root", door=door) as beneath:
        yield beneath


def test_a_folder_is_below_another_wherever_it_was_moved_within_the_root(nested: Beneath, tmp_path: Path) -> None:
    with nested.open_dir(path("dir/deep")) as deep, nested.open_dir(path("other")) as other:
        assert not deep.is_below(other, nested.root)
        os.rename(tmp_path / "root" / "dir" / "deep", tmp_path / "root" / "other" / "deep")
        assert deep.is_below(other, nested.root) and other.is_below(other, nested.root)
        assert not nested.root.is_below(other, nested.root)


def test_a_folder_that_was_moved_out_of_the_root_is_below_nothing_in_it(nested: Beneath, tmp_path: Path) -> None:
    with nested.open_dir(path("dir/deep")) as deep, nested.open_dir(path("dir")) as folder:
        os.rename(tmp_path / "root" / "dir" / "deep", tmp_path / "deep")
        assert not deep.is_below(folder, nested.root)


def test_what_is_above_a_folder_need_not_be_readable_to_be_found(nested: Beneath, tmp_path: Path) -> None:
    with nested.open_dir(path("dir/deep")) as deep, nested.open_dir(path("dir")) as folder:
        (tmp_path / "root" / "dir").chmod(0o111)
        with without_overriding():
            assert deep.is_below(folder, nested.root)
            assert not folder.is_below(deep, nested.root)


def test_no_look_leaves_a_descriptor_open(nested: Beneath) -> None:
    with nested.open_dir(path("dir/deep")) as deep, nested.open_dir(path("other")) as other:
        before = settled_files()
        assert not deep.is_below(other, nested.root)
        nested.root.chmod_directory("other", 0o750)
        assert open_files() == before


def test_chmod_directory_needs_no_right_in_what_it_changes(nested: Beneath, tmp_path: Path) -> None:
    other = tmp_path / "root" / "other"
    other.chmod(0)
    with without_overriding():
        nested.root.chmod_directory("other", 0o750)
    assert other.stat().st_mode & 0o777 == 0o750


def test_a_folder_whose_parent_cannot_be_found_is_taken_to_be_below(
    nested: Beneath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def without_parents(name: str, *how: int, **where: int) -> int:
        if name == "..":  # so it is with what was removed, on some file systems; Linux's own find it
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return opened(name, *how, **where)

    with nested.open_dir(path("dir/deep")) as deep, nested.open_dir(path("other")) as other:
        monkeypatch.setattr(os, "open", without_parents)
        assert deep.is_below(other, nested.root)


@pytest.mark.parametrize("leaf", LEAVES)
@pytest.mark.parametrize("where", ["{}", "dir/{}", "{}/deep", "dir/{}/deep", "{}/{}"])
def test_open_dir_refuses_a_symlink_in_every_position(beneath: Beneath, leaf: str, where: str) -> None:
    text = where.replace("{}", leaf)
    assert code_of(lambda: beneath.open_dir(path(text))) == errno.ENOTDIR


@pytest.mark.parametrize("leaf", [*LEAVES, "file", "fifo", "socket"])
def test_chmod_directory_changes_a_directory_and_nothing_else(beneath: Beneath, root: Path, leaf: str) -> None:
    os.chmod(root / "dir", 0)
    modes = {name: (root / name).lstat().st_mode for name in [*LEAVES, "file", "fifo", "socket"]}
    with beneath.open_dir(path("")) as directory:
        directory.chmod_directory("dir", 0o750)
        assert stat.S_IMODE((root / "dir").stat().st_mode) == 0o750
        assert code_of(lambda: directory.chmod_directory(leaf, 0o700)) == errno.ENOTDIR
    assert {name: (root / name).lstat().st_mode for name in modes} == modes


def test_chmod_directory_works_where_nothing_can_be_opened_as_a_mere_path(
    beneath: Beneath, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftpy.storage.beneath._O_PATH", None)
    if os.chmod not in os.supports_follow_symlinks:
        pytest.skip("this system has only the other way")
    with beneath.open_dir(path("")) as directory:
        directory.chmod_directory("dir", 0o700)
    assert stat.S_IMODE((root / "dir").stat().st_mode) == 0o700


@pytest.mark.parametrize("leaf", ["file", "fifo", "socket"])
def test_open_dir_refuses_what_is_no_directory(beneath: Beneath, leaf: str) -> None:
    assert code_of(lambda: beneath.open_dir(path(leaf))) == errno.ENOTDIR
    assert code_of(lambda: beneath.open_dir(path(f"{leaf}/x"))) == errno.ENOTDIR


def test_open_dir_says_what_is_missing(beneath: Beneath) -> None:
    assert code_of(lambda: beneath.open_dir(path("new/a/b"))) == errno.ENOENT


@pytest.mark.parametrize("parts", [("..",), ("dir", ".."), (".",), ("",), ("dir/..",), ("..", "outside"), ("a\0",)])
def test_parts_that_are_no_names_are_refused_even_without_parse(beneath: Beneath, parts: tuple[str, ...]) -> None:
    for made in (RemotePath(parts), RemotePath((*parts, "file"))):
        for work in (beneath.open_dir, beneath.open_file, beneath.lstat):
            assert code_of(lambda work=work, made=made: work(made)) == errno.EILSEQ


def test_root_may_itself_be_a_symlink(root: Path, tmp_path: Path, door: Door) -> None:
    (tmp_path / "to_root").symlink_to(root)
    with Beneath(tmp_path / "to_root", door=door) as beneath:
        assert stat.S_ISREG(beneath.lstat(path("file")).st_mode)


# -------------------------------------------------------------------- every verb on a leaf


@pytest.mark.skipif(os.open not in os.supports_dir_fd, reason="by its path alone a root is wherever that leads")
def test_root_is_in_place_until_its_path_leads_elsewhere(root: Path) -> None:
    with Beneath(root) as beneath:
        assert beneath.is_in_place()
        moved = root.with_name("moved")
        root.rename(moved)
        assert not beneath.is_in_place()
        root.symlink_to(root)  # whoever asks is told neither that it is there nor that it is not
        assert beneath.is_in_place()
        root.unlink()
        root.mkdir()
        assert not beneath.is_in_place()
        root.rmdir()
        moved.rename(root)
        assert beneath.is_in_place()


def leaf_verbs(directory: Directory, leaf: str) -> dict[str, Callable[[], object]]:
    return {
        "open_file": lambda: directory.open_file(leaf),
        "open_for_write": lambda: directory.open_for_write(leaf),
        "open_for_append": lambda: directory.open_for_append(leaf, create=True),
        "open_dir": lambda: directory.open_dir(leaf),
        "create": lambda: directory.create(leaf),
        "mkdir": lambda: directory.mkdir(leaf),
    }


REFUSED_AT_A_SYMLINK = {
    "open_file": errno.ELOOP,
    "open_for_write": errno.ELOOP,
    "open_for_append": errno.ELOOP,
    "open_dir": errno.ENOTDIR,
    "create": errno.EEXIST,
    "mkdir": errno.EEXIST,
}


@pytest.mark.parametrize("leaf", LEAVES)
@pytest.mark.parametrize("verb", [*REFUSED_AT_A_SYMLINK])
def test_verb_refuses_a_symlink_as_its_leaf(beneath: Beneath, verb: str, leaf: str) -> None:
    with beneath.open_dir(path("dir")) as directory:
        assert code_of(leaf_verbs(directory, leaf)[verb]) == REFUSED_AT_A_SYMLINK[verb]


@pytest.mark.parametrize("leaf", LEAVES)
def test_lstat_tells_of_the_symlink_itself(beneath: Beneath, leaf: str) -> None:
    assert stat.S_ISLNK(beneath.lstat(path(f"dir/{leaf}")).st_mode)


@pytest.mark.parametrize("leaf", LEAVES)
def test_rename_replaces_the_symlink_and_not_its_target(beneath: Beneath, root: Path, leaf: str) -> None:
    with beneath.open_dir(path("dir")) as directory:
        os.close(directory.create("new"))
        assert code_of(lambda: directory.rename_noreplace("new", directory, leaf)) == errno.EEXIST
        directory.rename("new", directory, leaf)
    assert not (root / "dir" / leaf).is_symlink()
    assert (root / "dir" / leaf).read_bytes() == b""


@pytest.mark.parametrize("leaf", LEAVES)
def test_unlink_removes_the_symlink_and_not_its_target(beneath: Beneath, root: Path, leaf: str) -> None:
    with beneath.open_dir(path("dir")) as directory:
        directory.rename(leaf, directory, "moved")
        assert directory.unlink("moved")
        assert not directory.unlink("moved", missing_ok=True)
        assert code_of(lambda: directory.unlink("moved")) == errno.ENOENT
    assert not (root / "dir" / leaf).is_symlink()


@pytest.mark.parametrize("leaf", ["file", *LEAVES])
def test_link_gives_it_another_name_to_a_symlink_itself(beneath: Beneath, leaf: str) -> None:
    with beneath.open_dir(path("dir")) as directory:
        beneath.root.link(leaf, directory, "new")
        assert os.path.samestat(directory.lstat("new"), beneath.root.lstat(leaf))
        assert code_of(lambda: beneath.root.link(leaf, directory, "file")) == errno.EEXIST


def test_rmdir_removes_an_empty_directory_alone(beneath: Beneath, root: Path) -> None:
    with beneath.open_dir(path("dir")) as directory:
        directory.rmdir("deep")
        assert code_of(lambda: directory.rmdir("deep")) == errno.ENOENT
    assert code_of(lambda: beneath.root.rmdir("dir")) == errno.ENOTEMPTY
    assert not (root / "dir" / "deep").exists()


@pytest.mark.parametrize("leaf", ["fifo", "socket"])
def test_special_file_is_refused_at_once(beneath: Beneath, leaf: str) -> None:
    began = time.monotonic()
    verbs = leaf_verbs(beneath.root, leaf)
    assert code_of(verbs["open_file"]) == errno.ENXIO
    assert code_of(verbs["open_for_write"]) == errno.ENXIO
    assert code_of(verbs["create"]) == errno.EEXIST
    assert time.monotonic() - began < 10


def test_directory_is_refused_where_a_file_is_due(beneath: Beneath) -> None:
    assert code_of(lambda: beneath.open_file(path("dir"))) == errno.EISDIR
    assert code_of(lambda: beneath.open_file(path(""))) == errno.EISDIR
    with beneath.open_dir(path("")) as directory:
        os.close(directory.create("new"))
        assert code_of(lambda: directory.rename("new", directory, "dir")) == errno.EISDIR


@pytest.mark.parametrize("door", ["openat2"], indirect=True)
def test_a_folder_that_may_be_passed_but_not_listed_leads_on_where_one_call_reaches_all(
    beneath: Beneath, root: Path
) -> None:
    (root / "dir").chmod(0o111)
    with without_overriding():
        assert code_of(lambda: beneath.open_dir(path("dir"))) == errno.EACCES
        with beneath.open_dir(path("dir/deep")) as directory:
            assert directory.names() == []
        fd, found = beneath.open_file(path("dir/file"))
        with open(fd, "rb") as file:
            assert found.st_size == len(file.read()) == len(b"inside")


def test_a_door_that_is_closed_holds_no_descriptor(root: Path, door: Door) -> None:
    before = settled_files()
    with Beneath(root, door=door):
        pass
    assert open_files() == before


def test_file_is_created_read_and_moved(beneath: Beneath, root: Path) -> None:
    with beneath.open_dir(path("dir")) as directory, beneath.open_dir(path("dir/deep")) as deep:
        fd = directory.create("new", 0o640)
        os.write(fd, b"content")
        os.close(fd)
        directory.rename_noreplace("new", deep, "moved")
        directory.sync()
        deep.sync()
    fd, _ = beneath.open_file(path("dir/deep/moved"))
    assert os.read(fd, 100) == b"content"
    os.close(fd)
    assert (root / "dir/deep/moved").stat().st_mode & 0o777 == 0o640


def test_modes_that_nobody_names_are_those_that_the_system_gives(beneath: Beneath, root: Path) -> None:
    (root / "touched").touch()
    (root / "made").mkdir()
    os.close(beneath.root.create("new"))
    beneath.root.mkdir("folder")
    for new, like in (("new", "touched"), ("folder", "made")):
        assert beneath.lstat(path(new)).st_mode == beneath.lstat(path(like)).st_mode


def test_what_is_appended_comes_last_wherever_the_descriptor_stands(beneath: Beneath, root: Path) -> None:
    with open(beneath.root.open_for_append("journal", create=True), "rb+", buffering=0) as journal:
        journal.write(b"a")
        journal.seek(0)
        journal.write(b"b")
    assert (root / "journal").read_bytes() == b"ab"
    assert (root / "journal").stat().st_mode & 0o777 == 0o600


def test_a_directory_that_is_closed_again_closes_nothing_else(beneath: Beneath) -> None:
    directory = beneath.open_dir(path("dir"))
    directory.close()
    with open(os.devnull) as later:  # has its number now
        directory.close()
        os.fstat(later.fileno())
        os.fstat(0)


def test_rename_noreplace_works_where_the_kernel_has_none(
    beneath: Beneath, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, "")

    monkeypatch.setattr(syscalls, "rename_noreplace", missing)
    with beneath.open_dir(path("")) as directory:
        os.close(directory.create("new"))
        assert code_of(lambda: directory.rename_noreplace("new", directory, "file")) == errno.EEXIST
        directory.rename_noreplace("new", directory, "newer")
        directory.rename_noreplace("link_out", directory, "link")
        assert {"new", "link_out"}.isdisjoint(directory.names())
    assert (root / "link").is_symlink()
    assert (root / "file").read_bytes() == b"inside"
    assert (root / "newer").stat().st_nlink == 1


@pytest.mark.parametrize("door", ["openat2", "walk"], indirect=True)
@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP])
def test_rename_noreplace_works_where_there_are_no_links_either(
    beneath: Beneath, root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(code: int) -> Callable[..., None]:
        def refuse(*_: object, **__: object) -> None:
            raise OSError(code, "")

        return refuse

    monkeypatch.setattr(syscalls, "rename_noreplace", refused(errno.ENOSYS))
    monkeypatch.setattr(os, "link", refused(code))
    with beneath.open_dir(path("")) as directory:
        os.close(directory.create("new"))
        for there in ("file", *LEAVES):
            assert code_of(lambda there=there: directory.rename_noreplace("new", directory, there)) == errno.EEXIST
        directory.rename_noreplace("new", directory, "newer")
    assert (root / "file").read_bytes() == b"inside"
    assert not (root / "new").exists()
    assert (root / "newer").exists()


def test_openat2_gives_way_to_the_walk_when_a_sandbox_forbids_it(
    root: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(fd: int, name: bytes) -> int:
        raise OSError(errno.EPERM, "")

    with Beneath(root, door="openat2") as beneath:
        monkeypatch.setattr(syscalls, "open_directory_beneath", forbidden)
        assert best_door() == "walk"
        beneath.open_dir(path("dir/deep")).close()
        assert code_of(lambda: beneath.open_dir(path("dir/link_dir/deep"))) == errno.ENOTDIR


def test_descriptors_return_to_base_when_everything_is_refused(beneath: Beneath) -> None:
    def refuse_all() -> None:
        for leaf in (*LEAVES, "fifo", "socket", "none"):
            for work in (beneath.open_dir, beneath.open_file):
                with pytest.raises(OSError):
                    work(path(f"dir/{leaf}"))
                with pytest.raises(OSError):
                    work(path(f"{leaf}/a/b"))
        for leaf in ("dir", "fifo", "socket"):
            with pytest.raises(OSError):
                beneath.open_file(path(leaf))

    refuse_all()
    before = settled_files()
    refuse_all()
    assert open_files() == before


# -------------------------------------------------------------------- races


FLIP = """
import os, sys
from ftpy.storage import syscalls
root = os.open(sys.argv[1], os.O_RDONLY)
os.write(1, b"r")
while True:
    syscalls.rename_with(syscalls.RENAME_EXCHANGE, root, "flip", root, "other")
"""


@contextmanager
def flipping(root: Path, outside: Path) -> Iterator[None]:
    """A process that swaps ``flip`` between a directory inside and a symlink that leads out, as fast as it can."""
    (root / "flip").mkdir()
    (root / "flip" / "file").write_bytes(b"inside")
    (root / "other").symlink_to(outside)
    command = [sys.executable, "-c", FLIP, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as flipper:
        try:
            assert flipper.stdout is not None
            assert flipper.stdout.read(1) == b"r"
            yield
            assert flipper.poll() is None
        finally:
            flipper.kill()


def read_beneath(beneath: Beneath, root: Path) -> bytes:
    fd, _ = beneath.open_file(path("flip/file"))
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


def read_naively(beneath: Beneath, root: Path) -> bytes:
    """What a server does that looks first and opens then."""
    wanted = os.path.realpath(root / "flip" / "file")
    if not wanted.startswith(f"{root}{os.sep}"):
        raise PermissionError(errno.EACCES, "")
    return (root / "flip" / "file").read_bytes()


def race(
    read: Callable[[Beneath, Path], bytes],
    beneath: Beneath,
    root: Path,
    outside: Path,
    seconds: float = RACE_SECONDS,
    least: int = 0,
) -> tuple[int, int]:
    """(times that what is inside was read, times that it led out), until it led out or the time is over.

    What is inside is read ``least`` times, however long that takes.
    """
    inside = out = 0
    with flipping(root, outside):
        end = time.monotonic() + seconds
        while (time.monotonic() < end or inside < least) and not out:
            try:
                found = read(beneath, root)
            except OSError:
                continue
            inside += found == b"inside"
            out += found == SECRET
    return inside, out


@pytest.mark.parametrize("door", ["openat2", "walk"], indirect=True)
def test_symlink_flipped_under_an_open_never_leads_out(beneath: Beneath, root: Path, outside: Path) -> None:
    _, out = race(read_beneath, beneath, root, outside, least=LEAST_DONE)
    assert out == 0


@pytest.mark.parametrize("door", ["openat2"], indirect=True)
def test_the_race_is_real_because_a_look_before_an_open_loses_it(beneath: Beneath, root: Path, outside: Path) -> None:
    _, out = race(read_naively, beneath, root, outside, seconds=30)
    assert out == 1


@pytest.mark.parametrize("door", ["openat2", "walk"], indirect=True)
def test_symlink_flipped_under_a_create_never_leads_out(beneath: Beneath, root: Path, outside: Path) -> None:
    made = 0
    with flipping(root, outside):
        end = time.monotonic() + RACE_SECONDS
        while time.monotonic() < end or made < LEAST_DONE:
            try:
                with beneath.open_dir(path("flip")) as directory:
                    os.close(directory.create(f"{made}"))
                    made += 1
            except OSError:
                continue


@pytest.mark.parametrize("name", ["..\\outside", "C:", "C:\\x", "a:stream", ".. ", "x.", "a/b"])
def test_by_path_no_component_leads_elsewhere_on_windows(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("ftpy.storage.bypath._FOREIGN", re.compile(r"[/\0\\:]|[. ]\Z"))
    before = sorted(root.parent.rglob("*"))
    with Beneath(root, door="path") as beneath:
        for touch in (beneath.root.mkdir, beneath.root.create, beneath.root.open_dir, beneath.root.lstat):
            with pytest.raises(OSError, match=os.strerror(errno.EILSEQ)):
                touch(name)
        assert beneath.root.lstat(".").st_ino == root.stat().st_ino and "file" in beneath.root.names()
    assert sorted(root.parent.rglob("*")) == before
