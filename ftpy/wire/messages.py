"""One struct per request and reply, decoded strictly: all that is said once a connection is open (docs/protocol.md).

A header that is not exactly one of these raises ProtocolError: wrong types, numbers out of range,
unknown fields, a field twice. Paths and what a request *means* are judged later, with their own codes.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from ftpy.digests import DigestName, PartDigestName
from ftpy.files import RemotePath
from ftpy.wire.bases import Continuation, FailureReply, PathRequest, ProgressReply, Reply, Request
from ftpy.wire.commands import (
    CancelMessage,
    CommandsReply,
    CommandsRequest,
    InputMessage,
    RunReply,
    RunRequest,
)
from ftpy.wire.entries import Entry
from ftpy.wire.events import EventsReply, EventsRequest
from ftpy.wire.fields import (
    ActivityName,
    Base64,
    DigestOf,
    Etag,
    Hex32,
    Hex64,
    Message,
    Mode,
    PartNumber,
    Size,
    Time,
    UploadId,
)
from ftpy.wire.operations import (
    BeginReply,
    BeginRequest,
    ForgetReply,
    ForgetRequest,
    OperationId,
    OperationsReply,
    OperationsRequest,
    UndoReply,
    UndoRequest,
)
from ftpy.wire.ping import PingReply, PingRequest
from ftpy.wire.receipts import ReceiptReply, ReceiptRequest
from ftpy.wire.spelling import spelt, wire_to_path
from ftpy.wire.trees import (
    DiscardReply,
    DiscardRequest,
    RollbackReply,
    RollbackRequest,
    StageReply,
    StageRequest,
    SwapReply,
    SwapRequest,
    TreeId,
)
from ftpy.wire.upkeep import DfReply, DfRequest, TouchReply, TouchRequest

PAGE_ENTRIES = 1_000
"""Most entries in one page of a listing."""


# ------------------------------------------------------------------ requests


class PutRequest(PathRequest, frozen=True, kw_only=True, tag="put"):
    """Store a file: inline with its body when ``length`` is there, else open or resume an upload."""

    file_size: Size | None = None
    mtime_ns: Time
    mode: Mode | None = None
    digest: DigestName = "md5"
    condition: Literal["absent"] | DigestOf | None = None
    etag: Etag | None = None
    operation: OperationId | None = None
    tree: TreeId | None = None
    length: Size | None = None

    @property
    def body_length(self) -> int | None:
        """The inline body's bytes."""
        return self.length

    @property
    def grouped(self) -> bool:
        """A small file is."""
        return self.length is not None


class MkdirRequest(PathRequest, frozen=True, kw_only=True, tag="mkdir"):
    """Make a folder; with ``parents`` those above it too, and it may be there already. ``mode`` and time become its."""

    parents: bool = False
    mode: Mode | None = None
    mtime_ns: Time | None = None
    operation: OperationId | None = None
    tree: TreeId | None = None

    @property
    def grouped(self) -> bool:
        """Always."""
        return True


class RmRequest(PathRequest, frozen=True, kw_only=True, tag="rm"):
    """Remove a file, or an empty folder; with ``recursive`` any."""

    recursive: bool = False
    etag: Etag | None = None
    operation: OperationId | None = None


class MvRequest(PathRequest, frozen=True, kw_only=True, tag="mv"):
    """Give what is at the path the name ``to``, or ``to_b64`` where that is not UTF-8."""

    to: str = ""
    to_b64: Base64 | None = None
    condition: Literal["absent"] | None = None
    etag: Etag | None = None
    operation: OperationId | None = None

    def remote_target(self) -> RemotePath:
        """The new path, checked. Raises InvalidPath."""
        return wire_to_path(self.to, self.to_b64)

    def spelt_target(self) -> str:
        """The new path as it was sent, legal or not, for people."""
        return spelt(self.to, self.to_b64)


class PartRequest(Request, frozen=True, kw_only=True, tag="part"):
    """Store part number ``part``; ``length`` bytes follow, and a trailer with their ``digest``."""

    upload: UploadId
    part: PartNumber
    length: Size
    digest: PartDigestName = "blake3"

    @property
    def body_length(self) -> int | None:
        """The part's bytes."""
        return self.length


class CommitRequest(Request, frozen=True, kw_only=True, tag="commit"):
    """Verify the whole and publish it; ``file_size`` only where the put could not know it."""

    upload: UploadId
    digest: DigestOf
    file_size: Size | None = None


class AbortRequest(Request, frozen=True, kw_only=True, tag="abort"):
    """Forget an upload and what was stored of it."""

    upload: UploadId


class GetRequest(PathRequest, frozen=True, kw_only=True, tag="get"):
    """Send ``count`` bytes from ``offset`` (all that follow, when null) of the version ``etag``, if named."""

    offset: Size = 0
    count: Size | None = None
    etag: Etag | None = None
    digest: DigestName = "md5"


class LsRequest(PathRequest, frozen=True, kw_only=True, tag="ls"):
    """List a directory, page by page; where it is to be the ``whole``, only if all below it may be told of."""

    recursive: bool = False
    whole: bool = False
    tree: TreeId | None = None


class StatRequest(PathRequest, frozen=True, kw_only=True, tag="stat"):
    """What is known of one path."""


class DigestRequest(PathRequest, frozen=True, kw_only=True, tag="digest"):
    """The digest of a file's content; computed now if it is not remembered."""

    digest: DigestName = "md5"
    tree: TreeId | None = None


class TimesRequest(Request, frozen=True, kw_only=True, tag="times"):
    """Measure this connection from now on, and say what it has spent its time on since the first time asked."""


