"""Which parts an upload has, lacks and is receiving, and whether they make the file: no I/O."""

from __future__ import annotations

from ftpy.errors import Busy, Incomplete, InvalidRequest
from ftpy.storage.journal import StoredPart
from ftpy.storage.uploadbase import MOST_PARTS


class PartBook:
    """The parts of a file of ``file_size`` bytes (None: not known yet). The upload's lock guards it."""

    def __init__(self, file_size: int | None, part_size: int, stored: dict[int, StoredPart]) -> None:
        self._file_size, self._part_size = file_size, part_size
        self.stored = stored
        self.receiving: set[int] = set()

    def check_shape(self, number: int, length: int) -> None:
        """Raises InvalidRequest unless the file has a part of this number and length. Needs no lock."""
        size, part_size = self._file_size, self._part_size
        if size is None:
            right = 0 <= number < MOST_PARTS and 0 < length <= part_size
        else:
            right = number >= 0 and 0 < length == min(part_size, size - number * part_size)
        if not right:
            raise InvalidRequest(f"this upload has no part {number} of {length} bytes")

    def stored_as(self, number: int, length: int) -> StoredPart | None:
        """As which the part is stored already, if it is.

        Raises InvalidRequest where it is with another length, Busy where it is being received.
        """
        stored = self.stored.get(number)
        if stored is not None and stored.length != length:
            raise InvalidRequest(f"part {number} is stored with {stored.length} bytes")
        if number in self.receiving:
            raise Busy(f"part {number} is being received on another connection")
        return stored

    def missing(self) -> list[tuple[int, int]]:
        """Ranges (both ends in) of parts that are not stored; of a file of unknown size none is known to be due."""
        return [] if self._file_size is None else self._gaps(-(-self._file_size // self._part_size))

    def check_complete(self, size: int) -> None:
        """Raises Incomplete unless the stored parts are exactly those of a file of ``size`` bytes."""
        part_size = self._part_size
        count = -(-size // part_size)
        gaps = self._gaps(count)
        if gaps:
            raise Incomplete(f"{sum(last - first + 1 for first, last in gaps)} parts are missing")
        if self.receiving:
            raise Incomplete("a part is still being received")
        lengths = [part.length for _, part in sorted(self.stored.items())]
        if len(lengths) != count or sum(lengths) != size or any(length != part_size for length in lengths[:-1]):
            raise InvalidRequest(f"the parts that were sent do not make a file of {size} bytes")

    def _gaps(self, count: int) -> list[tuple[int, int]]:
        """Ranges (both ends in) of numbers under ``count`` that are not stored."""
        gaps: list[tuple[int, int]] = []
        due = 0
        for number in [*sorted(number for number in self.stored if number < count), count]:
            if number > due:
                gaps.append((due, number - 1))
            due = number + 1
        return gaps
