"""A handful of mutants, drawn by a fixed seed, must be told; ``scripts/mutants`` tries as many as there is time for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.rigs.mutants import TESTS, draw, equivalents, why_equivalent
from tests.rigs.mutated import ROOT
from tests.rigs.mutations import mutations

pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork(2)")]

MODULE = "wire/framing.py"
BOUNDARY = "frame: if not 1 <= len(header) <= HEADER_BYTES: -> if not 1 < len(header) <= HEADER_BYTES:"
"""A mistake within a function."""
LIMIT = "module: HEADER_BYTES = 65536 -> HEADER_BYTES = 65537"
"""A mistake that shows only where everything is imported anew."""
SPEED = "module: BUFFER_BYTES = 512 * 1024 -> BUFFER_BYTES = 511 * 1024"
"""No mistake."""


def mutants(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The rig with the quick tests of one module."""
    tests = ["--tests", "tests/wire/test_framing.py", "tests/wire/test_protocol_document.py"]
    command = [sys.executable, "-m", "tests.rigs.mutants", "--module", MODULE, *arguments, *tests]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_handful_of_mistakes_is_told() -> None:
    done = mutants("--count", "8", "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_mistake_is_killed_and_what_is_none_survives_and_is_told() -> None:
    """The controls: without the list of what is no mistake, a mutant that changes only speed must survive."""
    done = mutants("--only", BOUNDARY, "--only", LIMIT, "--only", SPEED, "--equivalent", "none", "-v")
    lines = done.stdout.splitlines()
    assert done.returncode == 1, done.stdout + done.stderr
    assert [line.split(" in ")[0] for line in lines if f"{MODULE} " in line and ": " in line][:3] == [
        "killed",
        "SURVIVED",
        "killed",
    ]


def test_names_are_unique_and_know_no_lines() -> None:
    path = ROOT / "ftpy" / MODULE
    text = path.read_text(encoding="utf-8")
    names = [mutation.name for mutation in mutations(MODULE, text, str(path))]
    assert len(set(names)) == len(names) > 50
    assert [mutation.name for mutation in mutations(MODULE, "\n\n" + text, str(path))] == names


def test_the_same_seed_draws_the_same_mutants() -> None:
    drawn = [[mutation.name for mutation in draw(MODULE, 10, seed, [])[1]] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_every_mutant_that_is_said_to_be_no_mistake_exists() -> None:
    names = [mutation.name for module in TESTS for mutation in draw(module, None, 1, [])[1]]
    for known in equivalents():
        assert any(why_equivalent(name, {known: ""}) is not None for name in names), known


def test_a_mutant_differs_from_its_module_in_one_thing() -> None:
    (mutation,) = mutations("m.py", "def f(a, b):\n    return g(a, b)\n", "m.py")[1:]
    assert mutation.name == "m.py f: return g(a, b) -> return g(b, a)"
    found: dict[str, object] = {"g": lambda a, b: (a, b)}
    exec(mutation.code(), found)
    assert found["f"](1, 2) == (2, 1)  # type: ignore[operator]
