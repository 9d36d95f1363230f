"""One state table for both ends: a row that is missing is the violation."""

from __future__ import annotations

import itertools
from collections import deque

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from wire_strategies import KINDS, any_request, digests, structs, unknown_requests
from wire_vectors import CHALLENGE, HELLO, PROOF, WELCOME, Conversation, cut

from ftpy.errors import ProtocolError
from ftpy.wire import codec, messages, trees, upkeep
from ftpy.wire.bases import FailureReply, ProgressReply, Reply, Request, UnknownRequest
from ftpy.wire.codec import encode
from ftpy.wire.commands import (
    CancelMessage,
    CommandsReply,
    CommandsRequest,
    InputMessage,
    RunReply,
    RunRequest,
)
from ftpy.wire.entries import Entry
from ftpy.wire.events import EventsReply, EventsRequest
from ftpy.wire.fields import DigestOf, Trailer
from ftpy.wire.framing import HANDSHAKE_HEADER_BYTES, HEADER_BYTES, frame
from ftpy.wire.handshake import Challenge, Denied, Hello, Proof, Welcome
from ftpy.wire.messages import (
    AbortReply,
    AbortRequest,
    GetReply,
    GetRequest,
    LsReply,
    LsRequest,
    PartReply,
    PutRequest,
    StatRequest,
)
from ftpy.wire.ping import PingReply, PingRequest
from ftpy.wire.receipts import Receipt, ReceiptReply, ReceiptRequest
from ftpy.wire.session import HANDSHAKE, NEXT_LANE, Lane, Session, Side, State

