"""Work that is called off in the middle."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import TypeVar

from ftpy.errors import PermissionDenied
from ftpy.storage import wanted

T = TypeVar("T")


def wanted_while(holds: Callable[[], bool], work: Callable[[], T]) -> T:
    """Do it as long as that holds: then it ends with PermissionDenied, wherever it asks."""

    def check() -> None:
        if not holds():
            raise PermissionDenied

    def run() -> T:
        wanted.ask(check)
        return work()

    return contextvars.copy_context().run(run)
