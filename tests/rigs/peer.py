"""A peer that says what no client of ours would: raw headers over an authenticated connection."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from ftpy.client.connection import Connection
from ftpy.errors import ConnectionLost
from ftpy.transport.stream import Stream
from ftpy.wire.framing import HEADER_BYTES, frame
from ftpy.wire.spelling import b64encode
from tests.rig import FAST, Host


@dataclass(frozen=True)
class Answer:
    """The last reply to a request, the entries of all pages, and the body if there was one."""

    fields: dict[str, Any]
    entries: tuple[dict[str, Any], ...] = ()
    body: bytes = b""

    @property
    def error(self) -> str | None:
        """The error code, None for a good reply."""
        return None if self.fields["ok"] else str(self.fields["error"])


class RawPeer:
    """Authenticated like a client, then on its own; connects again after the server has ended the connection."""

    def __init__(self, host: Host, user: str = "alice") -> None:
        self.host, self._user = host, user
        self._connection: Connection | None = None
        self._next_id = 1

    def close(self) -> None:
        """Leave."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _stream(self) -> Stream:
        if self._connection is None:
            self._connection = Connection.open(self.host.profile(self._user), FAST)
        return self._connection.channel.stream

    def ask(self, cmd: str, body: bytes | None = None, hashed_by: str = "md5", **fields: Any) -> Answer:
        """Send one request, with its body and trailer if there is one, and wait for its answer.

        Characters outside ASCII are escaped, so that lone surrogates can be said, too.
        """
        header = {"cmd": cmd, "id": self._next_id, **fields}
        self._next_id += 1
        if body is not None:
            header["length"] = len(body)
        data = frame(json.dumps(header).encode("ascii"))
        if body is not None:
            hasher = hashlib.md5(body) if hashed_by == "md5" else blake3(body)
            data += body + frame(json.dumps({hashed_by: hasher.hexdigest()}).encode("ascii"))
        self._stream.send(data)
        return self._answer()

    def _answer(self) -> Answer:
        entries: list[dict[str, Any]] = []
        while True:
            fields = self._header()
            if "progress" in fields:
                continue
            entries += fields.get("entries", [])
            if fields.get("complete", True):
                break
        body = b""
        if "length" in fields and fields["ok"]:
            body = self._body(fields["length"])
            self._header()
        if fields["id"] == 0:  # the server's last word
            assert self._stream.receive_header(HEADER_BYTES) is None
            self.close()
        return Answer(fields, tuple(entries), body)

    def _header(self) -> dict[str, Any]:
        header = self._stream.receive_header(HEADER_BYTES)
        if header is None:
            raise ConnectionLost("the server closed the connection without a word")
        fields: dict[str, Any] = json.loads(header)
        return fields

    def _body(self, length: int) -> bytes:
        body = bytearray(length)
        view = memoryview(body)
        while view:
            view = view[self._stream.receive_some(view) :]
        return bytes(body)


DONOR = "moved-there"
"""A file that ``mv to`` moves to the path."""
MOVED = "moved-here"
"""Where ``mv`` moves what is at the path."""
VERBS = ("put", "put in parts", "get", "ls", "ls below", "stat", "digest", "rm", "rm below", "mv", "mv to")
"""Every verb that names a path, but for touch; part, commit and abort name an upload."""
TOUCHED_NS = 3
"""The time that ``touch`` gives."""
WRITES = frozenset({"put", "put in parts"})
CHANGES = WRITES | {"rm", "rm below", "mv", "mv to"}


def ask_about(peer: RawPeer, verb: str, data: bytes, **path: Any) -> Answer:
    """Ask one of VERBS, or touch, about ``path`` or ``path_b64``; what is put is ``data``, not empty."""
    match verb:
        case "put":
            return peer.ask("put", data, file_size=len(data), mtime_ns=1, **path)
        case "put in parts":
            opened = peer.ask("put", file_size=len(data), mtime_ns=2, **path)
            if opened.error is not None:
                return opened
            upload = opened.fields["upload"]
            stored = peer.ask("part", data, "blake3", upload=upload, part=0)
            assert stored.error is None, stored
            committed = peer.ask("commit", upload=upload, digest={"md5": hashlib.md5(data).hexdigest()})
            if committed.error is not None:
                peer.ask("abort", upload=upload)
            return committed
        case "touch":
            return peer.ask("touch", mtime_ns=TOUCHED_NS, **path)
        case "ls below" | "rm below":
            return peer.ask(verb.split()[0], recursive=True, **path)
        case "mv":
            return peer.ask("mv", to=MOVED, **path)
        case "mv to":
            return peer.ask("mv", path=DONOR, **{field.replace("path", "to"): text for field, text in path.items()})
        case _:
            return peer.ask(verb, **path)


def as_b64(text: str) -> str:
    """A path's bytes as ``path_b64`` carries them."""
    return b64encode(text.encode("utf-8", "surrogateescape"))
