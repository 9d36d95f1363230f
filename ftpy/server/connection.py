"""One connection from accept to close: TLS, authenticate, answer requests. The main path on one screen."""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import socketserver
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftpy.digests import DIGEST_NAMES, PART_DIGEST_NAMES
from ftpy.errors import (
    Busy,
    ConnectionFailed,
    ConnectionLost,
    Denied,
    FtpyError,
    InternalError,
    PermissionDenied,
    ProtocolError,
    RequestError,
    ShuttingDown,
    Stalled,
    TlsFailed,
)
from ftpy.server.accounts import Account
from ftpy.server.activity import Pulse
from ftpy.server.admission import source_of
from ftpy.server.audit import OK, Act, Trail, outcome_of
from ftpy.server.context import Commits, Context, failure
from ftpy.server.penalties import Offence
from ftpy.server.shares import Share
from ftpy.server.verbs import dispatch
from ftpy.storage import wanted
from ftpy.storage.local import LocalStorage
from ftpy.transport import tls
from ftpy.transport.channel import Channel
from ftpy.transport.deadline import Deadline
from ftpy.transport.pace import LeastPace, Pace
from ftpy.transport.stream import Stream
from ftpy.version import __version__
from ftpy.wire.auth import NONCE_BYTES, ServerHandshake
from ftpy.wire.bases import Continuation, FailureReply, Request, UnknownRequest
from ftpy.wire.handshake import Denied as DeniedMessage
from ftpy.wire.handshake import Hello, Limits, Proof, Welcome
from ftpy.wire.session import Message, Side

if TYPE_CHECKING:
    from ftpy.server.accepting import Server

log = logging.getLogger("ftpy.server")
_REQUESTS = (Request, UnknownRequest)
_OFFENCES: dict[type[FtpyError], Offence] = {
    Denied: "denied",
    ProtocolError: "protocol",
    TlsFailed: "protocol",
    Stalled: "late",
}
"""What costs a source time that does it before it has authenticated."""
FAREWELL_SECONDS = 1.0
"""How long a connection that is ended by us may take to read why."""


