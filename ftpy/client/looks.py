"""The part of ``Client`` that looks and changes nothing: ls, stat, digest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ftpy.client.base import Base, PathLike, remote_path
from ftpy.client.connection import Connection
from ftpy.digests import DigestName
from ftpy.errors import FtpyError, NotADirectory, NotFound, ProtocolError, TooManyMatches
from ftpy.files import FileInfo, RemotePath, display
from ftpy.storage.base import KnownDigest
from ftpy.wire.entries import entry_to_info
from ftpy.wire.messages import DigestReply, DigestRequest, LsReply, LsRequest, StatReply, StatRequest
from ftpy.wire.spelling import path_to_wire
from ftpy.wire.upkeep import DfReply, DfRequest

if TYPE_CHECKING:
    from ftpy.client.listing import Listing
    from ftpy.client.results import Room
    from ftpy.client.surveying import Branch, Total, Wanted

LISTING_ROUND_TRIPS = 5
"""What another connection takes to be ready, round trips: TCP, TLS, two of authentication, and the first request."""
LISTING_SECONDS = 0.25
"""How long a listing is waited for in any case: beside it the transfer of small files is slower, at both ends."""


class Looks(Base):
    """What a user with the right to list or read may ask."""

    def ls(self, path: PathLike = "", *, recursive: bool = False, whole: bool = False) -> Iterator[FileInfo]:
        """What is in a directory, as the pages come; ends normally only after the whole listing has come.

        What this user may not list is left out; where the ``whole`` is wanted, it raises PermissionDenied. The
        connection is busy until the iteration ends; an iteration left early closes it.
        """
        where = remote_path(path)
        connection, page = self._persist(lambda live: self._first_page(live, where, recursive, whole=whole))
        try:
            yield from _entries(where, connection, page)
        except GeneratorExit:
            self.close()
            raise
        except FtpyError:
            if not connection.in_step:
                self.close()
            raise

    def glob(self, pattern: str) -> list[FileInfo]:
        """What a pattern means (``client.globbing``), in the order of paths; nothing where nothing matches.

        Told from complete listings only: one that breaks off is asked for again, or raises.
        """
        from ftpy.client.globbing import Pattern

        return Pattern(pattern.removeprefix("/")).expand(self._kept, self.stat)

    def _kept(self, where: RemotePath, recursive: bool, keep: Callable[[FileInfo], bool]) -> list[FileInfo]:
        """What is to be kept of a folder's whole listing, which is asked for anew where it broke off.

        Raises TooManyMatches.
        """
        from ftpy.client.globbing import MOST_MATCHES

        def attempt(connection: Connection) -> list[FileInfo]:
            found: list[FileInfo] = []
            for info in _entries(where, *self._first_page(connection, where, recursive)):
                if keep(info):
                    found.append(info)
                    if len(found) > MOST_MATCHES:
                        raise TooManyMatches
            return found

        return self._persist(attempt)

    def df(self) -> Room:
        """How much room there is: on the host's disk, and of this user's quota. Raises Unsupported."""
        from msgspec import structs

        from ftpy.client.results import Room

        reply = self._persist(lambda connection: connection.call(DfRequest(id=connection.next_id()), DfReply))
        return Room(**{name: value for name, value in structs.asdict(reply).items() if name not in ("id", "ok")})

    def find(self, path: PathLike = "", wanted: Wanted | None = None) -> Iterator[FileInfo]:
        """What is below a folder and is ``wanted``, in the order of paths; a file is found itself.

        Nothing is told before the listing is complete, which waits in a temporary file where it is long. Raises
        NotFound, and what ended the listing early.
        """
        from ftpy.client.surveying import Wanted

        where, wanted = remote_path(path), wanted or Wanted()
        try:
            with self._listing(where, True) as listing:
                assert listing is not None
                listing.complete()
                _check_there(listing, where)
                yield from wanted.among(listing)
        except NotADirectory:
            yield from wanted.among([self.stat(where)])

    def du(self, path: PathLike = "") -> Iterator[Total]:
        """The total of every folder below a folder, those in it before it, and its own at the end; or a file's size.

        Totals come while the listing does, and each is of a part of it that has come whole. Raises NotFound, and what
        ended the listing early.
        """
        from ftpy.client.surveying import Total, totals

        where = remote_path(path)
        try:
            with self.listing(where, recursive=True) as entries:
                yield from totals(where, entries)
        except NotADirectory:
            yield Total(where, self.stat(where).size, 1)

    def tree(self, path: PathLike = "", keep: Callable[[FileInfo], bool] = lambda _: True) -> Iterator[Branch]:
        """What is below a folder, as far as it is to be kept, with what draws it as a tree.

        Raises NotFound, NotADirectory, and what ended the listing early.
        """
        from ftpy.client.surveying import branches

        where = remote_path(path)
        with self.listing(where, recursive=True) as entries:
            yield from branches(where, filter(keep, entries))

    @contextlib.contextmanager
    def listing(self, path: PathLike = "", *, recursive: bool = False) -> Iterator[Iterator[FileInfo]]:
        """The same as ``ls`` while the ``with`` lasts, read ahead: other requests may be made meanwhile."""
        where = remote_path(path)

        def entries(listing: Listing) -> Iterator[FileInfo]:
            yield from listing
            _check_there(listing, where)

        with self._listing(where, True, recursive=recursive) as listing:
            assert listing is not None
            yield entries(listing)

    def _first_page(
        self, connection: Connection, where: RemotePath, recursive: bool, *, whole: bool = False
    ) -> tuple[Connection, LsReply]:
        request = LsRequest(id=connection.next_id(), **path_to_wire(where), recursive=recursive, whole=whole)
        return connection, connection.call(request, LsReply)

    def stat(self, path: PathLike) -> FileInfo:
        """What is known of one path. Raises NotFound."""
        where = remote_path(path)
        reply = self._persist(
            lambda connection: connection.call(StatRequest(id=connection.next_id(), **path_to_wire(where)), StatReply)
        )
        info = entry_to_info(reply.entry, where)
        if info.path != where:
            raise ProtocolError("the server tells of another path than the one that was asked for")
        return info

    def digest(self, path: PathLike, digest: DigestName | None = None) -> KnownDigest:
        """The digest of a file's content, remembered by the server or computed there now."""
        where, name = remote_path(path), digest or self._transfer.digest
        reply = self._persist(
            lambda connection: connection.call(
                DigestRequest(id=connection.next_id(), **path_to_wire(where), digest=name), DigestReply
            )
        )
        if reply.digest.name != name:
            raise ProtocolError(f"the server tells a {reply.digest.name} where {name} was asked for")
        return KnownDigest(name, reply.digest.hex)

    @contextlib.contextmanager
    def _listing(
        self, where: RemotePath, there: bool, *, recursive: bool = True, tree: str | None = None
    ) -> Iterator[Listing | None]:
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
            with Listing(where, connection, self._new_line(), recursive=recursive, tree=tree) as listing:
                read = listing.wait(max(LISTING_SECONDS, LISTING_ROUND_TRIPS * connection.round_trip_seconds))
                if not read or not connection.in_step:
                    self._line.take()  # it is the listing's until that is through
                    if self._ledger is not None:
                        self._ledger.forget(connection)
                yield listing
        finally:
            if self._line.connection is not connection:
                connection.close()


def _entries(where: RemotePath, connection: Connection, page: LsReply) -> Iterator[FileInfo]:
    """A listing's entries, from its first page to its end. Raises ProtocolError where that does not come."""
    from ftpy.client.listing import check_count

    count = 0
    while True:
        check_count(count := count + len(page.entries))
        for entry in page.entries:
            info = entry_to_info(entry, where)
            if info.path == where:
                raise ProtocolError("a listing names the folder itself as something in it")
            yield info
        if page.complete:
            return
        page = connection.wait(LsReply)


def _check_there(listing: Listing, where: RemotePath) -> None:
    """Of a listing that is complete. Raises NotFound."""
    if listing.missing:
        raise NotFound(f"{display(str(where))}: {NotFound.sentence()}")
