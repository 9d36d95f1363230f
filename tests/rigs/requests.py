"""One request of each kind, what must be there before it, and what may be there after it was done or failed."""

from __future__ import annotations

import hashlib
import shutil

from ftpy.client.client import Client
from ftpy.storage.base import KnownDigest
from tests.rigs.nursery import AT_ONCE, KIB, ForkedHost

LARGE = 300 * KIB
"""Bytes of a put in parts: three of them, of 128 KiB (``builds.small_parts``)."""


class Request:
    """One kind of request, about files in ``folder``; the checks read the disk themselves."""

    name = ""
    old, new = b"old\n" * 2000, b"new!\n" * 1500
    needed_syncs: float = float("inf")
    """So many syncs of a thread, the first ones, are those without which the answer must not be that it is done."""

    def __init__(self, host: ForkedHost) -> None:
        self.host = host
        self.folder = host.root / self.name
        self.folder.mkdir(exist_ok=True)
        self.source = host.folder / "source"
        self.target = host.folder / "target"

    def prepare(self) -> None:
        """What is there before, written by another hand than the server's."""
        beside = self.host.root / "beside"
        beside.write_bytes(self.old)
        beside.rename(self.folder / "file")
        self.source.write_bytes(self.new)

    def ask(self, client: Client) -> None:
        """The request. Raises FtpyError."""
        raise NotImplementedError

    def fault(self, done: bool) -> str | None:
        """What is wrong with what is there now, if it was ``done`` or failed."""
        raise NotImplementedError

    def there(self, name: str = "file") -> bytes | None:
        """What a reader sees."""
        path = self.folder / name
        return path.read_bytes() if path.exists() else None

    def settle(self, client: Client) -> str | None:
        """Without a fault: what must hold of the next request."""
        client.get(f"{self.name}/file", self.target, force=True)
        return None if self.target.read_bytes() == self.there() else "a get brings other bytes than are there"


class Put(Request):
    """A small file in one piece, over one that is there."""

    name = "put-small"

    def ask(self, client: Client) -> None:
        """Put it."""
        client.put(self.source, f"{self.name}/file")

    def fault(self, done: bool) -> str | None:
        """The new one once it is acknowledged, else one of both."""
        there = self.there()
        if done and there != self.new:
            return "the put was acknowledged, and what is there is something else"
        return None if there in (self.old, self.new) else "neither the old version nor the new one is there"

    def settle(self, client: Client) -> str | None:
        """The same put goes on, or begins anew, and leaves no upload."""
        self.ask(client)
        if self.there() != self.new:
            return "the same put, given again, was acknowledged, and what is there is something else"
        if self.host.uploads:
            return f"uploads are left: {self.host.uploads}"
        return super().settle(client)


