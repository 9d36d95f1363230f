"""How bytes and names are spelt in JSON: canonical base64url, and paths that need not be UTF-8."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from ftpy.errors import InvalidPath, ProtocolError
from ftpy.files import RemotePath


def b64encode(data: bytes) -> str:
    """Canonical base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def b64decode(text: str) -> bytes:
    """The bytes of canonical base64url without padding. Raises ProtocolError for any other spelling."""
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        data = b""
    if b64encode(data) != text:
        raise ProtocolError("not canonical base64url")
    return data


def wire_to_path(text: str, text_b64: str | None) -> RemotePath:
    """The path that a field and its ``_b64`` twin spell. Raises InvalidPath, ProtocolError."""
    if text_b64 is None:
        return RemotePath.parse(text)
    raw = b64decode(text_b64)
    if text:
        raise InvalidPath("path and path_b64 exclude each other")
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return RemotePath.parse(raw.decode("utf-8", "surrogateescape"))
    raise InvalidPath("path_b64 is only for names that are not UTF-8")


def spelt(text: str, text_b64: str | None) -> str:
    """What a field and its ``_b64`` twin spell, legal or not, for people."""
    if text_b64 is None:
        return text
    try:
        return b64decode(text_b64).decode("utf-8", "surrogateescape")
    except ProtocolError:
        return text_b64


def path_to_wire(path: RemotePath, field: str = "path") -> dict[str, Any]:
    """The fields that spell ``path``: as it is, or ``_b64`` for a name that is not UTF-8."""
    text = str(path)
    if text.isascii():
        return {field: text}
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return {f"{field}_b64": b64encode(text.encode("utf-8", "surrogateescape"))}
    return {field: text}
