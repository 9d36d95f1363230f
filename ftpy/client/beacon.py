"""Asking beacons over UDP: who is there, and what the time is (docs/protocol.md 20). Nothing of it is proven."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ftpy.client.clock import Clock, offset_and_delay
from ftpy.config.addresses import DEFAULT_PORT, Address, parse_address
from ftpy.errors import ConnectionFailed, NoBeacon, ProtocolError
from ftpy.transport.datagrams import Datagrams, Target, targets_around, targets_of
from ftpy.wire.beacon import GROUP, NONCE_BYTES, QUESTION_BYTES, Answer, ask, read_answer
from ftpy.wire.spelling import b64encode

AGAIN_SECONDS = 0.25
"""How long a question waits for its answer before the next one is sent; it may come later all the same."""
SAMPLES = 5
"""Answers that are enough to choose the one with the least delay of."""
TIME_SECONDS = 2.0
"""How long a time is asked for, at most."""
DISCOVER_SECONDS = 1.5
"""How long answers from anywhere are waited for."""
ROUNDS = 3
"""Times that everybody is asked: so many losses in a row are rare."""
MOST_TARGETS = 64
"""Addresses that are asked at most."""
MOST_FOUND = 1000
"""Servers that are told of at most: whoever wants to can make up any number."""


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer, where it came from, and the clock that it tells of; ``target`` is what was asked."""

    answer: Answer
    host: str
    target: Target
    clock: Clock


@dataclass(frozen=True, slots=True)
class _Asked:
    target: Target
    wall_ns: int
    steady_ns: int
    heard: set[str] = field(default_factory=set)
    """Who has answered."""


class Inquiry:
    """Questions, and the answers that belong to them; what does not is counted as ``dropped``.

    A question to ``everybody`` is answered by any host, each once.
    """

    def __init__(self, datagrams: Datagrams, *, everybody: bool = False) -> None:
        self._datagrams, self._everybody = datagrams, everybody
        self._asked: dict[str, _Asked] = {}
        self.asked = self.dropped = 0
        self.unreachable: dict[Target, str] = {}
        """Targets that nothing can be sent to, or where nobody listens, and why."""

    def ask(self, target: Target) -> None:
        """Send one question."""
        nonce = os.urandom(NONCE_BYTES)
        question = ask(nonce)
        self._asked[b64encode(nonce)] = _Asked(target, time.time_ns(), time.perf_counter_ns())
        self.asked += 1
        if reason := self._datagrams.send(question, target):
            self.unreachable[target] = reason

    def hear(self, timeout: float) -> Heard | None:
        """The next answer to any question, if one comes within ``timeout`` seconds; maybe None sooner."""
        arrival = self._datagrams.receive(timeout, QUESTION_BYTES + 1)
        now_ns = time.perf_counter_ns()
        if arrival is None:
            return None
        if arrival.refused:
            for asked in self._asked.values():
                if asked.target[1][:2] == (arrival.host, arrival.port):
                    self.unreachable[asked.target] = "nobody listens there"
            return None
        with contextlib.suppress(ProtocolError):
            if heard := self._match(read_answer(arrival.data), arrival.host, now_ns):
                return heard
        self.dropped += 1
        return None

    def _match(self, answer: Answer, host: str, now_ns: int) -> Heard | None:
        asked = self._asked.get(answer.nonce)
        who = host if self._everybody else ""
        if asked is None or who in asked.heard:
            return None
        heard_ns = asked.wall_ns + now_ns - asked.steady_ns
        offset, delay = offset_and_delay(asked.wall_ns, answer.received_ns, answer.sent_ns, heard_ns)
        if delay < 0:  # a clock was set while we talked
            return None
        asked.heard.add(who)
        clock = Clock(offset, delay, "beacon", answer.utc_offset_seconds, answer.zone)
        return Heard(answer, host, asked.target, clock)


@dataclass(frozen=True, slots=True)
class Reading:
    """A host's clock, from the best of so many ``answers`` to so many questions ``asked``; where it was told."""

    clock: Clock
    host: str
    name: str
    asked: int
    answers: int
    dropped: int


