"""A function per verb, the rule itself: those that change what is stored. Those that look at it are in ``reading``.

Parsing, permission, logging and failure have places of their own.
"""

from __future__ import annotations

from contextlib import ExitStack

from ftpy.digests import hexdigest
from ftpy.errors import (
    DigestMismatch,
    InvalidPath,
    InvalidRequest,
)
from ftpy.files import FileInfo, RemotePath
from ftpy.server.context import Context, stored
from ftpy.storage.base import Condition, KnownDigest, KnownVersion, NewDirectory, NewFile, Removed, Staged
from ftpy.wire.fields import DigestOf
from ftpy.wire.messages import (
    AbortReply,
    AbortRequest,
    CommitRequest,
    MkdirRequest,
    MvReply,
    MvRequest,
    PartReply,
    PartRequest,
    PutRequest,
    RmReply,
    RmRequest,
    StoredReply,
    UploadReply,
)


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
    quota, size = context.account.quota, len(body)
    with ExitStack() as failed:  # the peer may be lost once it is staged

        def stage() -> Staged:
            return failed.enter_context(context.storage.stage(file, body, digest, quota=quota))

        # Where all has to be counted anew before anything is added, that takes as long as the tree is large.
        staged = context.channel.promptly(stage, progress=lambda: size)
        failed.pop_all()
    compares = isinstance(file.condition, KnownDigest)
    context.commits.add(context.act, staged, size, digest, compares=compares)


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
