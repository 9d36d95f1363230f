"""Numbers of bytes, lengths of time, moments and digests as people write them."""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING, Any, Final

import click

from ftpy.digests import DIGEST_NAMES, HEX_LENGTH

if TYPE_CHECKING:
    from ftpy.storage.base import KnownDigest

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


class Seconds(click.FloatRange):
    """A number of seconds within bounds; what is no number is within none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The seconds."""
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds


_AGE = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)\s*([smhdw])", re.ASCII)
_AGE_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SECONDS = re.compile(r"@(-?\d{1,10})(?:\.(\d{1,9}))?", re.ASCII)


class Age(click.ParamType):  # type: ignore[type-arg]
    """A length of time: a number with s, m, h, d or w; nanoseconds."""

    name = "AGE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The nanoseconds."""
        if isinstance(value, int):
            return value
        if (found := age_ns(str(value))) is None:
            self.fail(f"{value!r} is not a length of time, such as 90s, 15m, 12h, 7d or 2w", param, ctx)
        return found


class Moment(click.ParamType):  # type: ignore[type-arg]
    """A moment, nanoseconds since the epoch: an ISO date with or without a time, @SECONDS, or how long ago."""

    name = "DATE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The moment; what names no zone is meant in ours."""
        if isinstance(value, int):
            return value
        moment_ns = self._moment_ns(str(value), param, ctx)
        if abs(moment_ns) > _MOST:
            self.fail(f"{value!r} is not between 1678 and 2262, as times of files are told", param, ctx)
        return moment_ns

    def _moment_ns(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if (ago := age_ns(text)) is not None:
            return time.time_ns() - ago
        if (found := _SECONDS.fullmatch(text)) is not None:
            fraction = int((found[2] or "").ljust(9, "0"))
            return int(found[1]) * 1_000_000_000 + (-fraction if found[1].startswith("-") else fraction)
        from datetime import datetime

        try:
            moment = datetime.fromisoformat(text)
            return int(moment.replace(microsecond=0).timestamp()) * 1_000_000_000 + moment.microsecond * 1000
        except (ValueError, OverflowError, OSError):
            self.fail(f"{text!r} is not a date, such as 2024-05-01, 2024-05-01T12:00, @1714557600 or 3h", param, ctx)


def age_ns(text: str) -> int | None:
    """A length of time in nanoseconds, or None where it is none."""
    found = _AGE.fullmatch(text)
    return None if found is None else int(float(found[1]) * _AGE_UNITS[found[2]] * 1e9)


_HEX = re.compile(r"[0-9a-f]+", re.ASCII)


class Digest(click.ParamType):  # type: ignore[type-arg]
    """A digest of a file's content: hexadecimal digits as md5sum or b3sum print them, with or without its name."""

    name = "DIGEST"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> KnownDigest:
        """The digest and its name, which its length tells where it is not said."""
        from ftpy.storage.base import KnownDigest

        if isinstance(value, KnownDigest):
            return value
        said, colon, digits = str(value).strip().lower().rpartition(":")
        fits = (name for name in DIGEST_NAMES if (name == said or not colon) and len(digits) == HEX_LENGTH[name])
        if (name := next(fits, None)) is None or not _HEX.fullmatch(digits):
            lengths = " or ".join(f"{name} of {HEX_LENGTH[name]} hexadecimal digits" for name in DIGEST_NAMES)
            self.fail(f"{value!r} is not an {lengths}", param, ctx)
        return KnownDigest(name, digits)
