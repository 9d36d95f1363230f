"""The messages before any request: who is there, and the proofs of it (docs/protocol.md, authentication)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from ftpy.wire.fields import Message, Secret32, Size, Text, Time, UserName

PROTOCOL_VERSION = 1
Binding = Literal["tls-cert-sha256", "none"]


class Hello(Message, frozen=True, kw_only=True, tag_field="cmd", tag="hello"):
    """Client: who I am, and what binds this proof to this channel."""

    protocol: Annotated[int, Meta(ge=1, le=65_535)]
    user: UserName
    client_nonce: Secret32
    binding: Binding


class Challenge(Message, frozen=True, kw_only=True, tag_field="cmd", tag="challenge"):
    """Server: prove it, for this nonce."""

    server_nonce: Secret32


class Proof(Message, frozen=True, kw_only=True, tag_field="cmd", tag="proof"):
    """Client: the proof."""

    client_proof: Secret32


class Limits(Message, frozen=True, kw_only=True):
    """What the server takes: largest inline body in bytes, most requests under way on a connection.

    ``least_bytes_per_second``: who moves less in the middle of headers and bodies is closed after a while; 0: nobody.
    """

    inline_bytes: Size
    requests: Annotated[int, Meta(ge=1, le=1_000_000)]
    least_bytes_per_second: Size = 0


class Welcome(Message, frozen=True, kw_only=True, tag_field="cmd", tag="welcome"):
    """Server: my own proof; requests may follow."""

    server_proof: Secret32
    server: Text
    time_ns: Time
    limits: Limits
    digests: list[str]
    rights: list[str]


class Denied(Message, frozen=True, kw_only=True, tag_field="cmd", tag="denied"):
    """Server: no. The same for an unknown user and a wrong key."""


Handshake = Hello | Challenge | Proof | Welcome | Denied
