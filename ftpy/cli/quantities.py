"""Numbers of bytes as people write them."""

from __future__ import annotations

import re
from typing import Any, Final

import click

NONE: Final = object()
"""What the word "none" stands for: no limit, where an option that is not given leaves the limit as it is."""

_SIZE = re.compile(r"(\d{1,19}(?:\.\d{1,9})?)\s*([kmgt]?)(?:i?b)?(?:/s)?", re.IGNORECASE | re.ASCII)
_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_MOST = 2**63 - 1


class Size(click.ParamType):  # type: ignore[type-arg]
    """Bytes: a number, with K, M, G or T for powers of 1024; or the word "none", where it may be taken back."""

    def __init__(self, name: str = "SIZE", *, least: int = 0, none: bool = False) -> None:
        self.name, self._least, self._none = f"{name}|none" if none else name, least, none

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The bytes, or NONE."""
        if self._none and (value is NONE or value == "none"):
            return NONE
        found = _SIZE.fullmatch(str(value))
        if found is None:
            self.fail(f"{value!r} is not a number of bytes, such as 500K or 20M", param, ctx)
        number = float(found[1]) if "." in found[1] else int(found[1])
        size = int(number * _UNITS[found[2].lower()])
        if not self._least <= size <= _MOST:
            self.fail(f"{value!r} is not between {self._least} and {_MOST} bytes", param, ctx)
        return size

    @staticmethod
    def text(size: int) -> str:
        """The same in as few letters as can say it exactly."""
        for unit, count in reversed(_UNITS.items()):
            if size and size % count == 0:
                return f"{size // count}{unit.upper()}"
        return str(size)
