"""The vectors of tests/vectors/ (its README defines them) and what feeds them to the wire."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ftpy.wire.framing import BUFFER_BYTES, FrameBuffer
from ftpy.wire.session import Message, Session, Side
from ftpy.wire.spelling import b64encode

FOLDER = Path(__file__).parents[1] / "vectors"
NONCE = b64encode(b"\x11" * 32)
HELLO = f'{{"cmd":"hello","protocol":1,"user":"alice","client_nonce":"{NONCE}","binding":"none"}}'.encode()
CHALLENGE = f'{{"cmd":"challenge","server_nonce":"{NONCE}"}}'.encode()
PROOF = f'{{"cmd":"proof","client_proof":"{NONCE}"}}'.encode()
WELCOME = (
    f'{{"cmd":"welcome","server_proof":"{NONCE}","server":"ftpy","time_ns":0,'
    '"limits":{"inline_bytes":1048576,"requests":256},"digests":["blake3","md5","xxh128"],"rights":["list","read","write"]}'
).encode()


def load(folder: str) -> dict[str, dict[str, Any]]:
    """The cases of one folder by name."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((FOLDER / folder).glob("*.json"))}


def from_hex(segments: list[list[Any]]) -> bytes:
    """The bytes that segments of hexadecimal stand for."""
    return b"".join(bytes.fromhex(text) * times for text, times in segments)


def header_of(case: dict[str, Any]) -> bytes:
    """The header of a case in ``headers/``."""
    if "header_hex" in case:
        return bytes.fromhex(case["header_hex"])
    text = case["header"]
    return (text if isinstance(text, str) else "".join(part * times for part, times in text)).encode()


def datagram_of(case: dict[str, Any]) -> bytes:
    """The datagram of a case in ``beacon/``."""
    if "datagram_hex" in case:
        return bytes.fromhex(case["datagram_hex"])
    return "".join(part * times for part, times in case["datagram"]).encode()


def cut(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """``data`` in pieces, cut at the offsets that lie inside."""
    offsets = [0, *sorted({at for at in cuts if 0 < at < len(data)}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(offsets)]


def pour(buffer: FrameBuffer, data: bytes) -> Iterator[None]:
    """Fill ``buffer`` with ``data`` as far as it has space, again and again; the caller empties it in between."""
    while data:
        count = min(len(buffer.space()), len(data))
        assert count, "no space while a frame is incomplete"
        buffer.feed(data[:count])
        data = data[count:]
        yield


class Listener:
    """One end's ears: a session and its buffer, fed with pieces; a body is heard as its number of bytes."""

    def __init__(self, session: Session, capacity: int = BUFFER_BYTES) -> None:
        self.session = session
        self.buffer = FrameBuffer(capacity)

    def feed(self, data: bytes) -> list[Message | int]:
        """What was heard. Raises ProtocolError."""
        heard: list[Message | int] = []
        for _ in pour(self.buffer, data):
            heard.extend(self._drain())
        return heard

    def _drain(self) -> Iterator[Message | int]:
        while True:
            if due := self.session.incoming.due:
                count = len(self.buffer.take(due))
                self.session.incoming.body(count)
                if not count:
                    return
                yield count
            else:
                header = self.buffer.next_header(self.session.header_limit)
                if header is None:
                    return
                yield self.session.receive(header)


class Conversation:
    """Two ends that hear each other: what one says, cut into pieces, is heard by the other, or refused there."""

    def __init__(self) -> None:
        self.ends = {side: Listener(Session(side)) for side in Side}

    def open(self) -> Conversation:
        """Say a legal handshake."""
        for side, header in (
            (Side.CLIENT, HELLO),
            (Side.SERVER, CHALLENGE),
            (Side.CLIENT, PROOF),
            (Side.SERVER, WELCOME),
        ):
            self.say(side, [len(header).to_bytes(4, "little") + header])
        return self

    def say(self, side: Side, pieces: Iterable[bytes]) -> list[Message | int]:
        """``side`` says bytes: what the other heard; both ends are then in step. Raises ProtocolError."""
        own = self.ends[side].session
        listener = self.ends[own.peer]
        heard = [item for piece in pieces for item in listener.feed(piece)]
        for item in heard:
            if isinstance(item, int):
                own.outgoing.body(item)
            else:
                own.send(item)
        self.assert_in_step()
        return heard

    def assert_in_step(self) -> None:
        """Assert that both ends believe the same."""
        client, server = self.ends[Side.CLIENT].session, self.ends[Side.SERVER].session
        assert client.state is server.state
        assert client.pending == server.pending
        assert client.oldest == server.oldest
        assert client.at_rest == server.at_rest
        for mine, theirs in ((client.outgoing, server.incoming), (client.incoming, server.outgoing)):
            assert (mine.lane, mine.due) == (theirs.lane, theirs.due)
