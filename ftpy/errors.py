"""Every exception that ftpy raises on purpose.

::

    FtpyError
    ├── ConfigError                 a settings file is wrong                            exit 2
    ├── LocalFileError              a file on this side cannot be read or written       exit 1
    │   ├── TargetExists            get would overwrite a different file                exit 1
    │   └── SourceChanged           the file changed while it was being sent            exit 1
    ├── NoMatch                     nothing on the server is meant by a pattern         exit 1
    ├── TooManyMatches              a pattern means more than can be kept               exit 1
    ├── SyncRefused                 a sync would delete what it had better not          exit 1
    ├── ReceiptInvalid              no receipt of this server's                         exit 5
    ├── ReceiptDiffers              this is not what it was given for                   exit 5
    ├── ReceiptMissing              it is stored, but there is none for it              exit 1
    ├── UnknownSession              the server has no such session (ftpy-server kick)   exit 1
    ├── ConnectionFailed            no working connection to the server                 exit 3
    │   ├── NotRunning              there is no server (ftpy-server status, kick)
    │   ├── NoBeacon                nothing answers over UDP (ftpy discover, time)
    │   ├── ConnectionLost          it broke; what was stored stays stored
    │   │   ├── Stalled             it is open but nothing moves
    │   │   └── TlsFailed           the peer's half of TLS made no sense
    │   ├── TurnedAway              the server takes no connection now; it may later
    │   ├── OutcomeUnknown          it broke before it was said whether something was done
    │   └── ProtocolError           the peer does not speak the protocol
    ├── AuthenticationFailed        one side could not prove who it is                  exit 4
    │   ├── Denied                  the server refuses this user and key
    │   └── ServerNotTrusted        the server has another certificate, or no proof
    └── RequestError                the server refuses one request; a *code* each       exit 1
        ├── …                       one class per code, see ``CODES``
        └── DigestMismatch                                                              exit 5

A ``RequestError`` travels: the server raises it, the wire carries its ``code``, the client raises
the same class again. The first line of a class's docstring is what a user reads when nothing more
precise was said. Whatever is raised that is not in this tree is a defect: the server answers
``internal`` without detail and logs the traceback, the command line says so in one line.
"""

from __future__ import annotations

from types import TracebackType
from typing import ClassVar


class FtpyError(Exception):
    """Something went wrong."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(message or self.sentence())

    @classmethod
    def sentence(cls) -> str:
        """The first line of the class's docstring."""
        return (cls.__doc__ or cls.__name__).strip().splitlines()[0]


class ConfigError(FtpyError):
    """The settings are wrong."""

    exit_code = 2


class LocalFileError(FtpyError):
    """A file on this side cannot be read or written."""


class TargetExists(LocalFileError):
    """A different file is already there; --force replaces it."""


class SourceChanged(LocalFileError):
    """The file changed while it was being sent; nothing was stored."""


class NoMatch(FtpyError):
    """Nothing on the server matches this pattern."""


class TooManyMatches(FtpyError):
    """The pattern matches too much at once; be more precise, or take the whole folder."""


class SyncRefused(FtpyError):
    """This sync would delete too much; nothing was changed."""


class ReceiptInvalid(FtpyError):
    """The receipt is not one that this server gave."""

    exit_code = 5


class ReceiptDiffers(FtpyError):
    """This is not what the receipt was given for."""

    exit_code = 5


class ReceiptMissing(FtpyError):
    """It is stored, but there is no receipt."""


class UnknownSession(FtpyError):
    """There is no such session."""


class ConnectionFailed(FtpyError):
    """The server cannot be reached."""

    exit_code = 3


class NotRunning(ConnectionFailed):
    """No server is running."""


class NoBeacon(ConnectionFailed):
    """No server answers over UDP."""


class ConnectionLost(ConnectionFailed):
    """The connection was lost; what was stored stays stored."""


class Stalled(ConnectionLost):
    """Nothing moved for too long on an open connection."""


class TlsFailed(ConnectionLost):
    """The encrypted connection could not be set up."""


class TurnedAway(ConnectionFailed):
    """The server closed the connection at once; it may be full or refuse this address for a while."""


class OutcomeUnknown(ConnectionFailed):
    """The connection was lost before the server said whether it was done; look before you try again."""


