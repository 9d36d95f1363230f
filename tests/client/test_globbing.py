"""Which names a pattern means, and that it means nothing that no complete listing has told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpy.client.globbing import Name, Pattern, fits, is_pattern, outermost
from ftpy.errors import InvalidPath, NotADirectory, NotFound
from ftpy.files import FileInfo, RemotePath

TREE = {
    "a.gz": "file",
    "b.gz": "file",
    ".hidden.gz": "file",
    "logs": "directory",
    "logs/1.gz": "file",
    "logs/2.gz": "file",
    "logs/10.gz": "file",
    "logs/2.txt": "file",
    "logs/old": "directory",
    "logs/old/0.gz": "file",
    "logs/.git": "directory",
    "logs/.git/x.gz": "file",
    "link": "symlink",
    "more": "directory",
    "more/data": "directory",
    "more/data/x": "file",
    "odd[1].txt": "file",
    "odd1.txt": "file",
}


def info(path: str) -> FileInfo:
    return FileInfo(RemotePath.parse(path), TREE[path], 0, 0, 0o644)  # type: ignore[arg-type]


def stat(path: RemotePath) -> FileInfo:
    if str(path) not in TREE:
        raise NotFound
    return info(str(path))


def listed(path: RemotePath, recursive: bool, keep: object) -> list[FileInfo]:
    if path.parts and stat(path).type != "directory":
        raise NotADirectory
    depth = len(path.parts)
    found = [info(name) for name in sorted(TREE, key=lambda name: name.split("/"))]
    below = [one for one in found if one.path.parts[:depth] == path.parts and len(one.path.parts) > depth]
    return [one for one in below if (recursive or len(one.path.parts) == depth + 1) and keep(one)]  # type: ignore[operator]


def meant(pattern: str) -> list[str]:
    return [str(one.path) for one in Pattern(pattern).expand(listed, stat)]


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("*.gz", ["a.gz", "b.gz"]),
        (".*.gz", [".hidden.gz"]),
        ("?.gz", ["a.gz", "b.gz"]),
        ("[b-z].gz", ["b.gz"]),
        ("[!b-z].gz", ["a.gz"]),
        ("logs/*.gz", ["logs/1.gz", "logs/10.gz", "logs/2.gz"]),
        ("logs/[0-9].gz", ["logs/1.gz", "logs/2.gz"]),
        ("*/1.gz", ["logs/1.gz"]),
        ("*/*/x", ["more/data/x"]),
        ("m*/data/x", ["more/data/x"]),
        ("m*/nothing/x", []),
        ("**/*.gz", ["a.gz", "b.gz", "logs/1.gz", "logs/10.gz", "logs/2.gz", "logs/old/0.gz"]),
        ("logs/**", ["logs/1.gz", "logs/10.gz", "logs/2.gz", "logs/2.txt", "logs/old", "logs/old/0.gz"]),
        ("**/old/**/*.gz", ["logs/old/0.gz"]),
        ("**/.git/*", ["logs/.git/x.gz"]),
        ("**/data", ["more/data"]),
        ("a.gz/*", []),
        ("link/*", []),
        ("gone/*", []),
        ("*.tar", []),
        ("odd[[]1].txt", ["odd[1].txt"]),
        ("odd[1].txt", ["odd1.txt"]),
        ("odd[.txt*", []),
    ],
)
def test_a_pattern_means_these_paths(pattern: str, paths: list[str]) -> None:
    assert meant(pattern) == paths


@pytest.mark.parametrize("pattern", ["a//*", "../*", "*/..", "x/" * 70 + "*"])
def test_what_can_be_no_path_is_no_pattern(pattern: str) -> None:
    with pytest.raises(InvalidPath):
        Pattern(pattern)


@given(st.lists(st.text("ab.", min_size=1, max_size=3), min_size=1, max_size=6))
def test_a_path_means_itself_and_two_stars_lead_to_all_that_is_not_hidden(parts: list[str]) -> None:
    assert fits(tuple(map(Name, parts)), tuple(parts))
    hidden = any(part.startswith(".") for part in parts)
    assert fits((Name("**"), Name("*")), tuple(parts)) is not hidden
    assert not fits((Name("*"),), tuple(parts)) or len(parts) == 1


def test_many_stars_do_not_take_for_ever() -> None:
    assert not fits((*[Name("**"), Name("a")] * 31, Name("b")), ("a",) * 64)


def test_a_listing_that_ends_early_leaves_no_match() -> None:
    def broken(path: RemotePath, recursive: bool, keep: object) -> list[FileInfo]:
        listed(path, recursive, keep)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        Pattern("*.gz").expand(broken, stat)


def test_below_a_folder_that_is_meant_nothing_else_is() -> None:
    paths = [RemotePath.parse(text) for text in ("a", "a/b", "a/b/c", "ab", "b/c", "b/d")]
    found = [FileInfo(path, "file", 0, 0, 0o644) for path in paths]
    assert [str(one.path) for one in outermost(found)] == ["a", "ab", "b/c", "b/d"]


def test_a_name_without_these_letters_is_no_pattern() -> None:
    assert not is_pattern("a]{b}!-.txt")
    assert all(is_pattern(text) for text in ("*", "a?", "[ab]"))
