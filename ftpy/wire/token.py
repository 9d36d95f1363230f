"""The pairing token: one line that carries all a client needs to know of a server and itself.

``ftpy1.`` + base64url of a JSON object + ``.`` + 8 hexadecimal digits of its SHA-256, so that a token
that was not copied whole is told apart from a wrong one. It holds the user's key: a secret.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

from msgspec import Meta

from ftpy.errors import ConfigError, ProtocolError
from ftpy.wire.auth import KEY_BYTES
from ftpy.wire.codec import decode, encode
from ftpy.wire.fields import Hex64, Message, Text, UserName
from ftpy.wire.spelling import b64decode, b64encode

PREFIX = "ftpy1"


class PairingToken(Message, frozen=True, kw_only=True):
    """``addresses`` to try in turn; ``certificate_sha256`` is null on plain TCP; ``key`` is base64url."""

    addresses: Annotated[list[Text], Meta(min_length=1, max_length=16)]
    user: UserName
    key: str
    certificate_sha256: Hex64 | None

    def __repr__(self) -> str:
        return f"PairingToken(addresses={self.addresses!r}, user={self.user!r}, key=…)"

    def to_text(self) -> str:
        """The token as it is copied."""
        payload = b64encode(encode(self))
        return f"{PREFIX}.{payload}.{_check(payload)}"

    @classmethod
    def from_text(cls, text: str) -> PairingToken:
        """The token in ``text``. Raises ConfigError, never quoting the text."""
        kind, _, rest = "".join(text.split()).partition(".")
        payload, _, check = rest.partition(".")
        if kind != PREFIX:
            raise ConfigError(f"that is not a pairing token; it begins with {PREFIX}.")
        if _check(payload) != check:
            raise ConfigError("the pairing token is damaged; copy the whole line")
        try:
            token = decode(b64decode(payload), cls)
            if len(b64decode(token.key)) != KEY_BYTES:
                raise ProtocolError(f"the key has {KEY_BYTES} bytes")
        except ProtocolError:
            raise ConfigError("the pairing token is not of this version of ftpy") from None
        return token


def _check(payload: str) -> str:
    # What is no text at all (a lone surrogate from a terminal) must fail the check, not the encoder, which quotes it.
    return hashlib.sha256(payload.encode("utf-8", "replace")).hexdigest()[:8]
