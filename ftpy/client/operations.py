"""The part of ``Client`` about operations: what a sync replaced and deleted on the server, listed and undone."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from typing import TypeVar

from ftpy.client.base import Base
from ftpy.client.connection import Connection
from ftpy.client.results import Kept, LeftAlone, Undone
from ftpy.errors import ProtocolError, UnknownOperation, Unsupported, request_error
from ftpy.files import display
from ftpy.wire.fields import TEXT_CHARACTERS
from ftpy.wire.operations import (
    BeginReply,
    BeginRequest,
    ForgetReply,
    ForgetRequest,
    LeftEntry,
    OperationEntry,
    OperationsReply,
    OperationsRequest,
    UndoReply,
    UndoRequest,
)
from ftpy.wire.spelling import wire_to_path

LEAST_PREFIX = 4
"""Fewest digits of an id that name an operation."""

MOST_LISTED = 100_000
"""Operations that a server may tell of: as many as it keeps at most for all its users."""
_ID = re.compile(r"[0-9a-f]{32}")

T = TypeVar("T")


class Operations(Base):
    """What can be undone on the server."""

    def begin(self, what: str) -> str:
        """Begin an operation, whose steps can be undone for as long as the server keeps them: its id.

        Raises Unsupported where the server has no trash.
        """
        operation, said = secrets.token_hex(16), display(what)[:TEXT_CHARACTERS]
        self._ask(lambda live: live.call(BeginRequest(id=live.next_id(), operation=operation, what=said), BeginReply))
        return operation

    def operations(self) -> list[Kept]:
        """This user's operations that can be undone, the newest first."""
        return self._ask(lambda live: list(_pages(live)))

    def find_operation(self, prefix: str) -> str:
        """The id that begins with these digits. Raises UnknownOperation for none, and for several."""
        if _ID.fullmatch(prefix):
            return prefix
        found = [one.id for one in self.operations() if one.id.startswith(prefix)]
        return chosen(prefix, found)

    def undo(self, operation: str, by: str | None = None) -> Undone:
        """Reverse an operation, as far as what it changed is still as it left it; that can be undone in its turn.

        Broken off, it can be asked again with the same ``by``. Raises UnknownOperation.
        """
        by = by or secrets.token_hex(16)
        request = UndoRequest
        reply = self._ask(lambda live: live.call(request(id=live.next_id(), operation=operation, by=by), UndoReply))
        return Undone(operation, by, reply.steps, reply.already, reply.left, list(map(_left, reply.paths)))

    def forget(self, operation: str) -> int:
        """Destroy what an operation keeps, so that its space is free: how many names went. Raises UnknownOperation."""
        request = ForgetRequest
        return self._ask(lambda live: live.call(request(id=live.next_id(), operation=operation), ForgetReply)).names

    def _ask(self, attempt: Callable[[Connection], T]) -> T:
        try:
            return self._persist(attempt)
        except Unsupported:
            raise Unsupported("this server keeps nothing that could be undone; it is older than `ftpy undo`") from None


def chosen(prefix: str, found: list[str]) -> str:
    """The one id that begins with ``prefix``. Raises UnknownOperation."""
    if len(prefix) < LEAST_PREFIX:
        raise UnknownOperation(f"'{prefix}': at least {LEAST_PREFIX} digits of an operation's id are needed")
    if not found:
        raise UnknownOperation(f"{prefix}: {UnknownOperation.sentence()}")
    if len(found) > 1:
        raise UnknownOperation(f"{prefix}: {len(found)} operations begin with that; more of its digits are needed")
    return found[0]


def _pages(connection: Connection) -> Iterator[Kept]:
    page = connection.call(OperationsRequest(id=connection.next_id()), OperationsReply)
    told = 0
    while True:
        yield from map(_kept, page.operations)
        if page.complete:
            return
        told += len(page.operations)
        if told > MOST_LISTED:
            raise ProtocolError("the server tells of operations without end")
        page = connection.wait(OperationsReply)


def _kept(entry: OperationEntry) -> Kept:
    return Kept(
        entry.operation,
        entry.what,
        entry.time_ns,
        entry.added,
        entry.replaced,
        entry.deleted,
        entry.moved,
        entry.made,
    )


def _left(entry: LeftEntry) -> LeftAlone:
    if not (path := wire_to_path(entry.path, entry.path_b64)).parts:
        raise ProtocolError("an undo tells of the root itself")
    return LeftAlone(path, request_error(entry.error, entry.message))
