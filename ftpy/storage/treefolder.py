"""The folder that a staged or a kept tree lies in: ``tree`` itself, and ``about``, which says what it is."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from ftpy.errors import InvalidPath, UnknownTree
from ftpy.files import RemotePath
from ftpy.storage import syscalls
from ftpy.storage.area import write_new
from ftpy.storage.base import Closing, StagedTree
from ftpy.storage.beneath import Directory
from ftpy.storage.places import TREE
from ftpy.storage.publishing import entry

ABOUT, _NEW = "about", "new"


@dataclass(frozen=True, slots=True)
class About:
    """Whose a tree is and for which path; its ``id`` as its owner knows it, the inode of what was staged."""

    owner: str
    path: RemotePath
    id: str
    inode: int

    def fits(self, tree: StagedTree) -> bool:
        """Whether it is that tree's."""
        return (self.owner, self.path, self.id) == (tree.owner, tree.path, tree.id)

    def encode(self) -> bytes:
        """As the file ``about``."""
        return json.dumps([self.owner, self.path.parts, self.id, self.inode]).encode("ascii")

    @classmethod
    def decode(cls, text: bytes) -> About | None:
        """What ``encode`` made, or None."""
        try:
            owner, parts, tree_id, inode = json.loads(text)
            return cls(str(owner), RemotePath.parse("/".join(parts)), str(tree_id), int(inode))
        except (ValueError, TypeError, RecursionError, InvalidPath):
            return None


class Folder(Closing):
    """A folder of ours, open, and what is known of it. Raises UnknownTree, OSError."""

    def __init__(self, within: Directory, name: str) -> None:
        try:
            self.directory = within.open_dir(name)
        except (FileNotFoundError, NotADirectoryError):
            raise UnknownTree from None
        try:
            self.about = self._read()
        except BaseException:
            self.close()
            raise

    def _read(self) -> About:
        try:
            fd = self.directory.open_file(ABOUT)
        except FileNotFoundError:
            raise UnknownTree from None
        try:
            about = About.decode(os.read(fd, 64 * 1024))
        finally:
            syscalls.close(fd)
        if about is None:
            raise UnknownTree
        return about

    def close(self) -> None:
        """Close it."""
        self.directory.close()

    def tree(self) -> os.stat_result | None:
        """What it holds."""
        return entry(self.directory, TREE)

    @property
    def is_swapped(self) -> bool:
        """Whether what was staged here is in place."""
        found = self.tree()
        return found is None or found.st_ino != self.about.inode


def write_about(folder: Directory, tree: StagedTree) -> int:
    """Say whose it is now, durably: in how many bytes. A reader finds the old text or the new."""
    text = About(tree.owner, tree.path, tree.id, folder.lstat(TREE).st_ino).encode()
    folder.unlink(_NEW, missing_ok=True)
    write_new(folder, _NEW, text)
    folder.rename(_NEW, folder, ABOUT)
    folder.sync()
    return len(text)
