"""Mutants: ftpy with one small mistake in one module; the tests that run over its line must tell (docs/rigs.md).

One process imports pytest and collects the tests once. A child of it runs them under coverage and says which test ran
over which line and how long it took. Then each mutant is a child of its own: a change within a function replaces that
function's code; any other change is put in place of the module, and everything is imported anew. The child runs the
tests of the line, quick ones first, up to the first that fails.

``python -m tests.rigs.mutants`` is ``scripts/mutants``.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.machinery
import json
import os
import random
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.rigs.disks import unmount_below
from tests.rigs.mutated import (
    KILLED,
    ROOT,
    STILLBORN,
    SURVIVED,
    Chosen,
    Finder,
    Listener,
    few_examples,
    forget_ours,
    in_child,
    module_name,
    replace_functions,
)
from tests.rigs.mutations import Mutation, mutations

EQUIVALENTS = Path(__file__).with_name("equivalents.toml")

_MESSAGES = ("messages", "ranges", "trailers", "vectors", "protocol_document")
_WIRE = {
    "framing": ("framing", "vectors", "protocol_document"),
    "handshake": ("auth", *_MESSAGES),
    **dict.fromkeys(("bases", "messages", "entries", "fields", "spelling"), _MESSAGES),
    "codec": ("session", *_MESSAGES),
    "auth": ("auth",),
    "session": ("session", "trailers", "vectors", "protocol_document"),
}
_SHARED = ("trash", "feed", "removing", "trees")
"""What other verbs share of the commit path."""
_COMMIT_PATH = {
    "beneath": ("beneath", "commit_path"),
    **dict.fromkeys(("publishing", "staging"), ("local", "moving", "commit_path", "counting", *_SHARED)),
    **dict.fromkeys(
        ("upload", "uploads", "uploadfiles"), ("upload", "local", "sharing", "commit_path", "counting", *_SHARED)
    ),
    "journal": ("journal", "upload", "commit_path"),
    "partbook": ("partbook",),
    **dict.fromkeys(("partwriting", "syncing"), ("upload", "local", "commit_path")),
}
TESTS: dict[str, tuple[str, ...]] = {
    f"{room}/{name}.py": tuple(f"tests/{room}/test_{test}.py" for test in tests)
    for room, names in (("wire", _WIRE), ("storage", _COMMIT_PATH))
    for name, tests in names.items()
}
"""Modules and the tests that must tell what is wrong with them."""

LEAST_KILLED = 0.95
WARM = ("hypothesis.stateful", "msgspec", "blake3", "xxhash", "ssl", "sqlite3", "json", "logging", "click")
PATIENCE_SECONDS = 60.0
PATIENCE = 4
"""A mutant's tests may take this many times as long as without it, and those seconds more: some import all anew."""


@dataclass
class Seen:
    """What the tests did without a mistake: seconds of each, and for each file and line which ran over it."""

    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, dict[int, list[str]]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def tests_of(self, path: str, line: int | None, among: Sequence[str]) -> list[str]:
        """Tests that ran over a line of a file, or all: what is said at import counts everywhere. Quick ones first."""
        every = list(self.seconds) if line is None else self.lines.get(path, {}).get(line, [])
        found = [name for name in every if name.startswith(tuple(among)) and name not in self.failed]
        return sorted(found, key=lambda name: (self.seconds.get(name, 0.0), name))


