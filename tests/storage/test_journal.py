"""The journal: what can be read of it is true, wherever it was cut and whatever was left in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from ftpy.files import RemotePath
from ftpy.storage.base import Condition, KnownDigest, KnownVersion, NewFile, StagedTree
from ftpy.storage.journal import Journal, Meta, StoredPart, parse
from ftpy.storage.operations import OperationKey

HEX = "ab" * 32
META = Meta("alice", NewFile(RemotePath.parse("d/\udcffé"), 100, -5, 0o640, "blake3", KnownDigest("md5", "0" * 32)), 8)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    fd = os.open(tmp_path / "journal", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    yield Journal(fd)
    os.close(fd)


def text_of(journal: Journal) -> bytes:
    return os.pread(journal.fd, 1 << 20, 0)


def part_line(number: int, digest: str = HEX, length: int = 8) -> bytes:
    return f"P {number} {length} {digest}\n".encode()


def test_what_was_written_is_read_back(journal: Journal) -> None:
    journal.meta(META)
    journal.part(0, StoredPart(8, HEX))
    journal.durable(journal.size)
    journal.part(12, StoredPart(4, HEX))
    contents = Journal(journal.fd).read()
    assert contents.meta == META
    assert contents.parts == {0: StoredPart(8, HEX, durable=True), 12: StoredPart(4, HEX)}


def test_last_meta_counts(journal: Journal) -> None:
    journal.meta(META)
    later = Meta("alice", NewFile(META.file.path, None, 7, None, "md5", "absent"), 16)
    journal.meta(later)
    assert Journal(journal.fd).read().meta == later


def test_durable_covers_only_the_lines_that_it_names(journal: Journal) -> None:
    journal.part(0, StoredPart(8, HEX))
    covered = journal.size
    journal.part(1, StoredPart(8, HEX))
    journal.durable(covered)
    parts = Journal(journal.fd).read().parts
    assert [parts[0].durable, parts[1].durable] == [True, False]


def test_durable_covers_no_line_of_which_it_leaves_out_a_byte() -> None:
    for missing, durable in ((0, True), (1, False)):
        contents = parse(part_line(0) + f"S {len(part_line(0)) - missing}\n".encode())
        assert contents.parts[0].durable is durable


@pytest.mark.parametrize(("digest", "name"), [(HEX, "blake3"), ("ab" * 16, "xxh128")])
def test_digest_of_a_part_is_known_by_its_length(digest: str, name: str) -> None:
    assert StoredPart(8, digest).digest_name == name


def test_durable_that_names_more_than_came_before_covers_no_later_line() -> None:
    contents = parse(part_line(0) + b"S 99999\n" + part_line(1))
    assert [part.durable for part in contents.parts.values()] == [True, False]


def test_void_part_is_missing_even_when_a_later_sync_covers_its_line(journal: Journal) -> None:
    journal.part(3, StoredPart(8, HEX))
    journal.void(3)
    journal.durable(journal.size)
    assert Journal(journal.fd).read().parts == {}
    journal.part(3, StoredPart(8, "cd" * 32))
    assert Journal(journal.fd).read().parts == {3: StoredPart(8, "cd" * 32)}


@pytest.mark.parametrize(
    "line",
    [
        b"P 1 8 " + b"ab" * 31 + b"\n",
        b"P 1 8 " + b"ab" * 32,
        b"P 1 8 " + b"AB" * 32 + b"\n",
        b"P 1 8 " + b"ab" * 32 + b" \n",
        b"P 1 8 " + b"ab" * 32 + b"\r\n",
        b"P 01 8 " + b"ab" * 32 + b"\n",
        b"P 1 0 " + b"ab" * 32 + b"\n",
        b"P -1 8 " + b"ab" * 32 + b"\n",
        b"P 10000 8 " + b"ab" * 32 + b"\n",
        b"P 1 " + b"ab" * 32 + b"\n",
        b"P  1 8 " + b"ab" * 32 + b"\n",
        b"p 1 8 " + b"ab" * 32 + b"\n",
        b"\0" * 80 + b"\n",
        b"\0\0P 1 8 " + b"ab" * 32 + b"\n",
        b"S\nS \nS 0\nS -1\nS x\nX\nX x\nM\nM {}\nM []\nM {\n",
        b"\n\n\n",
    ],
)
def test_line_that_is_not_whole_is_passed_over(line: bytes) -> None:
    contents = parse(part_line(0) + line)
    assert contents.parts == {0: StoredPart(8, HEX)}
    assert contents.meta is None


@pytest.mark.parametrize("torn", ["P 1 8 abab", f"P 1 8 {HEX}", "X 0", "S 71", "P 1 8 abab-\nP 1 8"])
def test_torn_line_swallows_nothing_and_never_counts(journal: Journal, torn: str) -> None:
    journal.part(0, StoredPart(8, HEX))
    os.write(journal.fd, torn.encode())
    again = Journal(journal.fd)
    assert [*again.read().parts] == [0]
    again.part(2, StoredPart(8, HEX))
    assert [*Journal(journal.fd).read().parts] == [0, 2]
    again.part(3, StoredPart(8, HEX))
    assert Journal(journal.fd).read().parts == dict.fromkeys([0, 2, 3], StoredPart(8, HEX))
    again.durable(again.size)
    assert all(part.durable for part in Journal(journal.fd).read().parts.values())
    assert again.size == len(text_of(journal))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ('"owner":"alice"', '"owner":1'),
        ('"file_size":100', '"file_size":-1'),
        ('"file_size":100', '"file_size":true'),
        ('"mtime_ns":-5', '"mtime_ns":null'),
        ('"mode":416', '"mode":4095'),
        ('"part_size":8', '"part_size":0'),
        ('"digest":"blake3"', '"digest":"sha1"'),
        ('"path":["d"', '"path":[".."'),
        ('"path":["d"', '"path":[".ftpy"'),
        ('["md5","' + "0" * 32, '["md5","' + "0" * 31),
        ('["md5","' + "0" * 32, '["md5","' + "z" * 32),
        ('"owner":"alice",', ""),
    ],
)
def test_meta_that_we_did_not_write_is_passed_over(journal: Journal, field: str, value: str) -> None:
    journal.meta(META)
    line = text_of(journal)
    assert field.encode() in line
    assert parse(line.replace(field.encode(), value.encode())).meta is None
    assert parse(line + line.replace(field.encode(), value.encode())).meta == META


@given(st.integers(0, 400), st.binary(max_size=40))
def test_cut_anywhere_and_followed_by_anything_it_never_says_more_than_was_written(cut: int, rubbish: bytes) -> None:
    whole = part_line(0) + b"S %d\n" % len(part_line(0)) + part_line(1) + part_line(2) + b"X 1\n" + part_line(3)
    true = {0: StoredPart(8, HEX, durable=True)} | {n: StoredPart(8, HEX) for n in (1, 2, 3)}
    contents = parse(whole[:cut] + b"\n" + rubbish)
    for number, part in contents.parts.items():
        assert part.length == 8
        assert part.digest == HEX
        assert not part.durable or number == 0 or b"S " in rubbish
        assert number in true


@given(st.binary(max_size=300))
def test_rubbish_says_nothing(rubbish: bytes) -> None:
    assert parse(rubbish).meta is None


@pytest.mark.parametrize("digest", ["ab" * 32, "cd" * 16])
def test_part_is_read_as_it_was_noted_whichever_its_digest(tmp_path: Path, digest: str) -> None:
    with (tmp_path / "journal").open("w+b", buffering=0) as file:
        Journal(file.fileno()).part(3, StoredPart(8, digest))
        assert parse((tmp_path / "journal").read_bytes()).parts == {3: StoredPart(8, digest)}


def test_operation_is_read_as_it_was_noted(journal: Journal) -> None:
    meta = replace(META, file=structs.replace(META.file, operation=OperationKey("alice", "0" * 32)))
    journal.meta(meta)
    assert parse(text_of(journal)).meta == meta


def test_first_half_of_a_torn_digest_is_no_digest() -> None:
    line = part_line(0)
    assert parse(line[:-1][: -len(HEX) // 2] + b"\n").parts == {}


@pytest.mark.parametrize(
    ("size", "mode", "part_size"), [(0, 0, 1), (1, 0o777, 8), (None, None, 8)], ids=["least", "most", "unknown"]
)
def test_meta_at_its_ends_is_read_as_it_was_noted(
    journal: Journal, size: int | None, mode: int | None, part_size: int
) -> None:
    meta = replace(META, file=structs.replace(META.file, file_size=size, mode=mode), part_size=part_size)
    journal.meta(meta)
    assert parse(text_of(journal)).meta == meta


@pytest.mark.parametrize("condition", [None, "absent", KnownVersion("0" * 32), KnownDigest("blake3", "ab" * 32)])
def test_condition_is_read_as_it_was_noted(journal: Journal, condition: Condition) -> None:
    tree = StagedTree("alice", RemotePath(("d",)), "1" * 32)
    meta = replace(META, file=structs.replace(META.file, condition=condition, tree=tree))
    journal.meta(meta)
    assert parse(text_of(journal)).meta == meta


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ('"tree":["1111', '"tree":["zzzz'),
        ('"tree":["1111', '"tree":[1,"1111'),
        ('"tree":["' + "1" * 32 + '"', '"tree":[null'),
    ],
)
def test_meta_of_a_tree_that_is_none_is_passed_over(journal: Journal, field: str, value: str) -> None:
    tree = StagedTree("alice", RemotePath(("d",)), "1" * 32)
    journal.meta(replace(META, file=structs.replace(META.file, tree=tree)))
    line = text_of(journal)
    assert field.encode() in line
    assert parse(line.replace(field.encode(), value.encode())).meta is None


def test_meta_with_a_mode_that_is_just_too_large_is_passed_over(journal: Journal) -> None:
    journal.meta(META)
    for mode in (b"512", b"-1"):
        assert parse(text_of(journal).replace(b'"mode":416', b'"mode":' + mode)).meta is None


def test_line_behind_a_whole_one_or_none_stands_as_it_is(journal: Journal) -> None:
    line, part = part_line(0), StoredPart(8, HEX)
    journal.part(0, part)
    assert text_of(journal) == line
    journal.clear()
    for written in range(3):
        assert text_of(journal) == line * written
        journal.read()
        journal.part(0, part)
    journal.clear()
    journal.part(0, part)
    assert text_of(journal) == line


def test_journal_that_was_cleared_counts_from_its_beginning(journal: Journal) -> None:
    journal.part(0, StoredPart(8, HEX))
    journal.clear()
    assert (journal.size, text_of(journal)) == (0, b"")
    journal.part(1, StoredPart(8, HEX))
    journal.durable(journal.size)
    assert parse(text_of(journal)).parts == {1: StoredPart(8, HEX, durable=True)}
    assert journal.size == len(text_of(journal))


def test_journal_that_was_touched_was_written_to_just_now(journal: Journal) -> None:
    os.utime(journal.fd, (1, 1))
    journal.touch()
    assert os.fstat(journal.fd).st_mtime > 1_000_000_000