ID = "0123456789abcdef" * 2
MESSAGES = {
    Hello: codec.decode(HELLO, Hello),
    Challenge: codec.decode(CHALLENGE, Challenge),
    Proof: codec.decode(PROOF, Proof),
    Welcome: codec.decode(WELCOME, Welcome),
    Denied: Denied(),
    messages.PutRequest: PutRequest(id=1, path="a", mtime_ns=0, file_size=1),
    messages.PartRequest: messages.PartRequest(id=1, upload=ID, part=0, length=1),
    messages.CommitRequest: messages.CommitRequest(id=1, upload=ID, digest=DigestOf(md5=ID)),
    AbortRequest: AbortRequest(id=1, upload=ID),
    messages.MkdirRequest: messages.MkdirRequest(id=1, path="a"),
    messages.RmRequest: messages.RmRequest(id=1, path="a"),
    messages.MvRequest: messages.MvRequest(id=1, path="a", to="b"),
    GetRequest: GetRequest(id=1, path="a"),
    LsRequest: LsRequest(id=1),
    StatRequest: StatRequest(id=1, path="a"),
    messages.DigestRequest: messages.DigestRequest(id=1, path="a"),
    messages.TimesRequest: messages.TimesRequest(id=1),
    upkeep.TouchRequest: upkeep.TouchRequest(id=1, path="a"),
    upkeep.DfRequest: upkeep.DfRequest(id=1),
    PingRequest: PingRequest(id=1),
    CommandsRequest: CommandsRequest(id=1),
    RunRequest: RunRequest(id=1, command="disk"),
    EventsRequest: EventsRequest(id=1),
    ReceiptRequest: ReceiptRequest(id=1, path="a"),
    InputMessage: InputMessage(id=1, length=3),
    CancelMessage: CancelMessage(id=1),
    messages.BeginRequest: messages.BeginRequest(id=1, operation=ID),
    messages.OperationsRequest: messages.OperationsRequest(id=1),
    messages.UndoRequest: messages.UndoRequest(id=1, operation=ID, by=ID),
    messages.ForgetRequest: messages.ForgetRequest(id=1, operation=ID),
    trees.StageRequest: trees.StageRequest(id=1, path="a"),
    trees.SwapRequest: trees.SwapRequest(id=1, path="a", tree=ID, files=1, folders=1, file_bytes=1),
    trees.DiscardRequest: trees.DiscardRequest(id=1, path="a", tree=ID),
    trees.RollbackRequest: trees.RollbackRequest(id=1, path="a"),
    UnknownRequest: UnknownRequest(cmd="teleport", id=1),
    messages.StoredReply: messages.StoredReply(
        id=1, file_size=1, digest=DigestOf(md5=ID), durable=True, etag=ID, path="a"
    ),
    messages.UploadReply: messages.UploadReply(id=1, upload=ID, part_size=1, missing=[]),
    PartReply: PartReply(id=1),
    AbortReply: AbortReply(id=1),
    messages.MkdirReply: messages.MkdirReply(id=1),
    messages.RmReply: messages.RmReply(id=1, files=1, folders=0),
    messages.MvReply: messages.MvReply(id=1),
    GetReply: GetReply(id=1, file_size=1, offset=0, length=1, mtime_ns=0, mode=0, etag=ID, md5=None, blake3=None),
    LsReply: LsReply(id=1, entries=[], complete=True),
    messages.StatReply: messages.StatReply(id=1, entry=Entry(type="file", size=0, mtime_ns=0, mode=0)),
    messages.DigestReply: messages.DigestReply(id=1, digest=DigestOf(md5=ID), file_size=1, etag=ID),
    messages.TimesReply: messages.TimesReply(id=1, ns={"disk": 1}, line=messages.Line()),
    upkeep.TouchReply: upkeep.TouchReply(id=1, mtime_ns=0, created=True),
    upkeep.DfReply: upkeep.DfReply(id=1, **dict.fromkeys(upkeep.DfReply.__struct_fields__[2:])),
    PingReply: PingReply(id=1),
    CommandsReply: CommandsReply(id=1, complete=True),
    RunReply: RunReply(id=1, code=0, ended="exit"),
    messages.BeginReply: messages.BeginReply(id=1, keep_seconds=1),
    messages.OperationsReply: messages.OperationsReply(id=1, operations=[], complete=True),
    messages.UndoReply: messages.UndoReply(id=1, steps=1, already=0, left=0, paths=[]),
    messages.ForgetReply: messages.ForgetReply(id=1, names=1),
    trees.StageReply: trees.StageReply(id=1, tree=ID, resumed=False),
    trees.SwapReply: trees.SwapReply(id=1, replaced=False),
    trees.DiscardReply: trees.DiscardReply(id=1),
    trees.RollbackReply: trees.RollbackReply(id=1, replaced=False),
    EventsReply: EventsReply(id=1, events=[], cursor=f"{ID[:16]}-1", complete=True),
    ReceiptReply: ReceiptReply(id=1, receipt=Receipt(certificate="AA", signature="AA", statement="{}")),
    ProgressReply: ProgressReply(id=1, progress=1),
    FailureReply: FailureReply(id=1, error="busy"),
    Trailer: Trailer(md5=ID),
}
"""One message of every kind."""
ALIKE = (
    {PartReply, AbortReply, messages.MkdirReply, messages.MvReply, PingReply, trees.DiscardReply},
    {trees.SwapReply, trees.RollbackReply},
)
"""Replies that look alike."""
FAREWELL = FailureReply(id=0, error="busy")

TO_STATE: dict[State, list[tuple[Side, msgspec.Struct]]] = {
    State.HELLO_DUE: [],
    State.CHALLENGE_DUE: [(Side.CLIENT, MESSAGES[Hello])],
    State.PROOF_DUE: [(Side.CLIENT, MESSAGES[Hello]), (Side.SERVER, MESSAGES[Challenge])],
}
TO_STATE[State.VERDICT_DUE] = [*TO_STATE[State.PROOF_DUE], (Side.CLIENT, MESSAGES[Proof])]
TO_STATE[State.OPEN] = [*TO_STATE[State.VERDICT_DUE], (Side.SERVER, MESSAGES[Welcome])]
TO_STATE[State.CLOSED] = [*TO_STATE[State.VERDICT_DUE], (Side.SERVER, MESSAGES[Denied])]


def session(own: Side, state: State = State.OPEN) -> Session:
    """One end, brought to a state by what both said."""
    end = Session(own)
    for side, message in TO_STATE[state]:
        hear_or_say(end, side, message)
    assert end.state is state
    return end


def hear_or_say(end: Session, side: Side, message: msgspec.Struct) -> None:
    """``side`` says ``message``: this end sends it, or receives it."""
    if side is end.own:
        end.send(message)
    else:
        end.receive(encode(message))


# ---------------------------------------------------------------- the handshake's table, exhaustively


def test_messages_here_are_of_every_kind():
    assert set(MESSAGES) == {*KINDS, UnknownRequest}


