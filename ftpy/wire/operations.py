"""Operations on the wire: begun, listed, undone, forgotten (docs/protocol.md, 22)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ftpy.wire.bases import Reply, Request
from ftpy.wire.fields import Base64, Hex32, Message, Size, Text, Time

OperationId = Hex32
PAGE_OPERATIONS = 100
"""Most operations in one page: each has a text, which may take some thousand bytes."""
MOST_LEFT = 100
"""Most paths that one reply tells of; all are counted."""


class BeginRequest(Request, frozen=True, kw_only=True, tag="begin"):
    """An operation that put, mkdir, rm and mv may name from now on; ``what`` began it is for people."""

    operation: OperationId
    what: Text = ""


class OperationsRequest(Request, frozen=True, kw_only=True, tag="operations"):
    """This user's operations, page by page, the newest first."""


class UndoRequest(Request, frozen=True, kw_only=True, tag="undo"):
    """Reverse an operation, as the operation ``by``, which is begun with it and can itself be undone."""

    operation: OperationId
    by: OperationId


class ForgetRequest(Request, frozen=True, kw_only=True, tag="forget"):
    """Destroy what an operation keeps."""

    operation: OperationId


class BeginReply(Reply, frozen=True, kw_only=True):
    """It has begun, durably; what nothing was added to for ``keep_seconds`` is swept."""

    keep_seconds: Size


class OperationEntry(Message, frozen=True, kw_only=True):
    """What an operation was: how many steps it had of each kind."""

    operation: OperationId
    what: Text
    time_ns: Time
    added: Size = 0
    replaced: Size = 0
    deleted: Size = 0
    moved: Size = 0
    made: Size = 0


class OperationsReply(Reply, frozen=True, kw_only=True):
    """A page of operations; only the one that says ``complete`` ends it."""

    operations: Annotated[list[OperationEntry], Meta(max_length=PAGE_OPERATIONS)]
    complete: bool

    def __post_init__(self) -> None:
        if not self.operations and not self.complete:
            raise ValueError("a page without operations is the last one")

    @property
    def last(self) -> bool:
        """Whether this is the last page."""
        return self.complete


class LeftEntry(Message, frozen=True, kw_only=True):
    """A path that could not be made what it was: the code of why, and a text for people."""

    path: str = ""
    path_b64: Base64 | None = None
    error: Annotated[str, Meta(pattern=r"^[a-z][a-z-]{0,63}\Z")]
    message: Text = ""


class UndoReply(Reply, frozen=True, kw_only=True):
    """Steps that were reversed, that were so already, that were ``left`` alone; the first of those are named."""

    steps: Size
    already: Size
    left: Size
    paths: Annotated[list[LeftEntry], Meta(max_length=MOST_LEFT)]


class ForgetReply(Reply, frozen=True, kw_only=True):
    """It is gone: so many ``names`` of files and folders."""

    names: Size
