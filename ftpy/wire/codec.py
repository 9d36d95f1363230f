"""Messages <-> the bytes of headers, strictly: what two readers could take differently is refused."""

from __future__ import annotations

import re
import zlib
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from ftpy.digests import DigestName, PartDigestName
from ftpy.errors import ProtocolError
from ftpy.wire.bases import Continuation, FailureReply, ProgressReply, Reply, Request, UnknownRequest
from ftpy.wire.fields import ConnectionId, RequestId, Size, Trailer
from ftpy.wire.handshake import Handshake
from ftpy.wire.messages import VERBS, AnyReply, Continuations, Requests

T = TypeVar("T")


class _Verb(Struct):
    """Just enough of a request to answer one that is not understood."""

    cmd: str
    id: RequestId
    length: Size | None = None


class _Opening(Struct):
    """Just enough of what is said in a handshake to tell a message of it from a failure."""

    cmd: str | None = None


class _Outcome(Struct):
    """Just enough of a reply to know which struct it is."""

    id: ConnectionId
    ok: bool | None = None


_encoder = msgspec.json.Encoder()
_requests: msgspec.json.Decoder[Request | Continuation] = msgspec.json.Decoder(Requests | Continuations)
_verb = msgspec.json.Decoder(_Verb)
_opening = msgspec.json.Decoder(_Opening)
_handshake: msgspec.json.Decoder[Handshake] = msgspec.json.Decoder(Handshake)
_outcome = msgspec.json.Decoder(_Outcome)
_progress = msgspec.json.Decoder(ProgressReply)
_failure = msgspec.json.Decoder(FailureReply)
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {Trailer: msgspec.json.Decoder(Trailer)}
_MALFORMED = (msgspec.DecodeError, ValueError, RecursionError)
"""What the decoders raise, of which RecursionError is for arrays within arrays within arrays."""

MOST_DEPTH = 32
"""Deepest nesting of a header; no message of ours has more than 3, and how much a parser holds differs."""
MOST_QUOTED = 200
"""Characters of what is wrong with a header."""
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_BRACKET = re.compile(rb"[\[\]{}]")

encode = _encoder.encode
"""A message as the bytes of a header."""


def trailer_header(name: DigestName | PartDigestName, value: str) -> bytes:
    """The header of a trailer, as ``encode`` spells it."""
    return f'{{"{name}":"{value}"}}'.encode()


_CRC = b',"crc32":"'
"""Ten bytes; eight digits and two more bytes follow, to the end of the header."""


def add_crc(header: bytes) -> bytes:
    """The header with a CRC-32 of itself as its last member (docs/protocol.md 3.9)."""
    return b'%b,"crc32":"%08x"}' % (header[:-1], zlib.crc32(header[:-1]))


def has_crc(header: bytes) -> bool:
    """Whether it ends with its CRC-32; no string can hold these bytes, for a quote in one is escaped."""
    return header[-20:-10] == _CRC


def without_crc(header: bytes) -> bytes:
    """A header that ``has_crc`` without it. Raises ProtocolError unless it is the right one."""
    if header[-10:] != b'%08x"}' % zlib.crc32(header[:-20]):
        raise ProtocolError("a header was damaged on its way")
    return header[:-20] + b"}"


def decode(header: bytes, kind: type[T]) -> T:
    """The header as a ``kind`` (a struct, or a union of tagged ones). Raises ProtocolError."""
    decoder = _decoders.get(kind)
    if decoder is None:
        prepare(kind)
        decoder = _decoders[kind]
    message: T = _strictly(decoder, header)
    return message


def is_prepared(kind: Any) -> bool:
    """Whether there is a decoder of this ``kind`` already."""
    return kind in _decoders


def prepare(kind: Any) -> None:
    """Make the decoder of a ``kind``; else it is made for the first one that comes."""
    _decoders[kind] = msgspec.json.Decoder(kind)


def decode_handshake(header: bytes) -> Handshake | AnyReply:
    """The header as a message of the handshake, or as a failure, which has no ``cmd``. Raises ProtocolError."""
    if _strictly(_opening, header, check=False).cmd is None:
        return decode_reply(header, Reply)
    return _strictly(_handshake, header)


def decode_request(header: bytes) -> Request | Continuation | UnknownRequest:
    """The header as a request, or as more of one. Raises ProtocolError."""
    try:
        message = _requests.decode(header)
    except _MALFORMED:
        verb = _strictly(_verb, header, check=False)
        if verb.cmd in VERBS:
            return _strictly(_requests, header)  # raises, and says which field
        _refuse_ambiguity(header)
        return UnknownRequest(cmd=verb.cmd, id=verb.id, length=verb.length)
    if _encoder.encode(message) != header:
        _refuse_ambiguity(header)
    return message


def decode_reply(header: bytes, kind: type[Reply]) -> AnyReply:
    """The header as the reply that is due: a ``kind``, a failure or progress. Raises ProtocolError."""
    decoder = _decoders.get(kind)
    if decoder is not None:
        # At one glance, what nearly all replies are: a good one, spelt as we would spell it.
        try:
            message: Reply = decoder.decode(header)
        except _MALFORMED:
            pass  # told below
        else:
            if message.ok and _encoder.encode(message) == header:
                return message
    outcome = _strictly(_outcome, header, check=False)
    if outcome.ok is True:
        return decode(header, kind)
    if outcome.ok is False:
        return _strictly(_failure, header)
    return _strictly(_progress, header)


def _strictly(decoder: msgspec.json.Decoder[T], header: bytes, *, check: bool = True) -> T:
    try:
        message: T = decoder.decode(header)
    except _MALFORMED as error:
        raise _illegal(error) from None
    # What encodes back to the same bytes has no field twice; only what differs needs the slow look.
    if check and _encoder.encode(message) != header:
        _refuse_ambiguity(header)
    return message


def _refuse_ambiguity(header: bytes) -> None:
    """Refuse what two readers could read differently: a field that comes twice, a number with a fraction."""

    import json  # here: hardly any header comes so far

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise ProtocolError("not a legal header: a field comes twice")
        return fields

    def fraction(_: str) -> int:
        raise ProtocolError("not a legal header: a number with a fraction or an exponent")

    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", header)):
        depth += 1 if bracket in b"[{" else -1
        if depth > MOST_DEPTH:
            raise ProtocolError(f"not a legal header: nested deeper than {MOST_DEPTH}")
    try:
        json.loads(header, object_pairs_hook=unique, parse_float=fraction)
    except _MALFORMED as error:
        raise _illegal(error) from None


def _illegal(error: BaseException) -> ProtocolError:
    """What is wrong with a header; it may quote a name of the peer's, of which the beginning will do."""
    return ProtocolError(f"not a legal header: {str(error)[:MOST_QUOTED]}")