@pytest.mark.parametrize("own", Side)
@pytest.mark.parametrize(("state", "side"), [(s, w) for s in State if s is not State.OPEN for w in Side])
def test_message_is_refused_when_its_row_is_missing(own, state, side):
    for kind, message in MESSAGES.items():
        end = session(own, state)
        after = HANDSHAKE.get((state, side, kind))
        if after is not None:
            hear_or_say(end, side, message)
            assert end.state is after
        else:
            with pytest.raises(ProtocolError):
                hear_or_say(end, side, message)
            assert end.state is state
            assert end.pending == 0


@pytest.mark.parametrize("own", Side)
def test_message_is_refused_when_the_wrong_side_says_it_after_the_handshake(own):
    for kind, message in MESSAGES.items():
        for side in Side:
            legal = side is Side.CLIENT and (issubclass(kind, Request) or kind is UnknownRequest)
            end = session(own)
            if legal:
                hear_or_say(end, side, message)
                assert end.pending == 1
            else:
                with pytest.raises(ProtocolError):
                    hear_or_say(end, side, message)
                assert end.pending == 0


@pytest.mark.parametrize("own", Side)
def test_reply_is_refused_when_its_kind_is_not_the_requests(own):
    requests = [m for kind, m in MESSAGES.items() if issubclass(kind, Request) or kind is UnknownRequest]
    for request, (kind, answer) in itertools.product(requests, MESSAGES.items()):
        end = session(own)
        hear_or_say(end, Side.CLIENT, request)
        if request.body_length is not None:
            (end.outgoing if own is Side.CLIENT else end.incoming).body(request.body_length)
            hear_or_say(end, Side.CLIENT, MESSAGES[Trailer])
        due = None if isinstance(request, UnknownRequest) else messages.reply_type(request)
        if kind is not due and own is Side.CLIENT and any({kind, due} <= alike for alike in ALIKE):
            continue  # the same bytes: nobody who hears them can tell
        if kind in (due, ProgressReply, FailureReply):
            hear_or_say(end, Side.SERVER, answer)
            assert end.pending == (0 if answer.last else 1)
        else:
            with pytest.raises(ProtocolError):
                hear_or_say(end, Side.SERVER, answer)
            assert end.pending == 1


@pytest.mark.parametrize("own", Side)
def test_good_reply_to_an_unknown_verb_is_refused(own):
    end = session(own)
    hear_or_say(end, Side.CLIENT, UnknownRequest(cmd="teleport", id=1))
    with pytest.raises(ProtocolError):
        hear_or_say(end, Side.SERVER, Reply(id=1))


@pytest.mark.parametrize("own", Side)
@pytest.mark.parametrize("state", State)
def test_failure_of_the_connection_closes_any_state_but_is_the_last_word(own, state):
    end = session(own, state)
    if state is not State.CLOSED:
        hear_or_say(end, Side.SERVER, FAREWELL)
    assert end.state is State.CLOSED
    with pytest.raises(ProtocolError):
        hear_or_say(end, Side.SERVER, FAREWELL)


@pytest.mark.parametrize("own", Side)
@pytest.mark.parametrize("state", State)
def test_failure_of_the_connection_is_refused_when_a_client_says_it(own, state):
    end = session(own, state)
    with pytest.raises(ProtocolError):
        hear_or_say(end, Side.CLIENT, FAREWELL)
    assert end.state is state


@pytest.mark.parametrize("own", Side)
def test_request_is_refused_when_the_welcome_allows_no_more(own):
    end = session(own)
    most = MESSAGES[Welcome].limits.requests
    for number in range(most):
        hear_or_say(end, Side.CLIENT, AbortRequest(id=number + 1, upload=ID))
    assert end.pending == most
    with pytest.raises(ProtocolError, match="256 requests"):
        hear_or_say(end, Side.CLIENT, AbortRequest(id=1, upload=ID))
    hear_or_say(end, Side.SERVER, AbortReply(id=1))
    hear_or_say(end, Side.CLIENT, AbortRequest(id=1, upload=ID))


# ---------------------------------------------------------------- lanes


def test_lanes_have_a_row_for_all_that_can_be():
    """Only a trailer with body bytes due after it cannot."""
    assert set(itertools.product(Lane, (False, True))) - set(NEXT_LANE) == {(Lane.TRAILER, True)}


