"""Move files between a workstation and a host: verified end to end, resumable, atomic, encrypted.

``ftpy.Client`` is the library's door; it is imported when it is first used, so that ``import ftpy``
costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftpy.version import __version__

if TYPE_CHECKING:
    from ftpy.client.client import Client as Client
    from ftpy.config.client import Profile as Profile

__all__ = ["Client", "Profile", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Client":
        from ftpy.client.client import Client

        return Client
    if name == "Profile":
        from ftpy.config.client import Profile

        return Profile
    raise AttributeError(f"module 'ftpy' has no attribute {name!r}")
