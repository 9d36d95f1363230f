"""Messages: what is legal comes back as it was, everything else is a ProtocolError."""

from __future__ import annotations

import itertools
import json
import random
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect
from wire_strategies import HANDSHAKE, KINDS, REPLIES, REQUESTS, structs, unknown_requests
from wire_vectors import header_of, load

from ftpy.digests import DIGEST_NAMES, HEX_LENGTH
from ftpy.errors import CODES, InvalidPath, ProtocolError, RequestError
from ftpy.files import DEPTH, FileInfo, RemotePath
from ftpy.wire import codec, messages
from ftpy.wire.bases import FailureReply, PathRequest, ProgressReply, Reply, UnknownRequest
from ftpy.wire.codec import encode, trailer_header
from ftpy.wire.commands import CommandsReply, RunReply
from ftpy.wire.entries import Entry, entry_to_info, info_to_entry
from ftpy.wire.events import EventEntry
from ftpy.wire.fields import MOST_PARTS, DigestOf, Trailer, digest_of
from ftpy.wire.framing import HANDSHAKE_HEADER_BYTES, HEADER_BYTES
from ftpy.wire.handshake import Hello, Limits, Welcome
from ftpy.wire.messages import PutRequest, StatRequest, StoredReply, UploadReply, reply_type
from ftpy.wire.spelling import b64decode, b64encode, path_to_wire, wire_to_path

ID = "0123456789abcdef" * 2


def read(kind: type, header: bytes) -> Any:
    """A header read where a ``kind`` is due."""
    if kind in HANDSHAKE:
        return codec.decode_handshake(header)
    if kind in REQUESTS or kind in messages.CONTINUATIONS or kind is UnknownRequest:
        return codec.decode_request(header)
    if kind is Trailer:
        return codec.decode(header, Trailer)
    return codec.decode_reply(header, kind if issubclass(kind, Reply) else Reply)


EVERY_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


# ---------------------------------------------------------------- round trips


def test_a_decoder_is_made_before_or_for_the_first_one_that_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    for make in (codec.prepare, lambda kind: codec.decode(b"{}", kind)):
        monkeypatch.setattr(codec, "_decoders", {})
        assert not codec.is_prepared(messages.Line)
        make(messages.Line)
        assert codec.is_prepared(messages.Line)


@EVERY_KIND
@settings(max_examples=15)
@given(data=st.data())
def test_message_comes_back_as_it_was(kind, data):
    message = data.draw(structs(kind))
    assert read(kind, encode(message)) == message


@given(unknown_requests())
def test_unknown_request_comes_back_as_it_was(request):
    assert read(UnknownRequest, encode(request)) == request
    assert request.body_length == request.length


@EVERY_KIND
@settings(max_examples=8)
@given(data=st.data())
def test_message_is_the_same_when_spelled_otherwise(kind, data):
    """Other order, white space, escapes: what another implementation may write."""
    message = data.draw(structs(kind))
    fields = list(json.loads(encode(message)).items())
    spelled = json.dumps(dict(data.draw(st.permutations(fields))), ensure_ascii=True, indent=1)
    assert read(kind, spelled.encode()) == message


# ---------------------------------------------------------------- one fault each, in every message


ONE_THING: dict[type, set[str]] = {
    CommandsReply: {"command"},
    RunReply: {"stream", "length", "code", "ended"},
    EventEntry: {"to", "to_b64"},
}
"""What is left out of a message that says one of several things."""


