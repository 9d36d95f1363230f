"""``Client``: a server as an object. Connects, proves, retries; a method per verb."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Literal, Self, TypeVar

from msgspec import structs

from ftpy.client.connection import Connection
from ftpy.client.results import Fetched, Moved, OnProgress, Removed, Stored, ignore
from ftpy.client.streams import Line, Streams
from ftpy.client.trees import OWNER_BITS, TreeOptions, TreeResult
from ftpy.config.client import MOST_STREAMS, Profile, Transfer, choose_profile, client_config_path, load_client_config
from ftpy.digests import DigestName
from ftpy.errors import (
    ConfigError,
    ConnectionFailed,
    DigestMismatch,
    FtpyError,
    LocalFileError,
    NotADirectory,
    NotFound,
    PermissionDenied,
    ProtocolError,
    RequestError,
    UnknownUpload,
)
from ftpy.files import FileInfo, RemotePath, display
from ftpy.storage.base import Condition, KnownDigest
from ftpy.transport.pace import Pace
from ftpy.wire.entries import entry_to_info
from ftpy.wire.messages import (
    DigestReply,
    DigestRequest,
    LsReply,
    LsRequest,
    StatReply,
    StatRequest,
)
from ftpy.wire.spelling import path_to_wire

if TYPE_CHECKING:
    from ftpy.client.explaining import Explanation, Ledger
    from ftpy.client.listing import Listing
    from ftpy.client.putting import FilePut
    from ftpy.client.streamput import StreamPut
    from ftpy.client.treeget import TreeGet
    from ftpy.client.treeput import TreePut

LISTING_ROUND_TRIPS = 5
"""What another connection takes to be ready, round trips: TCP, TLS, two of authentication, and the first request."""
LISTING_SECONDS = 0.25
"""How long a listing is waited for in any case: beside it the transfer of small files is slower, at both ends."""

SPARE = 2
"""How much faster than the server's least a connection is kept: what moves is never even."""

T = TypeVar("T")
Notify = Callable[[str], None]
PathLike = str | RemotePath


def _silent(_: str) -> None:
    return None


