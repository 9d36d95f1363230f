"""A function per verb, the rule itself: those that only look."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ftpy import timing
from ftpy.digests import DigestName, hexdigest
from ftpy.errors import Busy, Changed, ConnectionLost, InvalidRequest
from ftpy.files import FileInfo, RemotePath
from ftpy.server.context import Context
from ftpy.server.shares import Share
from ftpy.storage.base import Admits, KnownDigest, Reader
from ftpy.storage.following import CHUNK_BYTES, HashedRead
from ftpy.transport.channel import JOIN_BYTES
from ftpy.wire.entries import Entry, info_to_entry
from ftpy.wire.fields import digest_of
from ftpy.wire.messages import (
    PAGE_ENTRIES,
    DigestReply,
    DigestRequest,
    GetReply,
    GetRequest,
    Line,
    LsReply,
    LsRequest,
    StatReply,
    StatRequest,
    TimesReply,
    TimesRequest,
)

PAGE_BYTES = 48 * 1024
"""A page of a listing is cut at about this many bytes, safely inside the longest header."""


def handle_get(request: GetRequest, context: Context) -> None:
    """Send a range of one version of a file, and its digest."""
    with context.storage.open(request.remote_path()) as reader:
        info = reader.info
        if request.etag is not None and request.etag != info.etag:
            raise Changed
        if request.offset > info.size:
            raise InvalidRequest(f"the file ends at {info.size}")
        left = info.size - request.offset
        length = left if request.count is None else min(request.count, left)
        assert info.etag is not None
        piece = _piece(reader, request.offset, length) if length <= JOIN_BYTES else None
        context.channel.send(
            GetReply(
                id=request.id,
                file_size=info.size,
                offset=request.offset,
                length=length,
                mtime_ns=info.mtime_ns,
                mode=info.mode,
                etag=info.etag,
                md5=info.md5,
                blake3=info.blake3,
            )
        )
        if piece is None:
            digest = _send_range(reader, request.offset, length, request.digest, context)
        else:
            digest = _send_piece(reader, piece, request.digest, context)
        context.channel.send_trailer(digest.name, digest.hex)
    context.act.done(length, digest)


def _send_range(reader: Reader, offset: int, length: int, name: DigestName, context: Context) -> KnownDigest:
    """The body: hashed on the way unless the whole file's digest is remembered; returns the trailer's digest."""
    whole = length == reader.info.size
    if not whole:
        name = "blake3"
    known = getattr(reader.info, name) if whole else None
    descriptor = reader.fileno()
    try:
        if known is None:
            with HashedRead(name, reader.read_at, offset, length) as hashed:
                for view in hashed:
                    context.channel.send_body(view)
                digest = KnownDigest(name, hashed.hexdigest())
        else:
            digest = KnownDigest(name, known)
            # While it is measured, the disk must be told from the line: sendfile waits for both.
            sends_files = context.channel.sends_files and timing.measuring() is None
            if descriptor is not None and sends_files:
                context.channel.send_file(descriptor, offset, length)
            else:
                for view in _chunks(reader, offset, length):
                    context.channel.send_body(view)
        reader.check_unchanged()
    except (EOFError, Changed) as error:
        # The header has promised bytes that are no more: nothing true can follow it on this connection.
        raise ConnectionLost("the file changed while it was sent") from error
    if whole and known is None:
        reader.remember(digest)
    return digest


def _piece(reader: Reader, offset: int, length: int) -> bytes:
    """A small range, read while nothing is promised yet. Raises Changed: so a file that grows costs no connection."""
    data = reader.read(offset, length)
    if len(data) != length:
        raise Changed
    reader.check_unchanged()
    return data


def _send_piece(reader: Reader, piece: bytes, name: DigestName, context: Context) -> KnownDigest:
    """The body, small and at hand; returns the trailer's digest."""
    whole = len(piece) == reader.info.size
    known: str | None = getattr(reader.info, name) if whole else None
    digest = KnownDigest(name if whole else "blake3", known or hexdigest(name if whole else "blake3", piece))
    context.channel.send_body(piece)
    if whole and known is None:
        reader.remember(digest)
    return digest


