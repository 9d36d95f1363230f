"""Nobody comes in or is trusted without the key: refused by name, in equal form and time, before any request."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ftpy.client.connection import Connection
from ftpy.config.client import Profile
from ftpy.errors import ConnectionFailed, Denied, FtpyError, ServerNotTrusted
from ftpy.server.accounts import Accounts
from ftpy.wire import auth
from ftpy.wire.framing import frame
from ftpy.wire.spelling import b64encode
from tests.rig import FAST, Host, running
from tests.rigs import impostors
from tests.rigs.impostors import (
    FakeServer,
    Identity,
    Middle,
    commands,
    false_challenge,
    false_welcome,
    flipped,
    log_in,
    relabelled,
)
from tests.rigs.processes import outcome, serving

DENIED = b'{"cmd":"denied"}'
REFUSALS = 200
"""Refusals of each kind that are timed here; scripts/rig-attackers times thousands."""


@pytest.fixture(scope="module", params=[True, False], ids=["tls", "plaintext"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A server that runs, once with TLS and once without."""
    with running(tmp_path_factory.mktemp("host") / "host", tls=request.param) as made:
        yield made


@pytest.fixture
def tls_host(tmp_path: Path) -> Iterator[Host]:
    """A server that runs, with TLS."""
    with running(tmp_path / "host") as made:
        yield made


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    """The impostor's own certificate."""
    return Identity(tmp_path / "impostor")


def changed(profile: Profile, **fields: object) -> Profile:
    """The profile, but not quite."""
    return msgspec.structs.replace(profile, **fields)


# ------------------------------------------------------------------ clients without the key


def test_a_wrong_key_and_an_unknown_user_are_denied(host: Host) -> None:
    right = host.profile()
    for profile in (changed(right, key=b64encode(secrets.token_bytes(32))), changed(right, user="nobody")):
        with pytest.raises(Denied):
            Connection.open(profile, FAST)
    Connection.open(right, FAST).close()


def test_the_key_of_one_user_is_not_that_of_another(host: Host) -> None:
    if "bob" not in host.keys:
        host.add_user("bob")
    with pytest.raises(Denied):
        Connection.open(changed(host.profile("alice"), user="bob"), FAST)


def test_a_recorded_proof_is_denied_on_another_connection(host: Host) -> None:
    good = log_in(host, "alice", host.keys["alice"])
    assert b'"welcome"' in good.verdict
    for replay in (good, relabelled(good)):
        assert log_in(host, "alice", b"", replay=replay).verdict == DENIED
    assert log_in(host, "alice", host.keys["alice"]).verdict != DENIED


@pytest.mark.parametrize("bit", [0, 127, 255])
def test_a_proof_with_one_bit_turned_over_is_denied(host: Host, bit: int) -> None:
    login = log_in(host, "alice", host.keys["alice"], altered=lambda proof: flipped(proof, bit))
    assert login.verdict == DENIED


def test_requests_behind_a_replayed_proof_are_not_answered(host: Host) -> None:
    good = log_in(host, "alice", host.keys["alice"])
    request = b'{"cmd":"ls","id":1,"path":""}'
    with impostors.dialled(host, host.profile()) as stream:
        stream.send(frame(good.hello) + frame(good.proof) + frame(request))
        answers = []
        while (header := stream.receive_header(65536)) is not None:
            answers.append(header)
    assert len(answers) == 2 and b'"challenge"' in answers[0] and answers[1] == DENIED


def test_an_unknown_user_and_a_wrong_key_are_answered_in_the_same_form(host: Host) -> None:
    wrong = log_in(host, "alice", secrets.token_bytes(32))
    unknown = log_in(host, "nobody", secrets.token_bytes(32))
    assert wrong.shape == unknown.shape and wrong.verdict == DENIED and wrong.rest == b""


@pytest.mark.slow
def test_an_unknown_user_and_a_wrong_key_take_the_same_time(host: Host) -> None:
    timing = impostors.time_refusals(host, REFUSALS)
    assert not timing.told_apart, timing.line()