def example(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """A legal message with every field said, as JSON."""
    if kind is Trailer:
        return {"md5": ID}
    left_out = ONE_THING.get(kind, set())
    fields = inspect.type_info(kind).fields
    said = {field.encode_name: sample(field.type) for field in fields if field.encode_name not in left_out}
    said.update({"ok": kind is not FailureReply} if "ok" in said else {})
    tag = kind.__struct_config__.tag
    return {"cmd": tag, **said} if tag else said


SAMPLES: dict[type[inspect.Type], Any] = {
    inspect.IntType: lambda info: 1,
    inspect.StrType: lambda info: next(
        text
        for text in ("a", ID, ID * 2, "A" * 43, "", "a-word", f"{ID[:16]}-1")
        if info.pattern is None or re.search(info.pattern, text)
    ),
    inspect.ListType: lambda info: [sample(info.item_type)],
    inspect.DictType: lambda info: {sample(info.key_type): sample(info.value_type)},
    inspect.BoolType: lambda info: True,
    inspect.LiteralType: lambda info: info.values[0],
    inspect.TupleType: lambda info: [sample(item) for item in info.item_types],
    inspect.UnionType: lambda info: sample(next(t for t in info.types if not isinstance(t, inspect.NoneType))),
    inspect.StructType: lambda info: {"md5": ID} if info.cls is DigestOf else example(info.cls),
}


def sample(info: inspect.Type) -> Any:
    return SAMPLES[type(info)](info)


def refuse(kind: type, text: str) -> None:
    with pytest.raises(ProtocolError):
        read(kind, text.encode())


def numbers_in(kind: type[msgspec.Struct]) -> dict[str, inspect.IntType]:
    """The fields of a message that hold a number, or a number or null."""
    found = {}
    for field in inspect.type_info(kind).fields if kind is not Trailer else ():
        for option in field.type.types if isinstance(field.type, inspect.UnionType) else [field.type]:
            if isinstance(option, inspect.IntType):
                found[field.encode_name] = option
    return found


@EVERY_KIND
def test_example_is_legal(kind):
    assert isinstance(read(kind, json.dumps(example(kind)).encode()), kind)


@EVERY_KIND
def test_message_is_refused_when_a_field_is_unknown(kind):
    refuse(kind, json.dumps({**example(kind), "unheard-of": 1}))


@EVERY_KIND
def test_message_is_refused_when_a_field_comes_twice(kind):
    said = example(kind)
    for name, value in said.items():
        pair = f"{json.dumps(name)}:{json.dumps(value)}"
        refuse(kind, json.dumps(said)[:-1] + f",{pair}}}")
        refuse(kind, f"{{{pair}," + json.dumps(said)[1:])


@EVERY_KIND
def test_message_is_refused_when_a_required_field_is_missing(kind):
    said = example(kind)
    required = {f.encode_name for f in inspect.type_info(kind).fields if f.required} | {"cmd", "ok"}
    for name in said:
        if name in required or kind is Trailer:
            refuse(kind, json.dumps({other: value for other, value in said.items() if other != name}))


@EVERY_KIND
def test_message_is_refused_when_a_number_is_not_a_whole_one_of_its_range(kind):
    said = example(kind)
    for name, info in numbers_in(kind).items():
        least = info.ge if info.ge is not None else info.gt + 1
        most = info.le if info.le is not None else info.lt - 1
        for wrong in (least - 1, most + 1, 2**64, 2**64 + 1, 10**400, True, False, "1", [1], {"a": 1}):
            refuse(kind, json.dumps({**said, name: wrong}))
        for literal in ("1.0", "1e0", "1E0", "1.5", "NaN", "Infinity", "-Infinity", "01", "+1", ".5", "1.", "0x1"):
            refuse(kind, json.dumps({**said, name: "@"}).replace('"@"', literal))


@EVERY_KIND
def test_every_number_has_a_range(kind):
    for info in numbers_in(kind).values():
        assert info.ge is not None
        assert info.le is not None or info.lt is not None


@EVERY_KIND
def test_message_is_refused_when_it_is_nested_deeply(kind):
    for deep in ("[" * 9000 + "]" * 9000, '{"a":' * 5000 + "1" + "}" * 5000):
        refuse(kind, json.dumps(example(kind))[:-1] + f',"deep":{deep}}}')


@pytest.mark.parametrize("header", [b"", b"null", b"1", b"[]", b'""', b"{}", b"[" * 60_000, b"{" * 60_000])
@EVERY_KIND
def test_header_that_is_no_message_is_refused(kind, header):
    with pytest.raises(ProtocolError):
        read(kind, header)


# ---------------------------------------------------------------- mutation


def mutate(header: bytes, rng: random.Random) -> bytes:
    """``header`` with one to three small accidents."""
    changed = bytearray(header)
    for _ in range(rng.randint(1, 3)):
        at, to = sorted(rng.randrange(len(changed) + 1) for _ in range(2))
        accident = rng.randrange(6)
        if accident == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif accident == 1:
            del changed[at : min(to, at + 8)]
        elif accident == 2:
            changed[at:at] = changed[at:to]
        elif accident == 3:
            changed[at:at] = rng.choice(TOKENS)
        elif accident == 4:
            changed[at:to] = rng.choice(TOKENS)
        else:
            changed[at:at] = rng.randbytes(rng.randint(1, 4))
    return bytes(changed)


TOKENS = [
    *(bytes([token]) for token in b'{}[]",:\\\0\xff -.0e'),
    *(b"null", b"true", b"1.0", b"1e9", b"NaN", b"9" * 400, b"\\u0000", b"\\ud800", b"\\udc00", b"[" * 2000),
    *(b'"id":1', b'"cmd":"stat",', b'"length":5,', b'"ok":true,', b'"path_b64":"_w"', b"../", b"\xed\xa0\x80"),
]


DUE = {
    "handshake": Hello,
    "request": UnknownRequest,
    "trailer": Trailer,
    "reply to inline put": StoredReply,
    **{f"reply to {kind.__struct_config__.tag}": reply for kind, reply in messages.REPLIES.items()},
}
"""What is due, as a vector says it."""


def test_mutated_headers_raise_nothing_but_protocol_errors_and_invalid_paths():
    """And what is still accepted means the same to whoever reads it again."""
    rng = random.Random(1)
    cases = [case for case in load("headers").values() if len(header_of(case)) < 3000]
    accepted = 0
    for _ in range(20_000):
        case = rng.choice(cases)
        kind = DUE[case["reads_as"]]
        try:
            message = read(kind, mutate(header_of(case), rng))
            if isinstance(message, PathRequest):
                message.remote_path()
        except (ProtocolError, InvalidPath):
            continue
        assert read(type(message), encode(message)) == message
        accepted += 1
    assert accepted > 200


@given(st.binary(max_size=300), st.sampled_from(KINDS))
def test_any_bytes_raise_nothing_but_protocol_errors(data, kind):
    try:
        read(kind, data)
    except ProtocolError:
        pass


# ---------------------------------------------------------------- replies and failures


def test_every_verb_has_a_reply_of_its_own_kind():
    assert set(messages.REPLIES) == set(messages.Requests.__args__)
    assert {*messages.REPLIES.values(), StoredReply} == set(REPLIES)


def test_reply_type_of_put_depends_on_its_body():
    assert reply_type(PutRequest(id=1, mtime_ns=0, length=0)) is StoredReply
    assert reply_type(PutRequest(id=1, mtime_ns=0)) is UploadReply


@pytest.mark.parametrize("code", [*CODES, ProtocolError.code, "on-fire"])
def test_failure_becomes_the_exception_of_its_code(code):
    error = FailureReply(id=1, error=code, message="why").exception()
    assert isinstance(error, ProtocolError if code == ProtocolError.code else RequestError)
    assert getattr(error, "code", "") == (code if code != "on-fire" else "")
    assert "why" in str(error)


@given(st.text(st.characters(codec="utf-8")), st.integers(0, 2000))
def test_failure_that_can_be_made_can_be_read(text, times):
    failure = FailureReply(id=1, error="invalid-path", message=text * times)
    assert read(FailureReply, encode(failure)) == failure
    assert len(encode(failure)) < HEADER_BYTES


def test_progress_and_failure_never_announce_a_body():
    assert ProgressReply(id=1, progress=0).body_length is None
    assert FailureReply(id=1, error="busy").body_length is None
    assert not ProgressReply(id=1, progress=0).last
    assert FailureReply(id=1, error="busy").last


def test_unknown_verb_with_null_length_has_no_body():
    assert codec.decode_request(b'{"cmd":"teleport","id":1,"length":null}').body_length is None


def test_nothing_more_comes_for_an_unknown_verb():
    unknown = codec.decode_request(b'{"cmd":"frobnicate","id":1}')
    assert isinstance(unknown, UnknownRequest) and not unknown.takes_more


# ---------------------------------------------------------------- the largest of each fits a frame


def test_largest_list_of_missing_parts_fits_a_header():
    every_other = [(number, number) for number in range(1, MOST_PARTS, 2)]
    reply = UploadReply(id=2**53 - 1, upload=ID, part_size=2**63 - 1, missing=every_other)
    assert len(encode(reply)) <= HEADER_BYTES


def test_longest_hello_and_welcome_fit_a_header_of_the_handshake():
    hello = Hello(protocol=65_535, user="a" * 64, client_nonce="A" * 43, binding="tls-cert-sha256")
    assert len(encode(hello)) <= HANDSHAKE_HEADER_BYTES
    welcome = Welcome(
        server_proof="A" * 43,
        server="x" * 1024,
        time_ns=-(2**63),
        limits=Limits(inline_bytes=2**63 - 1, requests=1_000_000),
        digests=list(HEX_LENGTH),
        rights=["put", "get", "ls"] * 10,
    )
    assert len(encode(welcome)) <= HANDSHAKE_HEADER_BYTES


def test_longest_path_fits_a_header():
    path = "/".join(["\\" * 204] * 5)
    request = PutRequest(id=2**53 - 1, path=path, mtime_ns=-(2**63), file_size=2**63 - 1, length=2**63 - 1)
    assert wire_to_path(path, None)
    assert len(encode(request)) <= HEADER_BYTES // 8


# ---------------------------------------------------------------- base64, digests


@given(st.binary(max_size=100))
def test_base64_comes_back_as_it_was(data):
    assert b64decode(b64encode(data)) == data


@given(st.text(max_size=12) | st.text("AB_-=+/ \nQwx", max_size=9))
def test_base64_has_one_spelling(text):
    try:
        data = b64decode(text)
    except ProtocolError:
        return
    assert b64encode(data) == text


@pytest.mark.parametrize("name", DIGEST_NAMES)
def test_digest_of_a_name_tells_both(name):
    digest = digest_of(name, "a" * HEX_LENGTH[name])
    assert type(digest) is DigestOf
    assert (digest.name, digest.hex) == (name, "a" * HEX_LENGTH[name])


@pytest.mark.parametrize("name", HEX_LENGTH)
def test_trailer_tells_its_digest_and_name(name):
    trailer = Trailer(**{name: "a" * HEX_LENGTH[name]})
    assert (trailer.name, trailer.hex) == (name, "a" * HEX_LENGTH[name])
    assert encode(trailer) == trailer_header(name, trailer.hex)
    assert json.loads(encode(trailer)) == {name: "a" * HEX_LENGTH[name]}


@pytest.mark.parametrize("names", [n for r in (0, 2, 3) for n in itertools.combinations(HEX_LENGTH, r)])
def test_trailer_is_refused_when_it_has_not_exactly_one_digest(names):
    digests = {name: "a" * HEX_LENGTH[name] for name in names}
    with pytest.raises(ValueError, match="exactly one"):
        Trailer(**digests)
    with pytest.raises(ProtocolError, match="exactly one"):
        codec.decode(json.dumps(digests).encode(), Trailer)


def test_digest_is_md5_when_none_is_named():
    assert messages.DigestRequest(id=1, path="a").digest == "md5"


def test_what_a_kernel_does_not_tell_of_a_line_is_0():
    assert codec.decode(b"{}", messages.Line) == messages.Line(busy_ns=0, window_ns=0, resent=0)


def test_part_is_verified_by_blake3_when_it_names_no_digest():
    part = codec.decode_request(f'{{"cmd":"part","id":1,"upload":"{ID}","part":0,"length":1}}'.encode())
    assert part.digest == "blake3"
    assert b"digest" not in encode(part)  # so a server that does not know the field can take it


# ---------------------------------------------------------------- paths and entries


def legal(data: bytes) -> bool:
    try:
        RemotePath.parse(data.decode("utf-8", "surrogateescape"))
    except InvalidPath:
        return False
    return True


RAW_PATHS = (
    (st.binary(max_size=20) | st.text(st.characters(codec="utf-8"), max_size=20).map(str.encode))
    .map(lambda data: bytes(c for c in data if c not in b"\0") or b"\xff")
    .filter(legal)
)


@given(RAW_PATHS)
def test_path_comes_back_as_it_was(raw):
    path = RemotePath.parse(raw.decode("utf-8", "surrogateescape"))
    fields = path_to_wire(path)
    assert len(fields) == 1
    request = codec.decode_request(encode(StatRequest(id=1, **fields)))
    assert request.remote_path() == path


def test_root_is_the_empty_path():
    assert StatRequest(id=1).remote_path() == RemotePath()
    assert path_to_wire(RemotePath()) == {"path": ""}


@given(RAW_PATHS, RAW_PATHS, structs(Entry))
def test_entry_comes_back_as_it_was(folder, name, entry):
    below = RemotePath.parse(folder.decode("utf-8", "surrogateescape"))
    path = below.join(RemotePath.parse(name.decode("utf-8", "surrogateescape")))
    info = FileInfo(path, entry.type, entry.size, entry.mtime_ns, entry.mode, entry.etag, entry.md5, entry.blake3)
    sent = info_to_entry(info, below)
    assert entry_to_info(msgspec.json.decode(encode(sent), type=Entry), below) == info


@pytest.mark.parametrize("name", ["..", "../x", "/etc", "a/../../b", "a\0b", ".ftpy-x", "a\x1b[2J", "a//b"])
def test_entry_is_refused_when_a_server_names_what_is_not_below(name):
    entry = Entry(name=name, type="file", size=0, mtime_ns=0, mode=0)
    with pytest.raises(InvalidPath):
        entry_to_info(entry, RemotePath(("a",)))
    with pytest.raises(InvalidPath):
        hidden = b64encode(name.encode() + b"/\xff")
        entry_to_info(Entry(name_b64=hidden, type="file", size=0, mtime_ns=0, mode=0), RemotePath())


def test_entry_is_refused_where_its_whole_path_is_too_deep():
    entry = Entry(name="/".join("a" * DEPTH), type="file", size=0, mtime_ns=0, mode=0)
    assert len(entry_to_info(entry, RemotePath()).path.parts) == DEPTH
    with pytest.raises(InvalidPath, match="components"):
        entry_to_info(entry, RemotePath(("a",)))
