"""Reading stored files again, against the digests of the day they were put: rot is found before a file is needed.

Read-only, beside whoever serves. A file is rotten where it is still the version that a digest is remembered of (same
inode, size, times) and has other content, read twice. Whatever changed it by the usual calls has made another version.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from msgspec import Struct

from ftpy.digests import DIGEST_NAMES, new_hasher
from ftpy.errors import Changed, RequestError
from ftpy.files import DEPTH, RemotePath, is_reserved
from ftpy.storage.base import MIB, Closing, KnownDigest, Reader
from ftpy.storage.beneath import Beneath, Directory
from ftpy.storage.reading import LocalReader
from ftpy.storage.remembered import Remembered

Verdict = Literal["right", "rotten", "unknown", "learnt", "changed", "unreadable"]
"""What came of a file: *unknown* where no digest of this version is remembered, *changed* while it was read."""


class Scrubbed(Struct, frozen=True):
    """One file: ``size`` in bytes; of a rotten one the digests, of an unreadable one why."""

    path: RemotePath
    verdict: Verdict
    size: int = 0
    expected: KnownDigest | None = None
    found: str | None = None
    reason: str | None = None


class Scrub(Closing):
    """Looks through one root; ``state`` is the server's folder, ``learns`` whether unknown digests are remembered.

    ``passed`` hears of every piece that was read, bytes, and may take its time. Raises RequestError, OSError.
    """

    def __init__(
        self,
        root: str | Path,
        state: str | Path,
        *,
        learns: bool = False,
        passed: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._learns, self._passed = learns, passed
        with ExitStack() as opened:
            self._beneath = opened.enter_context(Beneath(root))
            self._remembered = opened.enter_context(Remembered(Path(state) / "digests.sqlite"))
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Let go of the root and the digests."""
        self._opened.close()

    def run(self, after: RemotePath | None = None, skip: frozenset[RemotePath] = frozenset()) -> Iterator[Scrubbed]:
        """Every file in the order of paths, from behind ``after``; not what lies in folders to ``skip``, nor deeper
        than any path leads.
        """
        yield from self._folder(self._beneath.root.again(), after.parts if after else (), skip)

    def _folder(self, folder: Directory, after: tuple[str, ...], skip: frozenset[RemotePath]) -> Iterator[Scrubbed]:
        with folder:
            try:
                names = sorted(folder.names())
            except OSError as error:  # others can be read all the same
                yield Scrubbed(folder.path, "unreadable", reason=error.strerror)
                return
            for name in names:
                path = RemotePath((*folder.path.parts, name))
                if is_reserved(name) or path in skip or len(path.parts) > DEPTH or (after and name < after[0]):
                    continue
                rest = after[1:] if after and name == after[0] else ()
                if after and name == after[0] and not rest:
                    continue
                try:
                    inner = folder.open_dir(name)
                except NotADirectoryError:
                    if (found := self._file(path)) is not None:
                        yield found
                except FileNotFoundError:
                    continue
                except OSError as error:
                    yield Scrubbed(path, "unreadable", reason=error.strerror)
                else:
                    yield from self._folder(inner, rest, skip)

    def _file(self, path: RemotePath) -> Scrubbed | None:
        """What came of one; None for what is no file, or is there no more."""
        try:
            opened = self._beneath.open_file(path)
        except FileNotFoundError:
            return None
        except PermissionError as error:
            return Scrubbed(path, "unreadable", reason=error.strerror)
        except OSError:
            return None  # a link, a pipe, a socket
        with LocalReader(path, *opened, self._remembered) as reader:
            try:
                return self._judge(reader)
            except (Changed, EOFError):
                return Scrubbed(path, "changed", reader.info.size)
            except RequestError as error:
                return Scrubbed(path, "unreadable", reader.info.size, reason=str(error))

    def _judge(self, reader: Reader) -> Scrubbed:
        path, size = reader.info.path, reader.info.size
        known = [KnownDigest(name, value) for name in DIGEST_NAMES if (value := getattr(reader.info, name)) is not None]
        if not known:
            if not self._learns:
                return Scrubbed(path, "unknown", size)
            reader.remember(KnownDigest("md5", self._digest(reader, "md5")))
            return Scrubbed(path, "learnt", size)
        expected = known[-1]  # the faster one, where both are
        for _ in range(2):  # what the memory turned over on the way is not the disk's fault
            found = self._digest(reader, expected.name)
            if found == expected.hex:
                return Scrubbed(path, "right", size)
        return Scrubbed(path, "rotten", size, expected, found)

    def _digest(self, reader: Reader, name: Literal["md5", "blake3"]) -> str:
        """The digest of what is on the disk now. Raises Changed, EOFError, IoError."""
        hasher, view, offset = new_hasher(name), memoryview(bytearray(MIB)), 0
        descriptor = reader.fileno()
        assert descriptor is not None
        _forget_cached(descriptor)
        while offset < reader.info.size:
            piece = view[: reader.info.size - offset]
            count = reader.read_at(offset, piece)
            if not count:
                raise EOFError
            hasher.update(piece[:count])
            offset += count
            self._passed(count)
        reader.check_unchanged()
        _forget_cached(descriptor)
        return hasher.hexdigest()


def _forget_cached(descriptor: int) -> None:
    """Have the kernel forget what it holds of a file in memory: so the disk is read, and others' pages stay."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
