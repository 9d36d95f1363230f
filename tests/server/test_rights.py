"""Rights by path: which rule counts, for any rules and paths, and what folding may and may not open."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from ftpy.files import RemotePath, fold
from ftpy.server.rights import RIGHTS, Permissions, Rule, spelled

NAMES = st.sampled_from(["a", "A", "b", "ab", "\u00e9", "e\u0301", "\u00c9", "stra\u00dfe", "STRASSE", "a\u200d"])
PATHS = st.lists(NAMES, max_size=4).map(lambda parts: RemotePath(tuple(parts)))
HELD = st.frozensets(st.sampled_from(RIGHTS))
PERMISSIONS = st.builds(
    lambda rights, rules: Permissions(rights, tuple({rule.folded: rule for rule in rules}.values())),
    HELD,
    st.lists(st.builds(Rule, PATHS, HELD), max_size=5),
)


def leads(way: RemotePath, path: RemotePath) -> bool:
    return path.parts[: len(way.parts)] == way.parts


def folded(path: RemotePath) -> RemotePath:
    return RemotePath(tuple(map(fold, path.parts)))


def longest(permissions: Permissions, path: RemotePath, *, fold_rules: bool) -> frozenset[str]:
    """The model: look up from the path to the root for a rule of just that path."""
    known = {folded(rule.path) if fold_rules else rule.path: rule.rights for rule in permissions.rules}
    for depth in range(len(path.parts), -1, -1):
        if (found := known.get(RemotePath(path.parts[:depth]))) is not None:
            return found
    return permissions.rights


@given(PERMISSIONS, PATHS)
def test_the_longest_rule_counts_by_letters_and_folded_and_only_what_both_allow(
    permissions: Permissions, path: RemotePath
) -> None:
    exact = longest(permissions, path, fold_rules=False)
    alike = longest(permissions, folded(path), fold_rules=True)
    assert permissions.at(path) == exact & alike


@given(PERMISSIONS, PATHS)
def test_other_letters_never_open_more_than_a_rule_for_what_they_fold_to(
    permissions: Permissions, path: RemotePath
) -> None:
    for name in (str.swapcase, str.upper, lambda text: unicodedata.normalize("NFD", text)):
        other = RemotePath(tuple(name(part) for part in path.parts))
        if folded(other) == folded(path):
            assert permissions.at(other) <= longest(permissions, folded(path), fold_rules=True)


@given(PERMISSIONS, PATHS, PATHS)
def test_rights_below_a_path_hold_at_every_path_below_it(
    permissions: Permissions, path: RemotePath, more: RemotePath
) -> None:
    assert permissions.below(path) <= permissions.at(RemotePath(path.parts + more.parts))


@given(PERMISSIONS, PATHS)
def test_rights_below_are_no_fewer_than_what_all_paths_below_allow(permissions: Permissions, path: RemotePath) -> None:
    ways = [path, *(rule.path for rule in permissions.rules if leads(folded(path), folded(rule.path)))]
    everywhere = permissions.at(path)
    for way in ways[1:]:
        everywhere &= longest(permissions, folded(way), fold_rules=True)
    assert permissions.below(path) == everywhere


@given(PERMISSIONS, PATHS)
def test_a_right_that_is_held_nowhere_is_never_held(permissions: Permissions, path: RemotePath) -> None:
    for right in RIGHTS:
        assert permissions.ever(right) or right not in permissions.at(path)


@given(st.text(max_size=8))
def test_folding_again_changes_nothing_and_case_is_folded_away(name: str) -> None:
    assert fold(fold(name)) == fold(name)
    assert fold(unicodedata.normalize("NFD", name)) == fold(name) == fold(unicodedata.normalize("NFC", name))
    assert fold(name.lower()) == fold(name.lower().casefold())


def test_a_rule_is_spelled_as_the_command_line_takes_it() -> None:
    rules = (Rule(RemotePath.parse("a/b"), frozenset({"write", "list"})), Rule(RemotePath.parse("c"), frozenset()))
    assert list(spelled(rules)) == ["a/b=list,write", "c="]