class PutLarge(Put):
    """A file in parts, over one that is there."""

    name = "put-large"
    old, new = b"old large\n" * (LARGE // 10), b"new\n" * (LARGE // 4)


class Swap(Put):
    """A small file in place of one with a certain digest."""

    name = "swap"

    def ask(self, client: Client) -> None:
        """Put it, if the old one is there."""
        md5 = hashlib.md5(self.old, usedforsecurity=False).hexdigest()
        client.put(self.source, f"{self.name}/file", condition=KnownDigest("md5", md5))

    def settle(self, client: Client) -> str | None:
        """The old version is swapped for the new one once."""
        self.prepare()
        return super().settle(client)


class PutNew(Put):
    """A small file in a folder that is to be made."""

    name = "put-new"

    def prepare(self) -> None:
        """Nothing is there."""
        shutil.rmtree(self.folder / "made", ignore_errors=True)
        self.source.write_bytes(self.new)

    def ask(self, client: Client) -> None:
        """Put it two folders down."""
        client.put(self.source, f"{self.name}/made/anew/file")

    def fault(self, done: bool) -> str | None:
        """There once it is acknowledged, else all or nothing."""
        there = self.there("made/anew/file")
        if done and there is None:
            return "the put was acknowledged, and nothing is there"
        return None if there in (None, self.new) else "a part of the file is there"

    def settle(self, client: Client) -> str | None:
        """The same put succeeds."""
        self.ask(client)
        return self.fault(True)


class Get(Request):
    """A file whose digest the server knows."""

    name = "get"

    def prepare(self) -> None:
        """The file was put, once."""
        self.target.unlink(missing_ok=True)
        if self.there() is None:
            self.source.write_bytes(self.old)
            with self.host.client(transfer=AT_ONCE) as client:
                client.put(self.source, f"{self.name}/file")

    def ask(self, client: Client) -> None:
        """Get it."""
        client.get(f"{self.name}/file", self.target)

    def fault(self, done: bool) -> str | None:
        """Verified bytes, or none under that name."""
        got = self.target.read_bytes() if self.target.exists() else None
        if done and got != self.old:
            return "the get succeeded with other bytes"
        return None if got in (None, self.old) else "a part of the file is there"


class GetLarge(Get):
    """A larger one, which goes from file to socket in the kernel."""

    name = "get-large"
    old = b"old large\n" * (LARGE // 10)


class GetUnknown(GetLarge):
    """One that another hand has written: it is hashed on its way."""

    name = "get-unknown"

    def prepare(self) -> None:
        """A new file each time."""
        self.target.unlink(missing_ok=True)
        Request.prepare(self)


class Rm(Request):
    """A file that is there."""

    name = "rm"

    def ask(self, client: Client) -> None:
        """Remove it."""
        client.rm(f"{self.name}/file")

    def fault(self, done: bool) -> str | None:
        """Gone once it is acknowledged, else whole or gone."""
        there = self.there()
        if done and there is not None:
            return "it was removed, and is there"
        return None if there in (None, self.old) else "a part of the file is there"

    def settle(self, client: Client) -> str | None:
        """The next removal succeeds."""
        self.prepare()
        self.ask(client)
        return self.fault(True)


class RmFolder(Rm):
    """A folder and all that is in it."""

    name = "rm-folder"

    def prepare(self) -> None:
        """Files in folders."""
        for number in range(3):
            inner = self.folder / "folder" / f"{number}"
            inner.mkdir(parents=True, exist_ok=True)
            for name in ("a", "b"):
                (inner / name).write_bytes(self.old)

    def ask(self, client: Client) -> None:
        """Remove it."""
        client.rm(f"{self.name}/folder", recursive=True)

    def fault(self, done: bool) -> str | None:
        """All of it is gone or all of it is there."""
        count = len(list((self.folder / "folder").rglob("*")))
        if done and count:
            return f"it was removed, and {count} names are there"
        return None if count in (0, 9) else f"{count} of its 9 names are there"


class Mv(Request):
    """A file, over another one."""

    name = "mv"
    other = b"other\n"

    def prepare(self) -> None:
        """Both are there."""
        super().prepare()
        (self.folder / "target").unlink(missing_ok=True)
        (self.folder / "target").write_bytes(self.other)

    def ask(self, client: Client) -> None:
        """Move it."""
        client.mv(f"{self.name}/file", f"{self.name}/target")

    def fault(self, done: bool) -> str | None:
        """It is at exactly one place."""
        states = {(None, self.old)} | (set() if done else {(self.old, self.other)})
        found = self.there(), self.there("target")
        return None if found in states else f"it is at neither place or both: {found}"

    def settle(self, client: Client) -> str | None:
        """The next move succeeds."""
        self.prepare()
        self.ask(client)
        return self.fault(True)


class MvNew(Mv):
    """A file, to a name where nothing may be, in a folder that is to be there."""

    name = "mv-new"

    def prepare(self) -> None:
        """Only the source is there."""
        Request.prepare(self)
        (self.folder / "target").unlink(missing_ok=True)

    def ask(self, client: Client) -> None:
        """Move it, if nothing is there."""
        client.mv(f"{self.name}/file", f"{self.name}/target", condition="absent")

    def fault(self, done: bool) -> str | None:
        """It is at exactly one place."""
        states = {(None, self.old)} | (set() if done else {(self.old, None)})
        found = self.there(), self.there("target")
        return None if found in states else f"it is at neither place or both: {found}"


class Ls(Request):
    """A folder with folders."""

    name = "ls"

    def prepare(self) -> None:
        """The same folders each time."""
        for number in range(3):
            (self.folder / f"{number}").mkdir(exist_ok=True)
            (self.folder / f"{number}" / "file").touch()
        (self.folder / "file").touch()
        self.listed: list[str] | None = None

    def ask(self, client: Client) -> None:
        """List all of it."""
        self.listed = sorted(str(info.path) for info in client.ls(self.name, recursive=True))

    def fault(self, done: bool) -> str | None:
        """Complete, or not told as such."""
        whole = sorted(path.relative_to(self.host.root).as_posix() for path in self.folder.rglob("*"))
        return "a listing is told as complete and is not" if done and self.listed != whole else None


REQUESTS: tuple[type[Request], ...] = (
    Put,
    PutNew,
    PutLarge,
    Swap,
    Get,
    GetLarge,
    GetUnknown,
    Rm,
    RmFolder,
    Mv,
    MvNew,
    Ls,
)
