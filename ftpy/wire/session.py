"""One state table for both ends: what is legal now, and how many body bytes are due.

The two ends run the same ``Session``; it never touches a body, it only counts. A row that is missing
from a table *is* the violation (docs/protocol.md, session).
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Any

from ftpy.digests import DigestName, PartDigestName
from ftpy.errors import ProtocolError
from ftpy.wire import codec, messages
from ftpy.wire.bases import Continuation, FailureReply, ProgressReply, Reply, Request, UnknownRequest
from ftpy.wire.fields import Trailer
from ftpy.wire.framing import HANDSHAKE_HEADER_BYTES, HEADER_BYTES, frame
from ftpy.wire.handshake import Challenge, Denied, Handshake, Hello, Proof, Welcome
from ftpy.wire.messages import AnyReply


class _Word(enum.Enum):
    """A word of the tables below, which are looked into several times for every message."""

    __hash__ = object.__hash__  # members are the only ones of their kind; Enum's own hash is a call in Python


class Side(_Word):
    """Who speaks."""

    CLIENT = "client"
    SERVER = "server"


class State(_Word):
    """How far the connection is."""

    HELLO_DUE = "hello is due"
    CHALLENGE_DUE = "challenge is due"
    PROOF_DUE = "proof is due"
    VERDICT_DUE = "welcome or denied is due"
    OPEN = "open"
    CLOSED = "closed"


class Lane(_Word):
    """What one direction carries next."""

    HEADER = "header"
    BODY = "body"
    TRAILER = "trailer"


HANDSHAKE: dict[tuple[State, Side, type[Any]], State] = {
    (State.HELLO_DUE, Side.CLIENT, Hello): State.CHALLENGE_DUE,
    (State.CHALLENGE_DUE, Side.SERVER, Challenge): State.PROOF_DUE,
    (State.PROOF_DUE, Side.CLIENT, Proof): State.VERDICT_DUE,
    (State.VERDICT_DUE, Side.SERVER, Welcome): State.OPEN,
    (State.VERDICT_DUE, Side.SERVER, Denied): State.CLOSED,
}
"""Who may say what before requests flow, and where it leads; a server's failure of id 0 may end any of them."""

NEXT_LANE: dict[tuple[Lane, bool], Lane] = {
    (Lane.HEADER, False): Lane.HEADER,
    (Lane.HEADER, True): Lane.BODY,
    (Lane.BODY, False): Lane.TRAILER,
    (Lane.BODY, True): Lane.BODY,
    (Lane.TRAILER, False): Lane.HEADER,
}
"""(what was carried, whether body bytes are due after it) -> what comes next."""

# Looked up for every message: a table's rows and an enum's members by names of their own.
_HEADER, _BODY, _TRAILER = Lane
_BEGIN_BODY, _END_BODY, _END_TRAILER = (
    NEXT_LANE[Lane.HEADER, True],
    NEXT_LANE[Lane.BODY, False],
    NEXT_LANE[Lane.TRAILER, False],
)
_OPEN, _CLIENT = State.OPEN, Side.CLIENT

_REPLIES = (Reply, ProgressReply, FailureReply)

Message = Handshake | Request | Continuation | UnknownRequest | AnyReply | Trailer


class _Direction:
    """One direction of the stream: what it carries next and the body bytes still due."""

    __slots__ = ("due", "lane", "length")

    def __init__(self) -> None:
        self.lane = Lane.HEADER
        self.due = 0
        self.length = 0

    def header(self, body_length: int) -> None:
        self.due = self.length = body_length
        self.lane = _BEGIN_BODY if body_length else _END_BODY

    def body(self, count: int) -> None:
        if count > self.due:
            raise ProtocolError(f"{count} body bytes where {self.due} are due")
        self.due -= count
        if not self.due and self.lane is _BODY:
            self.lane = _END_BODY

    @property
    def done(self) -> int:
        """Body bytes that passed."""
        return self.length - self.due

    @property
    def between_frames(self) -> bool:
        """Whether a header is what comes next."""
        return self.lane is _HEADER

    @property
    def awaits_trailer(self) -> bool:
        """Whether the body is complete but not its trailer."""
        return self.lane is _TRAILER

    def trailer(self) -> None:
        if self.lane is not _TRAILER:
            raise ProtocolError("a trailer without a body" if self.lane is _HEADER else self._unfinished())
        self.lane = _END_TRAILER

    def refuse_header(self) -> None:
        raise ProtocolError("a trailer is due" if self.lane is _TRAILER else self._unfinished())

    def _unfinished(self) -> str:
        return f"a header where {self.due} body bytes are due"


