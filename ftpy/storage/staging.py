"""Small files, staged whole, and directories: published in groups that share their syncs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, cast

from msgspec.structs import replace

from ftpy.errors import InvalidRequest, RequestError
from ftpy.files import FileInfo, RemotePath
from ftpy.storage import syscalls
from ftpy.storage.area import Area
from ftpy.storage.base import KnownDigest, KnownInode, KnownVersion, NewDirectory, NewFile, Quota, Staged
from ftpy.storage.beneath import Directory
from ftpy.storage.feed import Happening, arrived, published
from ftpy.storage.places import place_of
from ftpy.storage.positional import write_at
from ftpy.storage.publishing import Publication, Publisher, sync_all
from ftpy.storage.record import Identity, identity
from ftpy.storage.refusals import refusal
from ftpy.storage.usage import ROOT, Usage
from ftpy.storage.versions import Digests, Version, digests, file_info, version_of
from ftpy.timing import DISK

if TYPE_CHECKING:
    from ftpy.storage.keeping import Keeper, Keeping
    from ftpy.storage.remembered import Remembered


DEFAULT_MODE = 0o666
"""Of a file that comes without one, less the umask."""


class LocalStaged(Staged):
    """A small file in the staging area, open until it is published or dropped."""

    __slots__ = (
        "condition",
        "destination",
        "digest",
        "directory",
        "fd",
        "is_new",
        "kept",
        "name",
        "number",
        "operation",
        "path",
        "quota",
        "size",
        "tree",
        "usage",
    )

    def __init__(
        self,
        file: NewFile,
        digest: KnownDigest,
        directory: Directory,
        number: int,
        name: str,
        *,
        usage: Usage,
        quota: Quota | None,
    ) -> None:
        self.path, self.condition, self.digest = file.path, file.condition, digest
        self.tree, self.destination = file.tree, place_of(file.path, file.tree)
        self.directory, self.number, self.name = directory, number, name
        self.size, self.usage, self.quota = file.file_size or 0, usage, quota
        self.is_new = False
        self.operation = file.operation
        self.kept: Identity | None = None
        """What it replaces, where that is kept."""
        self.fd = directory.create(name, DEFAULT_MODE if file.mode is None else file.mode & 0o777)

    def announce(self, keeping: Keeping, publisher: Publisher) -> None:
        """Let what it replaces be kept, if it may replace it. Raises OSError, RequestError."""
        publisher.check(self.path, self.condition, locked=True)
        self.kept = keeping.coming(self.path, identity(self.status())).old

    def place(self, publication: Publication) -> None:
        """Rename it to its path. Raises OSError, RequestError."""
        source, name, to = self.directory, self.name, self.destination
        publication.place(source, name, to, self.condition, size=self.size, quota=self.quota, kept=self.kept)
        self.is_new = True

    def status(self) -> os.stat_result:
        """What it is now."""
        return os.fstat(self.fd)

    def close(self) -> None:
        """Close it, and remove it unless it was published."""
        if self.fd < 0:
            return
        if self.is_new:
            syscalls.close(self.fd)
            self.fd = -1
        else:
            with self.usage.changing() as change:
                if self.discard():
                    change.removed(ROOT, self.size)

    def discard(self) -> bool:
        """Close and remove it: whether it went. What cannot be removed now is swept at the next start."""
        syscalls.close(self.fd)
        self.fd = -1
        try:
            self.directory.unlink(self.name, missing_ok=True)
        except OSError as error:
            import logging  # here: a client's staging area has hardly ever any

            log = logging.getLogger("ftpy.storage")
            log.warning("a staged file stays: %s", error.strerror, extra={"event": "staged-left"})
            return False
        return True


class LocalStagedDirectory(Staged):
    """A directory that waits for its turn."""

    __slots__ = ("_status", "destination", "is_new", "number", "operation", "path", "quota", "tree", "wanted")

    def __init__(self, wanted: NewDirectory, number: int, quota: Quota | None) -> None:
        self.path, self.number, self.quota = wanted.path, number, quota
        self.tree, self.destination = wanted.tree, place_of(wanted.path, wanted.tree)
        self.wanted = replace(wanted, path=self.destination)
        self.is_new = False
        self.operation = wanted.operation

    def announce(self, keeping: Keeping, publisher: Publisher) -> None:  # noqa: ARG002
        """Let it be said which folders are new. Raises OSError, RequestError."""
        keeping.making(self.path)

    def place(self, publication: Publication) -> None:
        """Make it. Raises OSError, RequestError."""
        was_new = publication.has_made(self.destination)
        try:
            self._status = publication.make(self.wanted, self.quota)
        finally:
            self.is_new = publication.has_made(self.destination) and not was_new

    def status(self) -> os.stat_result:
        """What it was when it had been made."""
        return self._status


LocalMember = LocalStaged | LocalStagedDirectory
_MEMBERS = (LocalStaged, LocalStagedDirectory)
Placed = dict[int, os.stat_result]
"""What members of a group were as soon as they were in place, by their numbers."""
Refused = dict[int, RequestError]
"""Why members of a group were not published, by their numbers."""


class SmallFiles:
    """Stages and publishes small files and directories; what is published is ``remembered`` where that is wanted."""

    def __init__(
        self, area: Area, publisher: Publisher, remembered: Remembered | None, keeper: Keeper | None = None
    ) -> None:
        self._area, self._publisher, self._remembered = area, publisher, remembered
        self._keeper = keeper
        self._creates: dict[int, bool] = {}
        """Modes, and whether a file that is created with one has it: then the umask takes nothing away."""

    def stage(self, file: NewFile, data: memoryview, digest: KnownDigest, quota: Quota | None = None) -> LocalStaged:
        """Store a small file whole, out of sight."""
        if len(data) != file.file_size:
            raise InvalidRequest(f"{len(data)} bytes came where {file.file_size} were announced")
        with self._publisher.usage.adding(len(data), 1, quota):
            return self._stage(file, data, digest, quota)

    def _stage(self, file: NewFile, data: memoryview, digest: KnownDigest, quota: Quota | None) -> LocalStaged:
        staged: LocalStaged | None = None
        try:
            with DISK:
                number, name = self._area.new_name()
                usage = self._publisher.usage
                staged = LocalStaged(file, digest, self._area.staged, number, name, usage=usage, quota=quota)
                write_at(staged.fd, 0, data)
                if file.mode is not None and not self._has(staged.fd, file.mode & 0o777):
                    os.fchmod(staged.fd, file.mode & 0o777)
                os.utime(staged.fd, ns=(file.mtime_ns, file.mtime_ns))
        except OSError as error:
            if staged is not None:
                staged.discard()
            raise refusal(error, file.path) from error
        return staged

    def _has(self, fd: int, mode: int) -> bool:
        """Whether a new file has the mode that it was created with; looked at once for each mode."""
        found = self._creates.get(mode)
        if found is None:
            found = self._creates[mode] = os.fstat(fd).st_mode & 0o7777 == mode
        return found

    def stage_directory(self, directory: NewDirectory, quota: Quota | None = None) -> LocalStagedDirectory:
        """A directory to be made in its turn."""
        return LocalStagedDirectory(directory, self._area.new_name()[0], quota)

    def publish(self, group: Sequence[Staged]) -> list[FileInfo | RequestError]:
        """Publish a group: data durable, then the names, then the results; remembers digests where that is wanted."""
        placed: Placed = {}
        refused = self._publish(group, placed)
        return self._report(cast(Sequence[LocalMember], group), placed, refused)

    def put_in_place(self, group: Sequence[Staged]) -> list[RequestError | None]:
        """The same for who does not want to know what is there now: for each what failed, if anything did."""
        refused = self._publish(group, None)
        return [refused.get(staged.number) for staged in cast(Sequence[LocalMember], group)]

    def _publish(self, group: Sequence[Staged], placed: Placed | None) -> Refused:
        mine = [staged for staged in group if isinstance(staged, _MEMBERS)]
        if len(mine) != len(group):
            raise TypeError("a group is published by the storage that staged it")
        refused: Refused = {}
        try:
            for several in _in_turn(mine):
                refused |= self._publish_together(several, placed)
        finally:
            for staged in mine:
                staged.close()
        return refused

    def _publish_together(self, mine: list[LocalMember], placed: Placed | None) -> Refused:
        """Publish those that one operation, or none, is to keep for: what was refused."""
        files = [staged for staged in mine if isinstance(staged, LocalStaged)]
        refused = self._sync(files)
        exclusive = self._foresee(files) or mine[0].operation is not None
        try:
            with DISK, self._publisher.publication(exclusive=exclusive) as publication, ExitStack() as opened:
                keeping = self._keep(opened, publication, mine, refused)
                self._place_recorded(publication, mine, placed, refused)
                if keeping is not None:
                    keeping.settle()
        except (OSError, RequestError) as error:
            for staged in mine:
                refused.setdefault(staged.number, _refusal(error, staged.path))
        return refused

    @staticmethod
    def _sync(group: list[LocalStaged]) -> Refused:
        """Make the data durable: what failed."""
        if not group:
            return {}
        oldest = min(group, key=attrgetter("number"))
        failed = sync_all([staged.fd for staged in group], oldest.fd)
        if not failed:
            return {}
        return {staged.number: refusal(failed[staged.fd], staged.path) for staged in group if staged.fd in failed}

    def _foresee(self, group: list[LocalStaged]) -> bool:
        """Whether the group looks before it swaps; what must be hashed for that is hashed before the lock."""
        compared = [staged for staged in group if type(staged.condition) is KnownDigest]
        for staged in compared:
            try:
                self._publisher.check(staged.path, staged.condition)
            except RequestError:
                continue  # asked again under the lock: an earlier file of the group may make it true
        return bool(compared) or any(isinstance(staged.condition, KnownVersion | KnownInode) for staged in group)

    def _keep(
        self, opened: ExitStack, publication: Publication, group: Sequence[LocalMember], refused: Refused
    ) -> Keeping | None:
        """Let what the group replaces be kept, where its operation wants that, before anything is placed."""
        key = group[0].operation
        wanted = [staged for staged in group if staged.number not in refused]
        if key is None or not wanted:
            return None
        assert self._keeper is not None
        try:
            keeping = opened.enter_context(self._keeper.keeping(key, publication, group[0].quota))
            for staged in wanted:
                _attempt(staged, partial(staged.announce, keeping, self._publisher), refused)
            keeping.seal()
        except (OSError, RequestError) as error:
            for staged in wanted:
                refused.setdefault(staged.number, _refusal(error, staged.path))
            return None
        return keeping

    def _place_recorded(
        self, publication: Publication, group: Sequence[LocalMember], placed: Placed | None, refused: Refused
    ) -> None:
        """Place all, and have the feed tell of what is new. Raises RequestError, where that could not be written."""
        feed = self._publisher.feed
        planned = self._planned([staged for staged in group if staged.number not in refused]) if feed.keeps else {}
        with feed.recording(list(planned.values())) as record:
            try:
                self._place(publication, group, placed, refused)
            finally:
                record.happened = [planned[one.number] for one in group if one.is_new and one.number in planned]

    def _planned(self, group: Sequence[LocalMember]) -> dict[int, Happening]:
        """What the feed is to tell of members, by their numbers; of folders those that are not there yet."""
        planned: dict[int, Happening] = {}
        for staged in group:
            if staged.tree is not None:
                continue  # for nobody yet
            if isinstance(staged, LocalStaged):
                planned[staged.number] = arrived(staged.path, os.fstat(staged.fd))
            elif not self._publisher.is_there(staged.path):
                planned[staged.number] = published(staged.path)
        return planned

    @staticmethod
    def _place(publication: Publication, group: Sequence[LocalMember], placed: Placed | None, refused: Refused) -> None:
        for staged in group:
            if staged.number in refused:
                continue
            _attempt(staged, partial(staged.place, publication), refused)
            if placed is not None and staged.number not in refused:
                placed[staged.number] = staged.status()
        failed = publication.sync()
        if failed:
            for staged in group:
                parts = staged.destination.parts
                for depth in range(len(parts), -1, -1):  # folders on the way may have been made for it
                    if (reason := failed.get(RemotePath(parts[:depth]))) is not None:
                        refused.setdefault(staged.number, reason)

    def _report(self, group: Sequence[LocalMember], placed: Placed, refused: Refused) -> list[FileInfo | RequestError]:
        """The results in order; the digests of what is published are remembered in one transaction."""
        results: list[FileInfo | RequestError] = []
        known: list[tuple[Version, Digests]] = []
        for staged in group:
            if (error := refused.get(staged.number)) is not None:
                results.append(error)
                continue
            found = placed[staged.number]
            if isinstance(staged, LocalStagedDirectory):
                results.append(file_info(staged.path, found))
                continue
            version, remembered = version_of(found), digests(staged.digest)
            known.append((version, remembered))
            results.append(file_info(staged.path, found, remembered, version))
        if self._remembered is not None:
            self._remembered.keep(known)
        return results


def _in_turn(group: list[LocalMember]) -> Iterator[list[LocalMember]]:
    """Those that are published together, in their order: of one operation, or of none.

    What an operation keeps is judged before anything is placed. So that each sees what those before it have left, none
    that has a condition comes together with another one for its path.
    """
    together: list[LocalMember] = []
    places: set[RemotePath] = set()
    for staged in group:
        operation, place = staged.operation, staged.destination
        is_judged = isinstance(staged, LocalStaged) and staged.condition is not None
        if together and (operation != together[0].operation or (is_judged and place in places)):
            yield together
            together, places = [], set()
        together.append(staged)
        if operation is not None:
            places.add(place)
    if together:
        yield together


def _attempt(staged: LocalMember, work: Callable[[], None], refused: Refused) -> None:
    """Do it; what fails is why this member is refused."""
    try:
        work()
    except (OSError, RequestError) as error:
        refused[staged.number] = _refusal(error, staged.path)


def _refusal(error: OSError | RequestError, path: RemotePath) -> RequestError:
    return refusal(error, path) if isinstance(error, OSError) else error