# ------------------------------------------------------------------ replies


class StoredReply(Reply, frozen=True, kw_only=True):
    """The file is published: verified, visible, and durable if it says so."""

    path: str | UnsetType = UNSET
    file_size: Size
    digest: DigestOf
    durable: bool
    etag: Etag


class UploadReply(Reply, frozen=True, kw_only=True):
    """An upload is open: part ``i`` begins at byte ``i*part_size``; ``missing`` are rising ranges, both ends in."""

    upload: UploadId
    part_size: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    missing: list[tuple[PartNumber, PartNumber]]

    def __post_init__(self) -> None:
        # Ranges that overlap could name millions of parts in one header.
        least = 0
        for first, last in self.missing:
            if not least <= first <= last:
                raise ValueError("the ranges of missing parts do not rise")
            least = last + 1


class PartReply(Reply, frozen=True, kw_only=True):
    """The part is stored."""


class AbortReply(Reply, frozen=True, kw_only=True):
    """The upload is gone."""


class MkdirReply(Reply, frozen=True, kw_only=True):
    """The folder is there, durably."""


class RmReply(Reply, frozen=True, kw_only=True):
    """It is gone, durably: ``files`` that were no folders, and ``folders``."""

    files: Size
    folders: Size


class MvReply(Reply, frozen=True, kw_only=True):
    """It has its new name, durably."""


class GetReply(Reply, frozen=True, kw_only=True):
    """``length`` bytes of body follow; ``md5`` and ``blake3`` are the whole file's, where remembered."""

    file_size: Size
    offset: Size
    length: Size
    mtime_ns: Time
    mode: Mode
    etag: Etag
    md5: Hex32 | None
    blake3: Hex64 | None

    @property
    def body_length(self) -> int | None:
        """The range's bytes."""
        return self.length


class Line(Message, frozen=True, kw_only=True):
    """What a kernel says of one direction of a connection, 0 where it does not tell."""

    busy_ns: Size = 0
    window_ns: Size = 0
    resent: Size = 0


class LsReply(Reply, frozen=True, kw_only=True):
    """A page of a listing; only the one that says ``complete`` ends it."""

    entries: Annotated[list[Entry], Meta(max_length=PAGE_ENTRIES)]
    complete: bool

    def __post_init__(self) -> None:
        # Pages of nothing could go on for ever, and nobody would see it.
        if not self.entries and not self.complete:
            raise ValueError("a page without entries is the last one")

    @property
    def last(self) -> bool:
        """Whether this is the last page."""
        return self.complete


class StatReply(Reply, frozen=True, kw_only=True):
    """What is known of the path."""

    entry: Entry


class DigestReply(Reply, frozen=True, kw_only=True):
    """The digest of the version ``etag``."""

    digest: DigestOf
    file_size: Size
    etag: Etag


class TimesReply(Reply, frozen=True, kw_only=True):
    """Nanoseconds that the server's end of the connection took for each activity, and what its kernel says of the line.

    ``line``: nanoseconds in which it had something on its way (``busy``), and of these, those in which it could have
    sent more but for the peer's window or its own buffer (``window``); packets sent again (``resent``).
    """

    ns: dict[ActivityName, Size]
    line: Line


Requests = (
    PutRequest
    | PartRequest
    | CommitRequest
    | AbortRequest
    | MkdirRequest
    | RmRequest
    | MvRequest
    | GetRequest
    | LsRequest
    | StatRequest
    | DigestRequest
    | TimesRequest
    | TouchRequest
    | DfRequest
    | PingRequest
    | CommandsRequest
    | RunRequest
    | BeginRequest
    | OperationsRequest
    | UndoRequest
    | ForgetRequest
    | EventsRequest
    | ReceiptRequest
    | StageRequest
    | SwapRequest
    | DiscardRequest
    | RollbackRequest
)
Continuations = InputMessage | CancelMessage
AnyReply = Reply | ProgressReply | FailureReply

REPLIES: dict[type[Request], type[Reply]] = {
    PutRequest: UploadReply,  # StoredReply when the body came inline, see reply_type
    PartRequest: PartReply,
    CommitRequest: StoredReply,
    AbortRequest: AbortReply,
    MkdirRequest: MkdirReply,
    RmRequest: RmReply,
    MvRequest: MvReply,
    GetRequest: GetReply,
    LsRequest: LsReply,
    StatRequest: StatReply,
    DigestRequest: DigestReply,
    TimesRequest: TimesReply,
    TouchRequest: TouchReply,
    DfRequest: DfReply,
    PingRequest: PingReply,
    CommandsRequest: CommandsReply,
    RunRequest: RunReply,
    BeginRequest: BeginReply,
    OperationsRequest: OperationsReply,
    UndoRequest: UndoReply,
    ForgetRequest: ForgetReply,
    EventsRequest: EventsReply,
    ReceiptRequest: ReceiptReply,
    StageRequest: StageReply,
    SwapRequest: SwapReply,
    DiscardRequest: DiscardReply,
    RollbackRequest: RollbackReply,
}
CONTINUATIONS: tuple[type[Continuation], ...] = (InputMessage, CancelMessage)
"""What may be said of a request under way; nothing answers it."""


def reply_type(request: Request) -> type[Reply]:
    """What a good reply to ``request`` looks like."""
    if type(request) is PutRequest and request.length is not None:
        return StoredReply
    return REPLIES[type(request)]


_VERBS: list[type[Struct]] = [*REPLIES, *CONTINUATIONS]
VERBS = frozenset(str(kind.__struct_config__.tag) for kind in _VERBS)
"""The names of the verbs."""
