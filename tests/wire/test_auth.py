"""FTPY-AUTH-1: the vectors exactly, and everything else refused."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_vectors import HELLO, NONCE, load

from ftpy.errors import Denied, FtpyError, ProtocolError, ServerNotTrusted
from ftpy.wire import auth, messages
from ftpy.wire.auth import Channel, ClientHandshake, ServerHandshake, Verifier, client_key, transcript, verifier
from ftpy.wire.codec import decode, encode
from ftpy.wire.framing import FrameBuffer
from ftpy.wire.handshake import Challenge, Hello, Limits, Proof, Welcome
from ftpy.wire.session import Message, Session, Side
from ftpy.wire.spelling import b64decode, b64encode

VECTORS = load("handshake")
KEY = bytes(range(32))
PLAIN = Channel()
TLS = Channel(bytes.fromhex(VECTORS["tls"]["channel_hash"]))
OTHER_TLS = Channel(bytes.fromhex("00" + VECTORS["tls"]["channel_hash"][2:]))


@pytest.fixture(params=VECTORS)
def vector(request):
    return VECTORS[request.param]


def channel_of(vector) -> Channel:
    return Channel(bytes.fromhex(vector["channel_hash"]))


# ---------------------------------------------------------------- vectors


def test_vector_keys(vector):
    keys = verifier(bytes.fromhex(vector["key"]), vector["user"])
    assert keys.stored_key.hex() == vector["stored_key"]
    assert keys.server_key.hex() == vector["server_key"]


def test_vector_of_the_client(vector):
    client = ClientHandshake(
        vector["user"], bytes.fromhex(vector["key"]), bytes.fromhex(vector["client_nonce"]), channel_of(vector)
    )
    assert encode(client.message).decode() == vector["hello"]
    proof = client.prove(vector["challenge"].encode())
    assert b64decode(proof.client_proof).hex() == vector["client_proof"]
    client.check(b64encode(bytes.fromhex(vector["server_proof"])))


def test_vector_of_the_server(vector):
    hello = vector["hello"].encode()
    server = ServerHandshake(hello, decode(hello, Hello), bytes.fromhex(vector["server_nonce"]), channel_of(vector))
    assert encode(server.message).decode() == vector["challenge"]
    proof = Proof(client_proof=b64encode(bytes.fromhex(vector["client_proof"])))
    keys = Verifier(bytes.fromhex(vector["stored_key"]), bytes.fromhex(vector["server_key"]))
    assert b64decode(server.check(proof, keys)).hex() == vector["server_proof"]


def test_vector_transcript(vector):
    said = transcript(channel_of(vector), vector["hello"].encode(), vector["challenge"].encode())
    assert said.hex() == vector["transcript"]


# ---------------------------------------------------------------- a whole handshake, with someone in the middle


def unchanged(frame: bytes) -> bytes:
    return frame


@dataclass
class Handshake:
    """Both ends, frame by frame; each frame passes through ``tamper`` by its number, 0 to 3."""

    tamper: dict[int, object] = field(default_factory=dict)
    user: str = "alice"
    key: bytes = KEY
    known: Verifier | None = field(default_factory=lambda: verifier(KEY, "alice"))
    client_channel: Channel = TLS
    server_channel: Channel = TLS
    client_nonce: bytes = b"\x11" * 32
    server_nonce: bytes = b"\x22" * 32
    frames: list[bytes] = field(default_factory=list)

    def pass_on(self, frame: bytes, session: Session) -> tuple[bytes, Message]:
        """What the other end hears. Raises ProtocolError, or EOFError where it would wait for more."""
        frame = self.tamper.get(len(self.frames), unchanged)(frame)
        self.frames.append(frame)
        buffer = FrameBuffer()
        buffer.feed(frame)
        header = buffer.next_header(session.header_limit)
        if header is None:
            raise EOFError
        return header, session.receive(header)

    def run(self) -> None:
        """Raises what either end raises; returns when both are content."""
        client_session, server_session = Session(Side.CLIENT), Session(Side.SERVER)
        client = ClientHandshake(self.user, self.key, self.client_nonce, self.client_channel)
        raw, hello = self.pass_on(client_session.send(client.message), server_session)
        server = ServerHandshake(raw, hello, self.server_nonce, self.server_channel)
        raw, _ = self.pass_on(server_session.send(server.message), client_session)
        _, proof = self.pass_on(client_session.send(client.prove(raw)), server_session)
        keys = self.known if hello.user == "alice" and self.known else verifier(b"s" * 32, hello.user)
        welcome = Welcome(
            server_proof=server.check(proof, keys),
            server="ftpy",
            time_ns=0,
            limits=Limits(inline_bytes=0, requests=1),
            digests=["md5"],
            rights=[],
        )
        _, welcome = self.pass_on(server_session.send(welcome), client_session)
        client.check(welcome.server_proof)


def flip(bit: int):
    def tamper(frame: bytes) -> bytes:
        changed = bytearray(frame)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    return tamper


def frames_of(**how) -> list[bytes]:
    handshake = Handshake(**how)
    handshake.run()
    return handshake.frames


@pytest.mark.parametrize("channel", [PLAIN, TLS])
def test_handshake_succeeds_when_nobody_interferes(channel):
    assert len(frames_of(client_channel=channel, server_channel=channel)) == 4


@pytest.mark.parametrize("channel", [PLAIN, TLS])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_handshake_is_refused_when_any_bit_is_flipped(number, channel):
    how = {"client_channel": channel, "server_channel": channel}
    for bit in range(8 * len(frames_of(**how)[number])):
        with pytest.raises((ProtocolError, Denied, EOFError)):
            Handshake(tamper={number: flip(bit)}, **how).run()


def test_welcome_is_refused_when_any_bit_of_its_proof_is_flipped():
    welcome = frames_of()[3]
    begin = welcome.index(b'"server_proof":"') + len(b'"server_proof":"')
    for bit in range(8 * begin, 8 * (begin + 43)):
        with pytest.raises((ProtocolError, ServerNotTrusted)):
            Handshake(tamper={3: flip(bit)}).run()


def test_welcome_is_refused_or_its_proof_is_untouched_when_any_bit_is_flipped():
    """What a welcome says beside its proof is not bound: on plain TCP nothing after the handshake is, either."""
    welcome = frames_of()[3]
    proof = welcome.split(b'"server_proof":"')[1][:43]
    for bit in range(8 * len(welcome)):
        try:
            Handshake(tamper={3: flip(bit)}).run()
        except (ProtocolError, ServerNotTrusted, EOFError):
            continue
        assert proof in flip(bit)(welcome)


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_handshake_is_refused_when_a_frame_is_cut_short(number):
    for length in range(len(frames_of()[number])):
        with pytest.raises(EOFError):
            Handshake(tamper={number: lambda frame, length=length: frame[:length]}).run()


def test_handshake_is_refused_when_the_same_hello_is_spelled_otherwise():
    """The transcript is of bytes, not of meanings: white space that no decoder minds is noticed."""

    def respell(frame: bytes) -> bytes:
        header = frame[4:].replace(b":", b": ")
        return len(header).to_bytes(4, "little") + header

    for number in (0, 1):
        with pytest.raises(Denied):
            Handshake(tamper={number: respell}).run()


# ---------------------------------------------------------------- who is refused


def test_client_is_denied_when_its_key_is_wrong():
    with pytest.raises(Denied):
        Handshake(key=bytes(32)).run()


def test_client_is_denied_when_its_user_is_unknown():
    with pytest.raises(Denied):
        Handshake(user="mallory").run()


def test_client_is_denied_when_it_proves_another_users_key():
    """The user's name is in every key: one key for two users gives two verifiers."""
    with pytest.raises(Denied):
        Handshake(known=verifier(KEY, "bob")).run()


