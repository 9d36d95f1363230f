"""A process that runs out of descriptors: for real, to the last one. Linux only."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def descriptors_left(count: int, pid: int | None = None) -> Iterator[None]:
    """A process, this one unless another is named, can open ``count`` files more and no further one, until the end."""
    pid = pid or os.getpid()
    limits = soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    free = (number for number in range(soft) if not os.path.lexists(f"/proc/{pid}/fd/{number}"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (next(itertools.islice(free, count, None)), hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
