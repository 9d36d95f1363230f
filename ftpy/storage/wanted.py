"""Whether what a thread is doing is still wanted: who it is done for may lose the right to it in the middle.

Asked at each step of what takes long, and under the lock before anything is published.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

Check = Callable[[], None]
"""Raises RequestError where it is wanted no longer. Called in any thread, often: it takes no longer than a look."""


def _always() -> None:
    pass


_check: ContextVar[Check] = ContextVar("ftpy.wanted", default=_always)


def ask(wanted: Check) -> None:
    """Let this be asked in this thread from now on, and in those that it lets work in a copy of its context."""
    _check.set(wanted)


def check() -> None:
    """Whether to go on. Raises RequestError."""
    _check.get()()
