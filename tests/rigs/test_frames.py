"""Mangled frames: refused as what they are, in process by the hundred thousand, at a live server by the thousand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftpy.wire import codec
from tests.rig import running
from tests.rigs import frames
from tests.rigs.processes import HAS_PROC
from tests.wire.wire_strategies import KINDS, structs

pytestmark = pytest.mark.skipif(not HAS_PROC, reason="needs Linux's /proc")

PLACES = frames.places()


@pytest.fixture(scope="module")
def headers() -> Sequence[bytes]:
    """Legal headers of every kind."""
    return frames.corpus(1)


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_mangled_headers_are_refused_and_move_nothing(headers: Sequence[bytes]) -> None:
    verdicts = frames.play(200_000, 1, headers)
    assert verdicts.violations == []
    assert verdicts.accepted > 10_000  # so that what is legal was seen as well


@settings(max_examples=300)
@given(place=st.sampled_from(PLACES), header=st.one_of(st.binary(max_size=200), *map(structs, KINDS)))
def test_any_message_anywhere_is_taken_as_it_is_or_refused(place: frames.Place, header: bytes | msgspec.Struct) -> None:
    data = header if isinstance(header, bytes) else codec.encode(header)
    assert frames.judge(place, len(data).to_bytes(4, "little"), data)[1] is None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("tls", [False, True], ids=["plaintext", "tls"])
@pytest.mark.slow
def test_a_server_answers_mangled_frames_or_closes_and_serves_others(
    tmp_path: Path, headers: Sequence[bytes], tls: bool
) -> None:
    with running(tmp_path / "host", tls=tls) as host:
        host.add_user("bob")
        live = frames.flood(host, 200 if tls else 1_800, 1, headers)
    assert live.violations == []
    assert live.refused > 100 and live.rounds > 1


@pytest.mark.parametrize("let_out", [RecursionError, ValueError])
@pytest.mark.slow
def test_a_decoder_that_lets_other_errors_out_is_told(
    headers: Sequence[bytes], monkeypatch: pytest.MonkeyPatch, let_out: type[Exception]
) -> None:
    """The control: errors of the parsers', other than those that say so, pass through."""
    kept = {RecursionError: (msgspec.DecodeError, ValueError), ValueError: (msgspec.DecodeError, RecursionError)}
    monkeypatch.setattr(codec, "_MALFORMED", kept[let_out])
    assert frames.play(50_000, 1, headers).violations
