"""Receipts: a statement about a stored file, signed with the key of the server's certificate (docs/protocol.md 21)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import msgspec
from msgspec import Meta

from ftpy.digests import DigestName
from ftpy.errors import InvalidPath, ProtocolError, ReceiptInvalid
from ftpy.files import RemotePath
from ftpy.wire.bases import PathRequest, Reply
from ftpy.wire.fields import Base64, Etag, Hex32, Hex64, Message, Size, Text, Time, UserName
from ftpy.wire.spelling import b64decode, path_to_wire, wire_to_path

CONTEXT = b"ftpy-receipt-1\0"
"""What is signed begins with: so that no signature for something else can be taken for one of a receipt."""
MOST_BYTES = 64 * 1024
"""Longest receipt, as a file."""

StatementText = Annotated[str, Meta(max_length=16 * 1024)]
"""The longest path takes six times its bytes where all are escaped."""


class ReceiptRequest(PathRequest, frozen=True, kw_only=True, tag="receipt"):
    """State what is stored at the path, durably; with ``etag`` only that version."""

    etag: Etag | None = None
    digest: DigestName = "md5"


class Statement(Message, frozen=True, kw_only=True):
    """What a server states: at ``time_ns`` this was at ``path`` of ``user``, durably.

    Spelt canonically: the fields in this order, that of their names, without white space, absent ones left out.
    """

    blake3: Hex64 | None = None
    format: Literal["ftpy-receipt-1"]
    md5: Hex32 | None = None
    path: str = ""
    path_b64: Base64 | None = None
    server: Text
    size: Size
    time_ns: Time
    user: UserName

    def __post_init__(self) -> None:
        if self.md5 is None and self.blake3 is None:
            raise ValueError("a digest is due")

    @classmethod
    def of(cls, path: RemotePath, **fields: object) -> Self:
        """A statement about this path."""
        return msgspec.convert({"format": "ftpy-receipt-1", **path_to_wire(path), **fields}, cls)

    def remote_path(self) -> RemotePath:
        """The path, checked. Raises InvalidPath, ProtocolError."""
        return wire_to_path(self.path, self.path_b64)

    def digest(self) -> tuple[DigestName, str]:
        """The digest that is looked at first: the faster one."""
        return ("blake3", self.blake3) if self.blake3 is not None else ("md5", self.md5 or "")

    def text(self) -> str:
        """The one way to spell it."""
        return _encode(self).decode()


class Receipt(Message, frozen=True, kw_only=True):
    """A statement's exact text; the signature over it (ECDSA, P-256, SHA-256); the certificate it is of. Both DER."""

    certificate: Annotated[Base64, Meta(max_length=16 * 1024)]
    signature: Annotated[Base64, Meta(max_length=256)]
    statement: StatementText

    def signed(self) -> bytes:
        """The bytes that the signature is over."""
        return CONTEXT + self.statement.encode()

    def parts(self) -> tuple[Statement, bytes, bytes]:
        """The statement, the signature and the certificate. Raises ReceiptInvalid."""
        try:
            statement = _decode_statement(self.statement)
            statement.remote_path()
            if statement.text() != self.statement:
                raise ReceiptInvalid("the receipt's statement is not spelt as it must be")
            return statement, b64decode(self.signature), b64decode(self.certificate)
        except (msgspec.DecodeError, InvalidPath, ProtocolError, RecursionError, ValueError) as error:
            raise ReceiptInvalid(f"the receipt is damaged: {str(error)[:200]}") from None

    def to_file(self) -> bytes:
        """A receipt as it is kept: one JSON object, a line."""
        return _encode(self) + b"\n"

    @classmethod
    def from_file(cls, data: bytes) -> Self:
        """What ``to_file`` made, exactly. Raises ReceiptInvalid."""
        try:
            receipt = msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            raise ReceiptInvalid(f"no receipt: {str(error)[:200]}") from None
        if receipt.to_file() != data:
            raise ReceiptInvalid("the receipt was changed, be it only how it is spelt")
        return receipt


class ReceiptReply(Reply, frozen=True, kw_only=True):
    """The receipt."""

    receipt: Receipt


_encode = msgspec.json.Encoder().encode
_decode_statement = msgspec.json.Decoder(Statement).decode
