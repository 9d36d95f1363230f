"""rm and mv, each done once: where a connection broke, nothing is asked again before a look at what is there now."""

from __future__ import annotations

import abc
from typing import Generic, Literal, TypeVar

from ftpy.client.connection import Connection
from ftpy.client.lines import Line
from ftpy.client.results import Moved, Removed
from ftpy.errors import Busy, ConnectionFailed, NotFound, OutcomeUnknown, PermissionDenied, ShuttingDown
from ftpy.files import FileInfo, RemotePath, display
from ftpy.wire.entries import entry_to_info
from ftpy.wire.messages import MvReply, MvRequest, RmReply, RmRequest, StatReply, StatRequest
from ftpy.wire.spelling import path_to_wire

T = TypeVar("T")


class Change(abc.ABC, Generic[T]):
    """Something that may be asked for again only while ``path`` is what it was at first.

    Who may not look is told that the outcome is not known. What a listing has told of the path saves the first look.
    """

    def __init__(self, path: RemotePath, listed: FileInfo | None = None) -> None:
        self.path = path
        self.before = listed
        self._looked, self._asked_in_vain = listed is not None, False

    def once(self, line: Line) -> T:
        """Do it over one connection after the other. Raises OutcomeUnknown, and what the server answers."""
        try:
            return line.persist(self._attempt)
        except (ConnectionFailed, Busy, ShuttingDown) as error:
            if not self._asked_in_vain or isinstance(error, OutcomeUnknown):
                raise
            raise self.unknown() from error

    def _attempt(self, connection: Connection) -> T:
        """Do it over this connection, unless it was done over one before. Raises OutcomeUnknown."""
        if not self._looked:
            try:
                self.before = look(connection, self.path)
            except PermissionDenied:
                pass  # who may not list may remove and move all the same
            self._looked = True
        if self._asked_in_vain and self._is_gone(connection):
            return self.found_done(connection)
        try:
            return self.ask(connection)
        except ConnectionFailed:
            self._asked_in_vain = True
            raise
        except NotFound:
            if not self._asked_in_vain:
                raise
            return self.found_done(connection)  # the first request was still under way when we looked

    def _is_gone(self, connection: Connection) -> bool:
        if self.before is None:
            raise self.unknown()
        try:
            now = look(connection, self.path)
        except NotFound:
            return True
        if (now.etag, *facts(now)) != (self.before.etag, *facts(self.before)):
            raise self.unknown()  # another may have come in its place, or it may just have changed
        return False

    def unknown(self) -> OutcomeUnknown:
        """What is said where it cannot be told whether it was done."""
        return OutcomeUnknown(f"{display(str(self.path))}: {OutcomeUnknown.sentence()}")

    @abc.abstractmethod
    def ask(self, connection: Connection) -> T:
        """Ask the server to do it."""

    @abc.abstractmethod
    def found_done(self, connection: Connection) -> T:
        """The answer was lost, and nothing is at the path any more. Raises OutcomeUnknown."""


class Rm(Change[Removed]):
    """Remove what is at a path."""

    def __init__(self, path: RemotePath, *, recursive: bool, listed: FileInfo | None = None) -> None:
        super().__init__(path, listed)
        self._recursive = recursive

    def ask(self, connection: Connection) -> Removed:
        """Ask the server to remove it."""
        request = RmRequest(id=connection.next_id(), **path_to_wire(self.path), recursive=self._recursive)
        reply = connection.call(request, RmReply)
        return Removed(self.path, reply.files, reply.folders, durable=True)

    def found_done(self, connection: Connection) -> Removed:  # noqa: ARG002
        """It is gone; how much that was nobody has said."""
        return Removed(self.path, None, None, durable=False)


class Mv(Change[Moved]):
    """Give what is at a path another one."""

    def __init__(
        self, path: RemotePath, to: RemotePath, condition: Literal["absent"] | None, *, listed: FileInfo | None = None
    ) -> None:
        super().__init__(path, listed)
        self._to, self._condition = to, condition

    def ask(self, connection: Connection) -> Moved:
        """Ask the server to move it."""
        request = MvRequest(
            id=connection.next_id(),
            **path_to_wire(self.path),
            **path_to_wire(self._to, "to"),
            condition=self._condition,
        )
        connection.call(request, MvReply)
        return Moved(self.path, self._to, durable=True)

    def found_done(self, connection: Connection) -> Moved:
        """It is done if what was there is at the other path now."""
        try:
            now = look(connection, self._to)
        except (NotFound, PermissionDenied):
            raise self.unknown() from None
        if self.before is None or facts(now) != facts(self.before):
            raise self.unknown()
        return Moved(self.path, self._to, durable=False)


def look(connection: Connection, path: RemotePath) -> FileInfo:
    """What is at a path. Raises NotFound, PermissionDenied."""
    reply = connection.call(StatRequest(id=connection.next_id(), **path_to_wire(path)), StatReply)
    return entry_to_info(reply.entry, path)


def facts(info: FileInfo) -> tuple[object, ...]:
    """What stays the same when something moves."""
    return info.type, info.size, info.mtime_ns, info.mode
