"""Partials of one file that several gets want at once, step by step."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftpy.client.partial import Partial, Partials
from ftpy.errors import LocalFileError
from ftpy.files import RemotePath
from ftpy.storage.beneath import Beneath, Directory

ETAG = "0" * 32
Act = Callable[[], None]


@pytest.fixture
def gets(tmp_path: Path) -> Iterator[tuple[Partials, Partials]]:
    """What two gets of one file into one target see."""
    with Beneath(tmp_path) as beneath:
        yield (
            Partials(beneath.root, RemotePath.parse("x"), "x"),
            Partials(beneath.root, RemotePath.parse("x"), "x"),
        )


def names(folder: Path) -> list[str]:
    return sorted(path.name.rpartition(".")[2] for path in folder.iterdir())


def publish(partial: Partial, check: Act = lambda: None) -> None:
    with partial:
        partial.publish("x", mode=0o444, mtime_ns=10**18, replace=True, check=check)


def meanwhile(monkeypatch: pytest.MonkeyPatch, method: str, act: Act, *, after: bool) -> None:
    """What another get does just before or after the next call of a folder's method."""
    real = getattr(Directory, method)

    def wrapped(directory: Directory, *args: object) -> object:
        monkeypatch.setattr(Directory, method, real)
        if not after:
            act()
        result = real(directory, *args)
        if after:
            act()
        return result

    monkeypatch.setattr(Directory, method, wrapped)


def test_what_is_published_between_open_and_lock_is_not_gone_on_with(
    gets: tuple[Partials, Partials], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = gets[0].begin(ETAG)
    meanwhile(monkeypatch, "open_for_write", lambda: publish(first), after=True)
    assert gets[1].any() is None
    assert names(tmp_path) == ["x"]


def test_what_another_get_begins_after_that_is_left_alone(
    gets: tuple[Partials, Partials], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, later = gets[0].begin(ETAG), []

    def publish_and_begin() -> None:
        publish(first)
        later.append(gets[0].begin(ETAG))

    meanwhile(monkeypatch, "open_for_write", publish_and_begin, after=True)
    with pytest.raises(LocalFileError, match="another ftpy is fetching it already"):
        gets[1].any()
    assert names(tmp_path) == ["partial", "x"]
    later[0].close()


def test_what_goes_between_the_listing_and_open_is_looked_for_again(
    gets: tuple[Partials, Partials], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = gets[0].begin(ETAG)
    meanwhile(monkeypatch, "open_for_write", lambda: publish(first), after=False)
    assert gets[1].any() is None


def test_what_gets_ranges_between_the_listing_and_open_is_another_gets_still(
    gets: tuple[Partials, Partials], monkeypatch: pytest.MonkeyPatch
) -> None:
    with gets[0].begin(ETAG) as first:
        meanwhile(monkeypatch, "open_for_write", lambda: first.use_ranges() and None, after=False)
        with pytest.raises(LocalFileError, match="another ftpy"):
            gets[1].any()


@pytest.mark.parametrize("ranged", [False, True])
def test_two_gets_that_found_nothing_do_not_begin_both(
    gets: tuple[Partials, Partials], tmp_path: Path, *, ranged: bool
) -> None:
    with gets[0].begin(ETAG) as first:
        os.write(first.descriptor, b"1")
        if ranged:
            first.use_ranges()
        before = names(tmp_path)
        with pytest.raises(LocalFileError, match="another ftpy"):
            gets[1].begin(ETAG)
        assert names(tmp_path) == before
        publish(first)
    assert (tmp_path / "x").read_bytes() == b"1"


def test_what_is_dropped_before_it_is_locked_is_not_taken_for_begun(
    gets: tuple[Partials, Partials], monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile(monkeypatch, "create", gets[0].drop, after=True)
    with pytest.raises(LocalFileError, match="another ftpy"):
        gets[1].begin(ETAG)


def as_no_superuser(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read-only cannot be opened for writing, whoever runs this."""
    real = Directory.open_for_write

    def refused(directory: Directory, leaf: str) -> int:
        if not directory.lstat(leaf).st_mode & 0o200:
            raise PermissionError
        return real(directory, leaf)

    monkeypatch.setattr(Directory, "open_for_write", refused)


def test_a_mode_that_a_get_has_just_given_is_not_taken_back_by_another(
    gets: tuple[Partials, Partials], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_no_superuser(monkeypatch)

    def look() -> None:
        with pytest.raises(LocalFileError, match="another ftpy"):
            gets[1].any()

    publish(gets[0].begin(ETAG), check=look)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o444


def test_a_read_only_mode_of_a_get_that_was_killed_is_in_nobodys_way(
    gets: tuple[Partials, Partials], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gets[0].begin(ETAG) as first:
        os.write(first.descriptor, b"1")
    (left,) = tmp_path.iterdir()
    left.chmod(0o400)
    as_no_superuser(monkeypatch)
    found = gets[1].any()
    assert found is not None
    found.close()


def test_a_journal_without_a_partial_goes_and_one_that_comes_meanwhile_stays(
    gets: tuple[Partials, Partials], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gets[0].begin(ETAG) as first:
        os.write(first.descriptor, b"1")
        first.use_ranges()
    (ranged,) = tmp_path.glob("*.ranged")
    ranged.unlink()
    gets[0].drop()
    assert names(tmp_path) == []
    begun: list[Partial] = []

    def begin() -> None:
        begun.append(gets[0].begin(ETAG))
        begun[0].use_ranges()

    real, calls = Directory.names, [0]

    def late(directory: Directory) -> list[str]:
        found = real(directory)
        calls[0] += 1
        if calls[0] == 2:
            begin()
        return found

    monkeypatch.setattr(Directory, "names", late)
    gets[1].drop()
    assert names(tmp_path) == ["ranged", "ranges"]
    begun[0].close()


@pytest.mark.parametrize("ranged", [False, True])
def test_an_empty_partial_goes_when_it_is_closed_and_an_empty_file_stays(
    gets: tuple[Partials, Partials], tmp_path: Path, *, ranged: bool
) -> None:
    first = gets[0].begin(ETAG)
    if ranged:
        first.use_ranges()
    first.close()
    first.close()
    assert names(tmp_path) == []
    publish(gets[0].begin(ETAG))
    assert names(tmp_path) == ["x"]


def test_an_empty_partial_that_another_get_holds_stays(gets: tuple[Partials, Partials], tmp_path: Path) -> None:
    with gets[0].begin(ETAG):
        with pytest.raises(LocalFileError, match="another ftpy"):
            gets[1].any()
        assert names(tmp_path) == ["partial"]
