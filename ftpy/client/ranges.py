"""Which ranges of a file are here: arithmetic on ranges, and the journal that remembers them."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ftpy.digests import hexdigest
from ftpy.storage import syscalls
from ftpy.storage.base import MIB

RANGE_BYTES = 8 * MIB
"""Most bytes fetched by one request: little enough to fetch again alone, enough that a request's cost vanishes."""
CHECK_DIGITS = 16
"""Digits that guard a line of the journal: half of a line that a crash tore in two does not pass for another."""

_LINE = re.compile(r"(0|[1-9][0-9]{0,18}) ([1-9][0-9]{0,18}) ([0-9a-f]{64}|-) ([0-9a-f]{16})")


class Range(NamedTuple):
    """``length`` bytes (more than 0) from ``offset`` on."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """Behind its last byte."""
        return self.offset + self.length


def gaps(ranges: Iterable[Range], size: int) -> list[Range]:
    """What of the first ``size`` bytes is in none of ``ranges``, in order."""
    found: list[Range] = []
    at = 0
    for one in [*sorted(ranges), Range(size, 0)]:
        until = min(one.offset, size)
        if until > at:
            found.append(Range(at, until - at))
        at = max(at, one.end)
    return found


def cut(ranges: Iterable[Range], most: int = RANGE_BYTES) -> list[Range]:
    """The same bytes in ranges of at most ``most`` bytes, each within one multiple of it."""
    pieces: list[Range] = []
    for one in ranges:
        at = one.offset
        while at < one.end:
            end = min(one.end, (at // most + 1) * most)
            pieces.append(Range(at, end - at))
            at = end
    return pieces


Known = Mapping[Range, str | None]
"""Disjoint ranges that are here: the BLAKE3 that each arrived with, None where it was not verified on its own."""


def disjoint(known: Iterable[tuple[Range, str | None]], size: int) -> dict[Range, str | None]:
    """Those within the first ``size`` bytes, in order; of two that overlap the one that begins later gives way."""
    found: dict[Range, str | None] = {}
    end = 0
    for one, digest in sorted(known, key=lambda entry: entry[0]):
        if one.offset >= end and one.length > 0 and one.end <= size:
            found[one] = digest
            end = one.end
    return found


class Journal:
    """A line for each range that is here: offset, length, BLAKE3 or ``-``, digits that check the line itself.

    A line that is torn or spoilt is as if it were not there. It is written without waiting for the disk: after a power
    cut it may name what is not there, which the digests tell. Safe in any thread; raises OSError.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._lock = threading.Lock()

    def read(self, size: int) -> dict[Range, str | None]:
        """What is here of a file of ``size`` bytes."""
        with self._lock:
            text = _read_all(self.descriptor).decode("ascii", "replace")
        known = disjoint((parsed for line in text.split("\n") if (parsed := _parse(line))), size)
        if text != _text(known):
            self.replace(known)
        return known

    def append(self, one: Range, digest: str | None) -> None:
        """One more range is here."""
        with self._lock:
            _write(self.descriptor, _text({one: digest}))

    def replace(self, known: Known) -> None:
        """These are here and no others."""
        with self._lock:
            os.ftruncate(self.descriptor, 0)
            _write(self.descriptor, _text(known))

    def close(self) -> None:
        """Close the file."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            syscalls.close(descriptor)


def _text(known: Known) -> str:
    lines = [f"{one.offset} {one.length} {digest or '-'}" for one, digest in known.items()]
    return "".join(f"{line} {_check(line)}\n" for line in lines)


def _check(line: str) -> str:
    return hexdigest("blake3", line.encode("ascii"))[:CHECK_DIGITS]


def _parse(line: str) -> tuple[Range, str | None] | None:
    match = _LINE.fullmatch(line)
    if match is None or _check(line[: -CHECK_DIGITS - 1]) != match[4]:
        return None
    return Range(int(match[1]), int(match[2])), None if match[3] == "-" else match[3]


def _read_all(descriptor: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    pieces = []
    while piece := os.read(descriptor, MIB):
        pieces.append(piece)
    return b"".join(pieces)


def _write(descriptor: int, text: str) -> None:
    """Behind what is there: the descriptor appends."""
    data = memoryview(text.encode("ascii"))
    while data:
        data = data[os.write(descriptor, data) :]
