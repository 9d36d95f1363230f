"""What every part of ``Client`` stands on: connecting, proving, retrying, measuring."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Self, TypeVar

from msgspec import structs

from ftpy.client.clock import Clock
from ftpy.client.connection import Connection
from ftpy.client.lines import Line
from ftpy.client.streams import Streams
from ftpy.config.client import MOST_STREAMS, Profile, Transfer, choose_profile, client_config_path, load_client_config
from ftpy.digests import DigestName
from ftpy.errors import ConfigError
from ftpy.files import RemotePath
from ftpy.storage.base import Closing
from ftpy.transport.pace import Pace

if TYPE_CHECKING:
    from ftpy.client.explaining import Explanation, Ledger

SPARE = 2
"""How much faster than the server's least a connection is kept: what moves is never even."""

T = TypeVar("T")
Notify = Callable[[str], None]
PathLike = str | RemotePath


def _silent(_: str) -> None:
    return None


class Base(Closing):
    """A connection to one server, made again when it breaks; what ``Client`` says of itself holds."""

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
    ) -> Self:
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

    def close(self) -> None:
        """Close the connection; safe to call twice."""
        self._line.close()

    def rest(self) -> None:
        """Between two uses, of which nobody knows how far apart: a connection that is no good for another is closed.

        That is one that was left in the middle of something, or that the server has ended meanwhile.
        """
        connection = self._line.connection
        if connection is not None and not (connection.in_step and not connection.readable()):
            self.close()

    @property
    def rights(self) -> frozenset[str]:
        """What this user may do there."""
        return frozenset(self._connected().welcome.rights)

    @property
    def server(self) -> str:
        """What the server calls itself."""
        return self._connected().welcome.server

    @property
    def clock(self) -> Clock:
        """The server's clock against ours, as the welcome of the connection told it."""
        return self._connected().clock

    @property
    def default_digest(self) -> DigestName:
        """What verifies whole files where nothing else is said."""
        return self._transfer.digest

    def _connected(self) -> Connection:
        return self._line.connected()

    def _persist(self, attempt: Callable[[Connection], T], moved: Callable[[], int] = lambda: 0) -> T:
        """Attempt over one connection after the other; the count of failures starts anew whenever ``moved`` grows."""
        return self._line.persist(attempt, moved)

    def _new_line(self) -> Line:
        """For what goes on beside the work; not counted where that is measured."""
        return Line(self._another, self._transfer.retries, self._notify)

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


def remote_path(path: PathLike) -> RemotePath:
    """The path, with a leading slash forgiven: both spellings mean the user's root."""
    if isinstance(path, RemotePath):
        return path
    return RemotePath.parse(path.removeprefix("/"))