def test_proof_is_denied_when_replayed_to_a_new_challenge():
    old = frames_of()
    replay = {0: lambda _: old[0], 2: lambda _: old[2]}
    Handshake(tamper=replay).run()  # the same challenge: the replay itself is faithful
    with pytest.raises(Denied):
        Handshake(tamper=replay, server_nonce=b"\x23" * 32).run()


def test_proof_is_denied_when_made_for_another_certificate():
    """A man in the middle with a certificate of his own passes all frames on."""
    with pytest.raises(Denied):
        Handshake(client_channel=OTHER_TLS).run()


def test_hello_is_refused_when_the_binding_is_stripped():
    """TLS to the man in the middle, plain TCP to the server, or the other way round."""
    for client, server in ((TLS, PLAIN), (PLAIN, TLS)):
        with pytest.raises(ProtocolError, match="binding"):
            Handshake(client_channel=client, server_channel=server).run()


def test_hello_is_denied_when_the_binding_is_rewritten():
    """The middle rewrites the hello to the binding that the server expects: the transcripts differ."""

    def rewrite(frame: bytes) -> bytes:
        header = frame[4:].replace(b"tls-cert-sha256", b"none")
        return len(header).to_bytes(4, "little") + header

    with pytest.raises(Denied):
        Handshake(tamper={0: rewrite}, client_channel=TLS, server_channel=PLAIN).run()


