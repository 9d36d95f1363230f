"""Totals, drawings and searches of a listing that comes bit by bit, against those of one that is all at hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpy.client import surveying
from ftpy.client.surveying import Total, Wanted, branches, totals
from ftpy.errors import Unsupported
from ftpy.files import FileInfo, RemotePath

NAMES = st.sampled_from(["a", "b", "c", "a b"])
TREES = st.dictionaries(st.lists(NAMES, min_size=1, max_size=5).map(tuple), st.integers(0, 9), max_size=12)
"""Paths of files, and their sizes."""


def listing(files: dict[tuple[str, ...], int], below: tuple[str, ...] = ()) -> list[FileInfo]:
    """A listing of these files and their folders, in the order of paths; what would have to be both is a folder."""
    folders = {path[:depth] for path in files for depth in range(1, len(path))}
    kept = {path: size for path, size in files.items() if path not in folders}
    found = [info(below + path, "directory") for path in folders]
    found += [info(below + path, "file", size) for path, size in kept.items()]
    return sorted(found, key=lambda one: one.path.parts)


def info(parts: tuple[str, ...], kind: str, size: int = 0, mtime_ns: int = 0) -> FileInfo:
    return FileInfo(RemotePath(parts), kind, size, mtime_ns, 0o644)  # type: ignore[arg-type]


@given(TREES, st.sampled_from([(), ("top",), ("top", "more")]))
def test_totals_are_what_lies_below_each_folder(files: dict[tuple[str, ...], int], below: tuple[str, ...]) -> None:
    entries = listing(files, below)
    found = list(totals(RemotePath(below), iter(entries)))
    folders = [one.path for one in entries if one.type == "directory"]
    assert sorted(one.path for one in found[:-1]) == folders and found[-1].path == RemotePath(below)
    for total in found:
        inside = [one for one in entries if one.path.parts[: len(total.path.parts)] == total.path.parts]
        inside = [one for one in inside if one.path != total.path]
        of_files = [one for one in inside if one.type == "file"]
        assert total == Total(total.path, sum(one.size for one in of_files), len(of_files), len(inside) - len(of_files))
    places = {one.path: at for at, one in enumerate(found)}
    assert all(places[path] < places[path.parent] for path in folders)


def test_totals_of_a_listing_in_no_order_are_refused_not_wrong() -> None:
    entries = [info(("a",), "directory"), info(("b",), "directory"), info(("a", "x"), "file", 1)]
    with pytest.raises(Unsupported):
        list(totals(RemotePath(), entries))


@given(TREES)
def test_a_branch_is_the_last_of_its_folder_or_is_not(files: dict[tuple[str, ...], int]) -> None:
    entries = listing(files)
    drawn = list(branches(RemotePath(), iter(entries)))
    assert [branch.info for branch in drawn] == entries
    for branch in drawn:
        parts = branch.info.path.parts
        assert branch.depth == len(branch.lasts) == len(parts)
        for depth, last in enumerate(branch.lasts):
            siblings = [one.path for one in entries if one.path.parts[:-1] == parts[:depth]]
            assert last is (siblings[-1].parts == parts[: depth + 1])


def test_a_drawing_holds_back_few_entries_of_an_endless_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveying, "MOST_HELD", 10)
    taken = 0

    def entries() -> Iterator[FileInfo]:
        nonlocal taken
        yield info(("a",), "directory")
        for number in range(1000):
            taken += 1
            yield info(("a", f"{number:04}"), "file")

    drawn = branches(RemotePath(), entries())
    first = next(drawn)
    assert taken == 10 and first.lasts == (False,)
    for number, branch in enumerate(drawn):
        assert taken <= number + 12 and branch.prefix == ("│   ├── " if number < 999 else "│   └── ")
    assert taken == 1000


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (Wanted(), ["d", "d/b.gz", "d/.c.gz", "a.gz", "l"]),
        (Wanted(name="*.gz"), ["d/b.gz", "d/.c.gz", "a.gz"]),
        (Wanted(name="[ab].*"), ["d/b.gz", "a.gz"]),
        (Wanted(types=frozenset({"directory"})), ["d"]),
        (Wanted(types=frozenset({"directory", "symlink"})), ["d", "l"]),
        (Wanted(least_bytes=20), ["d/.c.gz", "a.gz"]),
        (Wanted(most_bytes=20), ["d/b.gz", "d/.c.gz"]),
        (Wanted(most_bytes=0), []),
        (Wanted(since_ns=3), ["d/.c.gz", "a.gz"]),
        (Wanted(until_ns=1), ["d", "d/b.gz", "l"]),
        (Wanted(name="*.gz", since_ns=3, until_ns=3), ["d/.c.gz"]),
    ],
)
def test_what_is_wanted_fits_in_every_way(wanted: Wanted, names: list[str]) -> None:
    entries = [
        info(("d",), "directory"),
        info(("d", "b.gz"), "file", 10, 1),
        info(("d", ".c.gz"), "file", 20, 3),
        info(("a.gz",), "file", 30, 5),
        info(("l",), "symlink"),
    ]
    assert [str(one.path) for one in wanted.among(entries)] == names
