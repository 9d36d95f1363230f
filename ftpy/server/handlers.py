"""A function per verb: the rule itself. Parsing, permission, logging and failure have places of their own."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ftpy import timing
from ftpy.digests import DigestName, hexdigest
from ftpy.errors import (
    Changed,
    ConnectionLost,
    DigestMismatch,
    InvalidPath,
    InvalidRequest,
)
from ftpy.files import FileInfo, RemotePath
from ftpy.server.context import Context, stored
from ftpy.storage.base import Admits, Condition, KnownDigest, KnownVersion, NewDirectory, NewFile, Reader, Removed
from ftpy.storage.following import CHUNK_BYTES, HashedRead
from ftpy.transport.channel import JOIN_BYTES
from ftpy.wire.entries import Entry, info_to_entry
from ftpy.wire.fields import DigestOf, digest_of
from ftpy.wire.messages import (
    PAGE_ENTRIES,
    AbortReply,
    AbortRequest,
    CommitRequest,
    DigestReply,
    DigestRequest,
    GetReply,
    GetRequest,
    Line,
    LsReply,
    LsRequest,
    MkdirRequest,
    MvReply,
    MvRequest,
    PartReply,
    PartRequest,
    PutRequest,
    RmReply,
    RmRequest,
    StatReply,
    StatRequest,
    StoredReply,
    TimesReply,
    TimesRequest,
    UploadReply,
)

PAGE_BYTES = 48 * 1024
"""A page of a listing is cut at about this many bytes, safely inside the longest header."""


def handle_put(request: PutRequest, context: Context, *, replacing: bool) -> UploadReply | None:
    """Store a small file whole, or open (or find again) the upload of a large one; not ``replacing``: a new one."""
    file = _new_file(request, context, replacing=replacing)
    if request.length is not None:
        _put_inline(request, file, context)
        return None
    upload = context.open_upload(file)
    return UploadReply(id=request.id, upload=upload.id, part_size=upload.part_size, missing=upload.missing())


def _put_inline(request: PutRequest, file: NewFile, context: Context) -> None:
    """Receive one small file; readers see all of it or, if anything fails, what was there before."""
    if request.length is None or request.length != request.file_size:
        raise InvalidRequest("an inline put has a body of file_size bytes")
    if request.length > context.config.limits.inline_bytes:
        raise InvalidRequest(f"an inline put has at most {context.config.limits.inline_bytes} bytes")
    body = context.channel.receive_body()
    digest = KnownDigest(request.digest, hexdigest(request.digest, body))
    other = context.channel.compare_trailer(digest.name, digest.hex)
    if other is not None and other.name != digest.name:
        raise InvalidRequest(f"the trailer's digest is {request.digest}")
    if other is not None:
        raise DigestMismatch
    staged = context.storage.stage(file, body, digest, quota=context.account.quota)
    compares = isinstance(file.condition, KnownDigest)
    context.commits.add(context.act, staged, len(body), digest, compares=compares)


def handle_part(request: PartRequest, context: Context) -> PartReply:
    """Store one part where it belongs; it counts only when its digest is right."""
    upload = context.upload(request.upload)
    with upload.part(request.part, request.length, request.digest) as part:
        for view in part:
            context.channel.receive_into(view)
        trailer = context.channel.receive_trailer()
        if trailer.name != request.digest:
            raise InvalidRequest(f"the trailer's digest is {request.digest}")
        # A part waits for the disk when too much is not durable yet.
        context.channel.patiently(lambda: part.finish(trailer.hex), progress=lambda: request.length)
    context.brought[upload.id] = context.brought.get(upload.id, 0) + request.length
    return PartReply(id=request.id)


def handle_commit(request: CommitRequest, context: Context, *, replacing: bool) -> StoredReply:
    """Verify the whole of an upload and publish it; not ``replacing``: only where nothing is."""
    upload = context.upload(request.upload)
    if (put := context.began.get(upload.id)) is not None:
        context.act.continues(put)
    digest = _known(request.digest)
    if upload.tree is not None:
        context.act.more["tree"] = upload.tree.id

    def commit() -> FileInfo:
        try:
            info = upload.commit(digest, request.file_size, replacing=replacing)
        except DigestMismatch:
            context.release(upload.id)
            raise
        context.act.done(info.size, digest)  # here: also when the client has left meanwhile
        context.act.trail.flush()
        context.release(upload.id)
        return info

    info = context.channel.patiently(commit, progress=lambda: upload.verified)
    return stored(request.id, info, digest)


def handle_abort(request: AbortRequest, context: Context) -> AbortReply:
    """Forget an upload."""
    upload = context.upload(request.upload, anew=True)

    def abort() -> None:
        upload.abort()  # waits for a commit under way
        context.release(upload.id)

    context.channel.patiently(abort, progress=lambda: upload.verified)
    return AbortReply(id=request.id)


def handle_mkdir(request: MkdirRequest, context: Context, *, replacing: bool) -> None:
    """Make a folder in its turn among the small files; replied to when its group is durable.

    Not ``replacing``: one that is there stays as it is.
    """
    path = request.remote_path()
    tree = context.tree(path, request.tree)
    if tree is not None and (request.operation is not None or not request.parents):
        raise InvalidRequest("a folder of a staged tree is made with its parents, and in no operation")
    wanted = NewDirectory(
        path=path,
        parents=request.parents,
        mode=request.mode,
        mtime_ns=request.mtime_ns,
        untouched=not replacing and tree is None,
        tree=tree,
        operation=context.operation(request.operation),
    )
    context.commits.add(context.act, context.storage.stage_directory(wanted, quota=context.account.quota))


def handle_rm(request: RmRequest, context: Context) -> RmReply:
    """Remove a file or a folder."""
    path = request.remote_path()
    done = 0

    def on_removed(names: int) -> None:
        nonlocal done
        done = names

    version, operation = _version(request.etag), context.operation(request.operation)

    def rm() -> Removed:
        went = context.storage.rm(
            path,
            recursive=request.recursive,
            on_removed=on_removed,
            version=version,
            operation=operation,
            quota=context.account.quota,
        )
        context.act.more = {"files": went.files, "folders": went.folders}
        context.act.done(went.size)  # here: also when the client has left meanwhile
        return went

    went = context.channel.patiently(rm, progress=lambda: done)
    return RmReply(id=request.id, files=went.files, folders=went.folders)


def handle_mv(request: MvRequest, context: Context, *, replacing: bool) -> MvReply:
    """Give a file or a folder another path; not ``replacing``: only where nothing is."""
    path, to = request.remote_path(), request.remote_target()
    condition = request.condition if replacing else "absent"

    version, operation = _version(request.etag), context.operation(request.operation)

    def mv() -> None:
        quota = context.account.quota
        moved = context.storage.mv(path, to, condition=condition, version=version, operation=operation, quota=quota)
        context.act.done(moved.info.size)

    context.channel.patiently(mv, progress=lambda: 0)
    return MvReply(id=request.id)


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
    for info in context.storage.ls(path, recursive=request.recursive, admits=admits, tree=tree):
        entry = info_to_entry(_judged(info, tells), path)
        cost = 2 * len(entry.name) + 2 * len(entry.name_b64 or "") + 2 * len(entry.name.encode()) + 256
        if len(entries) >= PAGE_ENTRIES or size + cost > PAGE_BYTES:
            context.channel.send(LsReply(id=request.id, entries=entries, complete=False))
            context.channel.flush()
            entries, size = [], 0
        entries.append(entry)
        size += cost
    return LsReply(id=request.id, entries=entries, complete=True)


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
            return hashed.hexdigest()

    try:
        digest = context.channel.patiently(work, progress=lambda: done)
    except EOFError:
        raise Changed from None
    reader.check_unchanged()
    reader.remember(KnownDigest(name, digest))
    return digest


def _new_file(request: PutRequest, context: Context, *, replacing: bool) -> NewFile:
    path = request.remote_path()
    if path == RemotePath():
        raise InvalidPath("the path names no file")
    if request.etag is not None and request.condition is not None:
        raise InvalidRequest("a condition and an etag exclude each other")
    tree = context.tree(path, request.tree)
    if tree is not None:
        if (request.condition, request.etag, request.operation) != (None, None, None):
            raise InvalidRequest("what goes into a staged tree has no condition, etag or operation")
        replacing = True  # what is staged is one's own
    wanted = request.condition if replacing else "absent"
    condition: Condition = _known(wanted) if isinstance(wanted, DigestOf) else wanted
    return NewFile(
        path=path,
        file_size=request.file_size,
        mtime_ns=request.mtime_ns,
        mode=request.mode,
        digest=request.digest,
        condition=_version(request.etag) or condition,
        operation=context.operation(request.operation),
        tree=tree,
    )


def _version(etag: str | None) -> KnownVersion | None:
    return None if etag is None else KnownVersion(etag)


def _known(digest: DigestOf) -> KnownDigest:
    return KnownDigest(digest.name, digest.hex)
