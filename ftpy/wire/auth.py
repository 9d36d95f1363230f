"""FTPY-AUTH-1: who the two ends are, from given nonces and keys (docs/protocol.md, authentication).

SCRAM-SHA-256's equations (RFC 5802, RFC 7677) over random 256-bit keys, bound to the server's TLS
certificate. The server holds verifiers, never keys; the client sends no request before ``server_proof``
verifies, so a man in the middle with another certificate learns nothing that it could use.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

from ftpy.errors import Denied, ProtocolError, ServerNotTrusted
from ftpy.wire.codec import encode
from ftpy.wire.handshake import PROTOCOL_VERSION, Binding, Challenge, Hello, Proof
from ftpy.wire.spelling import b64decode, b64encode

KEY_BYTES = 32
NONCE_BYTES = 32


@dataclass(frozen=True, slots=True)
class Verifier:
    """What a server keeps of a user's key: enough to check a proof and to make its own, not to log in."""

    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Channel:
    """What the proofs are bound to: the SHA-256 of the server's certificate (DER); nothing on plain TCP."""

    certificate_sha256: bytes = b""

    @property
    def binding(self) -> Binding:
        """The binding's name on the wire."""
        return "tls-cert-sha256" if self.certificate_sha256 else "none"


def client_key(key: bytes, user: str) -> bytes:
    """The key that a client proves to hold."""
    return _hmac(key, b"FTPY-AUTH-1 client key\0" + user.encode())


def verifier(key: bytes, user: str) -> Verifier:
    """What the server stores when it hands ``key`` to ``user``."""
    return Verifier(
        stored_key=hashlib.sha256(client_key(key, user)).digest(),
        server_key=_hmac(key, b"FTPY-AUTH-1 server key\0" + user.encode()),
    )


def transcript(channel: Channel, hello: bytes, challenge: bytes) -> bytes:
    """The hash of all that was said, from the raw header bytes of both sides."""
    return hashlib.sha256(
        b"".join(
            len(item).to_bytes(4, "little") + item
            for item in (
                b"FTPY-AUTH-1 transcript",
                channel.binding.encode(),
                channel.certificate_sha256,
                hello,
                challenge,
            )
        )
    ).digest()


class ClientHandshake:
    """The client's side: ``hello`` bytes, then ``prove``, then ``check``."""

    def __init__(self, user: str, key: bytes, nonce: bytes, channel: Channel) -> None:
        self._key, self._user, self._channel = key, user, channel
        self.message = Hello(
            protocol=PROTOCOL_VERSION, user=user, client_nonce=b64encode(nonce), binding=channel.binding
        )
        self._hello = encode(self.message)
        self._expected = b""

    def prove(self, challenge: bytes) -> Proof:
        """The proof for the raw challenge header; it must have been decoded as a Challenge before."""
        said = transcript(self._channel, self._hello, challenge)
        keys = verifier(self._key, self._user)
        signature = _hmac(keys.stored_key, b"FTPY-AUTH-1 client proof\0" + said)
        proof = _xor(client_key(self._key, self._user), signature)
        self._expected = _hmac(keys.server_key, b"FTPY-AUTH-1 server proof\0" + said + proof)
        return Proof(client_proof=b64encode(proof))

    def check(self, server_proof: str) -> None:
        """Raises ServerNotTrusted unless the server holds this user's verifier and saw the same handshake."""
        if not self._expected or not hmac.compare_digest(b64decode(server_proof), self._expected):
            raise ServerNotTrusted("the server could not prove that it knows this user")


class ServerHandshake:
    """The server's side: a ``challenge`` for a hello, then ``check`` of the proof."""

    def __init__(self, hello: bytes, message: Hello, nonce: bytes, channel: Channel) -> None:
        if message.protocol != PROTOCOL_VERSION:
            raise ProtocolError(f"protocol {message.protocol} is not spoken here, {PROTOCOL_VERSION} is")
        if message.binding != channel.binding:
            raise ProtocolError(f"the binding must be {channel.binding} here")
        if len(b64decode(message.client_nonce)) != NONCE_BYTES:
            raise ProtocolError(f"a nonce has {NONCE_BYTES} bytes")
        self.message = Challenge(server_nonce=b64encode(nonce))
        self._transcript = transcript(channel, hello, encode(self.message))

    def check(self, proof: Proof, keys: Verifier) -> str:
        """The server's own proof for the welcome. Raises Denied when the client's is wrong.

        For an unknown user ``keys`` are derived from a secret of the server: the same work, the same time.
        """
        client_proof = b64decode(proof.client_proof)
        signature = _hmac(keys.stored_key, b"FTPY-AUTH-1 client proof\0" + self._transcript)
        claimed = _xor(client_proof.ljust(KEY_BYTES, b"\0")[:KEY_BYTES], signature)
        right = hmac.compare_digest(hashlib.sha256(claimed).digest(), keys.stored_key)
        if not right or len(client_proof) != KEY_BYTES:
            raise Denied
        return b64encode(_hmac(keys.server_key, b"FTPY-AUTH-1 server proof\0" + self._transcript + client_proof))


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
