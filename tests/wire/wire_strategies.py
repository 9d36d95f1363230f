"""Hypothesis strategies for messages, made from the structs' own types: a new field is covered by itself."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from ftpy.digests import HEX_LENGTH
from ftpy.wire import commands, events, messages
from ftpy.wire.bases import FailureReply, ProgressReply, Reply, Request, UnknownRequest
from ftpy.wire.entries import Entry
from ftpy.wire.fields import MOST_PARTS, DigestOf, Trailer
from ftpy.wire.handshake import Handshake
from ftpy.wire.operations import OperationEntry, OperationsReply

HANDSHAKE = list(Handshake.__args__)
REQUESTS = list(messages.REPLIES)
REPLIES = list(Reply.__subclasses__())
KINDS: list[type[msgspec.Struct]] = [
    *HANDSHAKE,
    *REQUESTS,
    *messages.CONTINUATIONS,
    *REPLIES,
    ProgressReply,
    FailureReply,
    Trailer,
]
"""Every message that has a place on the wire."""

TEXT = st.text(st.characters(codec="utf-8"), max_size=30)


def digests(kind: type[DigestOf] | type[Trailer]) -> st.SearchStrategy[Any]:
    """One digest, of any name that the kind knows."""
    return st.one_of(*(st.builds(kind, **{name: hexadecimal(name)}) for name in kind.__struct_fields__))


def hexadecimal(name: Any) -> st.SearchStrategy[str]:
    """A digest's digits."""
    count = HEX_LENGTH[name] // 2
    return st.binary(min_size=count, max_size=count).map(bytes.hex)


def numbers(info: Any) -> st.SearchStrategy[int]:
    """Whole numbers of a range, its ends among them."""
    least = info.ge if info.ge is not None else info.gt + 1
    most = info.le if info.le is not None else info.lt - 1
    return st.sampled_from([least, most]) | st.integers(least, most)


def texts(info: inspect.StrType) -> st.SearchStrategy[str]:
    """Text, or what the pattern says."""
    return TEXT if info.pattern is None else st.from_regex(info.pattern)


def lists(info: inspect.ListType) -> st.SearchStrategy[list[Any]]:
    """Short lists."""
    return st.lists(values(info.item_type), max_size=3)


MAKERS: dict[type[inspect.Type], Any] = {
    inspect.IntType: numbers,
    inspect.StrType: texts,
    inspect.ListType: lists,
    inspect.DictType: lambda info: st.dictionaries(values(info.key_type), values(info.value_type), max_size=3),
    inspect.BoolType: lambda info: st.booleans(),
    inspect.NoneType: lambda info: st.none(),
    inspect.LiteralType: lambda info: st.sampled_from(info.values),
    inspect.TupleType: lambda info: st.tuples(*map(values, info.item_types)),
    inspect.UnionType: lambda info: st.one_of(*map(values, info.types)),
    inspect.StructType: lambda info: structs(info.cls),
}


def values(info: inspect.Type) -> st.SearchStrategy[Any]:
    """Legal values of a field's type."""
    found: st.SearchStrategy[Any] = MAKERS[type(info)](info)
    return found


def structs(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Legal messages of one kind."""
    if kind in (DigestOf, Trailer):
        return digests(kind)
    info: Any = inspect.type_info(kind)
    fields = {field.name: values(field.type) for field in info.fields if field.name != "ok"}
    if kind is messages.LsReply:
        fields["entries"] = st.lists(structs(Entry), min_size=1, max_size=3)
    if kind is commands.CommandsReply:
        entries = structs(commands.CommandEntry)
        return st.builds(kind, id=fields["id"], complete=st.just(False), command=entries) | st.builds(
            kind, id=fields["id"], complete=st.just(True)
        )
    if kind is commands.RunReply:
        return run_replies(fields)
    if kind is OperationsReply:
        fields["operations"] = st.lists(structs(OperationEntry), min_size=1, max_size=3)
    if kind is events.EventEntry:
        moved = {name: fields.pop(name) for name in ("to", "to_b64")}
        told = st.builds(kind, **fields | {"event": st.sampled_from(["published", "deleted"])})
        fields["event"] = st.just("moved")
        return told | st.one_of(
            *(st.builds(kind, **fields, **{to: TEXT if to == "to" else st.just("gA")}) for to in moved)
        )
    if kind is events.EventsReply:
        fields["events"] = st.lists(structs(events.EventEntry), min_size=1, max_size=3)
    if kind is messages.UploadReply:
        fields["missing"] = st.lists(st.integers(0, MOST_PARTS - 1), unique=True, max_size=9).map(ranges)
    return st.builds(kind, **fields)


def run_replies(fields: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Each of the things that a run's reply can say."""
    shapes = (("encoding", "credit"), ("credit",), ("stream", "length"), ("code", "ended"))
    return st.one_of(
        *(st.builds(commands.RunReply, **{name: fields[name] for name in ("id", *shape)}) for shape in shapes)
    )


def ranges(ends: list[int]) -> list[tuple[int, int]]:
    """Rising ranges from numbers that differ."""
    ends = sorted(ends)
    return list(zip(ends[::2], ends[1::2], strict=False))


def unknown_requests() -> st.SearchStrategy[UnknownRequest]:
    """Requests of verbs that are not known."""
    return structs(UnknownRequest).filter(lambda request: request.cmd not in messages.VERBS)


def any_request() -> st.SearchStrategy[Request]:
    """Requests of any verb."""
    return st.one_of(*map(structs, REQUESTS))
