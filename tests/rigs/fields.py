"""What a byte of a connection belongs to, and where a flipped bit may stay without being noticed, with the reason."""

from __future__ import annotations

import json
import re

from ftpy.wire.framing import FrameBuffer

_MEMBER = re.compile(rb'"((?:[^"\\]|\\.)*)":')
_TLS = {20: "change-cipher-spec", 21: "alert", 22: "handshake", 23: "application"}

HARMLESS: dict[str, str] = {
    "TLS handshake record, version": "RFC 8446, 5.1: it MUST be ignored for all purposes; nothing reads it",
    "TLS change-cipher-spec record, version": "the same",
    "TLS farewell": "close_notify of the end that leaves last: all was said before, and the other one has gone",
    "welcome, server": "what the server calls itself: shown to people",
    "welcome, time_ns": "the server's clock: shown to people, nothing is decided by it",
    "welcome, limits": "who may send less is slower, who sends more is refused; the client holds its own limit",
    "welcome, digests": "a digest that is not offered is not used: refused, or another is taken",
    "welcome, rights": "shown to people: the server itself judges each request",
}
"""Where a flip may come to nothing -> why nothing can go wrong by it."""


_FAREWELL_BYTES = 2 + 1 + 16
"""An alert, its type and the tag, encrypted; no message is so short."""


def field_at(sent: bytes, offset: int, *, encrypted: bool) -> str:
    """What the byte at ``offset`` of one direction belongs to, ``MESSAGE, FIELD``; of TLS, the kind of record."""
    return _record_at(sent, offset) if encrypted else _member_at(sent, offset)


def _record_at(sent: bytes, offset: int) -> str:
    at = end = 0
    while end <= offset:
        at, length = end, int.from_bytes(sent[end + 3 : end + 5], "big")
        end = at + 5 + length
    kind = _TLS.get(sent[at], "?")
    if (kind, length) == ("application", _FAREWELL_BYTES):
        return "TLS farewell"
    part = ("type", "version", "version", "length", "length", "payload")[min(offset - at, 5)]
    return f"TLS {kind} record, {part}"


def _member_at(sent: bytes, offset: int) -> str:
    at = 0
    body = 0
    name = "?"
    while True:
        if offset < at + body:
            return f"{name}, body"
        at += body
        buffer = FrameBuffer(max(4, len(sent)))
        buffer.feed(sent[at:])
        header = buffer.next_header(65536)
        if header is None:
            return "an unfinished frame"
        begin, end = at + 4, at + 4 + len(header)
        fields = json.loads(header)
        trailer = "cmd" not in fields and "id" not in fields
        name = "trailer" if trailer else fields.get("cmd", "reply")
        if offset < begin:
            return f"{name}, the frame's length"
        if offset < end:
            return f"{name}, {_member(header, offset - begin)}"
        at, body = end, fields.get("length", 0)


def _member(header: bytes, offset: int) -> str:
    """The member of the outermost object in which an offset lies."""
    name = "{"
    for found in _MEMBER.finditer(header):
        before = re.sub(rb'"(?:[^"\\]|\\.)*"', b"", header[: found.start()])
        if before.count(b"{") - before.count(b"}") == 1 and found.start() <= offset:
            name = found[1].decode()
    return name
