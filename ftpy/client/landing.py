"""Where a tree comes down on this side: below one folder and nowhere else, staged, then published in groups."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Sequence
from contextlib import ExitStack

from ftpy.client.source import local_error
from ftpy.errors import AlreadyExists, Changed, FtpyError, LocalFileError, RequestError, TargetExists
from ftpy.files import RESERVED_PREFIX, RemotePath, display
from ftpy.storage.area import AREA, LOCK, Area
from ftpy.storage.base import Closing, KnownDigest, KnownInode, NewDirectory, NewFile, Staged
from ftpy.storage.beneath import Beneath, Directory
from ftpy.storage.locking import TURN
from ftpy.storage.publishing import Publisher
from ftpy.storage.staging import SmallFiles
from ftpy.storage.trash import TRASH

AREA_TRIES = 9
"""How often a staging area is entered that other gets, which end just now, take away."""
AREA_PAUSE_SECONDS = 0.001
"""First wait between two tries, which doubles: a quarter of a second in all."""


def no_wider(mode: int, now: int) -> int:
    """A mode of a server's for a folder that has one already: it is opened to nobody but its owner."""
    return mode & (now | stat.S_IRWXU)


def _never(path: RemotePath, like: KnownDigest, at_once: bool) -> str:
    raise NotImplementedError("nothing here is compared before it is swapped")


