"""The feed of events: what was published, moved and deleted below a root, told by who does it.

``Feed`` itself keeps nothing; ``feedbook`` has the one that does. Told is before it is done what is about to be done,
and afterwards what of that has happened: who dies in between leaves enough to find out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Literal, NamedTuple, Self

from msgspec import Struct

from ftpy.errors import CursorTooOld
from ftpy.files import RemotePath

Kind = Literal["published", "moved", "deleted"]

_CURSOR = re.compile(r"([0-9a-f]{16})-([0-9]{1,18})\Z")


class Cursor(NamedTuple):
    """A place in a feed: behind event ``number`` of the feed ``epoch``, which is another one once events were lost."""

    epoch: str
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """What ``str`` made. Raises CursorTooOld: no feed of ours ever gave it."""
        if (match := _CURSOR.match(text)) is None:
            raise CursorTooOld("that is no cursor of this feed")
        return cls(match[1], int(match[2]))


class Happening(Struct, frozen=True, array_like=True, gc=False):
    """Something that is done, or about to be, to ``path`` (below the root, as the disk has it).

    What tells later whether it was: the ``node`` (device, inode) that was at the path and is there no more, or that is
    there where it was published; the name that ``staged`` had before, and has no more.
    """

    kind: Kind
    path: bytes
    to: bytes = b""
    staged: str = ""
    node: tuple[int, int] = (0, 0)


def published(path: RemotePath, staged: str = "") -> Happening:
    """What has the name ``staged`` in the staging area for as long as it does not come; without it a folder is made."""
    return Happening("published", os.fsencode(str(path)), staged=staged)


def arrived(path: RemotePath, found: os.stat_result) -> Happening:
    """What was ``found`` out of sight comes there, a folder with all that is in it."""
    return Happening("published", os.fsencode(str(path)), node=(found.st_dev, found.st_ino))


def deleted(path: RemotePath, found: os.stat_result) -> Happening:
    """What was ``found`` there goes, a folder with all that is in it."""
    return Happening("deleted", os.fsencode(str(path)), node=(found.st_dev, found.st_ino))


def moved(path: RemotePath, to: RemotePath, found: os.stat_result) -> Happening:
    """What was ``found`` there gets another path, a folder with all that is in it."""
    node = (found.st_dev, found.st_ino)
    return Happening("moved", os.fsencode(str(path)), os.fsencode(str(to)), node=node)


Plan = Sequence[Happening] | Callable[[], Sequence[Happening]]
"""What is about to be done; a function where what is there may be another thing until nobody else does anything."""


class Record:
    """What is ``planned``, and how much of it has ``happened``: told by who does it, as soon as it is done."""

    __slots__ = ("happened", "planned")

    def __init__(self, planned: Sequence[Happening]) -> None:
        self.planned = planned
        self.happened: Sequence[Happening] = ()

    def done(self) -> None:
        """All of it."""
        self.happened = self.planned

    def undone(self) -> None:
        """Nothing of it, after all."""
        self.happened = ()


class Feed:
    """What the storage of one root tells. Every method is safe in any thread and process."""

    @property
    def keeps(self) -> bool:
        """Whether anybody wants to know."""
        return False

    def recording(
        self,
        plan: Plan,  # noqa: ARG002
        *,
        alone: bool = False,  # noqa: ARG002
        needed: bool = True,  # noqa: ARG002
    ) -> AbstractContextManager[Record]:
        """A ``with`` around what does this, until it is durable. Raises IoError, NoSpace, unless it is not ``needed``;
        and what the plan raises.

        ``alone`` for what takes something away: nothing happens anywhere at the same time, so that events of one path
        have the order in which they happened. Within the lock of publications, around what counts (``usage``).
        """
        return nullcontext(Record(()))

    def settle(self) -> None:
        """Find out what became of what dead processes were about to do. Raises IoError."""


NOBODYS: Final = Feed()
"""For who keeps none."""
