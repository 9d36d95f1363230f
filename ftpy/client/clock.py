"""What a host's clock says, as seen from here: how far it is from ours, and how well that is known."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Literal

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def offset_and_delay(t1: int, t2: int, t3: int, t4: int) -> tuple[int, int]:
    """What NTP makes of four times (RFC 5905, 8): what the host's clock is ahead, and the round trip.

    ``t1`` asked and ``t4`` answered by our clock, ``t2`` received and ``t3`` sent by the host's. All in one unit.
    """
    return ((t2 - t1) + (t3 - t4)) // 2, (t4 - t1) - (t3 - t2)


@dataclass(frozen=True, slots=True)
class Clock:
    """A host's clock is ``offset_ns`` ahead of ours, wrong by at most half of the round trip ``delay_ns``.

    ``utc_offset_seconds`` and ``zone`` are its local time's, None where that is not known. What a ``beacon`` says is
    not proven, what a ``welcome`` says is as good as its connection.
    """

    offset_ns: int
    delay_ns: int
    source: Literal["beacon", "welcome"]
    utc_offset_seconds: int | None = None
    zone: str = ""

    @classmethod
    def of_welcome(cls, time_ns: int, now_ns: int, round_trip_seconds: float) -> Clock:
        """From the time in a welcome that came at ``now_ns``, after a round trip of so many seconds."""
        delay_ns = round(round_trip_seconds * 1e9)
        return cls(time_ns - (now_ns - delay_ns // 2), delay_ns, "welcome")

    def now(self) -> datetime:
        """The host's local time, at this moment; UTC where its zone is not known."""
        moment = _EPOCH + timedelta(microseconds=(time.time_ns() + self.offset_ns) // 1000)
        if self.utc_offset_seconds is None:
            return moment
        ahead = timedelta(seconds=self.utc_offset_seconds)
        return moment.astimezone(timezone(ahead, self.zone) if self.zone else timezone(ahead))


def written(moment: datetime, form: str) -> str:
    """A moment as ``form`` has it (strftime(3)). Raises ValueError for a form that this system does not know."""
    # The C library would take %s for a local time of this machine's.
    seconds = str(int(moment.timestamp()))
    return moment.strftime(re.sub(r"%(.)", lambda word: seconds if word[1] == "s" else word[0], form))
