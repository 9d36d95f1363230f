"""Where things lie in the staging area that are put as one tree (``trees``)."""

from __future__ import annotations

from ftpy.files import RemotePath
from ftpy.storage.area import AREA
from ftpy.storage.base import StagedTree

TREES, PREVIOUS = "trees", "previous"
"""The folders of the staging area: trees that are staged, and those that were in place before."""
TREE = "tree"


def place_of(path: RemotePath, tree: StagedTree | None) -> RemotePath:
    """Where what is put at ``path`` comes to lie: in its staged tree, or there itself."""
    if tree is None:
        return path
    return RemotePath((AREA, TREES, tree.id, TREE, *path.parts[len(tree.path.parts) :]))
