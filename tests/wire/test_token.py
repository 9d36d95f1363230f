"""The pairing token: whole or refused, and never in anyone's error text."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpy.errors import ConfigError
from ftpy.wire.codec import encode
from ftpy.wire.spelling import b64encode
from ftpy.wire.token import PREFIX, PairingToken

KEY = bytes(range(100, 132))
TOKEN = PairingToken(
    addresses=["[::1]:2121", "host.example:2121"], user="alice", key=b64encode(KEY), certificate_sha256="ab" * 32
)
TEXT = TOKEN.to_text()


def tokens() -> st.SearchStrategy[PairingToken]:
    return st.builds(
        PairingToken,
        addresses=st.lists(st.text(st.characters(codec="utf-8"), max_size=40), min_size=1, max_size=16),
        user=st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True),
        key=st.binary(min_size=32, max_size=32).map(b64encode),
        certificate_sha256=st.none() | st.binary(min_size=32, max_size=32).map(bytes.hex),
    )


def signed(payload: bytes) -> str:
    """A token text of any payload, with a right check."""
    text = b64encode(payload)
    return f"{PREFIX}.{text}.{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        PairingToken.from_text(text)
    assert caught.value.__cause__ is None
    return str(caught.value)


@given(tokens())
def test_token_comes_back_as_it_was(token):
    assert PairingToken.from_text(token.to_text()) == token


@pytest.mark.parametrize("text", [TEXT + "\n", "  " + TEXT, TEXT[:40] + "\r\n  " + TEXT[40:]])
def test_token_is_read_when_a_terminal_wrapped_it(text):
    assert PairingToken.from_text(text) == TOKEN


def test_token_is_refused_when_any_character_is_lost():
    for at in range(len(TEXT)):
        refusal(TEXT[:at] + TEXT[at + 1 :])


def test_token_is_refused_when_any_bit_is_flipped():
    for at, character in enumerate(TEXT):
        for bit in range(7):
            damaged = chr(ord(character) ^ 1 << bit)
            if not damaged.isspace():
                refusal(TEXT[:at] + damaged + TEXT[at + 1 :])


def test_token_is_refused_when_cut_anywhere():
    for at in range(len(TEXT)):
        refusal(TEXT[:at])


@pytest.mark.parametrize("extra", ["x", ".", ".x", "\udc80", "\ud800", "é", "\0", TEXT])
def test_token_is_refused_when_anything_is_added(extra):
    refusal(TEXT + extra)
    refusal(extra + TEXT)
    refusal(TEXT[:40] + extra + TEXT[40:])


@given(st.text())
def test_text_that_is_no_token_is_refused(text):
    refusal(text)
    refusal(f"{PREFIX}.{text}")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"[" * 5000,
        encode(TOKEN)[:-1],
        encode(TOKEN) + b"{}",
        encode(TOKEN).replace(b'"user"', b'"User"'),
        encode(TOKEN).replace(b"{", b'{"user":"root",', 1),
        encode(TOKEN).replace(b"{", b'{"version":2,', 1),
        encode(TOKEN).replace(b'"alice"', b'"Alice"'),
        encode(TOKEN).replace(b"abab", b"ABAB"),
        encode(TOKEN).replace(TOKEN.key.encode(), b64encode(KEY[:31]).encode()),
        encode(TOKEN).replace(TOKEN.key.encode(), b64encode(KEY + b"x").encode()),
        encode(TOKEN).replace(TOKEN.key.encode(), TOKEN.key.encode() + b"="),
        encode(TOKEN).replace(b'["[::1]:2121","host.example:2121"]', b"[]"),
    ],
)
def test_token_is_refused_when_its_check_is_right_but_its_content_is_not(payload):
    assert payload != encode(TOKEN)
    refusal(signed(payload))


def test_token_is_refused_when_not_canonical():
    payload = TEXT.split(".")[1] + "="
    refusal(f"{PREFIX}.{payload}.{hashlib.sha256(payload.encode()).hexdigest()[:8]}")


def test_refusal_never_quotes_the_token():
    secret = TEXT[6:]
    texts = [TEXT[:-1], "x" + TEXT, TEXT + "\udc80", TEXT.swapcase(), signed(encode(TOKEN)[:-1]), TEXT[1:]]
    for text in texts:
        said = refusal(text)
        windows = {secret[at : at + 6] for at in range(len(secret) - 6)}
        assert not any(window in said for window in windows)
        assert TOKEN.key not in said


def test_repr_hides_the_key():
    for text in (repr(TOKEN), str(TOKEN), f"{TOKEN!r}"):
        assert TOKEN.key not in text
        assert "alice" in text
