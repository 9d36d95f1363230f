"""RemotePath: refused or literal, never normalised; what a put may create; what a terminal may show."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpy import files
from ftpy.errors import InvalidPath
from ftpy.files import (
    COMPONENT_BYTES,
    DEPTH,
    PATH_BYTES,
    RESERVED_PREFIX,
    RemotePath,
    check_portable,
    display,
    is_reserved,
)
from tests.paths import LITERAL, NOT_PORTABLE, REFUSED

texts = st.text(st.characters(), max_size=60) | st.text("ab./\\: ~\0\n\x7f\udc80\ud800é", max_size=30)


def by_name(table: dict[str, str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("text", list(table.values()), ids=[*table])


def test_the_table_has_at_least_eighty_strings_all_different() -> None:
    strings = [*REFUSED.values(), *NOT_PORTABLE.values(), *LITERAL.values()]
    assert len(strings) >= 80
    assert len(set(strings)) == len(strings)


@by_name(REFUSED)
def test_path_is_refused_when_it_is_no_literal_name(text: str) -> None:
    with pytest.raises(InvalidPath) as refused:
        RemotePath.parse(text)
    assert str(refused.value).isprintable()


@by_name(LITERAL)
def test_path_is_kept_letter_by_letter_when_it_is_legal(text: str) -> None:
    path = RemotePath.parse(text)
    assert str(path) == text
    assert path.parts == tuple(text.split("/"))
    check_portable(path)


@by_name(NOT_PORTABLE)
def test_path_is_legal_but_not_created_when_other_systems_could_not_hold_it(text: str) -> None:
    path = RemotePath.parse(text)
    assert str(path) == text
    with pytest.raises(InvalidPath) as refused:
        check_portable(path)
    assert str(refused.value).isprintable()


@given(texts)
def test_path_is_refused_or_literal_whatever_the_text(text: str) -> None:
    try:
        path = RemotePath.parse(text)
    except InvalidPath:
        return
    assert str(path) == text
    assert RemotePath.parse(str(path)) == path
    raw = text.encode("utf-8", "surrogateescape")
    assert len(raw) <= PATH_BYTES
    assert len(path.parts) <= DEPTH
    for part in path.parts:
        assert part not in ("", ".", "..")
        assert "/" not in part
        assert not part.startswith(RESERVED_PREFIX)
        assert not any(unicodedata.category(character) == "Cc" for character in part)
        assert len(part.encode("utf-8", "surrogateescape")) <= COMPONENT_BYTES


@given(texts, texts)
def test_joining_equals_parsing_the_joined_text(above: str, below: str) -> None:
    try:
        expected: RemotePath | None = RemotePath.parse(f"{above}/{below}")
        base = RemotePath.parse(above)
    except InvalidPath:
        return
    if base.parts:
        assert base / below == expected
        assert base.join(RemotePath.parse(below)) == expected


@pytest.mark.parametrize(
    ("above", "most"),
    [
        (RemotePath(("a",) * (DEPTH - 2)), RemotePath(("b", "c"))),
        (RemotePath(("é" * 100,) * 5), RemotePath(("é" * ((PATH_BYTES - 5 * 201) // 2),))),
        (RemotePath(), RemotePath(("a",) * DEPTH)),
    ],
)
def test_what_is_joined_is_no_longer_and_no_deeper_than_any_path(above: RemotePath, most: RemotePath) -> None:
    assert above.join(most).parts == above.parts + most.parts
    with pytest.raises(InvalidPath, match="more than"):
        above.join(RemotePath((*most.parts, "d")))


@given(texts)
def test_portable_names_survive_windows_rules_whatever_the_text(text: str) -> None:
    try:
        path = RemotePath.parse(text)
        check_portable(path)
    except InvalidPath:
        return
    for part in path.parts:
        assert not set(part) & set("\\:")
        assert part.rstrip(". ") == part
        assert unicodedata.normalize("NFC", part) == part
        part.encode("utf-8")


@given(texts)
def test_display_is_printable_whatever_the_text(text: str) -> None:
    assert display(text).isprintable()
    assert not set(display(text)) & set("\u202e\u2066\x1b")


def test_display_keeps_a_clean_name_as_it_is() -> None:
    assert display("中文 a.txt") == "中文 a.txt"


def test_the_root_is_its_own_parent_and_has_no_name() -> None:
    root = RemotePath.parse("")
    assert root.parts == ()
    assert root.parent == root
    assert root.name == ""
    assert root / "a/b" == RemotePath(("a", "b"))


def test_parent_and_name_make_the_path_again() -> None:
    path = RemotePath.parse("a/b/c")
    assert path.parent / path.name == path


def test_paths_sort_a_directory_before_what_is_in_it() -> None:
    texts_in_order = ["a", "a/b", "a/b/c", "a b", "b"]
    paths = [RemotePath.parse(text) for text in texts_in_order]
    backwards = list(reversed(paths))
    assert sorted(backwards) == paths


@pytest.mark.parametrize("name", [".FTPY", ".Ftpy-x", ".f\u200dtpy", "\ufeff.ftpy", ".ft\u00adPY", ".ftp\ufe0fy"])
def test_name_is_reserved_when_a_file_system_that_folds_case_takes_it_for_ours(name: str) -> None:
    assert is_reserved(name)
    with pytest.raises(InvalidPath):
        RemotePath.parse(f"a/{name}/x")


@pytest.mark.parametrize("name", ["ftpy", ".ftp", "x.ftpy", ".\u00e9ftpy", "\u200dx"])
def test_name_is_not_reserved_when_it_only_resembles_ours(name: str) -> None:
    assert not is_reserved(name)
    assert RemotePath.parse(name).name == name


NAMES = st.text(alphabet="aC.oOnN \\:/ftpyLPT1é~\x01\u202e", max_size=14)


@given(NAMES)
def test_the_glance_at_plain_paths_says_what_the_close_look_says(text: str) -> None:
    parts = tuple(text.split("/")) if text else ()
    if any(files._refusal(part) for part in parts):
        with pytest.raises(InvalidPath):
            RemotePath.parse(text)
        return
    path = RemotePath.parse(text)
    assert path.parts == parts
    if any(files._not_portable(part) for part in parts):
        with pytest.raises(InvalidPath):
            check_portable(path)
    else:
        check_portable(path)


@given(st.lists(texts, max_size=4))
def test_names_that_one_glance_admits_are_legal_one_by_one(names: list[str]) -> None:
    for above in (RemotePath(), RemotePath.parse("a/b c")):
        if above.admits(names):
            assert [above / name for name in names] == [RemotePath((*above.parts, name)) for name in names]


def test_one_glance_admits_plain_names_and_nothing_doubtful() -> None:
    above = RemotePath.parse("usr/include")
    assert above.admits(["stdio.h", "c++", "a b", "x" * (COMPONENT_BYTES - len("usr/include/"))])
    for name in ("", ".", "..", ".hidden", RESERVED_PREFIX, "a/b", "\0", "\n", "é", "x" * COMPONENT_BYTES):
        assert not above.admits(["stdio.h", name])
    assert not RemotePath(("a",) * DEPTH).admits(["b"])
