"""A process of its own for each mutant, and ways to put the change in place in it (the rig is ``mutants``)."""

from __future__ import annotations

import gc
import importlib.machinery
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = 10
"""Of each property: hypothesis looks for new mistakes elsewhere; here a known one must show."""
MOST_MEMORY = 4 * 2**30
SURVIVED, KILLED, STILLBORN = 0, 1, 2
"""What a child says; stillborn is what cannot even be imported."""
_OWN = ("__main__", "tests", "tests.rigs", *(f"tests.rigs.{name}" for name in ("mutants", "mutated", "mutations")))
_SETTINGS = hypothesis.settings


def in_child(work: Callable[[], int], limit: float | None) -> int | None:
    """What ``work`` returned in a process and group of its own; None when the time was over. Its output is nowhere."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = KILLED
        try:
            os.setsid()
            nowhere = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(nowhere, fd)
            resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
            status = work()
        finally:
            os._exit(status)
    deadline = None if limit is None else time.monotonic() + limit
    try:
        while True:
            done, status = os.waitpid(pid, 0 if deadline is None else os.WNOHANG)
            if done:
                return os.WEXITSTATUS(status) if os.WIFEXITED(status) else KILLED
            if deadline is not None and time.monotonic() > deadline:
                return None
            time.sleep(0.01)
    finally:
        try:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass  # it has ended, and so have its own


class Listener:
    """Which tests failed."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the failed ones."""
        if report.failed:
            self.failed.append(report.nodeid)


class Chosen(Listener):
    """A run in a child: tests in this order."""

    def __init__(self, names: Sequence[str], without: Sequence[str]) -> None:
        super().__init__()
        self._without = without
        self._order = {name: index for index, name in enumerate(names)}

    def pytest_collection(self) -> None:
        """By now the tests' own settings are loaded."""
        few_examples()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """What has a name that is not known is there because of the change: its number is in the name."""
        items[:] = [item for item in items if item.nodeid not in self._without]
        items.sort(key=lambda item: self._order.get(item.nodeid, 0))


class _Changed(importlib.machinery.SourceFileLoader):
    """Loads a module from code that is there already."""

    def __init__(self, name: str, path: str, code: CodeType) -> None:
        super().__init__(name, path)
        self._code = code

    def get_code(self, fullname: str) -> CodeType:
        """The code."""
        return self._code


class Finder:
    """Finds one module, changed."""

    def __init__(self, name: str, path: str, code: CodeType) -> None:
        self._name, self._path, self._code = name, path, code

    def find_spec(self, name: str, path: object, target: ModuleType | None = None) -> Any:
        """Its spec."""
        if name != self._name:
            return None
        return importlib.machinery.ModuleSpec(name, _Changed(name, self._path, self._code), origin=self._path)


def module_name(module: str) -> str:
    return "ftpy." + module.removesuffix(".py").replace("/", ".")


def few_examples() -> None:
    """From here on no property is tried with more examples than ``EXAMPLES``, the same ones every time."""
    real = hypothesis.settings
    # That it fails is enough: nobody reads the shortest example.
    plainly: dict[str, Any] = {"phases": (hypothesis.Phase.explicit, hypothesis.Phase.generate), "derandomize": True}

    class Few(real):  # type: ignore[misc, valid-type]
        def __init__(self, *parents: Any, max_examples: int = EXAMPLES, **rest: Any) -> None:
            super().__init__(*parents, max_examples=min(max_examples, EXAMPLES), **{**plainly, **rest})

    real.register_profile("mutants", real.get_profile("ftpy"), max_examples=EXAMPLES, **plainly)
    real.load_profile("mutants")
    vars(hypothesis)["settings"] = Few


def forget_ours() -> None:
    """As if nothing of this project had been imported, but for this rig."""
    vars(hypothesis)["settings"] = _SETTINGS
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name not in _OWN and file and Path(file).is_relative_to(ROOT) and "site-packages" not in file:
            del sys.modules[name]


def _functions(code: CodeType) -> list[CodeType]:
    """The functions in a module or class, but not those within functions."""
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    optimized = [one for one in inner if one.co_flags & 1]  # CO_OPTIMIZED: a function's
    return optimized + [deep for one in inner if not one.co_flags & 1 for deep in _functions(one)]


def replace_functions(path: str, code: CodeType) -> None:
    """Give every function of a module its code from ``code``, wherever it has been imported to."""
    changed = {(one.co_qualname, one.co_firstlineno): one for one in _functions(code)}
    for function in gc.get_objects():
        if isinstance(function, FunctionType) and function.__code__.co_filename == path:
            new = changed.get((function.__code__.co_qualname, function.__code__.co_firstlineno))
            if new is not None and len(new.co_freevars) == len(function.__code__.co_freevars):
                function.__code__ = new
