"""Symbolic links flipped under every verb as fast as a process can, by renameat2(RENAME_EXCHANGE): nothing leads out.

The verbs are the storage's own, in one process; the flipper is another. What lies outside the root has names, sizes and
bytes of its own: whatever of them comes back, or changes, is a loss.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from ftpy.digests import hexdigest
from ftpy.errors import RequestError
from ftpy.files import RemotePath
from ftpy.storage import syscalls
from ftpy.storage.base import KnownDigest, NewDirectory, NewFile, Reader
from ftpy.storage.beneath import Door
from ftpy.storage.local import LocalStorage
from tests.rigs.trees import Facts, facts_of

REPOSITORY = Path(__file__).resolve().parents[2]
INSIDE, OUTSIDE = b"inside", b"outside: nobody may read or change this"
ONLY_OUTSIDE = "only-outside"
FLIPS = {"way": "way-out", "way/deep": "way/deep-out", "leaf/file": "leaf/out"}
"""What is swapped with a link that leads to its like outside: a folder, one below it, and a file."""
PARTS = ("way", "way/deep")
DATA = b"what was put"
LEAST_DONE = 10
"""How often a verb must have been done, for a race to count: between two flips there is not always time for it."""
MOST_MORE_SECONDS = 60.0
"""How much longer is waited for that."""

FLIPPER = """
import os, sys
from ftpy.storage import syscalls
root = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
pairs = [pair.split("=") for pair in sys.argv[2:]]
os.write(1, b"r")
while True:
    for one, other in pairs:
        try:
            syscalls.rename_with(syscalls.RENAME_EXCHANGE, root, one, root, other)
        except OSError:
            pass  # it leads out now, or a verb has just taken it away
"""


def at(text: str) -> RemotePath:
    """A path."""
    return RemotePath.parse(text)


@dataclass
class Report:
    """What one verb met; ``losses`` are sentences, none of which may be there."""

    verb: str
    done: int = 0
    """How often it did what was asked for."""
    refused: int = 0
    seconds: float = 0.0
    losses: list[str] = field(default_factory=list)

    @property
    def is_race(self) -> bool:
        """Whether both came about often enough; a digest has done what it is for where it is refused."""
        return self.done >= LEAST_DONE and (self.refused >= LEAST_DONE or self.verb == "digest")

    def line(self, name: str) -> str:
        """The figures."""
        return (
            f"{name} {self.verb}: {self.done} done and {self.refused} refused in {self.seconds:.0f} s; "
            f"{len(self.losses)} losses"
        )


class Ground:
    """A root with links that are flipped, and its like outside."""

    def __init__(self, top: Path, door: Door) -> None:
        self.root, self.outside = top / "root", top / "outside"
        self._numbers = itertools.count()
        for base, content in ((self.root, INSIDE), (self.outside, OUTSIDE)):
            for folder in ("way", "way/deep", "leaf"):
                (base / folder).mkdir(parents=True, exist_ok=True)
                (base / folder / "file").write_bytes(content)
        (self.outside / "way" / ONLY_OUTSIDE).write_bytes(OUTSIDE)
        (self.outside / "way" / "deep" / ONLY_OUTSIDE).write_bytes(OUTSIDE)
        for name in ("victim", "source"):
            (self.outside / "way" / name).write_bytes(OUTSIDE)
            (self.outside / "way" / "deep" / name).write_bytes(OUTSIDE)
        for name in ("victims", "sources"):
            (self.outside / "way" / name).mkdir()
            (self.outside / "way" / name / "file").write_bytes(OUTSIDE)
        for inside, link in FLIPS.items():
            (self.root / link).symlink_to(self.outside / inside)
        # The folder itself, wherever it is called now: to lay out what a verb takes away.
        self._way = os.open(self.root / "way", os.O_RDONLY | os.O_DIRECTORY)
        self.storage = LocalStorage(self.root, top / "state", door=door)
        self.before = self.facts()

    def facts(self) -> Facts:
        """What is outside."""
        return facts_of(self.outside)

    def new(self, kind: str) -> str:
        """A path that was never used, in the folders that are flipped in turn."""
        number = next(self._numbers)
        return f"{PARTS[number % len(PARTS)]}/{kind}-{number}"

    def lay(self, name: str) -> None:
        """A file of ours in the folder that is flipped, or below it, where it is missing."""
        with contextlib.suppress(OSError):  # it is away this moment
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666, dir_fd=self._way))

    def lay_folder(self, name: str) -> None:
        """The same for a folder with a file in it."""
        with contextlib.suppress(OSError):
            os.mkdir(name, dir_fd=self._way)
        self.lay(f"{name}/file")

    @contextlib.contextmanager
    def flipping(self) -> Iterator[None]:
        """While it lasts another process flips."""
        command = [sys.executable, "-c", FLIPPER, str(self.root), *(f"{one}={other}" for one, other in FLIPS.items())]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY) as flipper:
            try:
                assert flipper.stdout is not None and flipper.stdout.read(1) == b"r"
                yield
                assert flipper.poll() is None
            finally:
                flipper.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Let go."""
        self.storage.close()
        os.close(self._way)


# ------------------------------------------------------------------ the verbs: a loss is an AssertionError


def _whole(reader: Reader) -> bytes:
    with reader:
        return reader.read(0, 1000)


def _get(ground: Ground) -> None:
    for path in ("way/file", "way/deep/file", "leaf/file"):
        assert _whole(ground.storage.open(at(path))) == INSIDE, f"read outside by {path}"


