"""One state table for both ends: what is legal now, and how many body bytes are due.

The two ends run the same ``Session``; it never touches a body, it only counts. A row that is missing
from a table *is* the violation (docs/protocol.md, session).
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Any

from ftpy.errors import ProtocolError
from ftpy.wire import codec, messages
from ftpy.wire.framing import HANDSHAKE_HEADER_BYTES, HEADER_BYTES, frame
from ftpy.wire.messages import (
    AnyReply,
    Challenge,
    Denied,
    FailureReply,
    Handshake,
    Hello,
    ProgressReply,
    Proof,
    Reply,
    Request,
    Trailer,
    UnknownRequest,
    Welcome,
)


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

Message = Handshake | Request | UnknownRequest | AnyReply | Trailer


class _Direction:
    """One direction of the stream: what it carries next and the body bytes still due."""

    __slots__ = ("due", "lane", "length")

    def __init__(self) -> None:
        self.lane = Lane.HEADER
        self.due = 0
        self.length = 0

    def header(self, body_length: int | None) -> None:
        if body_length is not None:
            self.due = self.length = body_length
            self.lane = NEXT_LANE[Lane.HEADER, True]
            self.body(0)

    def body(self, count: int) -> None:
        if count > self.due:
            raise ProtocolError(f"{count} body bytes where {self.due} are due")
        self.due -= count
        if self.lane is Lane.BODY:
            self.lane = NEXT_LANE[Lane.BODY, self.due > 0]

    @property
    def done(self) -> int:
        """Body bytes that passed."""
        return self.length - self.due

    @property
    def between_frames(self) -> bool:
        """Whether a header is what comes next."""
        return self.lane is Lane.HEADER

    @property
    def awaits_trailer(self) -> bool:
        """Whether the body is complete but not its trailer."""
        return self.lane is Lane.TRAILER

    def trailer(self) -> None:
        self.lane = NEXT_LANE[Lane.TRAILER, False]


class Session:
    """The protocol's state at one end; ``send`` and ``receive`` move it, or raise ProtocolError."""

    def __init__(self, own: Side) -> None:
        self.own = own
        self.peer = Side.SERVER if own is Side.CLIENT else Side.CLIENT
        self.state = State.HELLO_DUE
        self._directions = {Side.CLIENT: _Direction(), Side.SERVER: _Direction()}
        self.incoming = self._directions[self.peer]
        self.outgoing = self._directions[own]
        self._pending: deque[tuple[int, type[Reply]]] = deque()
        self._most_pending = 0

    @property
    def header_limit(self) -> int:
        """Longest header acceptable now, bytes."""
        return HEADER_BYTES if self.state is State.OPEN else HANDSHAKE_HEADER_BYTES

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
        if len(header) > limit:
            raise ProtocolError(f"a header of {len(header)} bytes where {limit} are the most")
        self._step(self.own, message)
        return frame(header)

    def receive(self, header: bytes) -> Message:
        """Hear a header: the message that it is."""
        message = self._decode(header)
        self._step(self.peer, message)
        return message

    def _decode(self, header: bytes) -> Message:
        if self.incoming.lane is Lane.TRAILER:
            return codec.decode(header, Trailer)
        if self.state is State.OPEN:
            if self.peer is Side.CLIENT:
                return codec.decode_request(header)
            kind = self._pending[0][1] if self._pending else Reply
            return codec.decode_reply(header, kind)
        return codec.decode_handshake(header)

    def _step(self, side: Side, message: Message) -> None:
        direction = self._directions[side]
        if direction.lane is Lane.BODY:
            raise ProtocolError(f"a header where {direction.due} body bytes are due")
        if isinstance(message, Trailer):
            if direction.lane is not Lane.TRAILER:
                raise ProtocolError("a trailer without a body")
            direction.trailer()
            return
        if direction.lane is Lane.TRAILER:
            raise ProtocolError("a trailer is due")
        if self._ends(side, message):
            self.state = State.CLOSED
        elif self.state is not State.OPEN:
            after = HANDSHAKE.get((self.state, side, type(message)))
            if after is None:
                raise ProtocolError(f"a {type(message).__name__} of the {side.value}: {self.state.value}")
            self.state = after
            if isinstance(message, Welcome):
                self._most_pending = message.limits.requests
        elif side is Side.CLIENT:
            self._request(message, direction)
        else:
            self._reply(message, direction)

    def _ends(self, side: Side, message: Message) -> bool:
        """Whether this is the server's last word: a failure that speaks of the connection."""
        if side is Side.CLIENT or self.state is State.CLOSED:
            return False
        return isinstance(message, FailureReply) and message.id == 0

    def _request(self, message: Message, direction: _Direction) -> None:
        if len(self._pending) >= self._most_pending:
            raise ProtocolError(f"more than {self._most_pending} requests under way")
        if isinstance(message, Request):
            self._pending.append((message.id, messages.reply_type(message)))
        elif isinstance(message, UnknownRequest):
            self._pending.append((message.id, Reply))
        else:
            raise ProtocolError(f"a {type(message).__name__} is not a request")
        direction.header(message.body_length)

    def _reply(self, message: Message, direction: _Direction) -> None:
        if not isinstance(message, Reply | ProgressReply | FailureReply):
            raise ProtocolError(f"a {type(message).__name__} is not a reply")
        if not self._pending:
            raise ProtocolError("a reply that nobody asked for")
        due, kind = self._pending[0]
        if message.id != due:
            raise ProtocolError(f"a reply to {message.id} where {due} is due")
        # A bare Reply stands for the answer to a verb that is not understood, of which there is no good one.
        if isinstance(message, Reply) and (type(message) is not kind or kind is Reply):
            raise ProtocolError(f"a {type(message).__name__} where a {kind.__name__} is due")
        if message.last:
            if len(self._pending) == 1 and not self._directions[Side.CLIENT].between_frames:
                raise ProtocolError("a reply before its request's body has ended")
            self._pending.popleft()
        direction.header(message.body_length)
