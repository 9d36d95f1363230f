"""Settings that every test shares."""

from __future__ import annotations

import pytest
from hypothesis import settings

# Slow machines are no failures; a failure prints what reproduces it, so no database of examples is kept.
settings.register_profile("ftpy", deadline=None, database=None, print_blob=True)
settings.load_profile("ftpy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast ones first: most mistakes show within a minute."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