class ProtocolError(ConnectionFailed):
    """The peer does not speak this protocol."""

    code: ClassVar[str] = "protocol-error"


class AuthenticationFailed(FtpyError):
    """One side could not prove who it is."""

    exit_code = 4


class Denied(AuthenticationFailed):
    """The server refused this user and key."""


class ServerNotTrusted(AuthenticationFailed):
    """The server is not the one that this client was paired with."""


class RequestError(FtpyError):
    """The request was refused."""

    code: ClassVar[str] = ""


class AlreadyExists(RequestError):
    """Something is already there."""

    code = "already-exists"


class Busy(RequestError):
    """The server is at its limit; try again later."""

    code = "busy"


class Changed(RequestError):
    """The file on the server is no longer the version that was asked for."""

    code = "changed"


class CommandFailed(RequestError):
    """The command could not be run; the server's log says why."""

    code = "command-failed"


class CursorTooOld(RequestError):
    """What came after that cursor is no longer known; list what is there, and begin the feed anew."""

    code = "cursor-too-old"


class DigestMismatch(RequestError):
    """The bytes that arrived are not the bytes that were sent; nothing was changed. Try again."""

    code = "digest-mismatch"
    exit_code = 5


class Incomplete(RequestError):
    """Some of it is missing."""

    code = "incomplete"


class InternalError(RequestError):
    """The server failed; its log says why."""

    code = "internal"


class InvalidArgument(RequestError):
    """The command does not take these arguments."""

    code = "invalid-argument"


class InvalidPath(RequestError):
    """This path is not allowed."""

    code = "invalid-path"


class InvalidRequest(RequestError):
    """The request contradicts itself or what was agreed."""

    code = "invalid-request"


class IoError(RequestError):
    """The server's disk failed."""

    code = "io-error"


class IsADirectory(RequestError):
    """That is a directory."""

    code = "is-a-directory"


class NoSpace(RequestError):
    """The server's disk is full."""

    code = "no-space"


class NotADirectory(RequestError):
    """That is not a directory."""

    code = "not-a-directory"


class NotAFile(RequestError):
    """That is not a regular file."""

    code = "not-a-file"


class NotEmpty(RequestError):
    """The folder is not empty."""

    code = "not-empty"


class NoPrevious(RequestError):
    """Nothing is kept there to go back to."""

    code = "no-previous"


class NotFound(RequestError):
    """There is no such file."""

    code = "not-found"


class PermissionDenied(RequestError):
    """This user may not do that."""

    code = "permission-denied"


class QuotaExceeded(RequestError):
    """The quota is used up."""

    code = "quota-exceeded"


class ShuttingDown(RequestError):
    """The server is shutting down; go on when it is back."""

    code = "shutting-down"


class UnknownCommand(RequestError):
    """There is no such command for this user."""

    code = "unknown-command"


class UnknownOperation(RequestError):
    """There is no such operation; it was never begun, has expired or was forgotten."""

    code = "unknown-operation"


class UnknownTree(RequestError):
    """This staged tree is no more: in place, dropped, expired, or another put has taken it over."""

    code = "unknown-tree"


class UnknownUpload(RequestError):
    """There is no such upload; it was finished, aborted or has expired."""

    code = "unknown-upload"


class Unsupported(RequestError):
    """The server does not know this verb or option."""

    code = "unsupported"


def _codes(base: type[RequestError]) -> dict[str, type[RequestError]]:
    found = {base.code: base} if base.code else {}
    for child in base.__subclasses__():
        found.update(_codes(child))
    return found


CODES: dict[str, type[RequestError]] = _codes(RequestError)
"""Wire code -> class, one to one (docs/protocol.md, errors)."""


def request_error(code: str, message: str) -> RequestError:
    """The exception for a code that came over the wire; a code from a newer peer stays readable."""
    known = CODES.get(code)
    return known(message) if known else RequestError(f"{code}: {message}" if message else code)


class Translating:
    """Inside the ``with`` an error is given to ``translate``, which raises what it is to be, or leaves it as it is.

    No generator: what fails in one is held by its own traceback (Python 3.12 and later), and with it all that its
    frames hold, what a connection has received for one, until the collector comes.
    """

    __slots__ = ()

    def translate(self, error: BaseException) -> None:
        """Raise another one for it."""
        raise NotImplementedError

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.translate(error)
