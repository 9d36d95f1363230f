"""Disks to be broken: an ext4 in a file whose power can be cut, and a tmpfs that is soon full. Root on Linux only."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

MIB = 1024 * 1024
_SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN (and that of XFS): the file system takes nothing more until it is unmounted."""
_NOLOGFLUSH = 2
"""Nothing that is still in memory is written first, not even the journal: a power cut."""
UNMOUNT_SECONDS = 10.0
"""How long who is ending may keep a disk busy."""


def _run(*command: str) -> None:
    """Run a system tool. OSError with what it said."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command[:2])}: {done.stderr.strip() or done.returncode}")


def missing_for(kind: type[Disk]) -> str | None:
    """What this machine lacks for a disk of this kind, by trying; None where it has all."""
    if not hasattr(os, "geteuid") or not os.path.exists("/proc/self/mounts"):
        return "needs Linux: nothing else is known to cut a file system's power"
    if os.geteuid() != 0:
        return f"needs root, for mount(8): this is user {os.geteuid()}"
    if lacking := [tool for tool in kind.tools if shutil.which(tool) is None]:
        return f"needs {', '.join(lacking)} on the PATH (packages mount and e2fsprogs)"
    try:
        with tempfile.TemporaryDirectory(prefix="ftpy-disk-") as folder, kind(Path(folder)):
            return None
    except OSError as error:
        return f"cannot mount here: {error}"


class Disk:
    """A file system of its own at ``place`` while the ``with`` lasts."""

    tools: tuple[str, ...] = ("mount", "umount")

    def __init__(self, folder: Path, *, size: int = 256 * MIB) -> None:
        self.place = folder / "disk"
        self.place.mkdir(parents=True)
        self.size = size
        self._folder = folder

    def make(self) -> None:
        """Prepare it, once."""

    def mount(self) -> None:
        """Mount it. Raises OSError."""
        raise NotImplementedError

    def unmount(self) -> None:
        """Unmount it; who keeps it busy has UNMOUNT_SECONDS to end. Raises OSError."""
        end = time.monotonic() + UNMOUNT_SECONDS
        while os.path.ismount(self.place):
            try:
                _run("umount", str(self.place))
            except OSError:
                if time.monotonic() > end:
                    _run("umount", "--lazy", str(self.place))
                    raise
                time.sleep(0.01)

    def __enter__(self) -> Self:
        self.make()
        self.mount()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.unmount()


class PoweredDisk(Disk):
    """An ext4 in a file, mounted through a loop device."""

    tools = ("mount", "umount", "mkfs.ext4")

    def make(self) -> None:
        """Format the file, which takes only the space that is written."""
        self._image = self._folder / "image"
        with open(self._image, "wb") as image:
            image.truncate(self.size)
        _run("mkfs.ext4", "-q", "-F", str(self._image))

    def mount(self) -> None:
        """Mount it; after a cut the kernel replays its journal."""
        _run("mount", "-o", "loop", str(self._image), str(self.place))
        self._power = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def cut(self) -> None:
        """From now on nothing reaches the disk, and all that had not is lost."""
        import fcntl

        fcntl.ioctl(self._power, _SHUTDOWN, _NOLOGFLUSH.to_bytes(4, "little"))

    def unmount(self) -> None:
        """Unmount it."""
        if self._power >= 0:
            os.close(self._power)
            self._power = -1
        super().unmount()


class SmallDisk(Disk):
    """A tmpfs of ``size`` bytes and ``inodes`` files."""

    def __init__(self, folder: Path, *, size: int = 32 * MIB, inodes: int = 4096) -> None:
        super().__init__(folder, size=size)
        self.inodes = inodes

    def mount(self) -> None:
        """Mount it, empty."""
        options = f"size={self.size},nr_inodes={self.inodes},mode=0755"
        _run("mount", "-t", "tmpfs", "-o", options, "ftpy-rig", str(self.place))


def unmount_below(folder: Path) -> None:
    """Unmount what somebody who was killed has left mounted below ``folder``, the last first. Raises OSError."""
    if not os.path.exists("/proc/self/mounts"):
        return
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for place in reversed(mounted):
        if Path(place).is_relative_to(folder.resolve()):
            _run("umount", "--lazy", place)


@contextlib.contextmanager
def ending_cleanly() -> Iterator[None]:
    """SIGTERM and SIGHUP end a campaign as Ctrl-C does: through every ``with``, so that nothing stays mounted."""
    import signal

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    numbers = [signal.SIGTERM, signal.SIGHUP]
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
