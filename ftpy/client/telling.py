"""The part of ``Client`` that is told: what happens on the server, and what it states about a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftpy.client.base import Base, PathLike, remote_path
from ftpy.digests import DigestName
from ftpy.errors import ConfigError

if TYPE_CHECKING:
    from ftpy.client.events import Event, Events
    from ftpy.client.receipts import Found
    from ftpy.wire.receipts import Receipt, Statement


class Telling(Base):
    """Events and receipts."""

    def events(self, since: str = "start", *, follow: bool = False) -> Iterator[Event]:
        """What was published, moved and deleted, in that order: behind a cursor, or from the ``"start"`` of what is
        kept, or the ``"end"``.

        Ends with the newest; with ``follow`` it goes on for ever, as it happens. None is lost or comes twice when a
        connection breaks. Raises CursorTooOld, Unsupported where no feed is kept, ….
        """
        return iter(self.feed(since, follow=follow))

    def feed(self, since: str = "start", *, follow: bool = False) -> Events:
        """The same, whose ``cursor`` is behind what it has given so far, and at last behind all that there was."""
        from ftpy.client.events import Events

        return Events(self._line, since, follow=follow)

    def receipt(self, path: PathLike, *, etag: str | None = None, digest: DigestName | None = None) -> Receipt:
        """The server's signed statement of what is durably stored at ``path``, with ``etag`` of that version.

        It was verified: signed by the server that this client was paired with. Raises Changed, NotFound,
        ReceiptInvalid, Unsupported where the server has no certificate, ….
        """
        from ftpy.client.receipts import ask

        where, name = remote_path(path), digest or self._transfer.digest
        return self._persist(lambda connection: ask(connection, self._profile, where, etag, name))

    def compare_receipt(self, statement: Statement) -> Found:
        """Whether what a receipt states is still at its path: ``"same"``, ``"changed"`` or ``"gone"``.

        Raises ConfigError for a receipt of another user, at whose paths this one sees something else or nothing.
        """
        from ftpy.client.receipts import compare

        if statement.user != self._profile.user:
            raise ConfigError(
                f"the receipt is for the user {statement.user}, and this client is paired as {self._profile.user}:"
                " only --offline, or paired as the former, can it be verified"
            )
        return self._persist(lambda connection: compare(connection, statement))