@pytest.mark.parametrize("count", [4, 2**63])
def test_body_is_refused_when_it_is_longer_than_announced(count):
    end = session(Side.CLIENT)
    end.send(PutRequest(id=1, path="a", mtime_ns=0, file_size=3, length=3))
    with pytest.raises(ProtocolError):
        end.outgoing.body(count)
    end.outgoing.body(3)
    with pytest.raises(ProtocolError):
        end.outgoing.body(1)


@pytest.mark.parametrize("lane", Lane)
def test_body_of_no_bytes_is_nothing_wherever_it_comes(lane):
    end = session(Side.CLIENT)
    if lane is not Lane.HEADER:
        length = 3 if lane is Lane.BODY else 0
        end.send(PutRequest(id=1, path="a", mtime_ns=0, file_size=length, length=length))
    end.outgoing.body(0)
    assert end.outgoing.lane is lane


def test_body_is_refused_when_none_was_announced():
    with pytest.raises(ProtocolError):
        session(Side.CLIENT).outgoing.body(1)


@pytest.mark.parametrize("own", Side)
def test_header_is_refused_when_body_bytes_are_due(own):
    for done in range(3):
        for message in (StatRequest(id=2, path="b"), MESSAGES[Trailer]):
            end = session(own)
            hear_or_say(end, Side.CLIENT, PutRequest(id=1, path="a", mtime_ns=0, file_size=3, length=3))
            direction = end.outgoing if own is Side.CLIENT else end.incoming
            direction.body(done)
            assert (direction.done, direction.due) == (done, 3 - done)
            assert not direction.awaits_trailer
            assert not direction.between_frames
            with pytest.raises(ProtocolError):
                hear_or_say(end, Side.CLIENT, message)


@pytest.mark.parametrize("own", Side)
@pytest.mark.parametrize("length", [0, 3])
def test_header_is_refused_when_a_trailer_is_due(own, length):
    end = session(own)
    hear_or_say(end, Side.CLIENT, PutRequest(id=1, path="a", mtime_ns=0, file_size=length, length=length))
    direction = end.outgoing if own is Side.CLIENT else end.incoming
    direction.body(length) if length else None
    assert direction.awaits_trailer
    with pytest.raises(ProtocolError):
        hear_or_say(end, Side.CLIENT, StatRequest(id=2, path="b"))
    hear_or_say(end, Side.CLIENT, MESSAGES[Trailer])
    assert direction.between_frames


def test_session_is_at_rest_only_between_requests():
    end = session(Side.SERVER)
    assert end.at_rest
    assert end.oldest is None
    end.receive(encode(GetRequest(id=7, path="a")))
    assert not end.at_rest
    assert end.oldest == 7
    end.send(msgspec.structs.replace(MESSAGES[GetReply], id=7))
    assert end.pending == 0
    assert not end.at_rest
    end.outgoing.body(1)
    assert not end.at_rest
    end.send(MESSAGES[Trailer])
    assert end.at_rest


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize("own", Side)
@pytest.mark.parametrize("state", State)
def test_header_limit_is_short_before_authentication(own, state):
    assert session(own, state).header_limit == (HEADER_BYTES if state is State.OPEN else HANDSHAKE_HEADER_BYTES)


def test_send_refuses_what_the_other_end_would_refuse_for_its_length():
    end = session(Side.SERVER, State.VERDICT_DUE)
    with pytest.raises(ProtocolError, match="2048"):
        end.send(msgspec.structs.replace(MESSAGES[Welcome], rights=["x" * 40] * 50))
    assert end.state is State.VERDICT_DUE
    end = session(Side.CLIENT)
    with pytest.raises(ProtocolError, match="65536"):
        end.send(StatRequest(id=1, path="a" * HEADER_BYTES))
    assert end.pending == 0


# ---------------------------------------------------------------- two ends, any legal script