class RequestHandler(socketserver.BaseRequestHandler):
    """Serves one connection in its own thread."""

    server: Server

    def setup(self) -> None:
        """Take a name for the log and be known to the service, which may drain us."""
        self.service = self.server.service
        self.config = self.service.config  # as they are now: what was announced holds for the whole connection
        self.identity = self.service.identity
        self.key = id(self.request)
        self.source = self.server.describe(self.client_address)
        self.session = self.service.new_session()
        self.since_ns = time.time_ns()
        self.pulse = Pulse()
        self.stream: Stream | None = None
        self.context: Context | None = None
        self.storage: LocalStorage | None = None
        self.resting = False
        """Waiting for a request; ``waiting``: so that nothing is lost when it does not come."""
        self.waiting = False
        self.dismissed = False
        self.abandoned = False
        self.logged_in = False
        self.has_ended = False
        self.began = time.monotonic()
        self.trail = Trail(self.service.audit, user="-", source=self.source, session=self.session)
        self.service.opened(self)

    def handle(self) -> None:
        """TLS, authenticate, then requests until the peer leaves; every way out is logged."""
        limits = self.config.limits
        if not self._may_begin():
            return  # accepted in the last moment, or had to make room before this thread began
        try:
            deadline = Deadline(limits.handshake_seconds, "authentication")
            with self._on_probation():
                if self.identity.context is not None:
                    self.request = tls.wrap(self.request, self.identity.context, server_side=True)
                    if not self._may_begin():
                        return  # it was to be broken off while its socket changed hands
                    tls.shake_hands(self.request, deadline.remaining())
                self.stream = Stream(
                    self.request,
                    silence_seconds=limits.stall_seconds,
                    least=LeastPace(limits.least_bytes_per_second, limits.stall_seconds),
                )
                self.stream.expect_tls(tls.ALPN)
            channel = Channel(self.stream, Side.SERVER)
            try:
                with self.stream.until(deadline), self._on_probation():
                    account = self._authenticate(channel)
                self._serve(channel, account)
            except Denied as error:
                self._ended(error, "login-denied", logging.WARNING)
                channel.send(DeniedMessage())
                self._farewell(channel)
            except (ProtocolError, RequestError) as error:
                self._refuse(channel, error)
            except MemoryError:
                self._refuse(channel, Busy("the server is out of memory; try again later"))
        except ConnectionFailed as error:
            self._ended(error, "connection-ended", logging.INFO)
        else:
            if self.logged_in:
                self._ended(None)

    @contextlib.contextmanager
    def _on_probation(self) -> Iterator[None]:
        """What fails in here is its source's offence, before the peer hears of it."""
        try:
            yield
        except tuple(_OFFENCES) as error:
            self.service.admission.offend(source_of(self.client_address), _OFFENCES[type(error)])
            raise

    def _may_begin(self) -> bool:
        return not self.service.draining.is_set() and self.service.admission.is_stranger(self.key)

    def finish(self) -> None:
        """Let go of what the connection held; unfinished uploads stay and can be resumed."""
        try:
            if self.context is not None:
                self.context.close()
            if self.storage is not None:
                self.service.roots.let_go(self.storage)
            self.trail.flush()
            if self.stream is not None:
                self.stream.settle()
            self.request.close()
        finally:
            self.service.closed(self)

    def is_welcome(self) -> bool:
        """Whether the account that authenticated still stands; true before one did."""
        return self.context is None or self.service.accounts.is_current(self.context.account)

    def check_wanted(self) -> None:
        """Whether anything is still to be done for this session. Raises PermissionDenied, ShuttingDown."""
        if self.dismissed or not self.is_welcome():
            raise PermissionDenied("the session was ended meanwhile")
        if self.abandoned:
            raise ShuttingDown

    def dismiss(self, reason: str = "the user was removed or changed") -> None:
        """From any thread: say why, and end the session."""
        if not self.dismissed:
            self._note(logging.WARNING, "session-ended", reason=reason)
        # Only now, and at once: what stops because of this must find the connection broken, and is no answer.
        self.dismissed = True
        self.abandon()

    def abandon(self) -> None:
        """From another thread: break the connection, wherever it is, in the TLS handshake too.

        What goes on for it stops at its next step, and publishes nothing more.
        """
        self.abandoned = True
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.request, socket.SHUT_RDWR)

    def _authenticate(self, channel: Channel) -> Account:
        service = self.service
        hello_bytes = channel.receive_raw()
        if hello_bytes is None:
            raise ConnectionLost("the peer left before it said hello")
        hello = channel.session.receive(hello_bytes)
        assert isinstance(hello, Hello)
        self.trail.who["user"] = hello.user
        handshake = ServerHandshake(hello_bytes, hello, secrets.token_bytes(NONCE_BYTES), self.identity.binding)
        channel.send(handshake.message)
        proof = channel.receive()
        if not isinstance(proof, Proof):
            raise ConnectionLost("the peer left before it proved who it is")
        verifier, account = service.accounts.lookup(hello.user)
        server_proof = handshake.check(proof, verifier)
        if account is None:
            raise Denied
        if channel.readable():  # protocol.md 4.6: the client waits for the welcome, so somebody else has said it
            raise ProtocolError("something was said before the welcome")
        self._count_in(account)  # who has read the welcome is no stranger any more
        limits = self.config.limits
        channel.send(
            Welcome(
                server_proof=server_proof,
                server=f"ftpy {__version__}",
                time_ns=time.time_ns(),
                limits=Limits(
                    inline_bytes=limits.inline_bytes,
                    requests=limits.pipelined_requests,
                    least_bytes_per_second=limits.least_bytes_per_second,
                ),
                digests=sorted({*DIGEST_NAMES, *PART_DIGEST_NAMES}),
                rights=sorted(account.rights),
            )
        )
        channel.flush()
        self.logged_in = True
        self.trail.tell("login", OK, said="login", seconds=time.monotonic() - self.began)
        return account

    def _count_in(self, account: Account) -> None:
        verdict = self.service.admission.known(self.key, account.name, account.connections)
        if verdict == "gone":
            raise ConnectionLost("it had to make room for another connection")
        if verdict == "full":
            raise Busy(f"user {account.name} has {account.connections} connections already; try again later")

    def _serve(self, channel: Channel, account: Account) -> None:
        if (rate := account.rate) is not None:
            pace = Pace(rate, lambda count: self.service.admission.passed(account.name, count, rate))
            channel.stream.keep(pace)
            pace.catch_up()  # a connection that moves little is told of little: many of them are no way around the rate
        storage = self.storage = self.service.roots.storage_for(account)
        share = Share(self.service.shares, account.owner)
        commits = Commits(storage, channel, self.trail, share)
        context = self.context = Context(
            channel=channel,
            account=account,
            storage=storage,
            config=self.config,
            commits=commits,
            share=share,
            act=Act(self.trail, UnknownRequest(cmd="-", id=1)),
            draining=self.service.draining.is_set,
            commands=self.service,
            identity=self.identity,
            root=self.service.roots.real_root(account),
            feed=self.service.roots.feed,
        )
        wanted.ask(self.check_wanted)
        while (request := self._next_request(channel, context)) is not None:
            if isinstance(request, UnknownRequest) or not request.grouped:
                commits.flush()  # what follows sees what was put before it, and replies keep their order
            self._answer(request, context)
        commits.flush()  # the peer may have ended its half only, and waits for the answers
        channel.flush()

    def _next_request(self, channel: Channel, context: Context) -> Request | UnknownRequest | None:
        """The next request, or None when the connection is to end: the peer left, the service drains."""
        message = channel.receive_held() or self._await_request(channel, context)
        while isinstance(message, Continuation):  # it has crossed the last reply to what it belongs to
            channel.skip_body()
            message = channel.receive_held() or self._await_request(channel, context)
        if not self.is_welcome():
            self.dismiss()
            raise ConnectionLost("this session is over")
        assert message is None or isinstance(message, _REQUESTS)
        return message

    def _await_request(self, channel: Channel, context: Context) -> Message | None:
        if not channel.readable():
            context.commits.flush()
            self.trail.flush()
        channel.flush()
        self.resting = True
        self.waiting = not context.uploads
        try:
            if self.service.draining.is_set() and self.waiting and not channel.readable():
                return None
            return channel.receive(silence_seconds=self.service.config.limits.idle_seconds)
        finally:
            self.resting = self.waiting = False

    def _answer(self, request: Request | UnknownRequest, context: Context) -> None:
        channel = context.channel
        act = context.act = Act(self.trail, request)
        try:
            reply = dispatch(request, context)
        except RequestError as error:
            self._fail(request, self._in_place(error), context)
        except (ConnectionFailed, MemoryError) as error:
            act.failed(error, sent=None if channel.session.outgoing.between_frames else channel.session.outgoing.done)
            raise
        except Exception:
            log.exception("internal", extra={"event": "internal", "fields": {"verb": act.verb}})
            self._fail(request, InternalError(), context)
        else:
            if reply is not None:
                context.commits.flush()
                channel.send(reply)

    def _in_place(self, error: RequestError) -> RequestError:
        """Why a request is refused: whatever it met in a folder that is another one by now is no reason."""
        assert self.storage is not None
        try:
            self.storage.check_in_place()
        except Busy as displaced:
            return displaced
        return error

    def _fail(self, request: Request | UnknownRequest, error: RequestError, context: Context) -> None:
        """Note a failure, and reply with it in its turn, after the rest of the request was read and dropped."""
        channel = context.channel
        context.act.failed(error)
        if not channel.session.outgoing.between_frames:
            raise ConnectionLost("a reply could not be finished") from error
        channel.skip_body()
        context.commits.flush()
        channel.send(failure(request.id, error))

    def _refuse(self, channel: Channel, error: ProtocolError | RequestError) -> None:
        """What ends a connection is told once: after a broken protocol the next frame's start is no longer known."""
        self._ended(error, error.code, logging.WARNING)
        if channel.session.outgoing.between_frames:
            channel.send(FailureReply(id=0, error=error.code, message=str(error)[:1024]))
            self._farewell(channel)

    def _farewell(self, channel: Channel) -> None:
        channel.flush()
        channel.stream.farewell(FAREWELL_SECONDS)

    def _note(self, level: int, event: str, **fields: object) -> None:
        log.log(level, event, extra={"event": event, "fields": {**self.trail.who, **fields}})

    def _ended(self, error: Exception | None, said: str = "", level: int = logging.INFO) -> None:
        """The session has ended, or the login that would have begun one; in the log it is ``said``. Told once."""
        if self.has_ended:
            return
        self.has_ended = True
        times: int | None = None
        if not self.logged_in and isinstance(error, ConnectionLost) and type(error) not in _OFFENCES:
            if not (times := self.service.leavers.due(source_of(self.client_address))):
                return
            times = times if times > 1 else None
        outcome = OK if error is None else "dismissed" if self.dismissed else outcome_of(error)
        reason = None if error is None else str(error)
        event = "session-end" if self.logged_in else "login"
        seconds = time.monotonic() - self.began
        self.trail.tell(event, outcome, said=said, level=level, reason=reason, times=times, seconds=seconds)
