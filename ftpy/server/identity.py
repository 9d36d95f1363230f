"""The server's identity: a certificate that it makes itself; clients pin it, so no authority signs it.

The handshake of users proves the certificate (docs/protocol.md, authentication), which is why its names and
dates carry no meaning.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ftpy.config.server import ServerConfig
from ftpy.durable import check_private, read_file, replace_file, writing
from ftpy.errors import ConfigError, Unsupported
from ftpy.files import display
from ftpy.wire.auth import Channel as Binding

if TYPE_CHECKING:
    import ssl

YEARS = 100
"""Validity: a pinned certificate that expires would only lock people out."""
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a connection shows of the server, and what its handshake binds to: of one certificate, or of none."""

    context: ssl.SSLContext | None = None
    binding: Binding = field(default_factory=Binding)
    certificate: bytes = b""
    """DER."""
    _key: bytes = field(default=b"", repr=False)

    def sign(self, data: bytes) -> bytes:
        """ECDSA with SHA-256 by the certificate's key, DER. Raises Unsupported: there is no such key."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        key = _loaded(self._key) if self._key else None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise Unsupported("this server has no key of the kind that receipts are signed with")
        return key.sign(data, ec.ECDSA(hashes.SHA256()))

    @classmethod
    def load(cls, config: ServerConfig) -> Identity:
        """What the settings name. Raises ConfigError, also when it is replaced this very moment."""
        if config.tls == "off":
            return cls()
        from ftpy.transport import tls

        check_identity(config.certificate, config.private_key)
        before = certificate_der(config.certificate)
        key = read_file(config.private_key)[0]
        try:
            context = tls.server_context(config.certificate, config.private_key)
        except OSError:
            raise ConfigError(f"{display(config.certificate)} or its key changed while they were read") from None
        if (certificate_der(config.certificate), read_file(config.private_key)[0]) != (before, key):
            raise ConfigError(f"{display(config.certificate)}: it changed while it was read")
        return cls(context, Binding(hashlib.sha256(before).digest()), before, key)


@functools.lru_cache(maxsize=2)
def _loaded(pem: bytes) -> object:
    """The key; cryptography is imported when the first receipt is asked for, 0.1 s."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    return load_pem_private_key(pem, None)


def make_identity(cert_path: str, key_path: str) -> None:
    """Make a P-256 key (mode 0600) and its self-signed certificate, PEM, durable. Raises ConfigError."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ftpy")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=YEARS * 365.2425))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("ftpy")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with writing(key_path):
        replace_file(key_path, secret, 0o600)
    with writing(cert_path):
        replace_file(cert_path, certificate.public_bytes(pem), 0o644)


def certificate_sha256(cert_path: str) -> bytes:
    """SHA-256 of the leaf certificate's DER, 32 bytes. Raises ConfigError."""
    return hashlib.sha256(certificate_der(cert_path)).digest()


def certificate_der(cert_path: str) -> bytes:
    """The leaf certificate's DER: the first one in the file. Raises ConfigError."""
    import ssl

    text = read_file(cert_path)[0].decode("ascii", "replace")
    start = text.find(_BEGIN)
    end = text.find(_END, start)
    if start < 0 or end < 0:
        raise ConfigError(f"{display(cert_path)}: no certificate in it (PEM)")
    try:
        return ssl.PEM_cert_to_DER_cert(text[start : end + len(_END)])
    except ValueError:
        raise ConfigError(f"{display(cert_path)}: the certificate in it is damaged") from None


def check_identity(cert_path: str, key_path: str) -> None:
    """Raises ConfigError unless the key is private, both can be read and belong together."""
    import ssl

    certificate_sha256(cert_path)
    check_private(key_path, read_file(key_path)[1])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # The password stands in for a prompt, which would wait for ever where nobody sits.
        context.load_cert_chain(cert_path, key_path, password="")
    except ssl.SSLError as error:
        names = f"{display(os.path.basename(cert_path))} and {display(key_path)}"
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{names} do not belong together") from None
        raise ConfigError(f"{names} cannot be used: {error.reason or 'encrypted or damaged'}") from None
