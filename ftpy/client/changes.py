"""The part of ``Client`` that changes what is there without moving any content: mkdir, touch, rm, mv."""

from __future__ import annotations

from typing import Literal

from ftpy.client.base import Base, PathLike, remote_path
from ftpy.client.results import Moved, Removed, Touched
from ftpy.files import FileInfo


class Changes(Base):
    """What is done once, and durable when it returns."""

    def mkdir(self, path: PathLike, *, parents: bool = False) -> None:
        """Make a folder; with ``parents`` those above it too, and it may be there already. Durable when it returns.

        Raises AlreadyExists, NotFound, NotADirectory, OutcomeUnknown, ….
        """
        from ftpy.client.making import Mkdir

        Mkdir(remote_path(path), parents=parents).once(self._line)

    def touch(self, path: PathLike, mtime_ns: int | None = None, *, create: bool = True) -> Touched:
        """Give a file or folder this time, or the server's now; with ``create``, make an empty file where nothing is.

        Durable when it returns. Raises NotFound, NotAFile, AlreadyExists (to who may not replace), Unsupported, ….
        """
        from ftpy.client.making import Touch

        return Touch(remote_path(path), mtime_ns, create=create).once(self._line)

    def rm(self, path: PathLike, *, recursive: bool = False, listed: FileInfo | None = None) -> Removed:
        """Remove a file, a link or an empty folder, with ``recursive`` any folder; durable when it returns.

        What is ``listed`` of it saves a look, a round trip. Raises NotFound, NotEmpty, OutcomeUnknown, ….
        """
        from ftpy.client.changing import Rm

        return Rm(remote_path(path), recursive=recursive, listed=listed).once(self._line)

    def mv(
        self,
        path: PathLike,
        to: PathLike,
        *,
        condition: Literal["absent"] | None = None,
        listed: FileInfo | None = None,
    ) -> Moved:
        """Give what is at ``path`` the path ``to``; it replaces a file there, unless ``condition`` is ``"absent"``.

        Durable when it returns; ``listed`` as of ``rm``. Raises NotFound, AlreadyExists, IsADirectory, ….
        """
        from ftpy.client.changing import Mv

        return Mv(remote_path(path), remote_path(to), condition, listed=listed).once(self._line)
