"""What somebody between client and server may do to the frames of a handshake, one change at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import itemgetter

from ftpy.wire.framing import frame
from ftpy.wire.messages import VERBS

UP, DOWN = 0, 1


@dataclass(frozen=True)
class Spot:
    """A frame of the handshake: ``number`` of those that go that way, from 0."""

    way: int
    number: int

    def __str__(self) -> str:
        return NAMES[self]


HELLO, CHALLENGE, PROOF, WELCOME = Spot(UP, 0), Spot(DOWN, 0), Spot(UP, 1), Spot(DOWN, 1)
NAMES = {HELLO: "hello", CHALLENGE: "challenge", PROOF: "proof", WELCOME: "welcome"}


def _as_it_is(whole: bytes) -> bytes:
    return whole


@dataclass(frozen=True)
class Change:
    """What is done when the frame at ``spot`` comes by, in words and as (which way, bytes), None for the frame itself.

    The frame is ``altered`` first.
    """

    name: str
    spot: Spot
    said: tuple[tuple[int, bytes | None], ...]
    altered: Callable[[bytes], bytes] = _as_it_is
    is_answered: bool = False
    """Whether an end must say what it makes of it: who waits for more that will not come says nothing."""

    def instead(self, whole: bytes) -> list[tuple[int, bytes]]:
        """What is sent in place of a frame, one piece after the other: what goes the same way is glued together."""
        whole = self.altered(whole)
        pieces = [(way, whole if piece is None else piece) for way, piece in self.said]
        return [(way, b"".join(piece for _, piece in together)) for way, together in groupby(pieces, key=itemgetter(0))]


def _alone(name: str, spot: Spot, altered: Callable[[bytes], bytes]) -> Change:
    return Change(name, spot, ((spot.way, None),), altered)


def flips(said: dict[Spot, bytes]) -> Iterator[Change]:
    """Every bit of every frame, its length included; ``said`` are the frames of a handshake that nobody changed."""
    for spot, whole in said.items():
        for bit in range(8 * len(whole)):
            yield _alone(f"bit {bit} of {spot} flipped", spot, partial(_flipped, bit))


def _flipped(bit: int, whole: bytes) -> bytes:
    changed = bytearray(whole)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


PUT = b'{"cmd":"put","id":1,"path":"owned","file_size":1,"mtime_ns":1,"length":1}'
MESSAGES: dict[str, bytes] = {
    **{verb: frame(b'{"cmd":"%b","id":1,"path":"there"}' % verb.encode()) for verb in VERBS},
    "put": frame(PUT) + b"x" + frame(b'{"md5":"9dd4e461268c8034f5c8564e155c67a6"}'),
    "mkdir": frame(b'{"cmd":"mkdir","id":1,"path":"owned"}'),
    "commit": frame(b'{"cmd":"commit","id":1,"upload":"%032d","digest":{"md5":"%032d"}}' % (1, 1)),
    "abort": frame(b'{"cmd":"abort","id":1,"upload":"%032d"}' % 1),
    "times": frame(b'{"cmd":"times","id":1}'),
    "a verb of tomorrow": frame(b'{"cmd":"teleport","id":1}'),
    "a good reply": frame(b'{"id":1,"ok":true}'),
    "a listing": frame(b'{"id":1,"ok":true,"entries":[],"complete":true}'),
    "progress": frame(b'{"id":1,"progress":1}'),
    "a failure": frame(b'{"id":1,"ok":false,"error":"not-found"}'),
    "a last word": frame(b'{"id":0,"ok":false,"error":"no-space"}'),
    "denied": frame(b'{"cmd":"denied"}'),
    "a trailer": frame(b'{"md5":"%032d"}' % 1),
    "an empty frame": bytes(4),
    "a frame too long": (2049).to_bytes(4, "little") + b'{"cmd":"hello"}',
    "noise": b"\xff" * 16,
}
"""What does not belong into a handshake, or not there."""


def insertions() -> Iterator[Change]:
    """Each of ``MESSAGES`` before and behind each frame of the handshake, in either direction.

    Not behind the welcome: by then the session is open, and what is said in it is the channel's to protect.
    """
    for spot in NAMES:
        for name, extra in MESSAGES.items():
            for way, to in ((UP, "the server"), (DOWN, "the client")):
                if (spot, way) != (WELCOME, UP):
                    yield Change(f"{name} to {to} before {spot}", spot, ((way, extra), (spot.way, None)))
                if spot != WELCOME:
                    yield Change(f"{name} to {to} behind {spot}", spot, ((spot.way, None), (way, extra)))


def rearrangements(said: dict[Spot, bytes]) -> Iterator[Change]:
    """Frames dropped, doubled, exchanged, replayed from the handshake ``said``, and sent back to who said them."""
    for spot in said:
        way = spot.way
        own = (way, None)
        yield Change(f"{spot} dropped", spot, ())
        yield Change(f"{spot} doubled", spot, (own, own))
        yield Change(f"{spot} sent back instead", spot, ((1 - way, None),))
        yield Change(f"{spot} sent back as well", spot, (own, (1 - way, None)))
        for other, old in said.items():
            yield Change(f"an old {other} instead of {spot}", spot, ((way, old),))
            yield Change(f"an old {other} before {spot}", spot, ((way, old), own))
            yield Change(f"an old {other} behind {spot}", spot, (own, (way, old)))


LEGAL = frozenset({"server ''", "rights []", "digests []", "time_ns -1"})
"""What a welcome may say: unusual, but in its range."""


ODD: tuple[object, ...] = (None, True, 1.5, [], {}, -1, 2**70, "")


def headers_of(message: bytes) -> dict[str, bytes]:
    """Other spellings of a header of the handshake, none of which may be taken: by what was done to it."""
    fields = json.loads(message)
    found = {"nothing": b"{}", "no object": b"[]", "a byte order mark": b"\xef\xbb\xbf" + message}
    found |= {f"a byte {byte:#04x} behind": message + bytes([byte]) for byte in (0, 0x7B, 0x7D, 0x2C, 0xFF)}
    found["two objects"] = message + message
    found["one field too many"] = _json(fields | {"extra": 1})
    for name, value in fields.items():
        member = _json({name: value})[1:-1]
        found[f"{name} twice"] = message[:-1] + b"," + member + b"}"
        found[f"{name} twice, one spelt with an escape"] = (
            message[:-1] + b"," + member.replace(name.encode(), b"\\u%04x" % ord(name[0]) + name[1:].encode(), 1) + b"}"
        )
        found[f"{name} missing"] = _json({key: kept for key, kept in fields.items() if key != name})
        for odd in ODD:
            if f"{name} {odd!r}" not in LEGAL:
                found[f"{name} {odd!r}"] = _json(fields | {name: odd})
        if isinstance(value, str) and len(value) == 43:
            found |= {f"{name} {how}": _json(fields | {name: text}) for how, text in _base64(value).items()}
    if "protocol" in fields:
        for text in (b"0", b"2", b"65535", b"65536", b"-1", b'"1"', b"1.0", b"1e0", b"01", b"true", b"NaN"):
            found[f"protocol {text.decode()}"] = message.replace(b'"protocol":1', b'"protocol":' + text)
        for binding in ("none", "tls-cert-sha256", "tls-unique", "tls-exporter"):
            if binding != fields["binding"]:
                found[f"binding {binding}"] = _json(fields | {"binding": binding})
    return found


def _base64(value: str) -> dict[str, str]:
    """32 bytes spelt as they may not be."""
    return {
        "padded": value + "=",
        "too short": value[:-1],
        "too long": value + "A",
        "with unused bits": value[:-1] + chr(ord(value[-1]) + 1),
        "with white space": " " + value[1:],
        "in the other alphabet": "+/" + value[2:],
    }


def _json(fields: object) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def respellings(said: dict[Spot, bytes]) -> Iterator[Change]:
    """Each frame in every spelling that is none."""
    for spot, whole in said.items():
        for how in headers_of(whole[4:]):
            yield replace(_alone(f"{spot} with {how}", spot, partial(_respelt, how)), is_answered=True)


def _respelt(how: str, whole: bytes) -> bytes:
    return frame(headers_of(whole[4:])[how])