def _chunks(reader: Reader, offset: int, length: int) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(min(CHUNK_BYTES, length)))
    done = 0
    while done < length:
        view = buffer[: min(len(buffer), length - done)]
        if reader.read_at(offset + done, view) != len(view):
            raise EOFError
        done += len(view)
        yield view


def handle_ls(request: LsRequest, context: Context, *, admits: Admits = None, tells: Admits = None) -> LsReply:
    """List a directory in pages; the last one says that it is complete."""
    path = request.remote_path()
    entries: list[Entry] = []
    size = 0
    tree = context.tree(path, request.tree, fresh=True)
    found = context.storage.ls(path, recursive=request.recursive, admits=admits, tree=tree)
    for info in _shared(found, path, context.share) if request.recursive else found:
        entry = info_to_entry(_judged(info, tells), path)
        cost = 2 * len(entry.name) + 2 * len(entry.name_b64 or "") + 2 * len(entry.name.encode()) + 256
        if len(entries) >= PAGE_ENTRIES or size + cost > PAGE_BYTES:
            context.channel.send(LsReply(id=request.id, entries=entries, complete=False))
            context.channel.flush()
            entries, size = [], 0
        entries.append(entry)
        size += cost
    return LsReply(id=request.id, entries=entries, complete=True)


def _shared(found: Iterator[FileInfo], path: RemotePath, share: Share) -> Iterator[FileInfo]:
    """What is ``found`` below a ``path``: each folder on the way down is open meanwhile, which is of the user's share.

    The first one every connection has. Raises Busy.
    """
    held = 0
    try:
        for info in found:
            more = len(info.path.parts) - len(path.parts) - held
            if info.type == "directory" and more > 0:
                if not share.take(more):
                    raise Busy("too many folders are being listed for this user; try again later")
                held += more
            yield info
    finally:
        share.give_back(held)


def handle_stat(request: StatRequest, context: Context, *, tells: Admits = None) -> StatReply:
    """What is known of one path."""
    path = request.remote_path()
    return StatReply(id=request.id, entry=info_to_entry(_judged(context.storage.stat(path), tells), path))


def _judged(info: FileInfo, tells: Admits) -> FileInfo:
    """Without digests where these are not to be told: they are knowledge of the content."""
    if tells is None or info.type != "file" or tells(info.path):
        return info
    return msgspec.structs.replace(info, md5=None, blake3=None)


def handle_digest(request: DigestRequest, context: Context) -> DigestReply:
    """A file's digest: the one remembered, or computed now and remembered."""
    path = request.remote_path()
    with context.storage.open(path, tree=context.tree(path, request.tree, fresh=True)) as reader:
        info = reader.info
        known = known_digest(reader, request.digest, context)
        assert info.etag is not None
        return DigestReply(id=request.id, digest=digest_of(request.digest, known), file_size=info.size, etag=info.etag)


def handle_times(request: TimesRequest, context: Context) -> TimesReply:
    """What this connection has spent its time on; the first request of the kind begins to measure it."""
    stopwatch = timing.measuring()
    if stopwatch is None:
        stopwatch = timing.Stopwatch()
        timing.attach(stopwatch)
    ns = {activity: int(seconds * 1e9) for activity, seconds in stopwatch.lap().items()}
    line = Line(**context.channel.stream.line_times()._asdict())
    return TimesReply(id=request.id, ns=ns, line=line)


def known_digest(reader: Reader, name: DigestName, context: Context) -> str:
    """A version's digest: the one remembered, or computed now. Raises Changed, IoError."""
    known: str | None = getattr(reader.info, name)
    return _compute(reader, name, context) if known is None else known


def _compute(reader: Reader, name: DigestName, context: Context) -> str:
    done = 0

    def work() -> str:
        nonlocal done
        with HashedRead(name, reader.read_at, 0, reader.info.size) as hashed:
            for view in hashed:
                done += len(view)
                if context.channel.is_lost:
                    raise ConnectionLost  # nobody is there to be told
            return hashed.hexdigest()

    try:
        digest = context.channel.patiently(work, progress=lambda: done)
    except EOFError:
        raise Changed from None
    reader.check_unchanged()
    reader.remember(KnownDigest(name, digest))
    return digest
