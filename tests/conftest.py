"""Settings that every test shares, and the search for secrets in what all of them said."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.rig import KEYS

# Slow machines are no failures; a failure prints what reproduces it, so no database of examples is kept.
settings.register_profile("ftpy", deadline=None, database=None, print_blob=True)
settings.load_profile("ftpy")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in the background of a shell without job control: what tests start and interrupt would ignore it as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)

LOGS = ("log", "*.log", "*.jsonl")
"""Names of files that servers and rigs write their logs to."""
_KEYS = re.compile(rb"(?=([A-Za-z0-9_-]{43}))")
_HEX_KEYS = re.compile(rb"(?=([0-9a-f]{64}))")
_TOKEN = re.compile(rb"ftpy1\.[A-Za-z0-9_-]{40}")

said = pytest.StashKey[list[tuple[str, bytes]]]()
"""What each test printed and logged."""


def pytest_configure(config: pytest.Config) -> None:
    """Begin with nothing."""
    config.stash[said] = []
    config.pluginmanager.register(_Listener(config.stash[said]))


class _Listener:
    def __init__(self, heard: list[tuple[str, bytes]]) -> None:
        self._heard = heard

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a test printed and logged; its pairing tokens on standard output are there to be secrets."""
        for name, text in report.sections:
            if "stdout" not in name:
                self._heard.append((f"{report.nodeid}: {name}", text.encode(errors="surrogateescape")))


def secrets_in(text: bytes) -> list[str]:
    """Which keys of this run's users, and whether any token, is in a text."""
    found = {match[1] for match in _KEYS.finditer(text)} & {key.encode() for key in KEYS}
    found |= {match[1] for match in _HEX_KEYS.finditer(text)} & {key.encode() for key in KEYS.values()}
    return [key.decode() for key in found] + [token.decode() for token in _TOKEN.findall(text)]


def secrets_below(folder: Path) -> list[tuple[str, list[str]]]:
    """What the logs below a folder give away, and which of them."""
    files = [path for pattern in LOGS for path in folder.rglob(pattern) if path.is_file() and not path.is_symlink()]
    return [(str(path), found) for path in files if (found := secrets_in(path.read_bytes()))]


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """As pytest's; what was logged there is searched for keys and tokens before it is removed."""
    yield tmp_path
    assert secrets_below(tmp_path) == []


@pytest.fixture(scope="session", autouse=True)
def nothing_secret_is_said(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whatever the tests of this process printed and logged, and servers that many tests share, is searched too."""
    yield
    assert [(where, found) for where, text in request.config.stash[said] if (found := secrets_in(text))] == []
    assert secrets_below(tmp_path_factory.getbasetemp()) == []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast ones first: most mistakes show within a minute."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
