"""mkdir and touch: asked for again when a connection broke, unless nobody could tell then who made what is there."""

from __future__ import annotations

import abc
from typing import Generic, TypeVar

from ftpy.client.connection import Connection
from ftpy.client.lines import Line
from ftpy.client.results import Touched
from ftpy.errors import AlreadyExists, ConnectionFailed, OutcomeUnknown
from ftpy.files import RemotePath, display
from ftpy.wire.messages import MkdirReply, MkdirRequest
from ftpy.wire.spelling import path_to_wire
from ftpy.wire.upkeep import TouchReply, TouchRequest

T = TypeVar("T")


class Making(abc.ABC, Generic[T]):
    """Something that is refused where it was done before."""

    def __init__(self, path: RemotePath) -> None:
        self.path = path
        self._asked_in_vain = False

    def once(self, line: Line) -> T:
        """Do it over one connection after the other. Raises OutcomeUnknown, and what the server answers."""
        return line.persist(self._attempt)

    def _attempt(self, connection: Connection) -> T:
        try:
            return self.ask(connection)
        except ConnectionFailed:
            self._asked_in_vain = True
            raise
        except AlreadyExists as error:
            if self._asked_in_vain:
                raise OutcomeUnknown(f"{display(str(self.path))}: {OutcomeUnknown.sentence()}") from error
            raise

    @abc.abstractmethod
    def ask(self, connection: Connection) -> T:
        """Ask the server to do it."""


class Mkdir(Making[None]):
    """Make a folder."""

    def __init__(self, path: RemotePath, *, parents: bool) -> None:
        super().__init__(path)
        self._parents = parents

    def ask(self, connection: Connection) -> None:
        """Ask the server to make it."""
        request = MkdirRequest(id=connection.next_id(), **path_to_wire(self.path), parents=self._parents)
        connection.call(request, MkdirReply)


class Touch(Making[Touched]):
    """Give something a time, or make an empty file."""

    def __init__(self, path: RemotePath, mtime_ns: int | None, *, create: bool) -> None:
        super().__init__(path)
        self._mtime_ns, self._create = mtime_ns, create

    def ask(self, connection: Connection) -> Touched:
        """Ask the server to do it."""
        request = TouchRequest(
            id=connection.next_id(), **path_to_wire(self.path), mtime_ns=self._mtime_ns, create=self._create
        )
        reply = connection.call(request, TouchReply)
        return Touched(self.path, reply.mtime_ns, reply.created)
