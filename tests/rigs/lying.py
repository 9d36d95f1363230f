"""A server that holds the right key and says what it likes: right answers of a small model, handed to a liar first."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import msgspec

from ftpy.config.client import Profile
from ftpy.digests import DigestName, hexdigest
from ftpy.errors import Denied
from ftpy.wire import auth
from ftpy.wire.bases import Continuation, FailureReply, Request
from ftpy.wire.codec import decode, encode, has_crc, trailer_header, without_crc
from ftpy.wire.commands import CommandEntry, CommandsReply, RunReply, RunRequest, StreamName
from ftpy.wire.entries import Entry
from ftpy.wire.fields import Trailer, digest_of
from ftpy.wire.framing import HEADER_BYTES, FrameBuffer, frame
from ftpy.wire.handshake import Hello, Limits, Proof, Welcome
from ftpy.wire.messages import (
    CommitRequest,
    Continuations,
    DigestReply,
    DigestRequest,
    GetReply,
    GetRequest,
    LsReply,
    LsRequest,
    PartReply,
    PutRequest,
    Requests,
    RmReply,
    StatReply,
    StatRequest,
    StoredReply,
    UploadReply,
    reply_type,
)
from ftpy.wire.operations import (
    BeginReply,
    BeginRequest,
    LeftEntry,
    OperationEntry,
    OperationsReply,
    OperationsRequest,
    UndoReply,
    UndoRequest,
)
from ftpy.wire.ping import PingReply, PingRequest
from ftpy.wire.spelling import b64encode
from ftpy.wire.trees import RollbackRequest, StageReply, StageRequest, SwapRequest
from ftpy.wire.upkeep import DfReply, DfRequest, TouchReply, TouchRequest
from tests.rigs.impostors import Identity

WAIT_SECONDS = 5.0
"""How long the server waits for a client that says nothing, seconds."""
MODE, MTIME_NS = 0o640, 1_600_000_000_000_000_000
ANY_MESSAGE: Any = Requests | Continuations
_DIGITS = re.compile(rb"[0-9a-f]{32,64}")


class Answer(NamedTuple):
    """A reply, and for some a body with its trailer: what is right, or what was made of it."""

    fields: Any
    body: bytes = b""
    trailer: Any = None

    @property
    def header(self) -> bytes:
        """The reply as a frame."""
        return framed(self.fields)

    @property
    def data(self) -> bytes:
        """All of it as bytes."""
        return self.header + (self.body + framed(self.trailer) if self.trailer is not None else b"")


def framed(fields: Any) -> bytes:
    """Anything that JSON can say as a frame, whatever its length; bytes as they are."""
    header = fields if isinstance(fields, bytes) else json.dumps(fields, separators=(",", ":")).encode()
    return len(header).to_bytes(4, "little") + header


def honest(reply: Any, body: bytes = b"", digest: tuple[str, str] | None = None) -> Answer:
    """A reply of our own structs."""
    return Answer(msgspec.to_builtins(reply), body, dict([digest]) if digest else None)


def etag_of(path: str, content: bytes) -> str:
    """A version's name."""
    return hashlib.md5(path.encode("utf-8", "surrogateescape") + b"\0" + content).hexdigest()


