"""docs/protocol.md says what the code does, where a test can tell."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec import inspect
from wire_strategies import HANDSHAKE, KINDS
from wire_vectors import load

from ftpy import files
from ftpy.digests import HEX_LENGTH, hexdigest
from ftpy.wire import beacon, fields, framing, messages
from ftpy.wire.bases import UnknownRequest
from ftpy.wire.entries import Entry
from ftpy.wire.fields import DigestOf
from ftpy.wire.handshake import Limits
from ftpy.wire.session import HANDSHAKE as TABLE
from ftpy.wire.token import PairingToken

TEXT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text("utf-8")


@pytest.mark.parametrize(
    "kind", [*KINDS, UnknownRequest, DigestOf, Entry, Limits, PairingToken, beacon.Question, beacon.Answer]
)
def test_document_names_every_field(kind):
    for field in inspect.type_info(kind).fields:
        assert re.search(rf'[`"]{field.encode_name}["`]', TEXT), field.encode_name


def test_document_has_a_row_for_every_verb_and_none_besides():
    rows = re.findall(r"^\| `([a-z]+)`(?: \([0-9.]+\))? \| [^|]* \| (?:yes)? *\| ", TEXT, re.MULTILINE)
    assert set(rows) == messages.VERBS


def test_document_has_every_frame_of_the_handshake():
    for kind in HANDSHAKE:
        assert f'{{"cmd":"{kind.__struct_config__.tag}"' in TEXT


def test_document_has_the_session_table():
    for (state, side, kind), after in TABLE.items():
        verb = kind.__struct_config__.tag
        assert f"| {state.value} | {side.value} | {verb} | {after.value} |" in TEXT


@pytest.mark.parametrize("vector", load("handshake").values(), ids=lambda vector: vector["why"][:5])
def test_document_has_the_vectors(vector):
    for name in ("challenge", "stored_key", "server_key", "channel_hash", "transcript", "client_proof", "server_proof"):
        assert vector[name] in TEXT


@pytest.mark.parametrize("name", HEX_LENGTH)
def test_document_has_every_digest_of_abc(name):
    (digest,) = re.findall(rf"^{name} +([0-9a-f]+)$", TEXT, re.MULTILINE)
    assert digest == hexdigest(name, b"abc") == load("digests")["abc"][name]


@pytest.mark.parametrize(
    "number",
    [
        framing.HEADER_BYTES,
        framing.HANDSHAKE_HEADER_BYTES,
        files.PATH_BYTES,
        files.COMPONENT_BYTES,
        files.DEPTH,
        fields.MOST_PARTS,
        messages.PAGE_ENTRIES,
        fields.TEXT_CHARACTERS,
    ],
)
def test_document_has_the_limits(number):
    assert f"{number:,}" in TEXT.split("## 13. Limits")[1].split("## 14.")[0]


@pytest.mark.parametrize(
    "word",
    [f"{beacon.QUESTION_BYTES:,} bytes", f"of {beacon.NONCE_BYTES} fresh bytes", beacon.GROUP]
    + [f"at most {n} " for n in (beacon.NAME_CHARACTERS, beacon.SERVER_CHARACTERS, beacon.ZONE_CHARACTERS)],
)
def test_document_has_the_numbers_of_the_beacon(word):
    assert word in TEXT.split("## 20. The beacon")[1].split("\n## ")[0]


def test_document_links_to_its_own_sections():
    titles = [re.sub(r"[^a-z0-9 -]", "", t.lower()).replace(" ", "-") for t in re.findall(r"^## (.*)$", TEXT, re.M)]
    assert re.findall(r"\]\(#([^)]*)\)", TEXT) == titles
