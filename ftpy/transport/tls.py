"""TLS 1.3 only, without a CA: the client pins the certificate, the handshake's HMAC binds it (docs/protocol.md)."""

from __future__ import annotations

import errno
import hashlib
import hmac
import socket
import ssl
from typing import Any

from ftpy.errors import ConnectionLost, ServerNotTrusted, Stalled, TlsFailed, Translating

ALPN = "ftpy/1"


class _Socket(ssl.SSLSocket):
    """An end of TLS; ssl would leave it open where the connection was reset just before it took over."""

    def getpeername(self) -> Any:
        """As every socket's; asked by ssl while it takes over, and by nobody else."""
        try:
            return super().getpeername()
        except OSError as error:
            self.close()
            raise ConnectionResetError(errno.ECONNRESET, "the connection was reset") from error


def server_context(certificate: str, private_key: str) -> ssl.SSLContext:
    """What the server accepts: TLS 1.3, our protocol, no tickets. Raises OSError when a file cannot be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.sslsocket_class = _Socket
    context.set_alpn_protocols([ALPN])
    context.num_tickets = 0
    context.load_cert_chain(certificate, private_key)
    return context


def client_context() -> ssl.SSLContext:
    """What the client offers; the certificate is judged by its pin, not by a CA or a name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.sslsocket_class = _Socket
    context.set_alpn_protocols([ALPN])
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def wrap(sock: socket.socket, context: ssl.SSLContext, *, server_side: bool) -> ssl.SSLSocket:
    """``sock`` as an end of TLS, which takes it over; the handshake is still to come. Raises ConnectionLost."""
    with _translated():
        return context.wrap_socket(sock, server_side=server_side, do_handshake_on_connect=False)


def shake_hands(sock: ssl.SSLSocket, timeout: float) -> None:
    """The whole handshake, in the caller's thread, within ``timeout`` seconds.

    Raises TlsFailed where the peer's half makes no sense, else ConnectionLost, Stalled.
    """
    with _translated():
        sock.settimeout(timeout)
        sock.do_handshake()


def connect(sock: socket.socket, pin: bytes, timeout: float) -> ssl.SSLSocket:
    """The client's half; raises ServerNotTrusted unless the certificate's SHA-256 is ``pin``."""
    tls = wrap(sock, client_context(), server_side=False)
    try:
        shake_hands(tls, timeout)
        certificate = tls.getpeercert(binary_form=True) or b""
        if not hmac.compare_digest(hashlib.sha256(certificate).digest(), pin):
            raise ServerNotTrusted("the server has another certificate than the one it was paired with")
    except BaseException:
        tls.close()
        raise
    return tls


class _translated(Translating):  # noqa: N801  (reads as a statement: with _translated())
    """The one place where an error of a handshake becomes ours."""

    __slots__ = ()

    def translate(self, error: BaseException) -> None:
        if isinstance(error, TimeoutError):
            raise Stalled("the TLS handshake took too long") from None
        if isinstance(error, ssl.SSLEOFError):
            raise ConnectionLost("the TLS handshake failed: the peer closed the connection") from error
        if isinstance(error, ssl.SSLError):
            if error.reason == "MALLOC_FAILURE":  # our half's, not the peer's
                raise MemoryError from error
            raise TlsFailed(f"the TLS handshake failed: {error.reason or error}") from error
        if isinstance(error, OSError):
            raise ConnectionLost(f"the TLS handshake failed: {error.strerror or error}") from error
