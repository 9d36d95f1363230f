"""The plan of a sync: carried out on a model it makes the target equal the source, whatever both are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftpy.client.syncplan import Contents, Item, Plan, Rules, Step, make_plan
from ftpy.client.trees import same_time
from ftpy.errors import SyncRefused
from ftpy.files import RemotePath

Tree = dict[tuple[str, ...], Any]
"""Path -> (content, time) of a file, None of a folder; folders come with what is in them."""

PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(tuple)
FILES = st.tuples(st.sampled_from([b"", b"x", b"yy", b"zz"]), st.integers(0, 2))


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Small trees of few names, so that they meet in every way."""
    tree: Tree = {}
    for path, what in draw(st.dictionaries(PATHS, st.none() | FILES, max_size=8)).items():
        ways = [path[:depth] for depth in range(1, len(path))]
        if any(tree.get(way, None) is not None for way in ways) or any(other[: len(path)] == path for other in tree):
            continue
        tree |= dict.fromkeys(ways)
        tree[path] = what
    return tree


def items(tree: Tree, unmeant: frozenset[str] = frozenset()) -> list[Item]:
    return [
        Item(
            RemotePath(path),
            "directory" if what is None else "file",
            0 if what is None else len(what[0]),
            0 if what is None else what[1] * 10**9,
            etag=None if what is None else repr(what),
            meant=unmeant.isdisjoint(path),
        )
        for path, what in tree.items()
    ]


def plan_of(source: Tree, target: Tree, rules: Rules, unmeant: frozenset[str] = frozenset()) -> Plan:
    asked: list[tuple[int, Item]] = []

    def contents(side: int, tree: Tree) -> Callable[[Item], str]:
        def digest(item: Item) -> str:
            asked.append((side, item))
            return repr(tree[item.path.parts][0])

        return digest

    both = Contents(contents(0, source), contents(1, target))
    plan = make_plan(items(source, unmeant), items(target, unmeant), rules, both)
    assert len(set(asked)) == len(asked)  # it costs, so nothing is asked for twice
    return plan


def carry_out(plan: Plan, source: Tree, target: Tree) -> Tree:
    """What a server makes of it, which refuses what the plan did not foresee."""
    tree = dict(target)

    def check_folder(path: tuple[str, ...]) -> None:
        for depth in range(1, len(path)):
            assert path[:depth] in tree and tree[path[:depth]] is None, (path, plan)

    def make(path: tuple[str, ...]) -> None:
        for depth in range(1, len(path) + 1):
            assert tree.setdefault(path[:depth], None) is None, (path, plan)

    for step in plan.steps:
        path = step.path.parts
        if step.etag is not None:
            assert repr(tree[(step.origin or step.path).parts]) == step.etag
        match step.do:
            case "make":
                make(path)
            case "move":
                assert step.origin is not None and path not in tree
                check_folder(path)
                tree[path] = tree.pop(step.origin.parts)
            case "add" | "replace":
                make(path[:-1])
                assert (path in tree) == (step.do == "replace") and tree.get(path, b"") is not None
                tree[path] = source[path]
            case "delete":
                assert tree.pop(path) is not None
            case "remove":
                assert tree.pop(path) is None and not any(other[: len(path)] == path for other in tree)
    return tree


@settings(max_examples=400, deadline=None)
@given(trees(), trees(), st.booleans())
def test_with_delete_the_target_becomes_the_source(source: Tree, target: Tree, by_digest: bool) -> None:
    plan = plan_of(source, target, Rules(delete=True, by_digest=by_digest))
    after = carry_out(plan, source, target)
    if by_digest:
        strip = lambda tree: {path: what and what[0] for path, what in tree.items()}  # noqa: E731
        assert strip(after) == strip(source)
    else:
        same = {
            path: what
            if what is None
            or target.get(path) is None
            or (len(target[path][0]), target[path][1]) != (len(what[0]), what[1])
            else target[path]  # same size and time: taken for identical
            for path, what in source.items()
        }
        assert after == same
    assert plan_of(source, after, Rules(delete=True, by_digest=by_digest)).steps == ()
    assert plan.conflicts == ()


@settings(max_examples=300, deadline=None)
@given(trees(), trees())
def test_without_delete_nothing_goes_and_what_comes_is_the_sources(source: Tree, target: Tree) -> None:
    plan = plan_of(source, target, Rules())
    after = carry_out(plan, source, target)
    assert plan.count("delete", "remove", "move") == 0
    assert set(target) <= set(after) <= set(target) | set(source)
    changed = {path for path in after if after[path] != target.get(path, b"")}
    assert all(after[path] == source[path] for path in changed)
    blocked = [conflict.parts for conflict in plan.conflicts]
    for path in source:
        assert path in after or any(path[: len(conflict)] == conflict for conflict in blocked)


