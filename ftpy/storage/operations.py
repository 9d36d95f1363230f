"""What an operation is, under which what is replaced or removed is kept, and what comes of undoing it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from ftpy.errors import RequestError
from ftpy.files import RemotePath


class OperationKey(Struct, frozen=True, gc=False):
    """An operation, under whose ``id`` (32 hexadecimal digits) what is replaced or removed is kept, and its owner."""

    owner: str
    id: str


class Operation(Struct, frozen=True, kw_only=True):
    """What an operation was: what began it and when, and how many steps of each kind it had (``record.VERBS``)."""

    id: str
    what: str
    time_ns: int
    added: int
    replaced: int
    deleted: int
    moved: int
    made: int


Effect = Literal["add", "replace", "take", "move"]
"""What undoing does at a path: something comes back, takes a place again, goes; what was moved goes back from there."""

Allows = Callable[[Effect, RemotePath], bool]
"""Whether whoever undoes may do that at a path, and below it."""


class LeftAlone(Struct, frozen=True):
    """A path that undoing could not make what it was, and why."""

    path: RemotePath
    error: RequestError


MOST_LEFT = 100
"""Most of what undoing left alone that is told; all of it is counted."""


class Undone(Struct, frozen=True):
    """What undoing did: ``steps`` reversed, ``already`` as they were before the operation, ``left_alone`` the others.

    ``left`` are the first MOST_LEFT of those.
    """

    steps: int
    already: int
    left_alone: int
    left: list[LeftAlone]
