"""The part of ``Client`` that changes what is there without moving any content: rm, mv."""

from __future__ import annotations

from typing import Literal

from ftpy.client.base import Base, PathLike, remote_path
from ftpy.client.results import Moved, Removed


class Changes(Base):
    """What is done once, and durable when it returns."""

    def rm(self, path: PathLike, *, recursive: bool = False) -> Removed:
        """Remove a file, a link or an empty folder, with ``recursive`` any folder; durable when it returns.

        Raises NotFound, NotEmpty, OutcomeUnknown, ….
        """
        from ftpy.client.changing import Rm

        return Rm(remote_path(path), recursive=recursive).once(self._line)

    def mv(self, path: PathLike, to: PathLike, *, condition: Literal["absent"] | None = None) -> Moved:
        """Give what is at ``path`` the path ``to``; it replaces a file there, unless ``condition`` is ``"absent"``.

        Durable when it returns. Raises NotFound, AlreadyExists, IsADirectory, OutcomeUnknown, ….
        """
        from ftpy.client.changing import Mv

        return Mv(remote_path(path), remote_path(to), condition).once(self._line)