class Landing(Closing):
    """The folder ``target``, made where it is missing; paths are relative to it. Raises LocalFileError.

    A ``dry_run`` makes nothing.

    Small files go through the same staging area as a server's, ``.ftpy`` in the folder, which is gone at the end.
    """

    def __init__(self, target: str, *, dry_run: bool = False) -> None:
        self.target = target
        self._named: tuple[tuple[str, ...], str] = (), os.path.join(target, "")
        """The folder that was last asked for the name of something in it, and its own."""
        with ExitStack() as opened:
            try:
                self._was_there = os.path.lexists(target)
                if not dry_run:
                    os.makedirs(target, exist_ok=True)
                elif not self._was_there:
                    import tempfile

                    target = opened.enter_context(tempfile.TemporaryDirectory())  # nothing is there
                self._beneath = opened.enter_context(Beneath(target))
                self.groups = self._beneath.door != "path" and not dry_run
                """Whether small files are staged and published together; elsewhere each is fetched alone."""
                if self.groups:
                    self.area = opened.enter_context(self._enter())
                    self.area.sweep_staged()
                    self.publisher = Publisher(self._beneath, self.area, _never)
                    self._small = SmallFiles(self.area, self.publisher, None)
                self._began_ns = self._now_ns(dry_run=dry_run)
            except OSError as error:
                raise local_error(target, error) from None
            except RequestError as error:
                raise LocalFileError(f"{display(target)}: {error}") from None
            self._opened = opened.pop_all()

    def _enter(self) -> Area:
        for failures in range(AREA_TRIES - 1):
            with contextlib.suppress(FileNotFoundError):
                return Area(self._beneath)
            time.sleep(AREA_PAUSE_SECONDS * 2**failures)
        return Area(self._beneath)

    def _now_ns(self, *, dry_run: bool) -> int:
        """The time of this very moment, on the clock that the file system keeps."""
        if dry_run:
            return time.time_ns()
        if self.groups:  # in the staging area what a get that is killed leaves is swept
            directory, probe = self.area.staged, self.area.new_name()[1]
        else:
            directory, probe = self._beneath.root, f"{RESERVED_PREFIX}-now-{os.urandom(8).hex()}"
        os.close(directory.create(probe, 0o600))
        try:
            return directory.lstat(probe).st_ctime_ns
        finally:
            directory.unlink(probe)

    def came_meanwhile(self, status: os.stat_result) -> bool:
        """Whether something that is here came or was changed after this began: by us or by others, never known before.

        A file system that folds case or composes characters has one file for two names of a server's.
        """
        return status.st_ctime_ns > self._began_ns

    def close(self) -> None:
        """Close it, and take the staging area away unless another get or a server is at work in it."""
        groups, self.groups = self.groups, False
        with self._opened:
            if groups:
                # What cannot be taken away now is swept by the next get.
                with contextlib.suppress(OSError):
                    self.area.close()
                    self._take_area_away()

    def _take_area_away(self) -> None:
        """Raises OSError where it is in use: it is not empty then, for whoever uses it keeps a lock file in it."""
        with self._beneath.root.open_dir(AREA) as top:
            top.rmdir("staged")
            top.rmdir("uploads")
            for name in top.names():
                if name not in (LOCK, TURN + LOCK, TRASH):
                    top.rmdir(name)
            for name in (LOCK, TURN + LOCK):
                top.unlink(name, missing_ok=True)
        self._beneath.root.rmdir(AREA)

    def name(self, path: RemotePath) -> str:
        """What ``path`` is called on this side."""
        folder, where = self._named
        if path.parts[:-1] != folder:
            folder = path.parts[:-1]
            where = os.path.join(self.target, *folder, "")
            self._named = folder, where
        return where + path.name if path.parts else self.target

    def lstat(self, path: RemotePath) -> os.stat_result | None:
        """What is there; None where nothing is. Raises LocalFileError."""
        try:
            return self._beneath.lstat(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise local_error(self.name(path), error) from None

    def check(self, path: RemotePath, known: KnownInode | None) -> None:
        """Raises LocalFileError unless this is still there, if it matters what is."""
        if known is not None:
            try:
                self.publisher.check(path, known)
            except RequestError as error:
                raise self.translated(error, path) from None

    def open_dir(self, path: RemotePath) -> Directory:
        """A folder, made with those above it where it is missing. Raises LocalFileError."""
        try:
            if not path.parts:
                return self._beneath.open_dir(path)
            try:
                return self._beneath.open_dir(path)
            except FileNotFoundError:
                with self.open_dir(path.parent) as parent:
                    with contextlib.suppress(FileExistsError):
                        parent.mkdir(path.name)
                    parent.sync()
                    return parent.open_dir(path.name)
        except OSError as error:
            raise local_error(self.name(path), error) from None

    def stage(self, file: NewFile, data: memoryview, digest: KnownDigest) -> Staged:
        """A verified small file, out of sight. Raises LocalFileError."""
        try:
            return self._small.stage(file, data, digest)
        except RequestError as error:
            failure = self.translated(error, file.path)
            raise failure from failure.__cause__

    def stage_directory(self, directory: NewDirectory) -> Staged:
        """A folder to be made, or given its mode and time, in its turn."""
        return self._small.stage_directory(directory)

    def publish(self, group: Sequence[Staged]) -> list[FtpyError | None]:
        """Put a group in place, durably: for each what failed, if anything did."""
        return [
            None if refused is None else self.translated(refused, staged.path)
            for staged, refused in zip(group, self._small.put_in_place(group), strict=True)
        ]

    def finish_alone(self, directory: NewDirectory) -> None:
        """The same for one folder where there are no groups. Raises LocalFileError."""
        self.open_dir(directory.path).close()
        assert directory.mtime_ns is not None
        name = self.name(directory.path)
        try:
            os.utime(name, ns=(directory.mtime_ns, directory.mtime_ns))
        except PermissionError:
            return  # Windows sets no time of a folder
        except OSError as error:
            raise local_error(name, error) from None

    def finish(self, *, mode: int, mtime_ns: int, force: bool) -> None:
        """Give the folder itself its mode and time, after ``close`` of all that is in it. Raises LocalFileError.

        What was there before is opened to nobody else, unless by ``force``.
        """
        try:
            if os.chmod in os.supports_fd:
                now = stat.S_IMODE(os.stat(self.target).st_mode)
                if self._was_there and not force:
                    mode = no_wider(mode, now)
                os.chmod(self.target, now & 0o7000 | mode)
            os.utime(self.target, ns=(mtime_ns, mtime_ns))
        except OSError as error:
            raise local_error(self.target, error) from None

    def translated(self, error: RequestError, path: RemotePath) -> FtpyError:
        """What a storage of this side says, as an error of this side."""
        name = display(self.name(path))
        if isinstance(error, AlreadyExists):
            return TargetExists(f"{name}: {TargetExists.sentence()}")
        if isinstance(error, Changed):
            return LocalFileError(f"{name}: it was changed since")
        if isinstance(error.__cause__, OSError):
            failure = local_error(self.name(path), error.__cause__)
            failure.__cause__ = error.__cause__
            return failure
        return LocalFileError(f"{name}: {error}")
