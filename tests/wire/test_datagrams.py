"""Datagrams of the beacon: every vector, and that no answer can be longer than a question."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wire_vectors import datagram_of, load

from ftpy.errors import ProtocolError
from ftpy.wire import beacon, codec
from ftpy.wire.beacon import NONCE_BYTES, QUESTION_BYTES, Answer, ask, read_answer, read_question, tell
from ftpy.wire.spelling import b64encode

VECTORS = load("beacon")
READ = {"question": read_question, "answer": read_answer}
LEAST, MOST = -(2**63), 2**63 - 1


@pytest.mark.parametrize("name", VECTORS)
def test_beacon_vector(name):
    case = VECTORS[name]
    datagram = datagram_of(case)
    if case["verdict"] == "dropped":
        with pytest.raises(ProtocolError):
            READ[case["reads_as"]](datagram)
        return
    fields = json.loads(codec.encode(READ[case["reads_as"]](datagram)))
    assert fields.pop("ftpy") == {"question": "ask", "answer": "tell"}[case["reads_as"]]
    fields.pop("pad", None)
    assert fields == case["means"]


def test_beacon_vectors_are_all_here():
    assert len(VECTORS) >= 30 and all(case["why"] for case in VECTORS.values())


@given(st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES))
def test_question_has_always_the_same_length_and_its_nonce(nonce):
    question = ask(nonce)
    assert len(question) == QUESTION_BYTES
    assert read_question(question).nonce == b64encode(nonce)


TEXT = st.characters(codec="utf-8", exclude_categories=["Cc"])


def texts(most: int) -> st.SearchStrategy[str]:
    return st.text(TEXT, max_size=most) | st.sampled_from(["\U0010ffff", '"', "\\", "\u0080", "\u2028"]).map(
        lambda c: c * most
    )


answers = st.builds(
    Answer,
    version=st.just(1),
    nonce=st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES).map(b64encode),
    received_ns=st.sampled_from([LEAST, 0]) | st.integers(LEAST, 0),
    sent_ns=st.sampled_from([0, MOST]) | st.integers(0, MOST),
    utc_offset_seconds=st.integers(-86_399, 86_399),
    zone=texts(beacon.ZONE_CHARACTERS),
    name=texts(beacon.NAME_CHARACTERS),
    server=texts(beacon.SERVER_CHARACTERS),
    port=st.integers(0, 65_535),
    certificate_sha256=st.none() | st.binary(min_size=32, max_size=32).map(bytes.hex),
)
LONGEST = Answer(
    version=1,
    nonce="-" * 21 + "w",
    received_ns=LEAST,
    sent_ns=LEAST,
    utc_offset_seconds=-86_399,
    zone="\U0010ffff" * beacon.ZONE_CHARACTERS,
    name="\U0010ffff" * beacon.NAME_CHARACTERS,
    server="\U0010ffff" * beacon.SERVER_CHARACTERS,
    port=65_535,
    certificate_sha256="f" * 64,
)


@given(answers)
@example(LONGEST)
def test_no_answer_is_longer_than_a_question(answer):
    datagram = tell(answer)
    assert len(datagram) <= QUESTION_BYTES
    assert read_answer(datagram) == answer


@given(st.binary(max_size=1100) | st.binary(min_size=QUESTION_BYTES, max_size=QUESTION_BYTES))
def test_whatever_comes_is_read_or_refused(datagram):
    for read in READ.values():
        try:
            read(datagram)
        except ProtocolError:
            continue


@given(st.integers(0, QUESTION_BYTES - 1), st.integers(0, 7))
def test_a_question_with_a_bit_turned_over_is_another_question_or_none(at, bit):
    question = bytearray(ask(bytes(NONCE_BYTES)))
    question[at] ^= 1 << bit
    try:
        nonce = read_question(bytes(question)).nonce
    except ProtocolError:
        return
    assert nonce != b64encode(bytes(NONCE_BYTES))
