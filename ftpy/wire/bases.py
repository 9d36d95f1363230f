"""What all requests have in common, and all replies: the bases of the structs that a connection speaks in.

Each theme has a module of its own with its requests and replies; ``messages`` gathers them.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, structs

from ftpy.errors import ProtocolError, RequestError, request_error
from ftpy.files import RemotePath
from ftpy.wire.fields import TEXT_CHARACTERS, Base64, ConnectionId, Message, RequestId, Size, Text
from ftpy.wire.spelling import spelt, wire_to_path


class Request(Message, frozen=True, kw_only=True, tag_field="cmd"):
    """A request; ``id`` is the client's choice and comes back in the reply."""

    id: RequestId

    @property
    def body_length(self) -> int | None:
        """Bytes of body that follow the header, None where no body and no trailer follow."""
        return None

    @property
    def grouped(self) -> bool:
        """Whether it is made durable together with others of its kind, and answered only then."""
        return False

    @property
    def takes_more(self) -> bool:
        """Whether the client may say more of it while it is under way; until its last reply then no other request."""
        return False


class Continuation(Message, frozen=True, kw_only=True, tag_field="cmd"):
    """More of the last request that ``takes_more``, whose ``id`` it has; nothing answers it."""

    id: RequestId

    @property
    def body_length(self) -> int | None:
        """Bytes of body that follow the header, None where no body and no trailer follow."""
        return None


class PathRequest(Request, frozen=True, kw_only=True):
    """A request about one path: ``path``, or ``path_b64`` for a name that is not UTF-8."""

    path: str = ""
    path_b64: Base64 | None = None

    def remote_path(self) -> RemotePath:
        """The path, checked. Raises InvalidPath."""
        return wire_to_path(self.path, self.path_b64)

    def spelt_path(self) -> str:
        """The path as it was sent, legal or not, for people."""
        return spelt(self.path, self.path_b64)


class UnknownRequest(Struct, frozen=True, kw_only=True):
    """A request of a newer peer: never understood, always answered."""

    cmd: str
    id: RequestId
    length: Size | None = None

    takes_more = False

    @property
    def body_length(self) -> int | None:
        """Bytes to pass over."""
        return self.length


class Reply(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every good reply has in common."""

    id: RequestId
    ok: bool = True

    @property
    def body_length(self) -> int | None:
        """Bytes of body that follow the header, None where no body and no trailer follow."""
        return None

    @property
    def last(self) -> bool:
        """Whether this reply ends the request."""
        return True


class ProgressReply(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Still at work on the oldest request: ``progress`` bytes (or names) done. Any number may come before its reply."""

    id: RequestId
    progress: Size

    body_length = None
    last = False


class FailureReply(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The request failed; ``id`` 0 speaks of the connection itself, which then closes."""

    id: ConnectionId
    ok: bool = False
    error: Annotated[str, Meta(pattern=r"^[a-z][a-z-]{0,63}\Z")]
    message: Text = ""

    body_length = None
    last = True

    def __post_init__(self) -> None:
        # A message may quote a path of the peer's, escaped: cut here, so that no end can send what the other refuses.
        structs.force_setattr(self, "message", self.message[:TEXT_CHARACTERS])

    def exception(self) -> RequestError | ProtocolError:
        """The failure as the exception that the client raises."""
        if self.error == ProtocolError.code:
            return ProtocolError(self.message)
        return request_error(self.error, self.message)
