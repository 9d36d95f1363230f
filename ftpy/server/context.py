"""What a handler works with: one connection's channel, account, storage, and the puts it has under way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ftpy.config.commands import Command
from ftpy.config.server import ServerConfig
from ftpy.errors import Busy, ConnectionLost, InternalError, RequestError, ShuttingDown
from ftpy.files import FileInfo, RemotePath
from ftpy.server.accounts import Account
from ftpy.server.audit import Act, Trail
from ftpy.server.identity import Identity
from ftpy.server.orders import Running
from ftpy.server.shares import Share
from ftpy.storage.base import KnownDigest, NewFile, Staged, StagedTree, Storage
from ftpy.storage.feedbook import FeedBook
from ftpy.storage.operations import OperationKey
from ftpy.storage.uploadbase import Upload
from ftpy.transport.channel import Channel
from ftpy.wire.bases import FailureReply, Reply
from ftpy.wire.fields import digest_of
from ftpy.wire.messages import MkdirReply, StoredReply

GROUP_FILES = 256
"""Most small files made durable together."""
GROUP_BYTES = 16 * 1024 * 1024
"""Most bytes made durable together: what one group may keep a client waiting for."""

PATIENT_FILES = 8
PATIENT_BYTES = 1024 * 1024
"""A group larger than this is published with progress, in a thread: 0.1 ms more, nothing beside its fsyncs."""

MOST_TREES = 16
"""Staged trees that one connection remembers; more are looked up anew."""
LOOK_SECONDS = 60.0
"""How long it is believed that a staged tree is there; each look puts off that it expires."""

MOST_UPLOADS = 64
"""Most uploads that one connection holds open."""
UPLOAD = 2
"""Descriptors of one, which has up to two threads as well."""

MOST_OPERATIONS = 1024
"""Operations that a connection remembers to be there; then it looks again."""

_Member = tuple[Act, Staged, KnownDigest | None]
"""The request that brought it, what is staged, and the digest unless it is a folder."""


def failure(request_id: int, error: RequestError) -> FailureReply:
    """The reply that carries ``error``; only its own code and message, never a cause."""
    return FailureReply(id=request_id, error=error.code, message=str(error)[:1024])


class Commits:
    """Small files and folders waiting to be made durable as one group; replies leave in the order of the requests."""

    def __init__(self, storage: Storage, channel: Channel, trail: Trail, share: Share) -> None:
        self._storage, self._channel, self._trail, self._share = storage, channel, trail, share
        self._group: list[_Member] = []
        self._bytes = self._shared = 0
        self._compares = False

    def __len__(self) -> int:
        return len(self._group)

    def add(
        self,
        act: Act,
        staged: Staged,
        size: int = 0,
        digest: KnownDigest | None = None,
        *,
        compares: bool = False,
    ) -> None:
        """Answer the request of ``act`` when its group is durable.

        ``compares``: the file that is there may be hashed first.

        A file comes with its ``size`` in bytes and its ``digest``, a folder without.
        """
        self._group.append((act, staged, digest))
        self._bytes += size
        self._compares = self._compares or compares
        has_room = self._share.take(1)
        self._shared += has_room
        if not has_room or len(self._group) >= GROUP_FILES or self._bytes >= GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Publish the group and queue the replies."""
        if not self._group:
            return
        group, size = self._group, self._bytes
        takes_long = self._compares or len(group) > PATIENT_FILES or size > PATIENT_BYTES

        def publish() -> list[FileInfo | RequestError]:
            # Not before: where the connection is lost on the way here, ``drop`` lets go of it.
            self._group, self._bytes, self._compares = [], 0, False
            results: list[FileInfo | RequestError] = [InternalError()] * len(group)
            try:
                results = self._storage.publish([staged for _, staged, _ in group])
            finally:
                self._give_back()
                self._tell(group, results)
            return results

        do = self._channel.patiently if takes_long else self._channel.promptly
        results = do(publish, lambda: size)
        for (act, _, digest), result in zip(group, results, strict=True):
            self._channel.send(_published(act.request.id, result, digest))

    def _tell(self, group: list[_Member], results: list[FileInfo | RequestError]) -> None:
        done: list[tuple[Act, int | None, KnownDigest | None]] = []
        for (act, _, digest), result in zip(group, results, strict=True):
            if isinstance(result, RequestError):
                act.failed(result)
            else:
                done.append((act, result.size if digest else None, digest))
        self._trail.done(done)
        self._trail.flush()  # what is acknowledged has its line

    def drop(self) -> None:
        """Forget what is staged: the connection is gone before its group was published."""
        group, self._group = self._group, []
        for act, staged, _ in group:
            staged.close()
            act.failed(ConnectionLost())
        self._give_back()

    def _give_back(self) -> None:
        shared, self._shared = self._shared, 0
        self._share.give_back(shared)


def _published(request_id: int, result: FileInfo | RequestError, digest: KnownDigest | None) -> Reply | FailureReply:
    """The reply to a file or (without ``digest``) a folder whose group was published."""
    if isinstance(result, RequestError):
        return failure(request_id, result)
    return MkdirReply(id=request_id) if digest is None else stored(request_id, result, digest)


def stored(request_id: int, info: FileInfo, digest: KnownDigest) -> StoredReply:
    """The reply to a put that is published and durable."""
    assert info.etag is not None
    return StoredReply(
        id=request_id,
        file_size=info.size,
        digest=digest_of(digest.name, digest.hex),
        durable=True,
        etag=info.etag,
    )


