"""What the other side has beside a tree that is walked here: its listing, followed in step."""

from __future__ import annotations

from collections.abc import Iterator

from ftpy.files import FileInfo, RemotePath


class Folder:
    """A folder that the walk is in: what the server has in its place, whether anything in it will be sent.

    ``held``: whether there is a file in it, or below it, that is meant.
    """

    __slots__ = ("held", "there", "touched")

    def __init__(self, there: FileInfo | None) -> None:
        self.there = there
        self.touched = self.held = False


class Beside:
    """The other side's listing, followed in step with the walk: both are in the order of paths."""

    def __init__(self, entries: Iterator[FileInfo]) -> None:
        self._entries = entries
        self._next = next(entries, None)

    def at(self, path: RemotePath) -> FileInfo | None:
        """What the other side has at ``path``; paths are asked for in their order."""
        while self._next is not None and self._next.path < path:
            self._next = next(self._entries, None)
        found = self._next
        return found if found is not None and found.path == path else None
