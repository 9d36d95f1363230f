"""The part of ``Client`` that moves content: put and get, of files, streams and trees."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from ftpy.client.base import PathLike, remote_path
from ftpy.client.looks import Looks
from ftpy.client.results import Fetched, OnProgress, Stored, ignore
from ftpy.client.trees import OWNER_BITS, TreeOptions, TreeResult
from ftpy.digests import DigestName
from ftpy.errors import (
    ConnectionFailed,
    DigestMismatch,
    FtpyError,
    LocalFileError,
    NotADirectory,
    NotFound,
    PermissionDenied,
    RequestError,
    UnknownUpload,
)
from ftpy.files import RemotePath, display
from ftpy.storage.base import Condition

if TYPE_CHECKING:
    from ftpy.client.putting import FilePut
    from ftpy.client.streamput import StreamPut
    from ftpy.client.treeget import TreeGet
    from ftpy.client.treeput import TreePut


class Transfers(Looks):
    """Verified, resumed, atomic, durable."""

    # ---- put

    def put(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        path: PathLike,
        *,
        digest: DigestName | None = None,
        condition: Condition = None,
        on_progress: OnProgress = ignore,
    ) -> Stored:
        """Store a file of this side, or what a binary stream gives until its end, at ``path``.

        An interrupted put of the same file goes on where it stood. Returns when the content is verified, published
        and durable. ``condition``: ``"absent"``, or the digest that the file there must have now.
        Raises SourceChanged, LocalFileError, AlreadyExists, DigestMismatch, NoSpace, ….
        """
        from ftpy.client.putting import FINAL, FilePut, Put
        from ftpy.client.source import Source

        wanted = Put(remote_path(path), digest or self._transfer.digest, condition, on_progress)
        if not isinstance(source, str | os.PathLike):
            from ftpy.client.streamput import StreamPut

            stream = StreamPut(wanted, source)
            with self._dropped_if_refused(stream, RequestError):  # nobody can go on with it later
                return self._persist(stream.attempt, lambda: stream.stored_bytes)
        with Source(os.fspath(source), wanted.digest) as opened:
            transfer = FilePut(wanted, opened)
            with self._dropped_if_refused(transfer, *FINAL):
                return self._put_file(transfer)

    def _put_file(self, transfer: FilePut) -> Stored:
        try:
            return transfer.send(self._streams)
        except (DigestMismatch, UnknownUpload) as error:
            if isinstance(error, DigestMismatch) and not transfer.resumed:
                raise
            # What an earlier run left was of other bytes, or is gone; the server has dropped it.
            self._notify(f"{error}; starting over")
            transfer.start_over()
            return transfer.send(self._streams)

    @contextlib.contextmanager
    def _dropped_if_refused(self, transfer: FilePut | StreamPut, *final: type[RequestError]) -> Iterator[None]:
        """What the server holds of a put that will never end well is dropped: after any refusal that is ``final``."""
        dropped: tuple[type[FtpyError], ...] = (LocalFileError, *final)
        try:
            yield
        except dropped:
            self._drop(transfer)
            raise

    def _drop(self, transfer: FilePut | StreamPut) -> None:
        from ftpy.client.putting import drop

        if transfer.upload is None:
            return
        try:
            drop(self._connected(), transfer.upload)
        except (ConnectionFailed, RequestError) as error:
            self.close()
            self._notify(f"what was sent stays on the server until it expires: {error}")

    # ---- get

    def get(
        self,
        path: PathLike,
        target: str | os.PathLike[str] | BinaryIO,
        *,
        digest: DigestName | None = None,
        force: bool = False,
        if_changed: bool = False,
        on_progress: OnProgress = ignore,
    ) -> Fetched:
        """Fetch a file into ``target`` (a file name on this side), or write it to a binary stream.

        A file appears under its name only when it is verified and durable; an interrupted get goes on where it stood.
        A different file that is there already is replaced only with ``force`` or ``if_changed``: the latter compares
        digests first, and moves nothing where ``target`` has that content already (``unchanged``).
        Raises TargetExists, LocalFileError, NotFound, DigestMismatch, ….
        """
        from ftpy.client.getting import FileGet, Get

        wanted = Get(remote_path(path), digest or self._transfer.digest, on_progress)
        if not isinstance(target, str | os.PathLike):
            from ftpy.client.streamget import StreamGet

            stream = StreamGet(wanted, target)
            return self._persist(stream.attempt, lambda: stream.received)
        with FileGet(wanted, os.fspath(target), force=force, if_changed=if_changed, notify=self._notify) as transfer:
            return transfer.fetch(self._streams)

    # ---- trees

    def put_tree(
        self, source: str | os.PathLike[str], path: PathLike, options: TreeOptions | None = None
    ) -> TreeResult:
        """Store the folder ``source`` as the folder ``path``; what is there already and identical is passed over.

        A file that fails is told in the result and does not stop the others. Raises LocalFileError for ``source``
        itself, and what ends a connection for good.
        """
        from ftpy.client.treeput import TreePut

        options = options or TreeOptions(digest=self._transfer.digest)
        target = remote_path(path)
        with self._listing(target, self._is_there(target)) as theirs:
            tree = TreePut(os.fspath(source), target, options, self._connected().inline_bytes, theirs)
            return self._run_tree(tree, options)

    def get_tree(
        self, path: PathLike, target: str | os.PathLike[str], options: TreeOptions | None = None
    ) -> TreeResult:
        """Fetch the folder ``path`` as the folder ``target``; what is here already and identical is passed over.

        A file that fails is told in the result and does not stop the others. Raises LocalFileError for ``target``
        itself, NotFound, NotADirectory, and what ends a connection for good.
        """
        from ftpy.client.landing import Landing
        from ftpy.client.treeget import TreeGet

        options = options or TreeOptions(digest=self._transfer.digest)
        where = remote_path(path)
        folder = self.stat(where)
        if folder.type != "directory":
            raise NotADirectory(f"{display(str(where))}: not a folder")
        with self._listing(where, True) as theirs:
            assert theirs is not None
            with Landing(os.fspath(target), dry_run=options.dry_run) as landing:
                inline_bytes, several = self._connected().inline_bytes, self._streams.several
                tree = TreeGet(where, landing, options, inline_bytes, theirs, several=several)
                result = self._run_tree(tree, options)
            if theirs.missing:  # it was there a moment ago
                raise NotFound(f"{display(str(where))}: {NotFound.sentence()}")
            if where.parts and not options.dry_run:
                landing.finish(mode=folder.mode | OWNER_BITS, mtime_ns=folder.mtime_ns, force=options.force)
        return result

    def _run_tree(self, tree: TreePut | TreeGet, options: TreeOptions) -> TreeResult:
        if options.dry_run:
            tree.dry_run()
        else:
            try:
                self._streams.run(tree.worker, lambda: tree.tally.moved)
            finally:
                tree.work.stop()
                tree.close()
            if tree.work.failure is not None:
                raise tree.work.failure
        return tree.tally.finish()

    def _is_there(self, target: RemotePath) -> bool:
        """Whether there may be something to compare with."""
        try:
            self.stat(target)
        except NotFound:
            return False
        except PermissionDenied:
            return False  # who may only put cannot look
        return True