def test_hello_is_refused_when_its_protocol_is_another():
    hello = HELLO.replace(b'"protocol":1', b'"protocol":2')
    with pytest.raises(ProtocolError, match="protocol 2 is not spoken here, 1 is"):
        ServerHandshake(hello, decode(hello, Hello), bytes(32), PLAIN)


def test_hello_is_refused_when_its_nonce_was_made_too_short():
    hello = Hello(protocol=1, user="alice", client_nonce=b64encode(bytes(31)), binding="none")
    with pytest.raises(ProtocolError, match="32 bytes"):
        ServerHandshake(encode(hello), hello, bytes(32), PLAIN)


@pytest.mark.parametrize("proof", [b"", bytes(31), bytes(33), bytes(64)])
def test_proof_is_denied_when_its_length_is_wrong(proof):
    server = ServerHandshake(HELLO, decode(HELLO, Hello), bytes(32), PLAIN)
    with pytest.raises(Denied):
        server.check(Proof(client_proof=b64encode(proof)), verifier(KEY, "alice"))


def test_proof_is_denied_when_a_right_one_is_padded():
    client = ClientHandshake("alice", KEY, b"\x11" * 32, PLAIN)
    hello = encode(client.message)
    server = ServerHandshake(hello, client.message, bytes(32), PLAIN)
    right = b64decode(client.prove(encode(server.message)).client_proof)
    server.check(Proof(client_proof=b64encode(right)), verifier(KEY, "alice"))
    with pytest.raises(Denied):
        server.check(Proof(client_proof=b64encode(right + b"\0")), verifier(KEY, "alice"))


# ---------------------------------------------------------------- who is not trusted


def prove_to(challenge: bytes) -> tuple[ClientHandshake, Proof]:
    client = ClientHandshake("alice", KEY, b"\x11" * 32, TLS)
    return client, client.prove(challenge)


def test_server_is_not_trusted_when_it_does_not_know_the_user():
    client, proof = prove_to(encode(Challenge(server_nonce=NONCE)))
    for claim in (bytes(32), b64decode(proof.client_proof), bytes(31), b""):
        with pytest.raises(ServerNotTrusted):
            client.check(b64encode(claim))


