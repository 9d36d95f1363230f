"""A line for datagrams that loses, doubles, delays and forges them on purpose; loopback only."""

from __future__ import annotations

import heapq
import itertools
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Self

from ftpy.config.addresses import parse_address

Plan = Callable[[int], Sequence[float]]
"""Of the n-th datagram, counted from 0: after how many seconds each copy of it arrives; none: it is lost."""


def all_well(_: int) -> Sequence[float]:
    """Every datagram arrives, once, at once."""
    return [0.0]


class UdpProxy:
    """Passes datagrams on between one asker and ``target``, each way as its plan says.

    ``forge`` makes more of every answer: what it returns arrives just before the answer.
    """

    def __init__(
        self,
        target: str,
        up: Plan = all_well,
        down: Plan = all_well,
        forge: Callable[[bytes], Sequence[bytes]] = lambda _: (),
    ) -> None:
        address = parse_address(target)
        self._target = ("127.0.0.1", address.port)
        self._plans = (up, down)
        self._forge = forge
        self._front, self._back = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for end in (self._front, self._back):
            end.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._front.getsockname()[1]}"
        self.seen: tuple[list[bytes], list[bytes]] = ([], [])
        """What came up and down, in the order of its coming."""
        self._due: list[tuple[float, int, socket.socket, bytes, tuple[str, int]]] = []
        self._numbers = itertools.count()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        asker = ("127.0.0.1", 9)
        while not self._stopped.is_set():
            wait = min(0.05, max(0.0, self._due[0][0] - time.monotonic())) if self._due else 0.05
            ready, _, _ = select.select([self._front, self._back], [], [], wait)
            if self._front in ready:
                data, asker = self._front.recvfrom(65536)
                self._plan(0, data, self._back, self._target)
            if self._back in ready:
                data, _ = self._back.recvfrom(65536)
                for forged in self._forge(data):
                    self._front.sendto(forged, asker)
                self._plan(1, data, self._front, asker)
            while self._due and self._due[0][0] <= time.monotonic():
                _, _, end, data, where = heapq.heappop(self._due)
                end.sendto(data, where)

    def _plan(self, way: int, data: bytes, end: socket.socket, where: tuple[str, int]) -> None:
        number = len(self.seen[way])
        self.seen[way].append(data)
        for seconds in self._plans[way](number):
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), end, data, where))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(5)
        self._front.close()
        self._back.close()