class TwoSessions(RuleBasedStateMachine):
    """A client and a server that hear each other in pieces; whatever legal thing happens, they stay in step."""

    def __init__(self) -> None:
        super().__init__()
        self.talk = Conversation()
        self.unanswered: deque[Request | UnknownRequest] = deque()
        self.due = dict.fromkeys(Side, 0)
        self.trailer_due = dict.fromkeys(Side, False)
        self.run: int | None = None

    def say(self, side: Side, message: msgspec.Struct, cuts: list[int]) -> None:
        (heard,) = self.talk.say(side, cut(frame(encode(message)), cuts))
        assert heard == message
        length = getattr(message, "body_length", None)
        if length is not None:
            self.due[side], self.trailer_due[side] = length, True

    def idle(self, side: Side) -> bool:
        return not self.due[side] and not self.trailer_due[side]

    @initialize()
    def open(self) -> None:
        self.talk.open()

    def alone(self) -> bool:
        return bool(self.unanswered) and isinstance(self.unanswered[-1], RunRequest)

    @precondition(lambda self: self.idle(Side.CLIENT) and len(self.unanswered) < 256 and not self.alone())
    @rule(request=any_request() | unknown_requests(), length=st.integers(0, 2000), cuts=st.lists(st.integers(1, 300)))
    def request(self, request, length, cuts):
        if request.body_length is not None:
            request = msgspec.structs.replace(request, length=length)
        self.say(Side.CLIENT, request, cuts)
        self.unanswered.append(request)
        if isinstance(request, RunRequest):
            self.run = request.id

    @precondition(lambda self: self.idle(Side.CLIENT) and self.run is not None)
    @rule(length=st.none() | st.integers(1, 2000), cancels=st.booleans(), cuts=st.lists(st.integers(1, 300)))
    def more_of_a_run(self, length, cancels, cuts):
        more = CancelMessage(id=self.run) if cancels else InputMessage(id=self.run, length=length)
        self.say(Side.CLIENT, more, cuts)

    @precondition(lambda self: self.idle(Side.CLIENT) and self.alone())
    @rule(request=any_request())
    def request_beside_a_run_is_refused_by_both(self, request):
        for end in self.talk.ends.values():
            with pytest.raises(ProtocolError, match="another request"):
                hear_or_say(end.session, Side.CLIENT, request)

    @precondition(lambda self: any(self.due.values()))
    @rule(data=st.data())
    def body(self, data):
        side = data.draw(st.sampled_from([side for side in Side if self.due[side]]))
        count = data.draw(st.integers(1, self.due[side]))
        assert sum(self.talk.say(side, cut(bytes(count), data.draw(st.lists(st.integers(1, 300)))))) == count
        self.due[side] -= count

    @precondition(lambda self: any(self.trailer_due[side] and not self.due[side] for side in Side))
    @rule(data=st.data(), trailer=digests(Trailer), cuts=st.lists(st.integers(1, 80)))
    def trailer(self, data, trailer, cuts):
        side = data.draw(st.sampled_from([s for s in Side if self.trailer_due[s] and not self.due[s]]))
        self.say(side, trailer, cuts)
        self.trailer_due[side] = False

    def oldest_is_whole(self) -> bool:
        return bool(self.unanswered) and (len(self.unanswered) > 1 or self.idle(Side.CLIENT))

    @precondition(lambda self: self.idle(Side.SERVER) and self.oldest_is_whole())
    @rule(data=st.data(), length=st.integers(0, 2000), cuts=st.lists(st.integers(1, 300)))
    def reply(self, data, length, cuts):
        request = self.unanswered[0]
        kind = FailureReply
        if isinstance(request, Request) and data.draw(st.booleans()):
            kind = messages.reply_type(request)
        reply = msgspec.structs.replace(data.draw(structs(kind)), id=request.id)
        if isinstance(reply, GetReply):
            reply = msgspec.structs.replace(reply, length=length)
        self.say(Side.SERVER, reply, cuts)
        if reply.last:
            self.unanswered.popleft()

    @precondition(lambda self: self.idle(Side.SERVER) and self.unanswered)
    @rule(count=st.integers(0, 2**63 - 1))
    def progress(self, count):
        self.say(Side.SERVER, ProgressReply(id=self.unanswered[0].id, progress=count), [])

    @precondition(lambda self: self.idle(Side.SERVER) and self.unanswered and not self.oldest_is_whole())
    @rule()
    def reply_before_the_request_is_whole_is_refused_by_both(self):
        failure = FailureReply(id=self.unanswered[0].id, error="busy")
        for side, end in self.talk.ends.items():
            with pytest.raises(ProtocolError):
                hear_or_say(end.session, Side.SERVER, failure)
            assert end.session.own is side

    @invariant()
    def both_ends_agree(self):
        self.talk.assert_in_step()
        session = self.talk.ends[Side.CLIENT].session
        assert session.pending == len(self.unanswered)
        assert session.outgoing.due == self.due[Side.CLIENT]
        assert session.incoming.due == self.due[Side.SERVER]
        assert session.at_rest == (not self.unanswered and all(map(self.idle, Side)))