class Session:
    """The protocol's state at one end; ``send`` and ``receive`` move it, or raise ProtocolError."""

    def __init__(self, own: Side) -> None:
        self.own = own
        self.peer = Side.SERVER if own is Side.CLIENT else Side.CLIENT
        self.state = State.HELLO_DUE
        self._directions = {Side.CLIENT: _Direction(), Side.SERVER: _Direction()}
        self.incoming = self._directions[self.peer]
        self.outgoing = self._directions[own]
        self.adds_crc = False
        """Whether headers that are said carry their CRC-32; a server's do as soon as the client's did."""
        self._pending: deque[tuple[int, type[Reply]]] = deque()
        self._most_pending = 0
        self._alone = False
        """The last request takes more: while it is under way there is no other."""
        self._continued: int | None = None
        """The id of the last one that does, under way or not: what is said of it may cross its last reply."""

    @property
    def header_limit(self) -> int:
        """Longest header acceptable now, bytes."""
        return HEADER_BYTES if self.state is _OPEN else HANDSHAKE_HEADER_BYTES

    @property
    def pending(self) -> int:
        """Requests without their last reply."""
        return len(self._pending)

    @property
    def oldest(self) -> int | None:
        """The id of the request whose reply is due next, or None."""
        return self._pending[0][0] if self._pending else None

    @property
    def at_rest(self) -> bool:
        """Whether no request is under way and both directions are between frames."""
        return not self._pending and self.incoming.between_frames and self.outgoing.between_frames

    def send(self, message: Message) -> bytes:
        """Say ``message``: the frame to put on the wire."""
        limit = self.header_limit
        header = codec.encode(message)
        if self.adds_crc and type(message) is not Trailer:
            header = codec.add_crc(header)
        if len(header) > limit:
            raise ProtocolError(f"a header of {len(header)} bytes where {limit} are the most")
        self._step(self.own, message)
        return frame(header)

    def send_trailer(self, name: DigestName | PartDigestName, value: str) -> bytes:
        """Say the trailer with this digest: the frame to put on the wire."""
        self.outgoing.trailer()
        return frame(codec.trailer_header(name, value))

    def receive_trailer(self, header: bytes, name: DigestName | PartDigestName, value: str) -> Trailer | None:
        """Hear the header of a trailer and compare: None where it is this digest, else the trailer."""
        if header == codec.trailer_header(name, value):  # at one glance, what nearly all are
            self.incoming.trailer()
            return None
        message = self.receive(header)
        if not isinstance(message, Trailer):
            raise ProtocolError("a trailer is due")
        return None if (message.name, message.hex) == (name, value) else message

    def receive(self, header: bytes) -> Message:
        """Hear a header: the message that it is."""
        has_crc = self.state is _OPEN and codec.has_crc(header) and self.incoming.lane is not _TRAILER
        message = self._decode(codec.without_crc(header) if has_crc else header)
        self._step(self.peer, message)
        if has_crc:
            self.adds_crc = True
        return message

    def _decode(self, header: bytes) -> Message:
        if self.incoming.lane is _TRAILER:
            return codec.decode(header, Trailer)
        if self.state is _OPEN:
            if self.peer is _CLIENT:
                return codec.decode_request(header)
            kind = self._pending[0][1] if self._pending else Reply
            return codec.decode_reply(header, kind)
        return codec.decode_handshake(header)

    def _step(self, side: Side, message: Message) -> None:
        direction = self._directions[side]
        if type(message) is Trailer:
            direction.trailer()
            return
        if direction.lane is not _HEADER:
            direction.refuse_header()
        if self.state is _OPEN and side is _CLIENT:
            self._request(message, direction)
        elif type(message) is FailureReply and self._ends(side, message):
            self.state = State.CLOSED
        elif self.state is _OPEN:
            self._reply(message, direction)
        else:
            self._shake_hands(side, message)

    def _shake_hands(self, side: Side, message: Message) -> None:
        after = HANDSHAKE.get((self.state, side, type(message)))
        if after is None:
            raise ProtocolError(f"a {type(message).__name__} of the {side.value}: {self.state.value}")
        self.state = after
        if isinstance(message, Welcome):
            self._most_pending = message.limits.requests

    def _ends(self, side: Side, message: FailureReply) -> bool:
        """Whether this is the server's last word: a failure that speaks of the connection."""
        return side is not _CLIENT and self.state is not State.CLOSED and message.id == 0

    def _request(self, message: Message, direction: _Direction) -> None:
        if isinstance(message, Request):
            self._begin(message, messages.reply_type(message))
        elif isinstance(message, Continuation):
            if message.id != self._continued:
                raise ProtocolError(f"more of {message.id}, which takes none")
        elif isinstance(message, UnknownRequest):
            self._begin(message, Reply)
        else:
            raise ProtocolError(f"a {type(message).__name__} is not a request")
        if (length := message.body_length) is not None:
            direction.header(length)

    def _begin(self, request: Request | UnknownRequest, kind: type[Reply]) -> None:
        if len(self._pending) >= self._most_pending:
            raise ProtocolError(f"more than {self._most_pending} requests under way")
        if self._alone and self._pending:
            raise ProtocolError("another request before the end of one that takes more")
        self._pending.append((request.id, kind))
        self._alone = request.takes_more
        if self._alone:
            self._continued = request.id

    def _reply(self, message: Message, direction: _Direction) -> None:
        if not isinstance(message, _REPLIES):
            raise ProtocolError(f"a {type(message).__name__} is not a reply")
        pending = self._pending
        if not pending:
            raise ProtocolError("a reply that nobody asked for")
        due, kind = pending[0]
        if message.id != due:
            raise ProtocolError(f"a reply to {message.id} where {due} is due")
        # A bare Reply stands for the answer to a verb that is not understood, of which there is no good one.
        if (type(message) is not kind or kind is Reply) and isinstance(message, Reply):
            raise ProtocolError(f"a {type(message).__name__} where a {kind.__name__} is due")
        if message.last:
            if len(pending) == 1 and not self._directions[_CLIENT].between_frames:
                raise ProtocolError("a reply before its request's body has ended")
            pending.popleft()
        if (length := message.body_length) is not None:
            direction.header(length)