class Client:
    """A connection to one server, made again when it breaks; use it in a ``with``. Not safe in several threads.

    ``limit`` bytes a second pass at most, over all connections and both ways together; one that ``explains`` measures
    what its transfers spend their time on. ``notify`` hears a sentence for everything that a user should know while it
    happens: a lost connection and the next try, a transfer that starts over. Every method raises the errors of
    ``ftpy.errors`` and no others.
    """

    def __init__(
        self,
        profile: Profile,
        transfer: Transfer | None = None,
        notify: Notify = _silent,
        *,
        limit: int | None = None,
        explains: bool = False,
    ) -> None:
        self._pace = Pace(limit) if limit else None
        self._profile = profile
        self._transfer = transfer or Transfer()
        self._notify = notify
        self._ledger: Ledger | None = None
        if explains:
            from ftpy.client.explaining import Ledger

            self._ledger = Ledger()
        self._line = Line(self._measured, self._transfer.retries, notify)
        self._least = 0
        """What the server wants to move on a connection at least, bytes a second."""
        self._streams = Streams(
            self._line,
            self._measured,
            self._transfer.streams,
            most=self._affordable,
            retries=self._transfer.retries,
            notify=notify,
        )

    @classmethod
    def paired(
        cls,
        name: str | None = None,
        notify: Notify = _silent,
        *,
        streams: Literal["auto"] | int | None = None,
        limit: int | None = None,
        explains: bool = False,
    ) -> Client:
        """A client for a paired server: ``name``, or $FTPY_SERVER, or the default. Raises ConfigError.

        ``streams`` connections share one transfer, 1 to 32, instead of what is configured.
        """
        config = load_client_config(client_config_path())
        _, profile = choose_profile(config, name)
        transfer = config.transfer if streams is None else structs.replace(config.transfer, streams=streams)
        return cls(profile, transfer, notify, limit=limit, explains=explains)

    # ---- life

    def __enter__(self) -> Self:
        """Connect and prove both ends; where no server is, the first connection is not retried."""
        self._connected()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; safe to call twice."""
        self._line.close()

    @property
    def rights(self) -> frozenset[str]:
        """What this user may do there."""
        return frozenset(self._connected().welcome.rights)

    @property
    def server(self) -> str:
        """What the server calls itself."""
        return self._connected().welcome.server

    @property
    def default_digest(self) -> DigestName:
        """What verifies whole files where nothing else is said."""
        return self._transfer.digest

    def _connected(self) -> Connection:
        return self._line.connected()

    def _persist(self, attempt: Callable[[Connection], T], moved: Callable[[], int] = lambda: 0) -> T:
        """Attempt over one connection after the other; the count of failures starts anew whenever ``moved`` grows."""
        return self._line.persist(attempt, moved)

    def _another(self) -> Connection:
        connection = Connection.open(self._profile, self._transfer, self._pace)
        self._least = connection.welcome.limits.least_bytes_per_second
        if not self._affordable():
            connection.close()
            raise ConfigError(
                f"--limit is too low: this server ends connections that move less than {self._least} bytes a second, "
                f"and {SPARE} times that is safe"
            )
        return connection

    def _affordable(self) -> int:
        """How many connections the rate that is to be kept is enough for, so that the server ends none of them."""
        if self._pace is None or not self._least:
            return MOST_STREAMS
        return self._pace.bytes_per_second // (SPARE * self._least)

    def _measured(self) -> Connection:
        """Another one for this thread to do its work on, which is measured where that is wanted."""
        connection = self._another()
        if self._ledger is not None:
            try:
                self._ledger.opened(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def explain(self, way: Literal["put", "get"]) -> Explanation | None:
        """What limited the transfers so far, which went ``way``; None unless this client ``explains``. Asked once."""
        return self._ledger.explain(way) if self._ledger is not None else None

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

        wanted = Put(_remote(path), digest or self._transfer.digest, condition, on_progress)
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
        on_progress: OnProgress = ignore,
    ) -> Fetched:
        """Fetch a file into ``target`` (a file name on this side), or write it to a binary stream.

        A file appears under its name only when it is verified and durable; an interrupted get goes on where it stood.
        A different file that is there already is replaced only with ``force``.
        Raises TargetExists, LocalFileError, NotFound, DigestMismatch, ….
        """
        from ftpy.client.getting import FileGet, Get, StreamGet

        wanted = Get(_remote(path), digest or self._transfer.digest, on_progress)
        if not isinstance(target, str | os.PathLike):
            stream = StreamGet(wanted, target)
            return self._persist(stream.attempt, lambda: stream.received)
        with FileGet(wanted, os.fspath(target), force=force, notify=self._notify) as transfer:
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
        target = _remote(path)
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
        where = _remote(path)
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
                landing.finish(mode=folder.mode | OWNER_BITS, mtime_ns=folder.mtime_ns)
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

    @contextlib.contextmanager
    def _listing(self, where: RemotePath, there: bool, *, recursive: bool = True) -> Iterator[Listing | None]:
        """What is below ``where``, read ahead beside the transfers; None where nothing is ``there``.

        The connection that there is serves for both, one after the other, unless the listing takes longer than another
        connection would on a long line, or than a look at some ten thousand files does on any.
        """
        if not there:
            yield None
            return
        from ftpy.client.listing import Listing

        connection = self._connected()
        try:
            with Listing(where, connection, self._another, recursive=recursive) as listing:
                read = listing.wait(max(LISTING_SECONDS, LISTING_ROUND_TRIPS * connection.round_trip_seconds))
                if not read or not connection.in_step:
                    self._line.take()  # it is the listing's until that is through
                    if self._ledger is not None:
                        self._ledger.forget(connection)
                yield listing
        finally:
            if self._line.connection is not connection:
                connection.close()

    # ---- rm, mv

    def rm(self, path: PathLike, *, recursive: bool = False) -> Removed:
        """Remove a file, a link or an empty folder, with ``recursive`` any folder; durable when it returns.

        Raises NotFound, NotEmpty, OutcomeUnknown, ….
        """
        from ftpy.client.changing import Rm

        return Rm(_remote(path), recursive=recursive).once(self._line)

    def mv(self, path: PathLike, to: PathLike, *, condition: Literal["absent"] | None = None) -> Moved:
        """Give what is at ``path`` the path ``to``; it replaces a file there, unless ``condition`` is ``"absent"``.

        Durable when it returns. Raises NotFound, AlreadyExists, IsADirectory, OutcomeUnknown, ….
        """
        from ftpy.client.changing import Mv

        return Mv(_remote(path), _remote(to), condition).once(self._line)

    # ---- ls, stat, digest

    def ls(self, path: PathLike = "", *, recursive: bool = False) -> Iterator[FileInfo]:
        """What is in a directory, as the pages come; ends normally only after the whole listing has come.

        The connection is busy until the iteration ends; an iteration left early closes it.
        """
        where = _remote(path)
        connection, page = self._persist(lambda live: self._first_page(live, where, recursive))
        try:
            while True:
                for entry in page.entries:
                    info = entry_to_info(entry, where)
                    if info.path == where:
                        raise ProtocolError("a listing names the folder itself as something in it")
                    yield info
                if page.complete:
                    return
                page = connection.wait(LsReply)
        except GeneratorExit:
            self.close()
            raise
        except FtpyError:
            if not connection.in_step:
                self.close()
            raise

    @contextlib.contextmanager
    def listing(self, path: PathLike = "", *, recursive: bool = False) -> Iterator[Iterator[FileInfo]]:
        """The same as ``ls`` while the ``with`` lasts, read ahead: other requests may be made meanwhile."""
        where = _remote(path)

        def entries(listing: Listing) -> Iterator[FileInfo]:
            yield from listing
            if listing.missing:
                raise NotFound(f"{display(str(where))}: {NotFound.sentence()}")

        with self._listing(where, True, recursive=recursive) as listing:
            assert listing is not None
            yield entries(listing)

    def _first_page(self, connection: Connection, where: RemotePath, recursive: bool) -> tuple[Connection, LsReply]:
        request = LsRequest(id=connection.next_id(), **path_to_wire(where), recursive=recursive)
        return connection, connection.call(request, LsReply)

    def stat(self, path: PathLike) -> FileInfo:
        """What is known of one path. Raises NotFound."""
        where = _remote(path)
        reply = self._persist(
            lambda connection: connection.call(StatRequest(id=connection.next_id(), **path_to_wire(where)), StatReply)
        )
        info = entry_to_info(reply.entry, where)
        if info.path != where:
            raise ProtocolError("the server tells of another path than the one that was asked for")
        return info

    def digest(self, path: PathLike, digest: DigestName | None = None) -> KnownDigest:
        """The digest of a file's content, remembered by the server or computed there now."""
        where, name = _remote(path), digest or self._transfer.digest
        reply = self._persist(
            lambda connection: connection.call(
                DigestRequest(id=connection.next_id(), **path_to_wire(where), digest=name), DigestReply
            )
        )
        if reply.digest.name != name:
            raise ProtocolError(f"the server tells a {reply.digest.name} where {name} was asked for")
        return KnownDigest(name, reply.digest.hex)


def _remote(path: PathLike) -> RemotePath:
    """The path, with a leading slash forgiven: both spellings mean the user's root."""
    if isinstance(path, RemotePath):
        return path
    return RemotePath.parse(path.removeprefix("/"))
