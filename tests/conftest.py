"""Settings that every test shares."""

from __future__ import annotations

from hypothesis import settings

# Slow machines are no failures; a failure prints what reproduces it, so no database of examples is kept.
settings.register_profile("ftpy", deadline=None, database=None, print_blob=True)
settings.load_profile("ftpy")