@dataclass
class Model:
    """A few files by their paths, and the right answer to every request; what is put is verified and forgotten."""

    files: dict[str, bytes]
    part_size: int = 1024
    page_entries: int = 4
    remembers: bool = True
    """It knows digests without being asked to compute them."""
    aliases: dict[str, str] = field(default_factory=dict)
    """Other names, under which a listing told of files: what is asked for by them is there."""

    def answers(self, request: Request, body: bytes) -> list[Answer]:
        """What a right server would say."""
        say = getattr(self, f"_{request.__struct_config__.tag}", None)
        if say is None:
            return [honest(FailureReply(id=request.id, error="unsupported"))]
        try:
            answers: list[Answer] = say(request, body)
        except KeyError:
            return [honest(FailureReply(id=request.id, error="not-found", message="there is no such file"))]
        return answers

    def _entry(self, path: str, name: str) -> Entry:
        if path not in self.files:
            if path and not any(other.startswith(f"{path}/") for other in self.files):
                raise KeyError(path)
            return Entry(name=name, type="directory", size=0, mtime_ns=MTIME_NS, mode=0o755)
        content = self.files[path]
        return Entry(
            name=name,
            type="file",
            size=len(content),
            mtime_ns=MTIME_NS,
            mode=MODE,
            etag=etag_of(path, content),
            md5=hexdigest("md5", content) if self.remembers else None,
        )

    def _ls(self, request: LsRequest, _: bytes) -> list[Answer]:
        if request.tree is None:
            self._entry(request.path, "")  # it is there
        below = f"{request.path}/" if request.path and request.tree is None else ""  # all is staged, wherever that is
        names: set[tuple[str, ...]] = set()
        for path in self.files:
            if path.startswith(below):
                parts = tuple(path.removeprefix(below).split("/"))
                names.update(parts[:depth] for depth in range(1, (len(parts) if request.recursive else 1) + 1))
        entries = [self._entry(below + "/".join(parts), "/".join(parts)) for parts in sorted(names)]
        most = self.page_entries
        pages = [entries[at : at + most] for at in range(0, len(entries), most)] or [[]]
        return [honest(LsReply(id=request.id, entries=page, complete=page is pages[-1])) for page in pages]

    def _stat(self, request: StatRequest, _: bytes) -> list[Answer]:
        return [honest(StatReply(id=request.id, entry=self._entry(request.path, "")))]

    def _found(self, request: DigestRequest | GetRequest) -> tuple[str, bytes]:
        path = self.aliases.get(request.path, request.path)
        return path, self.files[path]

    def _digest(self, request: DigestRequest, _: bytes) -> list[Answer]:
        path, content = self._found(request)
        known = digest_of(request.digest, hexdigest(request.digest, content))
        etag = etag_of(path, content)
        return [honest(DigestReply(id=request.id, digest=known, file_size=len(content), etag=etag))]

    def _get(self, request: GetRequest, _: bytes) -> list[Answer]:
        path, content = self._found(request)
        etag = etag_of(path, content)
        if request.etag not in (None, etag):
            return [honest(FailureReply(id=request.id, error="changed", message="another version"))]
        left = content[request.offset :]
        body = left if request.count is None else left[: request.count]
        name: DigestName = request.digest if len(body) == len(content) else "blake3"
        reply = GetReply(
            id=request.id,
            file_size=len(content),
            offset=request.offset,
            length=len(body),
            mtime_ns=MTIME_NS,
            mode=MODE,
            etag=etag,
            md5=hexdigest("md5", content) if self.remembers else None,
            blake3=None,
        )
        return [honest(reply, body, (name, hexdigest(name, body)))]

    def _put(self, request: PutRequest, body: bytes) -> list[Answer]:
        if request.length is not None:
            known = digest_of(request.digest, hexdigest(request.digest, body))
            return [honest(StoredReply(id=request.id, file_size=len(body), digest=known, durable=True, etag="0" * 32))]
        missing = [] if not request.file_size else [(0, (request.file_size - 1) // self.part_size)]
        upload = UploadReply(id=request.id, upload="1" * 32, part_size=self.part_size, missing=missing)
        self.size = request.file_size
        return [honest(upload)]

    def _part(self, request: Request, _: bytes) -> list[Answer]:
        return [honest(PartReply(id=request.id))]

    def _commit(self, request: CommitRequest, _: bytes) -> list[Answer]:
        size = request.file_size if request.file_size is not None else self.size or 0
        return [honest(StoredReply(id=request.id, file_size=size, digest=request.digest, durable=True, etag="0" * 32))]

    def _abort(self, request: Request, _: bytes) -> list[Answer]:
        return [honest(reply_type(request)(id=request.id))]

    _mkdir = _mv = _abort

    def _commands(self, request: Request, _: bytes) -> list[Answer]:
        entry = CommandEntry(name="disk", summary="how full it is", arguments=["(/[a-z]+)?"], stdin=True)
        told = CommandsReply(id=request.id, command=entry, complete=False)
        return [honest(told), honest(CommandsReply(id=request.id, complete=True))]

    def _run(self, request: RunRequest, _: bytes) -> list[Answer]:
        def piece(stream: StreamName, body: bytes) -> Answer:
            digest = (request.digest, hexdigest(request.digest, body))
            return honest(RunReply(id=request.id, stream=stream, length=len(body)), body, digest)

        return [
            honest(RunReply(id=request.id, encoding="gb18030", credit=0)),
            piece("stdout", "你好\n".encode("gb18030")[:3]),
            piece("stderr", b"\x1b]0;owned\x07\x9b2J\r\n"),
            piece("stdout", "你好\n".encode("gb18030")[3:]),
            honest(RunReply(id=request.id, code=3, ended="exit")),
        ]

    def _touch(self, request: TouchRequest, _: bytes) -> list[Answer]:
        return [honest(TouchReply(id=request.id, mtime_ns=request.mtime_ns or MTIME_NS, created=True))]

    def _df(self, request: DfRequest, _: bytes) -> list[Answer]:
        numbers: dict[str, Any] = {name: 1000 for name in DfReply.__struct_fields__ if name not in ("id", "ok")}
        return [honest(DfReply(id=request.id, **numbers))]

    def _ping(self, request: PingRequest, _: bytes) -> list[Answer]:
        if request.count is None:
            return [honest(PingReply(id=request.id))]
        body = bytes(request.count)
        digest = (request.digest, hexdigest(request.digest, body))
        return [honest(PingReply(id=request.id, length=len(body)), body, digest)]

    def _stage(self, request: StageRequest, _: bytes) -> list[Answer]:
        return [honest(StageReply(id=request.id, tree="2" * 32, resumed=self.remembers))]

    def _swap(self, request: SwapRequest | RollbackRequest, _: bytes) -> list[Answer]:
        kind: Any = reply_type(request)
        return [honest(kind(id=request.id, replaced=True))]

    _rollback, _discard = _swap, _abort

    def _begin(self, request: BeginRequest, _: bytes) -> list[Answer]:
        return [honest(BeginReply(id=request.id, keep_seconds=86_400))]

    def _operations(self, request: OperationsRequest, _: bytes) -> list[Answer]:
        entry = OperationEntry(operation="4" * 32, what="sync photos backup", time_ns=MTIME_NS, replaced=3, deleted=1)
        return [honest(OperationsReply(id=request.id, operations=[entry], complete=True))]

    def _undo(self, request: UndoRequest, _: bytes) -> list[Answer]:
        left = [LeftEntry(path="d/b", error="changed", message="it was changed since")]
        return [honest(UndoReply(id=request.id, steps=2, already=1, left=1, paths=left))]

    def _rm(self, request: Request, _: bytes) -> list[Answer]:
        return [honest(RmReply(id=request.id, files=1, folders=0))]


Tell = Callable[["Talk", Request | None, list[Answer]], Iterable[bytes]]
"""What to say in place of the right answers: to a request, or (None) to hello and to proof."""


def honestly(_: Talk, __: Request | None, answers: list[Answer]) -> Iterable[bytes]:
    """All as it is."""
    return [answer.data for answer in answers]


@dataclass
class Heard:
    """What passed in the connections of one session."""

    digests: set[str] = field(default_factory=set)
    """All that was said and looks like a digest."""
    complete: bool = False
    """A page said that it was the last."""
    durable: bool = False
    replaced: bool = False
    """Something was said to be in place, with what was there before or without."""
    sent: int = 0
    """Bytes said."""
    requests: list[str] = field(default_factory=list)
    connections: int = 0

    def said(self, data: bytes) -> None:
        """Remember what a client may rely on."""
        self.sent += len(data)
        self.digests.update(found.decode() for found in _DIGITS.findall(data))
        self.complete = self.complete or b'"complete":true' in data
        self.durable = self.durable or b'"durable":true' in data
        self.replaced = self.replaced or b'"replaced":' in data


class Talk:
    """One connection, at the server's end."""

    def __init__(self, server: LyingServer, sock: socket.socket, number: int) -> None:
        self.server, self.sock, self.number = server, sock, number
        self.heard = server.heard
        self._buffer = FrameBuffer()

    def header(self) -> bytes | None:
        """The next header; None where the client has left."""
        while (header := self._buffer.next_header(HEADER_BYTES)) is None:
            count = self.sock.recv_into(self._buffer.space())
            if not count:
                return None
            self._buffer.filled(count)
        return header

    def body(self, count: int) -> bytes:
        """Body bytes."""
        pieces = []
        while count:
            piece = bytes(self._buffer.take(count)) or self.sock.recv(min(count, 1024 * 1024))
            if not piece:
                raise ConnectionResetError
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def say(self, chunks: Iterable[bytes]) -> None:
        """Send what the liar makes of it, piece by piece."""
        for data in chunks:
            self.heard.said(data)
            self.sock.sendall(data)

    def leave(self) -> None:
        """End our half: nothing more is said."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_WR)

    def run(self) -> None:
        """Prove, then answer until the client leaves."""
        server, tell = self.server, self.server.tell
        if (hello := self.header()) is None:
            return
        handshake = auth.ServerHandshake(hello, decode(hello, Hello), secrets.token_bytes(32), server.channel)
        self.say(tell(self, None, [honest(handshake.message)]))
        if (proof := self.header()) is None:
            return
        server_proof = handshake.check(decode(proof, Proof), server.verifier)
        welcome = Welcome(
            server_proof=server_proof if server.knows_key else b64encode(bytes(32)),
            server="liar",
            time_ns=1,
            limits=Limits(inline_bytes=server.inline_bytes, requests=server.requests),
            digests=["md5", "blake3", "xxh128"],
            rights=["list", "read", "write", "replace", "delete"],
        )
        self.say(tell(self, None, [honest(welcome)]))
        while (header := self.header()) is not None:
            request: Any = decode(without_crc(header) if has_crc(header) else header, ANY_MESSAGE)
            self.heard.requests.append(str(request.__struct_config__.tag))
            body = b""
            if request.body_length is not None:
                body = self.body(request.body_length)
                if (last := self.header()) is None:
                    return
                trailer = decode(last, Trailer)
                assert trailer_header(trailer.name, hexdigest(trailer.name, body)) == encode(trailer)
            if isinstance(request, Continuation):  # it has crossed the end of what it belongs to
                continue
            self.say(tell(self, request, server.model.answers(request, body)))


class LyingServer:
    """Accepts connections, each in a thread of its own, and answers as ``tell`` makes it; by default with the truth."""

    def __init__(self, model: Model, tell: Tell = honestly, identity: Identity | None = None) -> None:
        self.model, self.tell = model, tell
        self.heard = Heard()
        self.inline_bytes, self.requests, self.knows_key = 1024, 64, True
        self.failures: list[BaseException] = []
        """What a client said that no client may, or a defect of this server."""
        self.key = os.urandom(32)
        self.verifier = auth.verifier(self.key, "alice")
        self._context = identity.context() if identity else None
        pin = identity.pin if identity else b""
        self.channel = auth.Channel(pin)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.profile = Profile(
            addresses=[f"127.0.0.1:{self._listener.getsockname()[1]}"],
            user="alice",
            key=b64encode(self.key),
            certificate_sha256=pin.hex() or None,
        )
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, name="liar")
        self._acceptor.start()

    def begin(self, tell: Tell) -> Heard:
        """A new session: forget the last one, whose connections have ended."""
        self.settle()
        self.tell, self.heard = tell, Heard()
        self.model.aliases.clear()
        self.inline_bytes, self.requests, self.knows_key = 1024, 64, True
        return self.heard

    def settle(self) -> None:
        """Wait until every connection has ended."""
        while self._threads:
            thread = self._threads.pop()
            thread.join(2 * WAIT_SECONDS)
            assert not thread.is_alive(), "a connection of the lying server does not end"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.heard.connections += 1
            thread = threading.Thread(target=self._serve, args=(sock, self.heard.connections), name="liar-talk")
            thread.start()
            self._threads.append(thread)

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            sock.settimeout(WAIT_SECONDS)
            with self._context.wrap_socket(sock, server_side=True) if self._context else sock as channel:
                channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                Talk(self, channel, number).run()
        except (OSError, ssl.SSLError, Denied):
            return  # the client has had enough, or the liar has left, or it proved itself to what was not said
        except BaseException as error:
            self.failures.append(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join()
        self.settle()


@contextlib.contextmanager
def lying(files: dict[str, bytes], tell: Tell = honestly, **options: Any) -> Iterator[LyingServer]:
    """A server with these files, as long as the ``with`` lasts."""
    with LyingServer(Model(files), tell, **options) as server:
        yield server


def failure(request: Request, error: str, message: str = "") -> bytes:
    """A refusal as a frame."""
    return frame(encode(FailureReply(id=request.id, error=error, message=message)))
