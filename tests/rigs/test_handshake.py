"""A handshake that somebody changes opens no session: every bit, verb and order; with builds that must fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpy.transport.channel import Channel
from ftpy.wire import auth
from ftpy.wire.auth import ClientHandshake
from tests.rig import running
from tests.rigs.handshake import CHANGES, Kind, Report, Stage, rig_handshake

KINDS: tuple[Kind, ...] = ("plain", "bound", "tls")
EVERY = {("plain", "flip"): (0, 2), ("bound", "flip"): (1, 2), ("tls", "flip"): (0, 83), ("tls", "insert"): (0, 5)}
"""(kind, change) -> the first and the step: of all bits one half without and the other half with the proofs bound, and
of what TLS makes slow a sample. scripts/rig-handshake does all of it, tests/wire/test_auth.py all bits without I/O."""


@pytest.fixture(scope="module", params=KINDS)
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A client, a server, and somebody between them."""
    with (
        running(tmp_path_factory.mktemp("host") / "host", tls=request.param == "tls") as host,
        Stage(host, request.param) as made,
    ):
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_no_session_opens_unless_every_byte_of_the_transcript_came_as_it_was_sent(stage: Stage, change: str) -> None:
    report = Report()
    first, step = EVERY.get((stage.kind, change), (0, 1))
    rig_handshake(stage, change, report, first=first, step=step)
    assert report.violations == []
    assert report.cases.total() >= 50


# ------------------------------------------------------------------ the controls: builds that must be told

transcript = auth.transcript
BUILDS: dict[str, tuple[str, int, str, Any, Callable[..., Any]]] = {
    "hello is not in the transcript": (
        *("flip", 13, "the server opened a session although the transcript was changed"),
        *(auth, lambda channel, _, challenge: transcript(channel, b"", challenge)),
    ),
    "challenge is not in the transcript": (
        *("flip", 13, "the server opened a session although the transcript was changed"),
        *(auth, lambda channel, hello, _: transcript(channel, hello, b"")),
    ),
    "the server's proof is not looked at": (
        *("flip", 13, "the client opened a session although the server's proof was changed"),
        *(ClientHandshake, lambda *_: None),
    ),
    "what comes before the welcome is served": (
        *("insert", 1, "the server's storage was touched"),
        *(Channel, lambda _: False),
    ),
}
"""What is wrong with it -> the changes, every how many, the sentence that tells it, and what is replaced by what."""
NAMES = {auth: "transcript", ClientHandshake: "check", Channel: "readable"}


@pytest.mark.slow
@pytest.mark.parametrize("build", BUILDS)
def test_the_rig_tells_a_build_in_which(build: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change, step, sentence, where, broken = BUILDS[build]
    with running(tmp_path / "host", tls=False) as host, Stage(host, "plain") as stage:
        monkeypatch.setattr(where, NAMES[where], broken)
        report = Report()
        rig_handshake(stage, change, report, step=step)
        assert any(violation.endswith(sentence) for violation in report.violations), report
