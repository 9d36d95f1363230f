"""How a key of the settings is typed and explained, on either side.

What a key means is said once, in its ``description``: ``to_toml`` writes it above the key, and the examples in
``config/`` are held to it by a test.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]


def says(text: str) -> Meta:
    """What a key means, with its unit."""
    return Meta(description=text)
