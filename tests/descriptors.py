"""Descriptors of a process: how many, what they lead to, and none left of them, for real; the latter on Linux only."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
from collections.abc import Iterator

_FOLDERS = ("/proc/self/fd", "/dev/fd")


def open_numbers() -> set[str]:
    """Which descriptors this process has open; none where it cannot be told."""
    return next((set(os.listdir(folder)) for folder in _FOLDERS if os.path.isdir(folder)), set())


def open_files() -> int:
    """How many they are."""
    return len(open_numbers())


def settled_numbers() -> set[str]:
    """Which are open once garbage is collected: what holds one there would let go of it between two looks."""
    gc.collect()
    return open_numbers()


def settled_files() -> int:
    """How many those are."""
    return len(settled_numbers())


def links(pid: int) -> dict[int, str]:
    """What each descriptor of a process leads to, but for those that are closed meanwhile."""
    found = {}
    for number in map(int, os.listdir(f"/proc/{pid}/fd")):
        with contextlib.suppress(FileNotFoundError):
            found[number] = os.readlink(f"/proc/{pid}/fd/{number}")
    return found


@contextlib.contextmanager
def descriptors_left(count: int, pid: int | None = None) -> Iterator[None]:
    """A process, this one unless another is named, can open ``count`` files more and no further one, until the end.

    What this process closes meanwhile makes room again, whatever its number.
    """
    import resource  # not on Windows

    with contextlib.ExitStack() as filled:
        if pid is None:
            gc.collect()  # what it finds later would make room as well
            _fill(filled)
        pid = pid or os.getpid()
        limits = soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        free = (number for number in range(soft) if not os.path.lexists(f"/proc/{pid}/fd/{number}"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (next(itertools.islice(free, count, None)), hard))
        try:
            yield
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def _fill(filled: contextlib.ExitStack) -> None:
    """Leave no free number below the highest one: the limit would be there, and what lies above it makes no room."""
    highest = max(links(os.getpid()))
    while (number := os.dup(0)) < highest:
        filled.callback(os.close, number)
    os.close(number)