def test_server_is_not_trusted_when_it_reflects_the_proof():
    """A server without the verifier sends the client's own proof, of this or a parallel connection, back."""
    client, proof = prove_to(encode(Challenge(server_nonce=NONCE)))
    other, other_proof = prove_to(encode(Challenge(server_nonce=b64encode(bytes(32)))))
    for claim in (proof, other_proof):
        with pytest.raises(ServerNotTrusted):
            client.check(claim.client_proof)
        with pytest.raises(ServerNotTrusted):
            other.check(claim.client_proof)


def test_server_is_not_trusted_when_it_replays_an_old_proof():
    welcomes: list[bytes] = []

    def record(frame: bytes) -> bytes:
        welcomes.append(frame)
        return frame

    Handshake(tamper={3: record}).run()
    with pytest.raises(ServerNotTrusted):
        Handshake(tamper={3: lambda _: welcomes[0]}, client_nonce=b"\x12" * 32).run()


def test_server_is_not_trusted_before_anything_was_proven():
    with pytest.raises(ServerNotTrusted):
        ClientHandshake("alice", KEY, bytes(32), PLAIN).check(b64encode(b""))


def test_server_is_not_trusted_when_it_holds_only_half_of_the_verifier():
    right = verifier(KEY, "alice")
    with pytest.raises(ServerNotTrusted):
        Handshake(known=Verifier(right.stored_key, bytes(32))).run()


def test_verifier_does_not_let_anyone_log_in():
    """Who steals the server's file of users holds neither the key nor the client's key."""
    stolen = verifier(KEY, "alice")
    for key in (stolen.stored_key, stolen.server_key):
        with pytest.raises(Denied):
            Handshake(key=key).run()
    assert client_key(KEY, "alice") not in (stolen.stored_key, stolen.server_key)


# ---------------------------------------------------------------- same work, no secrets in sight


def test_unknown_user_costs_the_same_work_as_a_wrong_key(monkeypatch):
    """Counted, not timed: every hash and every compare of a refusal, in order and by length."""
    work: list[tuple[str, int]] = []
    digest, compare, sha256 = hmac.digest, hmac.compare_digest, auth.hashlib.sha256
    monkeypatch.setattr(hmac, "digest", lambda *args: work.append(("hmac", len(args[1]))) or digest(*args))
    monkeypatch.setattr(hmac, "compare_digest", lambda *args: work.append(("compare", len(args[0]))) or compare(*args))
    monkeypatch.setattr(auth.hashlib, "sha256", lambda data: work.append(("sha256", len(data))) or sha256(data))

    def refuse(known: Verifier, proof: str) -> list[tuple[str, int]]:
        server = ServerHandshake(HELLO, decode(HELLO, Hello), bytes(32), PLAIN)
        work.clear()
        with pytest.raises(Denied):
            server.check(Proof(client_proof=proof), known)
        return list(work)

    alice, derived = verifier(KEY, "alice"), verifier(b"s" * 32, "nobody")
    wrong_key = refuse(alice, NONCE)
    assert len(wrong_key) == 3
    assert refuse(derived, NONCE) == wrong_key
    assert refuse(alice, "") == wrong_key
    assert refuse(derived, b64encode(bytes(33))) == wrong_key


def test_repr_hides_keys():
    keys = verifier(KEY, "alice")
    client = ClientHandshake("alice", KEY, bytes(32), PLAIN)
    for secret in (KEY, keys.stored_key, keys.server_key):
        for shown in (repr(keys), str(keys), repr(client)):
            assert repr(secret)[2:-1] not in shown
            assert secret.hex() not in shown


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_any_key_and_nonces_agree(key, client_nonce, server_nonce):
    Handshake(key=key, known=verifier(key, "alice"), client_nonce=client_nonce, server_nonce=server_nonce).run()


@given(st.binary(max_size=200))
def test_any_bytes_for_a_hello_are_refused_by_name(data):
    with pytest.raises(FtpyError):
        Session(Side.SERVER).receive(data)


def test_handshake_verbs_are_not_requests():
    assert messages.VERBS.isdisjoint({"hello", "challenge", "proof", "welcome", "denied"})
