"""What was typed into ``ftpy shell``, kept for the next one: a private file of bounded length."""

from __future__ import annotations

import os
import sys

from ftpy.durable import locked, replace_file

MOST_LINES = 1000
MOST_BYTES = 1024 * 1024
"""What is read of a file that is somebody else's work: a thousand lines have 50 kB."""


def history_path() -> str:
    """``ftpy/history`` below %LOCALAPPDATA%, $XDG_STATE_HOME or ~/.local/state (the XDG specification)."""
    base = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_STATE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "ftpy", "history")


def read_history(path: str) -> list[str]:
    """The last lines, the oldest first; none where there is no file. Raises OSError."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - MOST_BYTES))
            text = file.read(MOST_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return [line for line in text.split("\n") if line][-MOST_LINES:]


def add_history(path: str, lines: list[str]) -> None:
    """Add lines to those that are there, also those that another shell has added meanwhile. Raises OSError."""
    if not lines:
        return
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with locked(path):
        kept = [*read_history(path), *lines][-MOST_LINES:]
        replace_file(path, "".join(f"{line}\n" for line in kept).encode("utf-8", "replace"), 0o600)