@dataclass
class Tally:
    """What became of a module's mutants."""

    total: int = 0
    killed: int = 0
    by_time: int = 0
    equivalent: int = 0
    stillborn: int = 0
    survivors: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Killed of those that could have been."""
        live = self.killed + len(self.survivors)
        return self.killed / live if live else 1.0

    def line(self, module: str) -> str:
        """The figures."""
        return (
            f"mutants {module}: {self.killed} of {self.killed + len(self.survivors)} killed ({self.share:.1%}), "
            f"{self.by_time} of them by time; {self.total} there are, {self.equivalent} drawn are equivalent, "
            f"{self.stillborn} cannot be imported"
        )


def equivalents(path: Path = EQUIVALENTS) -> dict[str, str]:
    """Mutants that are no mistakes, and why; a name may end in ``*``."""
    found: dict[str, str] = tomllib.loads(path.read_text(encoding="utf-8"))["equivalents"]
    return found


def why_equivalent(name: str, known: dict[str, str]) -> str | None:
    """The reason why this one is no mistake, if it is none."""
    for pattern, reason in known.items():
        if name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1])):
            return reason
    return None


def draw(module: str, count: int | None, seed: int, only: Sequence[str]) -> tuple[int, list[Mutation]]:
    """How many mutants a module has, and those to be tried: all, a sample, or what has one of ``only`` in its name."""
    path = ROOT / "ftpy" / module
    every = mutations(module, path.read_text(encoding="utf-8"), str(path))
    wanted = [mutation for mutation in every if not only or any(text in mutation.name for text in only)]
    if count is None or count >= len(wanted):
        return len(every), wanted
    chosen = random.Random(f"{seed} {module}").sample(range(len(wanted)), count)
    return len(every), [wanted[index] for index in sorted(chosen)]


# ------------------------------------------------------------------ in the process that has collected the tests


class Host(Listener):
    """The plugin that, instead of running what was collected, does so under each mutant."""

    def __init__(
        self,
        chosen: dict[str, tuple[int, list[Mutation]]],
        tests: Sequence[str],
        base: Path,
        verbose: bool,
        known: dict[str, str],
    ) -> None:
        super().__init__()
        self._known = known
        self._chosen, self._tests, self._base, self._verbose = chosen, tests, base, verbose
        self.tallies: dict[str, Tally] = {}

    def pytest_collection(self) -> None:
        """By now the tests' own settings are loaded."""
        few_examples()

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """All of it."""
        session.config.pluginmanager.unregister(name="terminalreporter")
        self._items = {item.nodeid: item for item in session.items}
        seen = self._watch()
        if seen.failed:  # what fails anyway would kill all that it runs over
            _say(f"left out, for they fail without any mistake: {', '.join(seen.failed)}")
        for module, (total, drawn) in self._chosen.items():
            tally = self.tallies[module] = Tally(total)
            for mutation in drawn:
                if why_equivalent(mutation.name, self._known) is not None:
                    tally.equivalent += 1
                else:
                    self._judge(module, mutation, seen, tally)
            _say(tally.line(module))
        return True

    def _judge(self, module: str, mutation: Mutation, seen: Seen, tally: Tally) -> None:
        path = str(ROOT / "ftpy" / module)
        code = mutation.code()
        names = seen.tests_of(path, mutation.line if mutation.in_function else None, self._tests or TESTS[module])
        limit = PATIENCE_SECONDS + PATIENCE * sum(seen.seconds.get(name, 0.0) for name in names)

        def hot() -> int:
            replace_functions(path, code)
            return self._run(names)

        def cold() -> int:
            forget_ours()
            sys.meta_path.insert(0, Finder(module_name(module), path, code))
            try:
                importlib.import_module(module_name(module))
            except BaseException:
                return STILLBORN
            chosen = Chosen(names, seen.failed)
            files = sorted({name.partition("::")[0] for name in names})
            result = pytest.main([*_quietly(self._base), "-x", *files], plugins=[chosen])
            return KILLED if chosen.failed or result not in (0, 5) else SURVIVED

        began = time.monotonic()
        result = in_child(hot if mutation.in_function else cold, limit)
        if result == STILLBORN:
            tally.stillborn += 1
        elif result == SURVIVED:
            tally.survivors.append(mutation.name)
        else:
            tally.killed += 1
            tally.by_time += result is None
        if self._verbose or result == SURVIVED:
            word = {SURVIVED: "SURVIVED", KILLED: "killed", STILLBORN: "stillborn", None: "killed by time"}[result]
            _say(f"{word} in {time.monotonic() - began:.1f} s by {len(names)} tests: {mutation.name}")

    def _run(self, names: Sequence[str]) -> int:
        """These tests, up to the first that fails."""
        items = [self._items[name] for name in names]
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                return KILLED
        return SURVIVED

    def _watch(self) -> Seen:
        """Run everything under coverage, in a child."""
        out = self._base / "seen.json"

        def work() -> int:
            from coverage import Coverage

            files = [str(ROOT / "ftpy" / module) for module in self._chosen]
            seen, coverage = Seen(), Coverage(data_file=None, include=files, config_file=False)
            coverage.start()
            for item in self._items.values():
                coverage.switch_context(item.nodeid)
                began = time.monotonic()
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
                seen.seconds[item.nodeid] = time.monotonic() - began
            coverage.stop()
            for file in files:
                by_line = coverage.get_data().contexts_by_lineno(file)
                seen.lines[file] = {line: [name for name in names if name] for line, names in by_line.items()}
            seen.failed = self.failed
            out.write_text(json.dumps(vars(seen)), encoding="utf-8")
            return 0

        in_child(work, None)
        said = json.loads(out.read_text(encoding="utf-8"))
        lines = {file: {int(line): names for line, names in found.items()} for file, found in said["lines"].items()}
        return Seen(said["seconds"], lines, said["failed"])


