"""Receipts: asked for, and verified against the certificate that was pinned at pairing."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

from ftpy.client.connection import Connection
from ftpy.config.client import Profile
from ftpy.digests import DigestName
from ftpy.errors import FtpyError, IsADirectory, NotAFile, NotFound, ReceiptInvalid, ReceiptMissing, Unsupported
from ftpy.files import RemotePath, display
from ftpy.storage.base import KnownDigest
from ftpy.wire.messages import DigestReply, DigestRequest
from ftpy.wire.receipts import Receipt, ReceiptReply, ReceiptRequest, Statement
from ftpy.wire.spelling import path_to_wire

if TYPE_CHECKING:
    from ftpy.client.client import Client
    from ftpy.client.results import Stored

Found = Literal["same", "changed", "gone"]


def ask(connection: Connection, profile: Profile, path: RemotePath, etag: str | None, digest: DigestName) -> Receipt:
    """The receipt for what is at ``path``, verified. Raises ReceiptInvalid, Unsupported, what the server answers."""
    if profile.certificate_sha256 is None:
        raise Unsupported("a server without TLS has no key to sign a receipt with")
    request = ReceiptRequest(id=connection.next_id(), **path_to_wire(path), etag=etag, digest=digest)
    receipt = connection.call(request, ReceiptReply).receipt
    statement = verify(receipt, profile.certificate_sha256)
    if (statement.remote_path(), statement.user) != (path, profile.user) or getattr(statement, digest) is None:
        raise ReceiptInvalid("the receipt speaks of something else than was asked for")
    return receipt


def verify(receipt: Receipt, certificate_sha256: str) -> Statement:
    """What the receipt states, if the server of this certificate signed it. Raises ReceiptInvalid. No connection."""
    statement, signature, certificate = receipt.parts()
    if hashlib.sha256(certificate).hexdigest() != certificate_sha256:
        raise ReceiptInvalid("the receipt is of another server than the one that this client was paired with")
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except ValueError:
        raise ReceiptInvalid("the receipt's certificate is damaged") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise ReceiptInvalid("the receipt's certificate has no key of the kind that receipts are signed with")
    try:
        key.verify(signature, receipt.signed(), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise ReceiptInvalid("the receipt's signature is wrong: it was forged, or changed") from None
    return statement


def fingerprint(receipt: Receipt) -> str:
    """SHA-256 of the certificate that a receipt says it is of. Raises ReceiptInvalid."""
    return hashlib.sha256(receipt.parts()[2]).hexdigest()


def receipt_of(client: Client, stored: Stored) -> Receipt:
    """The receipt for what was just put, and for nothing else. Raises ReceiptMissing."""
    try:
        receipt = client.receipt(stored.path, etag=stored.etag, digest=stored.digest.name)
    except FtpyError as error:
        raise ReceiptMissing(f"{display(str(stored.path))}: stored, but there is no receipt: {error}") from error
    statement, _, _ = receipt.parts()
    if (statement.size, getattr(statement, stored.digest.name)) != (stored.size, stored.digest.hex):
        raise ReceiptMissing(f"{display(str(stored.path))}: stored, but replaced before a receipt could be had")
    return receipt


def compare(connection: Connection, statement: Statement) -> Found:
    """Whether what is stated is still there. Raises PermissionDenied, …."""
    name, value = statement.digest()
    request = DigestRequest(id=connection.next_id(), **path_to_wire(statement.remote_path()), digest=name)
    try:
        now = connection.call(request, DigestReply)
    except NotFound:
        return "gone"
    except (IsADirectory, NotAFile):
        return "changed"
    same = (now.file_size, now.digest.name, now.digest.hex) == (statement.size, name, value)
    return "same" if same else "changed"


def known(statement: Statement) -> KnownDigest:
    """The stated digest."""
    return KnownDigest(*statement.digest())
