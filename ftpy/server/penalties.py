"""What a source's failures before authentication cost it: time, in which it is refused before TLS (cf. sshd_config(5)).

Every failure adds seconds to the source's debt, and every second that passes takes one off. Over a threshold the
source is refused until it is at the threshold again. Keys are random, so nothing can be guessed; what is saved is the
work of handshakes and the log.
"""

from __future__ import annotations

import heapq
import ipaddress
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from ftpy.config.server import Penalties

Offence = Literal["denied", "protocol", "late"]
"""A wrong proof or an unknown user; what is not the protocol; a handshake that overran its deadline."""

MOST_SOURCES = 65_536
"""Sources that are held, of either kind (penalised, known): some 20 MiB at most. sshd's default for each family."""
KNOWN_DAYS = 7.0
"""How long a source is known after somebody authenticated from it, or left who had: over a weekend and a holiday."""
KNOWN_SECONDS = 1.0
"""How long a known source is refused at a time, whatever else comes from there."""
OPEN_SECONDS = 2.0
"""How long it is let in after that, whatever comes. Of a client's tries at about 0, 0.5 and 1.5 s one is then let in:
the third comes within 1.2 and 1.8 s, after the source was opened (by 1 s) and before it can be closed again (2 s)."""

log = logging.getLogger("ftpy.server")


class Penalty(NamedTuple):
    """A source's penalty, for who asks: seconds until it is forgotten, and of these refused; connections refused."""

    source: str
    seconds: float
    refused_seconds: float
    refused: int


@dataclass(slots=True)
class _Debt:
    """``until``: when all of it has passed; ``open_until``: no failure counts before that. By the monotonic clock."""

    until: float
    open_until: float = 0.0
    refused: int = 0


class Offenders:
    """The debts of sources, and which sources are known. Bounded in memory; not safe in several threads."""

    def __init__(
        self, settings: Penalties, most_sources: int = MOST_SOURCES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings = settings
        """May be replaced at any time."""
        self._most, self._clock = most_sources, clock
        self._debts: dict[str, _Debt] = {}
        self._by_end: list[tuple[float, str]] = []
        """A heap of when debts end; one that has grown since is in it more than once."""
        self._known: OrderedDict[str, float] = OrderedDict()
        """Since when, the oldest first."""

    def penalties(self) -> list[Penalty]:
        """All that stand, the longest first."""
        now = self._clock()
        self._expire(now)
        threshold = self.settings.threshold_seconds
        return [
            Penalty(source, debt.until - now, max(0.0, debt.until - now - threshold), debt.refused)
            for source, debt in sorted(self._debts.items(), key=lambda item: -item[1].until)
        ]

    def add(self, source: str, offence: Offence) -> None:
        """A failure from ``source``."""
        seconds: float = getattr(self.settings, f"{offence}_seconds")
        if not seconds or is_exempt(source, self.settings.exempt):
            return
        now = self._clock()
        self._expire(now)
        debt = self._debts.get(source) or _Debt(until=now)
        if now < debt.open_until:
            return
        knows = self._knows(source, now)
        most = self.settings.threshold_seconds + (KNOWN_SECONDS if knows else self.settings.most_seconds)
        debt.until = min(debt.until + seconds, now + most)
        closed_until = debt.until - self.settings.threshold_seconds
        if knows and closed_until > now:
            debt.open_until = closed_until + OPEN_SECONDS
        if source in self._debts or self._make_room(debt.until):
            self._debts[source] = debt
            heapq.heappush(self._by_end, (debt.until, source))

    def refuses(self, source: str) -> bool:
        """Whether a connection from ``source`` is refused; said in the log once a penalty, and at its end how often."""
        now = self._clock()
        self._expire(now)
        debt = self._debts.get(source)
        if debt is None or debt.until - now <= self.settings.threshold_seconds:
            return False
        debt.refused += 1
        if debt.refused == 1:
            seconds = round(debt.until - now - self.settings.threshold_seconds, 1)
            log.warning(
                "source-refused", extra={"event": "source-refused", "fields": {"source": source, "seconds": seconds}}
            )
        return True

    def forgive(self, source: str) -> None:
        """Somebody has authenticated from there: it owes nothing, and is known."""
        self._drop(source)
        self.remember(source)

    def remember(self, source: str) -> None:
        """A source that somebody authenticated from is known from now on."""
        self._known[source] = self._clock()
        self._known.move_to_end(source)
        if len(self._known) > self._most:
            self._known.popitem(last=False)

    def _knows(self, source: str, now: float) -> bool:
        since = self._known.get(source)
        return since is not None and now - since < KNOWN_DAYS * 86_400

    def _make_room(self, until: float) -> bool:
        """Whether there is room for a debt that ends at ``until``: in a full table the one that ends first goes.

        So whoever has many sources pushes out only debts that are smaller than what these owe now.
        """
        if len(self._debts) < self._most:
            return True
        first, source = self._by_end[0]
        if first >= until:
            return False
        self._drop(source)
        return True

    def _expire(self, now: float) -> None:
        """Forget debts that have passed; what is first in the heap stands, afterwards."""
        heap = self._by_end
        if len(heap) > 2 * len(self._debts) + 1024:
            heap[:] = [(debt.until, source) for source, debt in self._debts.items()]
            heapq.heapify(heap)
        while heap:
            end, source = heap[0]
            debt = self._debts.get(source)
            stands = debt is not None and debt.until == end
            if stands and end > now:
                return
            heapq.heappop(heap)
            if stands:
                self._drop(source)

    def _drop(self, source: str) -> None:
        debt = self._debts.pop(source, None)
        if debt is not None and debt.refused:
            fields = {"source": source, "refused": debt.refused}
            log.info("source-forgiven", extra={"event": "source-forgiven", "fields": fields})


@lru_cache(maxsize=1024)
def is_exempt(source: str, networks: tuple[str, ...]) -> bool:
    """Whether a source (as ``source_of`` says it) lies in one of ``networks``; a Unix socket always does."""
    try:
        ours = ipaddress.ip_network(source)
    except ValueError:
        return True
    return any(
        ours.version == network.version and ours.subnet_of(network)  # type: ignore[arg-type]
        for network in map(ipaddress.ip_network, networks)
    )