def _quietly(base: Path) -> list[str]:
    folder = base / f"tmp-{os.getpid()}"
    return ["-q", "--tb=no", "--assert=plain", "-o", "timeout=0", f"--rootdir={ROOT}", f"--basetemp={folder}"]


def _say(line: str) -> None:
    os.write(_OUT, f"{line}\n".encode())


_OUT = os.dup(1)
"""Where figures go, whatever pytest does with standard output."""


def run(
    modules: Sequence[str],
    count: int | None,
    seed: int,
    *,
    only: Sequence[str],
    tests: Sequence[str],
    verbose: bool,
    known: dict[str, str],
) -> Host:
    """Try mutants of these modules; ``tests`` instead of those that mirror them."""
    for name in WARM:
        importlib.import_module(name)
    chosen = {module: draw(module, count, seed, only) for module in modules}
    memory = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    base = Path(tempfile.mkdtemp(prefix="ftpy-mutants-", dir=memory))
    base.chmod(0o711)  # some tests go on as another user
    os.environ["FTPY_TEST_MEMORY"] = str(base)  # of tests/storage/conftest.py: killed tests leave folders
    host = Host(chosen, tests, base, verbose, known)
    paths = tests or sorted({path for module in modules for path in TESTS[module]})
    try:
        os.chdir(ROOT)
        pytest.main([*_quietly(base), *paths], plugins=[host])
    finally:
        unmount_below(base)
        shutil.rmtree(base, ignore_errors=True)
    return host


def main(arguments: Sequence[str] | None = None) -> int:
    """Mutants by the module."""
    parser = argparse.ArgumentParser(prog="mutants", description="Small mistakes that the tests must tell.")
    parser.add_argument("--count", type=int, help="mutants of each module, drawn by --seed (default: all)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--module", action="append", choices=TESTS, help="this one; may be repeated (default: all)")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="those with this in their names")
    parser.add_argument("--equivalent", choices=("listed", "none"), default="listed", help="what is not tried")
    parser.add_argument("--tests", nargs="+", default=[], metavar="PATH", help="run these instead of the modules' own")
    parser.add_argument("--list", action="store_true", help="print names, run nothing")
    parser.add_argument("-v", "--verbose", action="store_true", help="a line for each mutant")
    options = parser.parse_args(arguments)
    modules = options.module or list(TESTS)
    if options.list:
        for module in modules:
            for mutation in draw(module, options.count, options.seed, options.only)[1]:
                print(mutation.name)
        return 0
    host = run(
        modules,
        options.count,
        options.seed,
        only=options.only,
        tests=options.tests,
        verbose=options.verbose,
        known=equivalents() if options.equivalent == "listed" else {},
    )
    if not any(tally.killed or tally.survivors or tally.equivalent for tally in host.tallies.values()):
        _say("nothing was tried")
        return 1
    low = [module for module, tally in host.tallies.items() if tally.share < LEAST_KILLED]
    killed = sum(tally.killed for tally in host.tallies.values())
    left = sum(len(tally.survivors) for tally in host.tallies.values())
    _say(f"mutants in all: {killed} of {killed + left} killed")
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