class Commands(Protocol):
    """What the host lets users run."""

    def allowed(self, user: str) -> Mapping[str, Command]:
        """Those that this user may run now, by name."""

    def run(self, command: str, arguments: list[str], user: str) -> Running:
        """Have one run. Raises Busy, CommandFailed."""


@dataclass(slots=True)
class Context:
    """One authenticated connection, as handlers see it."""

    channel: Channel
    account: Account
    storage: Storage
    config: ServerConfig
    commits: Commits
    share: Share
    act: Act
    """The request under way, for the audit trail."""
    draining: Callable[[], bool]
    commands: Commands
    identity: Identity
    root: str
    """The user's, its real path."""
    feed: FeedBook | None = None
    uploads: dict[str, Upload] = field(default_factory=dict)
    began: dict[str, Act] = field(default_factory=dict)
    """The put of an upload, of those in ``uploads`` that were opened here."""
    brought: dict[str, int] = field(default_factory=dict)
    """Bytes of each of them that came over this connection and are stored."""
    operations: set[str] = field(default_factory=set)
    """Ids of this user's operations that were found to be begun."""
    trees: dict[str, tuple[StagedTree, float]] = field(default_factory=dict)
    """This user's staged trees that were found, by their ids, and when."""
    _found: dict[str, None] = field(default_factory=dict)
    """Ids of those that were begun elsewhere, in the order of their last use."""

    def operation(self, named: str | None) -> OperationKey | None:
        """The operation that a request names, if it does, looked up once a connection. Raises UnknownOperation."""
        if named is None:
            return None
        key = OperationKey(self.account.owner, named)
        if named not in self.operations:
            self.storage.check_operation(key)
            self.remember(named)
        return key

    def remember(self, operation: str) -> None:
        """It is begun."""
        if len(self.operations) >= MOST_OPERATIONS:
            self.operations.clear()
        self.operations.add(operation)

    def tree(self, path: RemotePath, named: str | None, *, fresh: bool = False) -> StagedTree | None:
        """The staged tree that a request about ``path`` names, if it does. Raises UnknownTree, InvalidPath.

        Unless ``fresh`` it is looked up now and then only: what is put into one that is no more is refused in the end.
        """
        if named is None:
            return None
        tree, found = self.trees.get(named, (None, 0.0))
        now = time.monotonic()
        if fresh or tree is None or now - found > LOOK_SECONDS:
            tree = self.storage.trees.find(self.account.owner, path, named)
            if len(self.trees) >= MOST_TREES:
                self.trees.clear()
            self.trees[named] = tree, now
        tree.check_holds(path)
        return tree

    def open_upload(self, file: NewFile) -> Upload:
        """Open or resume an upload and hold it until it ends or the connection does."""
        if self.draining():
            raise ShuttingDown
        upload = self._hold(lambda: self.storage.open_upload(self.account.owner, file, quota=self.account.quota))
        self._found.pop(upload.id, None)
        self.began[upload.id] = self.act
        return upload

    def upload(self, upload_id: str, *, anew: bool = False) -> Upload:
        """An upload of this user, from this connection or another. Raises UnknownUpload, Busy.

        ``anew``: where it has ended meanwhile, the one of the same id that another connection has begun since.
        """
        held = self.uploads.get(upload_id)
        if held is not None and held.is_lost and (anew or upload_id in self._found):
            # Else one that was opened here is opened again by its put, for the put's condition is its hand's alone.
            self.release(upload_id)
            held = None
        if held is None:
            quota = self.account.quota
            held = self._hold(lambda: self.storage.find_upload(self.account.owner, upload_id, quota=quota))
            self._found[upload_id] = None
        elif upload_id in self._found:
            del self._found[upload_id]
            self._found[upload_id] = None
        self.act.path = str(held.path)
        return held

    def _hold(self, opening: Callable[[], Upload]) -> Upload:
        """Open an upload: with progress, as the bytes of one that was interrupted may have to be read again."""

        def work() -> Upload:
            self._make_room()
            try:
                upload = opening()
            except BaseException:
                self.share.give_back(UPLOAD)
                raise
            # A hand held from before may be on one that another connection has committed meanwhile.
            self.release(upload.id)
            self.uploads[upload.id] = upload  # here: when the peer leaves meanwhile, it is let go of all the same
            return upload

        return self.channel.patiently(work, progress=lambda: 0)

    def _make_room(self) -> None:
        """Let go of what was found and not used for longest: it can be found again. Raises Busy."""
        while len(self.uploads) >= MOST_UPLOADS or not self.share.take(UPLOAD):
            if not self._found:
                raise Busy(f"{len(self.uploads)} uploads are under way on this connection, as many as it may have now")
            self.release(next(iter(self._found)))

    def release(self, upload_id: str) -> None:
        """Let go of an upload that has ended."""
        self._found.pop(upload_id, None)
        self.began.pop(upload_id, None)
        self.brought.pop(upload_id, None)
        if (upload := self.uploads.pop(upload_id, None)) is not None:
            upload.close()
            self.share.give_back(UPLOAD)

    def close(self) -> None:
        """Let go of everything; unfinished uploads stay and can be resumed."""
        self.commits.drop()
        for upload_id in list(self.uploads):
            self.release(upload_id)
