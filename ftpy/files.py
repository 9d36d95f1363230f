"""What a file is called and what is known about it, before any socket or disk is involved.

A peer's name is parsed once into a ``RemotePath`` and **refused, never normalised**: two readers of
the same string can then never disagree about which file it means.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from typing import Literal

from msgspec import Struct

from ftpy.errors import InvalidPath

COMPONENT_BYTES = 255
"""Longest component, bytes: NAME_MAX of every common file system."""
PATH_BYTES = 1024
"""Longest path, bytes: PATH_MAX of macOS, a quarter of Linux's."""
DEPTH = 64
"""Most components: deep enough for any real tree, shallow enough to walk by hand."""
RESERVED_PREFIX = ".ftpy"
"""Names that begin like this are ours (staging, partials) and invisible to peers."""

_WINDOWS_DEVICES = frozenset(
    ["CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in "123456789¹²³")]
)
_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

_IGNORABLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Unicode's Default_Ignorable_Code_Point: a file system that folds case passes over them."""

_PLAIN = re.compile(r"[ -\-0-~][ -.0-~]*(?:/[ -\-0-~][ -.0-~]*)*\Z")
"""Components of printable ASCII that do not begin with a dot: what nearly all paths are, told at one glance."""
_PLAIN_AND_PORTABLE = re.compile(
    r"(?:(?!con|prn|aux|nul|com|lpt)[ -.0-9;-\[\]-~]*[!-\-0-9;-\[\]-~](?:/|\Z))+\Z", re.IGNORECASE
)
"""The same without what ``_not_portable`` has to look at: \\ and :, a dot or space at the end, devices' names."""

FileType = Literal["file", "directory", "symlink", "other"]


class RemotePath(Struct, frozen=True, order=True, gc=False):
    """A legal path below a user's root: a tuple of components, none of them special; ``()`` is the root.

    A component that is not UTF-8 on disk is held with surrogate escapes (PEP 383).
    """

    parts: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> RemotePath:
        """Parse ``/``-separated text; the empty text is the root.

        Raises InvalidPath, which says what is wrong with which component.
        """
        if not text:
            return cls()
        if len(text) <= COMPONENT_BYTES and _PLAIN.match(text) and text.count("/") < DEPTH:
            return cls(tuple(text.split("/")))
        try:
            size = len(text.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError:
            raise InvalidPath(f"{display(text)}: not encodable as a file name") from None
        if size > PATH_BYTES:
            raise InvalidPath(f"the path has {size} bytes, more than {PATH_BYTES}")
        parts = tuple(text.split("/"))
        if len(parts) > DEPTH:
            raise InvalidPath(f"the path has {len(parts)} components, more than {DEPTH}")
        for part in parts:
            if reason := _refusal(part):
                raise InvalidPath(f"{display(text)}: {reason}")
        return cls(parts)

    def admits(self, names: Collection[str]) -> bool:
        """Whether all ``names`` are legal directly below this path, as far as one glance tells; False: look at each."""
        text = "/".join(names)
        return bool(
            _PLAIN.match(text)
            and text.count("/") == len(names) - 1
            and len(str(self)) + 1 + max(map(len, names)) <= COMPONENT_BYTES
            and len(self.parts) < DEPTH
        )

    @property
    def name(self) -> str:
        """The last component; the root has none."""
        return self.parts[-1] if self.parts else ""

    @property
    def parent(self) -> RemotePath:
        """The path without its last component; the root is its own parent."""
        return RemotePath(self.parts[:-1])

    def __truediv__(self, name: str) -> RemotePath:
        """The path of ``name`` (one component or several) below this one, checked like any other."""
        return RemotePath.parse(f"{self}/{name}" if self.parts else name)

    def join(self, path: RemotePath) -> RemotePath:
        """``path`` below this one. Raises InvalidPath where the whole is too long or too deep."""
        parts = self.parts + path.parts
        if len(parts) <= DEPTH and sum(map(len, parts)) < COMPONENT_BYTES - DEPTH:  # not too long in any encoding
            return RemotePath(parts)
        return RemotePath.parse("/".join(parts))

    def __str__(self) -> str:
        return "/".join(self.parts)


def is_reserved(name: str) -> bool:
    """Whether a name begins with RESERVED_PREFIX, also to a file system that folds case (ext4's casefold, macOS)."""
    if not name.isascii():
        name = _IGNORABLE.sub("", name)
    return name.casefold().startswith(RESERVED_PREFIX)


def is_unfinished(name: str) -> bool:
    """Whether a name beside others is of what a get was cut off in: nobody sees it, and another get may go on there."""
    return name.startswith(f"{RESERVED_PREFIX}-")


def fold(name: str) -> str:
    """``name`` as a file system sees it that folds case (ext4's casefold, macOS): equal for what it takes for one.

    Unicode's canonical caseless matching, without what such a file system passes over.
    """
    if name.isascii():
        return name.lower()
    folded = unicodedata.normalize("NFD", _IGNORABLE.sub("", name)).casefold()
    return _IGNORABLE.sub("", unicodedata.normalize("NFD", folded))


def _refusal(part: str) -> str | None:
    """Why a component is not legal anywhere, or None."""
    if part in ("", ".", ".."):
        return f"{part or 'an empty component'} is not a name"
    if part.isascii() and part.isprintable():
        if len(part) > COMPONENT_BYTES:
            return f"a component has more than {COMPONENT_BYTES} bytes"
    else:
        if any(c < " " or "\x7f" <= c <= "\x9f" for c in part):
            return "control characters are not allowed"
        if len(part.encode("utf-8", "surrogateescape")) > COMPONENT_BYTES:
            return f"a component has more than {COMPONENT_BYTES} bytes"
    if is_reserved(part):
        return f"names that begin with {RESERVED_PREFIX} are reserved"
    return None


def check_portable(path: RemotePath) -> None:
    """Refuse a name that another system could not hold, or that reads as something else there.

    Asked of every name that a put creates, unless the server's config says otherwise. Raises InvalidPath.
    """
    if _PLAIN_AND_PORTABLE.match(str(path)):
        return
    for part in path.parts:
        if reason := _not_portable(part):
            raise InvalidPath(f"{display(str(path))}: {reason}")


def _not_portable(part: str) -> str | None:
    if "\\" in part or ":" in part:
        return "backslash and colon are separators elsewhere"
    if part[-1] in ". ":
        return "a trailing dot or space is lost elsewhere"
    if part.partition(".")[0].rstrip(" ").upper() in _WINDOWS_DEVICES:
        return "the name of a device elsewhere"
    if part.isascii():
        return None
    if any("\udc80" <= c <= "\udcff" for c in part):
        return "not UTF-8"
    if not _BIDI_CONTROLS.isdisjoint(part):
        return "bidirectional control characters hide what a name is"
    if not unicodedata.is_normalized("NFC", part):
        return "not in Unicode's composed form (NFC)"
    return None


def display(text: str) -> str:
    """``text`` fit for a terminal or a log: control, bidi and undecodable characters escaped."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if c.isprintable() and c not in _BIDI_CONTROLS else c.encode("unicode_escape").decode("ascii") for c in text
    )


class FileInfo(Struct, frozen=True, gc=False):
    """What is known of one file or directory.

    ``size`` in bytes (0 for a directory), ``mtime_ns`` since the epoch, ``mode`` the permission bits,
    ``etag`` names this version of a regular file (opaque, equal only while the file is unchanged),
    ``md5`` and ``blake3`` the digests remembered for it, if any.
    """

    path: RemotePath
    type: FileType
    size: int
    mtime_ns: int
    mode: int
    etag: str | None = None
    md5: str | None = None
    blake3: str | None = None
