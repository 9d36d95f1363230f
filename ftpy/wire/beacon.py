"""Questions and answers of the beacon: a datagram each, without a connection or a proof (docs/protocol.md 20)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from msgspec import Meta

from ftpy.errors import ProtocolError
from ftpy.wire import codec
from ftpy.wire.fields import Hex64, Message, Time
from ftpy.wire.spelling import b64encode

QUESTION_BYTES = 1024
"""Length of every question; no answer is longer. Below 1,280 less the headers, which every network of IPv6 passes."""
NONCE_BYTES = 16
GROUP = "ff12::6674:7079"
"""The IPv6 group that is asked for any server: link-local, transient (RFC 4291, 2.7), and ``ftpy`` in ASCII."""
NAME_CHARACTERS, SERVER_CHARACTERS, ZONE_CHARACTERS = 64, 32, 16

T = TypeVar("T")

_PLAIN = r"^[^\x00-\x1f\x7f]*\Z"
Nonce = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{21}[AQgw]\Z")]
"""NONCE_BYTES as canonical base64url."""
Name = Annotated[str, Meta(pattern=_PLAIN, max_length=NAME_CHARACTERS)]


class Question(Message, frozen=True, kw_only=True, tag_field="ftpy", tag="ask"):
    """Who is there, and what is the time? ``pad`` makes it as long as every question."""

    version: Literal[1]
    nonce: Nonce
    pad: Annotated[str, Meta(pattern=r"^0*\Z")]


class Answer(Message, frozen=True, kw_only=True, tag_field="ftpy", tag="tell"):
    """A host's clock when the question came and when this left, and where its server is. Hearsay, all of it."""

    version: Literal[1]
    nonce: Nonce
    received_ns: Time
    sent_ns: Time
    utc_offset_seconds: Annotated[int, Meta(ge=-86_399, le=86_399)]
    zone: Annotated[str, Meta(pattern=_PLAIN, max_length=ZONE_CHARACTERS)]
    name: Name
    server: Annotated[str, Meta(pattern=_PLAIN, max_length=SERVER_CHARACTERS)]
    port: Annotated[int, Meta(ge=0, le=65_535)]
    certificate_sha256: Hex64 | None

    def __post_init__(self) -> None:
        if self.sent_ns < self.received_ns:
            raise ValueError("an answer that left before its question came")


Datagram: Any = Question | Answer
"""Both at once: what has no word for which one it is, is neither."""


def ask(nonce: bytes) -> bytes:
    """The question with this nonce, NONCE_BYTES."""
    bare = codec.encode(Question(version=1, nonce=b64encode(nonce), pad=""))
    return bare[:-2] + b"0" * (QUESTION_BYTES - len(bare)) + b'"}'


def read_question(datagram: bytes) -> Question:
    """The question that a datagram is. Raises ProtocolError."""
    if len(datagram) != QUESTION_BYTES:
        raise ProtocolError(f"a question has {QUESTION_BYTES} bytes")
    return _read(datagram, Question)


def read_answer(datagram: bytes) -> Answer:
    """The answer that a datagram is. Raises ProtocolError."""
    if len(datagram) > QUESTION_BYTES:
        raise ProtocolError("an answer is not longer than its question")
    return _read(datagram, Answer)


def _read(datagram: bytes, kind: type[T]) -> T:
    message = codec.decode(datagram, Datagram)
    if not isinstance(message, kind):
        raise ProtocolError("a question where an answer is due, or the other way round")
    return message


def tell(answer: Answer) -> bytes:
    """The answer as a datagram; with the types of its fields it is never longer than a question."""
    return codec.encode(answer)
