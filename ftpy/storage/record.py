"""What is written down of an operation before anything of it is done: a line for each step, enough to reverse it.

A step says what is to be at a place afterwards (``new``), what was there before (``old``) and where that is kept. So
whatever became of the step, a look at the place tells: it is as the step left it, as it was before, or another's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from ftpy.errors import InvalidPath
from ftpy.files import FileType, RemotePath
from ftpy.storage.versions import file_info


class Identity(Struct, frozen=True, array_like=True):
    """What tells a thing from another one in its place; a rename or a link changes nothing of it.

    Of a folder only its inode counts, its size and time change with what is in it. No ``ino``: it was not known yet.
    """

    type: FileType
    size: int
    mtime_ns: int
    ino: int | None = None

    def fits(self, found: os.stat_result | None) -> bool:
        """Whether this is what was found."""
        if found is None:
            return False
        other = identity(found)
        return msgspec.structs.replace(other, ino=self.ino) == self and self.ino in (None, other.ino)


def identity(found: os.stat_result) -> Identity:
    """Of what a stat saw."""
    info = file_info(RemotePath(), found)
    if info.type == "directory":
        return Identity(info.type, 0, 0, found.st_ino)
    return Identity(info.type, info.size, info.mtime_ns, found.st_ino)


FOLDER = Identity("directory", 0, 0)
"""A folder that is about to be made."""


class Step(Struct, frozen=True):
    """At ``place`` was ``old`` (None: nothing), which is ``kept`` under that name, and then ``new`` (None: nothing).

    With an ``origin`` the new one came from there, by a move.
    """

    place: RemotePath
    old: Identity | None = None
    new: Identity | None = None
    kept: str | None = None
    origin: RemotePath | None = None

    @property
    def verb(self) -> str:
        """What it was, one of VERBS."""
        if self.origin is not None:
            return "moved"
        if self.new is None:
            return "deleted"
        if self.old is not None:
            return "replaced"
        return "made" if self.new.type == "directory" else "added"


VERBS = ("added", "replaced", "deleted", "moved", "made")
"""What a step can be: a file that came, one that took another's place, one that went, a move, a new folder."""


KEPT = re.compile(r"[0-9a-f]{1,16}")
"""What a kept thing is called in its operation's folder."""


class About(Struct, frozen=True):
    """The first line: whose it is, what began it, when."""

    owner: str
    what: str
    time_ns: int


class _Line(Struct, frozen=True, omit_defaults=True):
    """A step as it is written; ``do`` first, so that steps can be counted at a glance."""

    do: str
    place: list[str]
    old: Identity | None = None
    new: Identity | None = None
    kept: str | None = None
    origin: list[str] | None = None


_encoder = msgspec.json.Encoder()
_lines = msgspec.json.Decoder(_Line)
_abouts = msgspec.json.Decoder(About)


def encode_about(about: About) -> bytes:
    """The first line."""
    return _encoder.encode(about) + b"\n"


def encode(steps: Iterable[Step]) -> bytes:
    """A line for each."""
    return b"".join(_encoder.encode(_spelt(step)) + b"\n" for step in steps)


def decode_about(line: bytes) -> About | None:
    """What a first line says; None where it is none, as after a crash."""
    try:
        return _abouts.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def decode(line: bytes) -> Step | None:
    """A step; None for a line that was not written to its end: then nothing of it was done."""
    try:
        read = _lines.decode(line)
        if read.kept is not None and not KEPT.fullmatch(read.kept):
            return None  # a record that others have written: it could name what lies elsewhere
        origin = None if read.origin is None else _path(read.origin)
        return Step(_path(read.place), read.old, read.new, read.kept, origin)
    except (msgspec.DecodeError, UnicodeError, InvalidPath):
        return None


def count(record: bytes) -> dict[str, int]:
    """How many steps of each of VERBS a record has; no path can hold what is looked for."""
    return {verb: record.count(b'{"do":"%s",' % verb.encode()) for verb in VERBS}


def _spelt(step: Step) -> _Line:
    origin = None if step.origin is None else _parts(step.origin)
    return _Line(step.verb, _parts(step.place), step.old, step.new, step.kept, origin)


def _parts(path: RemotePath) -> list[str]:
    """The components in ASCII: what is no UTF-8 is held with surrogates, which JSON cannot."""
    return [part.encode("unicode_escape").decode("ascii") for part in path.parts]


def _path(parts: list[str]) -> RemotePath:
    return RemotePath.parse("/".join(part.encode("ascii").decode("unicode_escape") for part in parts))
