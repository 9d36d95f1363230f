"""The part of ``Client`` that reads what is in files and keeps nothing of it: cat, tail."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ftpy.client.base import PathLike, remote_path
from ftpy.client.looks import Looks
from ftpy.digests import DigestName
from ftpy.files import display

LOOK_SECONDS = 1.0
"""How often it is looked whether a file has grown."""
TAIL_LINES = 10
"""What tail(1) shows."""


class Reads(Looks):
    """Each piece is verified before it is handed out."""

    def cat(
        self, path: PathLike, *, offset: int = 0, count: int | None = None, digest: DigestName | None = None
    ) -> Iterator[bytes]:
        """What is in a file, or ``count`` bytes of it from ``offset`` on: pieces of one version, each verified.

        A whole file is verified at its end by its own digest as well. A lost connection is made anew, and it goes on.
        Raises Changed, DigestMismatch, InvalidRequest for an offset behind the end, NotFound, ….
        """
        from ftpy.client.reading import Cat

        reading = Cat(remote_path(path), digest or self._transfer.digest, offset, count)
        while piece := self._persist(reading.take):
            yield piece

    def tail(
        self,
        path: PathLike,
        *,
        lines: int = TAIL_LINES,
        count: int | None = None,
        follow: bool = False,
        look_seconds: float = LOOK_SECONDS,
    ) -> Iterator[bytes]:
        """The last ``lines`` lines of a file, or its last ``count`` bytes, in pieces.

        With ``follow`` it never ends: what is added comes as it is seen, every ``look_seconds``, and an empty piece
        where nothing was; a file that takes its place is read from its beginning, and one that is gone waited for.
        Raises Changed, NotFound (not later), ….
        """
        from ftpy.client.reading import Tail

        where = remote_path(path)
        reading = Tail(where)
        if count is None:
            self._persist(lambda connection: reading.seek_lines(connection, lines))
        else:
            self._persist(lambda connection: reading.seek_bytes(connection, count))
        while follow:
            data, said = self._persist(reading.follow)
            if said:
                self._notify(f"{display(str(where))}: {said}")
            yield data
            if not data:
                time.sleep(look_seconds)
        while data := self._persist(reading.rest):
            yield data
