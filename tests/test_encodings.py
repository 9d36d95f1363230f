"""Encodings that a peer names: of text, and such as hold back no more than a character of what came."""

from __future__ import annotations

import codecs
import encodings as python
import pkgutil

import pytest

from ftpy.encodings import decoder, is_text

REFUSED = [
    *("base64", "bz2", "hex", "quopri", "rot-13", "uu", "zlib"),
    *("charmap", "idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-16", "utf-32", "utf-7"),
]


def known() -> list[str]:
    """What this Python has, by the name that it is registered under."""
    found = set()
    for module in pkgutil.iter_modules(python.__path__):
        try:
            found.add(codecs.lookup(module.name).name)
        except LookupError:  # no codec, or one of another system
            continue
    return sorted(found - {"mbcs", "oem"})  # Windows has these two


def test_all_encodings_of_text_are_taken_and_nothing_else():
    assert [name for name in known() if not is_text(name)] == sorted(REFUSED)


@pytest.mark.parametrize("piece", [b"a", b"+AAAA", b"\xff", b"\x81", b"\x1b$B", b"~{", b"xn--", b"begin 644 a\n"])
@pytest.mark.parametrize("name", known())
def test_decoder_holds_back_at_most_a_character_whatever_comes(name, piece):
    made = decoder(name)
    text = ""
    for _ in range(8):
        text += made.decode(piece * 200)
        assert len(made.getstate()[0]) <= 8
    text += made.decode(b"", final=True)
    if name in REFUSED:
        assert text == (piece * 1600).decode("utf-8", "replace")


@pytest.mark.parametrize("name", ["utf-99", "", "x\0", "é", "../x", "a" * 10_000])
def test_what_nobody_knows_is_read_as_utf8(name):
    assert not is_text(name)
    assert decoder(name).decode("é\xff".encode("latin-1") + b"\xc3\xa9") == "\ufffd\ufffdé"


@pytest.mark.parametrize("name", ["UTF8", "latin-1", "GBK", "ANSI_X3.4-1968", "646", "windows-1252", "Shift-JIS"])
def test_other_names_of_an_encoding_are_known(name):
    assert is_text(name)