TwoSessions.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_two_sessions_stay_in_step_under_any_legal_script = TwoSessions.TestCase


# ---------------------------------------------------------------- more of a request under way


@pytest.mark.parametrize("own", Side)
@pytest.mark.parametrize("more", [InputMessage(id=7), CancelMessage(id=7)])
def test_more_of_a_run_is_legal_from_its_request_on_and_may_cross_its_last_reply(own, more):
    end = session(own)
    with pytest.raises(ProtocolError, match="takes none"):
        hear_or_say(end, Side.CLIENT, more)
    hear_or_say(end, Side.CLIENT, RunRequest(id=7, command="disk"))
    hear_or_say(end, Side.CLIENT, more)
    hear_or_say(end, Side.SERVER, RunReply(id=7, code=0, ended="exit"))
    hear_or_say(end, Side.CLIENT, more)
    assert end.at_rest
    hear_or_say(end, Side.CLIENT, RunRequest(id=8, command="disk"))
    with pytest.raises(ProtocolError, match="takes none"):
        hear_or_say(end, Side.CLIENT, more)


@pytest.mark.parametrize("own", Side)
def test_a_run_may_follow_other_requests_but_none_follows_it_before_its_last_reply(own):
    end = session(own)
    hear_or_say(end, Side.CLIENT, StatRequest(id=1, path="a"))
    hear_or_say(end, Side.CLIENT, RunRequest(id=2, command="disk"))
    for request in (StatRequest(id=3, path="a"), RunRequest(id=3, command="disk"), MESSAGES[UnknownRequest]):
        with pytest.raises(ProtocolError, match="another request"):
            hear_or_say(end, Side.CLIENT, request)
    hear_or_say(end, Side.SERVER, FailureReply(id=1, error="not-found"))
    hear_or_say(end, Side.SERVER, RunReply(id=2, encoding="utf-8", credit=0))
    hear_or_say(end, Side.SERVER, FailureReply(id=2, error="command-failed"))
    hear_or_say(end, Side.CLIENT, StatRequest(id=3, path="a"))
    assert end.pending == 1


# ---------------------------------------------------------------- headers that carry their CRC-32


def test_a_server_adds_a_crc_as_soon_as_the_client_did():
    client, server = session(Side.CLIENT), session(Side.SERVER)
    for adds in (False, True):
        client.adds_crc = adds
        for message in (StatRequest(id=1, path="a"), GetRequest(id=2, path="b")):
            said = client.send(message)[4:]
            assert codec.has_crc(said) is adds
            assert server.receive(said) == message
        for reply in (FailureReply(id=1, error="busy"), FailureReply(id=2, error="busy")):
            said = server.send(reply)[4:]
            assert codec.has_crc(said) is adds
            assert client.receive(said) == reply


def test_a_header_that_is_refused_is_no_reason_to_add_a_crc():
    server = session(Side.SERVER)
    with pytest.raises(ProtocolError):
        server.receive(codec.add_crc(b'{"cmd":"stat","id":1,"path":7}'))
    assert not server.adds_crc


@pytest.mark.parametrize("kind", [kind for kind in MESSAGES if issubclass(kind, Request)])
def test_any_bit_of_a_request_with_a_crc_is_noticed(kind):
    header = codec.add_crc(encode(MESSAGES[kind]))
    for bit in range(8 * len(header)):
        damaged = bytearray(header)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProtocolError):
            session(Side.SERVER).receive(bytes(damaged))


def test_any_bit_of_a_reply_with_a_crc_is_noticed():
    for kind, request in ((GetReply, GetRequest), (messages.StatReply, StatRequest), (LsReply, LsRequest)):
        header = codec.add_crc(encode(MESSAGES[kind]))
        for bit in range(8 * len(header)):
            end = session(Side.CLIENT)
            end.send(MESSAGES[request])
            damaged = bytearray(header)
            damaged[bit // 8] ^= 1 << bit % 8
            with pytest.raises(ProtocolError):
                end.receive(bytes(damaged))