def _stat(ground: Ground) -> None:
    for path in ("way/file", "way/deep/file", "leaf/file"):
        info = ground.storage.stat(at(path))
        assert info.type != "file" or info.size == len(INSIDE), f"size of what is outside by {path}"


def _ls(ground: Ground) -> None:
    for path, recursive in (("way", False), ("way/deep", False), ("", True)):
        for info in ground.storage.ls(at(path), recursive=recursive):
            assert info.path.name != ONLY_OUTSIDE, f"listed outside by {path or '/'}"


def _digest(ground: Ground) -> None:
    """Asked by a condition: the content is compared with what is outside."""
    wanted = KnownDigest("md5", hexdigest("md5", OUTSIDE))
    for path in ("way/file", "leaf/file"):
        _refused(lambda path=path: _stage(ground, path, wanted), f"the digest of what is outside fitted at {path}")  # type: ignore[misc]


def _refused(work: Callable[[], None], otherwise: str) -> None:
    try:
        work()
    except RequestError:
        return
    raise AssertionError(otherwise)


def _stage(ground: Ground, path: str, condition: KnownDigest | None = None) -> None:
    digest = KnownDigest("md5", hexdigest("md5", DATA))
    new = NewFile(at(path), len(DATA), time.time_ns(), condition=condition)
    with ground.storage.stage(new, memoryview(DATA), digest) as staged:
        (result,) = ground.storage.publish([staged])
    if isinstance(result, RequestError):
        raise result


def _put(ground: Ground) -> None:
    name = ground.new("put")
    _stage(ground, name)
    ground.storage.rm(at(name), recursive=False)


def _commit(ground: Ground) -> None:
    name = ground.new("large")
    with ground.storage.open_upload("alice", NewFile(at(name), len(DATA), time.time_ns())) as upload:
        with upload.part(0, len(DATA)) as part:
            for view in part:
                view[:] = DATA
            part.finish(hexdigest("blake3", DATA))
        try:
            upload.commit(KnownDigest("md5", hexdigest("md5", DATA)), None)
        except RequestError:
            upload.abort()
            raise
    ground.storage.rm(at(name), recursive=False)


def _mkdir(ground: Ground) -> None:
    name = ground.new("folder")
    wanted = NewDirectory(at(f"{name}/below"), parents=True, mode=0o700, mtime_ns=1)
    with ground.storage.stage_directory(wanted) as staged:
        (result,) = ground.storage.publish([staged])
    if isinstance(result, RequestError):
        raise result
    ground.storage.rm(at(name), recursive=True)


def _rm(ground: Ground) -> None:
    for name in ("victim", "deep/victim"):
        ground.lay(name)
        ground.storage.rm(at(f"way/{name}"), recursive=False)


def _rm_recursive(ground: Ground) -> None:
    ground.lay_folder("victims")
    ground.storage.rm(at("way/victims"), recursive=True)


def _mv(ground: Ground) -> None:
    for name in ("source", "deep/source"):
        ground.lay(name)
        ground.storage.mv(at(f"way/{name}"), at(f"way/{name}-moved"))
        ground.storage.mv(at(f"way/{name}-moved"), at("leaf/moved"), condition="absent")
        ground.storage.rm(at("leaf/moved"), recursive=False)


def _mv_folder(ground: Ground) -> None:
    ground.lay_folder("sources")
    name = ground.new("moved")
    ground.storage.mv(at("way/sources"), at(name))
    ground.storage.rm(at(name), recursive=True)


VERBS: dict[str, Callable[[Ground], None]] = {
    "get": _get,
    "stat": _stat,
    "ls": _ls,
    "digest": _digest,
    "put": _put,
    "commit": _commit,
    "mkdir": _mkdir,
    "rm": _rm,
    "rm -r": _rm_recursive,
    "mv": _mv,
    "mv of a folder": _mv_folder,
}


# ------------------------------------------------------------------ the rig


def race(top: Path, verb: str, door: Door, seconds: float) -> Report:
    """One verb against the flipper, until the time is over and it has been done some times, or until it has lost."""
    top.mkdir()
    ground, report = Ground(top, door), Report(verb)
    began = time.monotonic()
    try:
        with ground.flipping():
            while not report.losses and (elapsed := time.monotonic() - began) < seconds + MOST_MORE_SECONDS:
                if elapsed >= seconds and report.is_race:
                    break
                for _ in range(100):
                    _attempt(ground, verb, report)
                if ground.facts() != ground.before:
                    report.losses.append("what is outside has changed")
    finally:
        ground.close()
    report.seconds = time.monotonic() - began
    return report


def _attempt(ground: Ground, verb: str, report: Report) -> None:
    try:
        VERBS[verb](ground)
        report.done += 1
    except RequestError:
        report.refused += 1
    except AssertionError as loss:
        report.losses.append(str(loss))


@contextlib.contextmanager
def naive_build() -> Iterator[None]:
    """The control: a server that looks where a path leads, and then opens it."""

    def looked_at(fd: int, path: bytes) -> bytes:
        root = os.readlink(f"/proc/self/fd/{fd}").encode()
        where = os.path.join(root, path)
        if not os.path.realpath(where).startswith(root):
            raise PermissionError(13, "it leads out")
        return where

    def open_directory(fd: int, path: bytes) -> int:
        return os.open(looked_at(fd, path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def open_file(fd: int, path: bytes) -> int:
        return os.open(looked_at(fd, path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    with (
        mock.patch.object(syscalls, "open_directory_beneath", open_directory),
        mock.patch.object(syscalls, "open_file_beneath", open_file),
    ):
        yield