def ask_time(addresses: Iterable[str], pin: str | None = None, *, seconds: float = TIME_SECONDS) -> Reading:
    """The clock of the host at ``addresses``, by the answer that took the least.

    With ``pin`` only answers count that name this certificate: they prove nothing, but another host's are left out.
    Raises NoBeacon after ``seconds``, or as soon as it is known that nobody listens there.
    """
    targets = _targets(map(parse_address, addresses))
    with Datagrams() as datagrams:
        inquiry = Inquiry(datagrams)
        heard = list(_samples(inquiry, targets, pin, time.monotonic() + seconds))
    if not heard:
        raise _silence(inquiry, targets, seconds)
    best = min(heard, key=lambda one: one.clock.delay_ns)
    return Reading(best.clock, best.host, best.answer.name, inquiry.asked, len(heard), inquiry.dropped)


def _samples(inquiry: Inquiry, targets: Sequence[Target], pin: str | None, deadline: float) -> Iterator[Heard]:
    """Enough answers, or as many as come: the next question follows an answer at once, silence after a while."""
    count, due = 0, 0.0
    while count < SAMPLES and (now := time.monotonic()) < deadline:
        if now >= due:
            for target in targets:
                inquiry.ask(target)
            due = now + AGAIN_SECONDS
        heard = inquiry.hear(min(due, deadline) - time.monotonic())
        if heard is None:
            if not count and all(target in inquiry.unreachable for target in targets):
                return
        elif pin is not None and pin != heard.answer.certificate_sha256:
            inquiry.dropped += 1
        else:
            count += 1
            yield heard
            if count < SAMPLES:
                inquiry.ask(heard.target)
                due = time.monotonic() + AGAIN_SECONDS


@dataclass(slots=True)
class Found:
    """A server that answered, at ``addresses``; ``certificate_sha256`` is None where it speaks plain TCP."""

    name: str
    server: str
    certificate_sha256: str | None
    addresses: list[str]
    clock: Clock


def discover(
    addresses: Iterable[str] = (), *, port: int = DEFAULT_PORT, seconds: float = DISCOVER_SECONDS
) -> list[Found]:
    """Who answers at ``addresses``, or anywhere on the local networks, in the order of their names.

    Raises NoBeacon where nobody does within ``seconds``.
    """
    asked = [parse_address(text) for text in addresses]
    targets = _targets(asked) if asked else list(targets_around(port, GROUP))
    found: dict[tuple[object, ...], Found] = {}
    began = time.monotonic()
    with Datagrams() as datagrams:
        inquiry = Inquiry(datagrams, everybody=True)
        for number in range(1, ROUNDS + 1):
            for target in targets:
                inquiry.ask(target)
            until = began + seconds * number / ROUNDS
            while (left := until - time.monotonic()) > 0 and len(found) < MOST_FOUND:
                if heard := inquiry.hear(left):
                    _note(found, heard)
            if asked and found:
                break
    if not found:
        raise _silence(inquiry, targets, seconds)
    return sorted(found.values(), key=lambda one: (one.name, one.addresses))


def _note(found: dict[tuple[object, ...], Found], heard: Heard) -> None:
    """A server that has several addresses answers from each, and is one all the same."""
    answer = heard.answer
    address = str(Address("tcp", heard.host, answer.port)) if answer.port else heard.host
    key = (answer.certificate_sha256 or address, answer.name, answer.server, answer.port)
    if key not in found:
        found[key] = Found(answer.name, answer.server, answer.certificate_sha256, [address], heard.clock)
    elif address not in found[key].addresses:
        found[key].addresses.append(address)


def _targets(addresses: Iterable[Address]) -> list[Target]:
    """Where questions go. Raises ConnectionFailed where a name leads nowhere, unless another one leads somewhere."""
    found: list[Target] = []
    failure = ConnectionFailed("there is no beacon behind a Unix socket")
    for address in addresses:
        if address.kind == "tcp":
            try:
                found += targets_of(address.host, address.port)
            except ConnectionFailed as error:
                failure = error
    if not found:
        raise failure
    return list(dict.fromkeys(found))[:MOST_TARGETS]


def _silence(inquiry: Inquiry, targets: Sequence[Target], seconds: float) -> NoBeacon:
    """Why nothing was heard."""
    reasons = sorted({inquiry.unreachable[target] for target in targets if target in inquiry.unreachable})
    if all(target in inquiry.unreachable for target in targets):
        why = ", ".join(reasons)
    else:
        why = f"no answer within {seconds:g} s"
    dropped = f", {inquiry.dropped} datagrams that were no answers of its" if inquiry.dropped else ""
    return NoBeacon(f"no beacon: {why}{dropped}; it is off unless [beacon] listen in the server's settings says where")