@settings(max_examples=300, deadline=None)
@given(trees(), trees())
def test_what_a_pattern_leaves_out_stays_with_the_folders_that_it_is_in(source: Tree, target: Tree) -> None:
    unmeant = frozenset("c")
    source = {path: what for path, what in source.items() if unmeant.isdisjoint(path)}
    plan = plan_of(source, target, Rules(delete=True), unmeant)
    after = carry_out(plan, source, target)
    for path, what in target.items():
        if not unmeant.isdisjoint(path):
            assert after[path] == what


@settings(max_examples=200, deadline=None)
@given(trees(), trees(), st.integers(0, 100), st.booleans())
def test_no_plan_passes_that_deletes_too_much(source: Tree, target: Tree, most: int, complete: bool) -> None:
    plan = plan_of(source, target, Rules(delete=True))
    files = sum(what is not None for what in target.values())
    try:
        plan.check(unread="" if complete else "something", most_deleted=most)
    except SyncRefused:
        assert plan.count("delete", "remove", "move")
    else:
        if plan.count("delete", "remove", "move"):
            assert complete and any(what is not None for what in source.values())
            assert plan.count("delete") * 100 <= most * files


def test_a_refusal_names_the_numbers_and_what_would_allow_it() -> None:
    target: Tree = {(f"{number:03}",): (b"x", number) for number in range(100)}
    source = dict(list(target.items())[:39])
    plan = plan_of(source, target, Rules(delete=True))
    with pytest.raises(SyncRefused, match=r"61 of the target's 100 files .* over 50%; --max-delete 61% allows it"):
        plan.check()
    plan.check(most_deleted=61)


def test_a_file_with_another_name_is_moved_and_one_of_another_time_is_not() -> None:
    source: Tree = {("new",): None, ("new", "name"): (b"yy", 1), ("other",): (b"zz", 2)}
    target: Tree = {("name",): (b"yy", 1), ("else",): (b"zz", 1)}
    steps = plan_of(source, target, Rules(delete=True)).steps
    assert [(step.do, str(step.path)) for step in steps] == [
        ("make", "new"),
        ("move", "new/name"),
        ("add", "other"),
        ("delete", "else"),
    ]
    assert steps[1].origin == RemotePath(("name",))
    moved = plan_of(source, target, Rules(delete=True, by_digest=True))
    assert moved.count("move") == 2


def test_what_the_source_passes_over_is_left_to_the_target() -> None:
    source = [Item(RemotePath(("link",)), "passed"), Item(RemotePath(("a",)), "file", 1)]
    target = items({("link",): None, ("link", "file"): (b"x", 0), ("a",): (b"x", 0)})
    assert make_plan(source, target, Rules(delete=True), Contents(str, str)).steps == ()


def test_a_newer_file_is_told_and_stays_if_that_is_asked_for_whatever_the_clocks_say() -> None:
    source, target = {("a",): (b"x", 1)}, {("a",): (b"yy", 2)}
    assert plan_of(source, target, Rules()).steps == (
        Step("replace", RemotePath(("a",)), 1, etag=repr((b"yy", 2)), newer=True),
    )
    kept = plan_of(source, target, Rules(keep_newer=True))
    assert kept.steps == () and kept.newer == (RemotePath(("a",)),)
    ahead = plan_of(source, target, Rules(keep_newer=True, ahead_ns=10**9))
    assert ahead.count("replace") == 1 and not ahead.steps[0].newer


@pytest.mark.parametrize("by_digest", [False, True])
def test_a_plan_of_files_of_one_size_and_time_asks_for_each_digest_once(by_digest: bool) -> None:
    many = 10_000
    source: Tree = {(f"new{number}",): (b"n%05d" % number, 1) for number in range(many)}
    target: Tree = {(f"old{number}",): (b"o%05d" % number, 1) for number in range(many)}
    target |= {("was",): (b"n00007", 1)}
    plan = plan_of(source, target, Rules(delete=True, by_digest=by_digest))
    assert (plan.count("move"), plan.count("add"), plan.count("delete")) == (1, many - 1, many)


@given(st.integers(-3, 3), st.sampled_from([-1, 0, 10**18 - 1, 10**18, 10**18 + 999]))
def test_a_move_is_found_where_two_times_are_one_time(ticks: int, mtime_ns: int) -> None:
    for apart in (0, 1, 500, 999, 1000):
        other = mtime_ns + (apart if ticks > 0 else -apart)
        source, target = Item(RemotePath(("a",)), "file", 1, mtime_ns), Item(RemotePath(("b",)), "file", 1, other)
        steps = make_plan([source], [target], Rules(delete=True), Contents(lambda _: "d", lambda _: "d")).steps
        assert [step.do for step in steps] == (["move"] if same_time(mtime_ns, other) else ["add", "delete"])