@pytest.mark.slow
def test_the_timing_rig_tells_two_milliseconds(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a look-up that is slower for those who do not exist."""
    slow = impostors.slowed(Accounts.lookup, 0.002, only=lambda accounts, user: user != "alice")
    monkeypatch.setattr(Accounts, "lookup", slow)
    timing = impostors.time_refusals(host, REFUSALS)
    for seed in range(1, 8):  # on a busy machine it takes more of them to see so little
        if timing.told_apart:
            break
        more = impostors.time_refusals(host, REFUSALS, seed)
        timing.wrong_key += more.wrong_key
        timing.unknown += more.unknown
    assert timing.told_apart and timing.z(1) > 0, timing.line()


# ------------------------------------------------------------------ servers without the key


def attempt(profile: Profile) -> type[BaseException]:
    """What a client raises that connects and would then ask for a listing."""
    try:
        from ftpy.client.client import Client

        with Client(profile, FAST) as client:
            list(client.ls())
    except FtpyError as error:
        return type(error)
    raise AssertionError("the client trusted it")


FAKES: dict[str, tuple[tuple[bytes, ...], type[BaseException]]] = {
    "a proof of zeros": ((false_challenge(), false_welcome()), ServerNotTrusted),
    "a random proof": ((false_challenge(), false_welcome(secrets.token_bytes(32))), ServerNotTrusted),
    "a welcome at once": ((false_welcome(),), ConnectionFailed),
    "challenge and welcome together": ((false_challenge() + false_welcome(),), ServerNotTrusted),
    "a reply to what was not asked": ((false_challenge(), frame(b'{"id":1,"ok":true}')), ConnectionFailed),
    "a failure": ((frame(b'{"id":0,"ok":false,"error":"busy","message":"later"}'),), ConnectionFailed),
    "an error that is a result elsewhere": (
        (false_challenge(), frame(b'{"id":0,"ok":false,"error":"not-found","message":"no"}')),
        ConnectionFailed,
    ),
    "its denial": ((false_challenge(), frame(DENIED)), Denied),
    "noise": ((b"\xff" * 64,), ConnectionFailed),
}
"""What the fake server answers to hello and to proof -> what the client raises."""


@pytest.mark.parametrize("fake", FAKES)
@pytest.mark.parametrize("encrypted", [True, False], ids=["tls", "plaintext"])
def test_no_request_is_sent_to_a_server_that_has_not_proven_itself(
    host: Host, identity: Identity, fake: str, encrypted: bool
) -> None:
    answers, raised = FAKES[fake]
    with FakeServer(identity if encrypted else None, *answers) as server:
        pin = identity.pin.hex() if encrypted else None
        profile = changed(host.profile(), addresses=[server.address], certificate_sha256=pin)
        assert issubclass(attempt(profile), raised)
    assert len(server.said) == (1 + FAST.retries if fake == "a failure" else 1)  # who says "busy" is asked again
    for said in server.said:
        assert commands(said) in (["hello"], ["hello", "proof"])


def test_a_server_that_reflects_our_own_proof_is_not_trusted(host: Host, identity: Identity) -> None:
    class Mirror(FakeServer):
        def serve(self, channel: object) -> None:
            self.hear(channel)  # type: ignore[arg-type]
            channel.sendall(false_challenge())  # type: ignore[attr-defined]
            proof = self.hear(channel).rpartition(b'"client_proof":"')[2][:43]  # type: ignore[arg-type]
            channel.sendall(false_welcome(impostors.b64decode(proof.decode())))  # type: ignore[attr-defined]
            self.hear_all(channel)  # type: ignore[arg-type]

    with Mirror(None) as server:
        profile = changed(host.profile(), addresses=[server.address], certificate_sha256=None)
        assert attempt(profile) is ServerNotTrusted
    assert commands(server.said[0]) == ["hello", "proof"]


def test_another_certificate_is_refused_before_anything_is_said(tls_host: Host, identity: Identity) -> None:
    with Middle(identity, tls_host.address) as middle:
        assert attempt(tls_host.profile(address=middle.address)) is ServerNotTrusted
    assert middle.said in ([], [b""])


def test_a_man_in_the_middle_is_denied_even_where_his_certificate_is_pinned(tls_host: Host, identity: Identity) -> None:
    """The proof is bound to the certificate that the client saw: passed on, it is worth nothing."""
    with Middle(identity, tls_host.address) as middle:
        profile = changed(tls_host.profile(address=middle.address), certificate_sha256=identity.pin.hex())
        assert attempt(profile) is Denied
    assert commands(middle.said[0]) == ["hello", "proof"]


def test_the_man_in_the_middle_would_pass_if_proofs_were_not_bound(
    tls_host: Host, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: with the certificate left out of the transcript the same man reads the listing's request."""
    transcript = auth.transcript
    monkeypatch.setattr(auth, "transcript", lambda channel, *said: transcript(auth.Channel(b"same"), *said))
    with Middle(identity, tls_host.address) as middle:
        profile = changed(tls_host.profile(address=middle.address), certificate_sha256=identity.pin.hex())
        with pytest.raises(AssertionError, match="the client trusted it"):
            attempt(profile)
    assert commands(middle.said[0]) == ["hello", "proof", "ls"]


@pytest.mark.slow
def test_the_command_says_who_is_not_who_with_the_documented_exit_codes(tmp_path: Path, identity: Identity) -> None:
    with serving(tmp_path / "host") as host, Middle(identity, host.address) as middle:
        host.keys["nobody"] = secrets.token_bytes(32)
        host.save_profile("unknown", user="nobody")
        host.save_profile("middle", address=middle.address)
        right, host.keys["alice"] = host.keys["alice"], secrets.token_bytes(32)
        host.save_profile("wrong")
        host.keys["alice"] = right
        for server, code, word in (
            ("default", 0, ""),
            ("unknown", 4, "refused user"),
            ("wrong", 4, "refused user"),
            ("middle", 4, "another certificate"),
        ):
            process = host.ftpy("ls", server=server)
            found, _, error = outcome(process, 30)
            assert found == code and word in error and "Traceback" not in error and error.count("\n") == bool(code)
        host.stop()
        code, _, error = outcome(host.ftpy("ls"), 30)
        assert code == 3 and error.count("\n") == 1
