"""Ctrl-C, SIGTERM and SIGHUP end a run by an exception, so that all is cleaned up; nothing is forgotten meanwhile."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def leave_on_signals() -> None:
    """SIGTERM and SIGHUP end the run as Ctrl-C does: by an exception."""

    def leave(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Signals wait until the end: between the start of a process and the note of who stops it.

    They are held by a handler, not by the mask, which the process would inherit and never hear of Ctrl-C.
    """
    came: list[tuple[int, FrameType | None]] = []
    before = {number: signal.signal(number, lambda *caught: came.append(caught)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number, frame in came[:1]:
            handler = before[signal.Signals(number)]
            assert callable(handler)
            handler(number, frame)


@contextlib.contextmanager
def cleaning_up_undisturbed() -> Iterator[contextlib.ExitStack]:
    """A stack that signals wait for: servers are being stopped and files removed."""
    with contextlib.ExitStack() as stack:
        stack.callback(signal.pthread_sigmask, signal.SIG_UNBLOCK, SIGNALS)
        try:
            yield stack
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
