"""A network that breaks at every byte: cut, reset, half-closed, stalled, sliced, bits flipped; one checker after each.

Server, client and proxy are in this process, so that a case takes milliseconds.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import structs

from ftpy.client import lines
from ftpy.client.client import Client
from ftpy.config.client import Transfer
from ftpy.config.server import Limits
from ftpy.errors import FtpyError
from tests.descriptors import links, open_files
from tests.rig import Fault, Faults, Host
from tests.rigs.acts import ACTS, SMALL, Act, files_below
from tests.rigs.breaking import PASS, Breaker, contexts_of
from tests.rigs.fields import HARMLESS, field_at
from tests.rigs.processes import HAS_PROC, served_within, until

BACKOFF_SECONDS = 0.001
"""What a client here waits before it tries again: the rule is the same, the campaign is shorter."""
CASE_SECONDS = 30.0
"""Retries end: what takes longer hangs."""
RETRIES = 12
"""Waits of 4 s in all: a part whose connection stalls is taken from another only after the server has given that up."""
PATIENT = Transfer(stall_seconds=10.0, connect_seconds=10.0, retries=RETRIES)
BRIEF = Transfer(stall_seconds=0.4, connect_seconds=0.4, retries=RETRIES)
"""Where one end comes to wait for what will never come: it is not waited for long."""
PAUSE_SECONDS = 0.0005
"""How often it is looked whether all has ended."""
LIMITS = Limits(stall_seconds=1.0, handshake_seconds=1.0, idle_seconds=1.0)
MEASURE_TRIES = 5
"""How often a transfer over a sound network is tried: a busy machine may exceed the limits above."""
WAYS = ("up", "down")
PLACES = [(act, encrypted, way) for act in SMALL for encrypted in (False, True) for way in (0, 1)]


@dataclass(frozen=True)
class Case:
    """One transfer over a network that breaks once: where (``way`` 0 is up), how, and whether the client retries.

    With ``within`` the fault happens to what is inside TLS, as by a peer; ``connection`` is the one that it happens to.
    """

    act: str
    tls: bool
    way: int
    fault: Fault
    retries: bool = False
    within: bool = False
    connection: int = 0

    @property
    def faults(self) -> list[Faults]:
        """Of one connection after the other."""
        faults = (self.fault, PASS[1]) if self.way == 0 else (PASS[0], self.fault)
        return [*[PASS] * self.connection, faults, PASS]

    @property
    def transfer(self) -> Transfer:
        """How the client goes about it."""
        base = BRIEF if self.fault.what in ("stall", "flip") else PATIENT
        retries = base.retries if self.retries else 0
        return structs.replace(base, retries=retries, streams=ACTS[self.act].parallel)

    def __str__(self) -> str:
        kind = ("TLS, within" if self.within else "TLS") if self.tls else "plain"
        fault = self.fault
        bit = f" bit {fault.bit}" if fault.what == "flip" else ""
        sliced = f" in slices of {fault.slice_bytes}" if fault.slice_bytes == 1 else ""
        rest = (", retrying" if self.retries else "") + (f", connection {self.connection}" if self.connection else "")
        return f"{self.act} ({kind}) {fault.what}{bit}{sliced} at byte {fault.after} {WAYS[self.way]}{rest}"


@dataclass
class Report:
    """What a campaign has seen; ``violations`` are sentences, none of which may be there."""

    cases: Counter[str] = field(default_factory=Counter)
    fired: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    """Of cases whose fault came about: ``KIND OUTCOME``."""
    harmless: Counter[str] = field(default_factory=Counter)
    """Flips that came to nothing, by what they hit; all of it is argued in ``HARMLESS``."""
    slowest: float = 0.0
    served: float = 0.0
    violations: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The figures."""
        found = []
        for kind, count in self.cases.items():
            outcomes = ", ".join(
                f"{name.partition(' ')[2]} {number}"
                for name, number in self.outcomes.most_common()
                if name.partition(" ")[0] == kind
            )
            found.append(f"rig-network {kind}: {count} cases, {self.fired[kind]} broke: {outcomes}")
        if self.harmless:
            found.append("flips that came to nothing: " + ", ".join(f"{k} {n}" for k, n in self.harmless.most_common()))
        found.append(
            f"rig-network: {self.cases.total()} cases, the slowest {self.slowest:.2f} s, a fresh client served within "
            f"{self.served:.2f} s; {len(self.violations)} violations"
        )
        return found


class _Errors(logging.Handler):
    """Keeps what the server logs as its own failure, tracebacks above all."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.seen.append(f"the server logs {record.getMessage()}: {record.exc_info and record.exc_info[1]!r}")


class Bench:
    """A server behind a breaker, with TLS or without, and everything that a client does here."""

    def __init__(self, folder: Path, *, tls_on: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.host = Host(folder / "host", tls=tls_on, limits=LIMITS)
        self.host.start()
        self._probe = folder / "probe"
        self._probe.write_bytes(b"is anybody there?")
        self.acts: dict[str, Act] = {name: kind(self.host, folder / name) for name, kind in ACTS.items()}
        self.breakers = {False: Breaker(self.host.address)}
        if tls_on:
            self.breakers[True] = Breaker(self.host.address, contexts_of(self.host))
        self._errors = _Errors()
        logging.getLogger("ftpy").addHandler(self._errors)
        self.served = 0.0
        self._serve([])
        self._names = set(files_below(self.host.root))
        self._base = (sys.maxsize, sys.maxsize)
        self._open: dict[int, str] = {}

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        for breaker in self.breakers.values():
            breaker.close()
        self.host.close()
        logging.getLogger("ftpy").removeHandler(self._errors)

    def measure(self, act: str, *, within: bool = False) -> list[tuple[int, int]]:
        """Bytes up and down of each connection when nothing breaks."""
        case = Case(act, self.host.tls, 0, Fault(), within=within)
        for _ in range(MEASURE_TRIES):
            error, wrong = self.run(case)
            if error is None:
                break
        assert error is None and not wrong, (error, wrong)
        return [(len(up), len(down)) for up, down in (passage.sent for passage in self.breakers[within].passages)]

    # ---- one case

    def run(self, case: Case) -> tuple[FtpyError | None, list[str]]:
        """What the client raised, if anything, and what is wrong."""
        act, breaker = self.acts[case.act], self.breakers[case.within]
        act.prepare()
        breaker.arm(*case.faults)
        began = time.monotonic()
        error, wrong = self._attempt(act, self.host.client(address=breaker.address, transfer=case.transfer))
        if case.fault.what == "stall" and not until(lambda: not self._connections(), CASE_SECONDS):
            wrong.append("the server does not give up a connection that stalls")
        breaker.settle()
        if not until(lambda: not self._connections(), CASE_SECONDS, pause_seconds=PAUSE_SECONDS):
            wrong.append("the server does not end a connection that has ended")
        wrong += act.check(done=error is None)  # after whatever the server made of what came
        if error is not None and act.acknowledged and case.fault.what != "flip":  # a flip may make it another answer
            wrong.append(f"it was acknowledged, and the client says {error!r}")
        if error is not None and case.retries:
            wrong.append(f"the client gave up: {error!r}")
        if (seconds := time.monotonic() - began) > CASE_SECONDS:
            wrong.append(f"it took {seconds:.1f} s")
        wrong += self._strays()
        self._serve(wrong, again=act if error is not None else None)
        wrong += self._check_rest() + self._errors.seen
        self._errors.seen = []
        return error, wrong

    @staticmethod
    def _attempt(act: Act, client: Client) -> tuple[FtpyError | None, list[str]]:
        with contextlib.closing(client):
            try:
                act.run(client)
            except FtpyError as error:
                return error, []
            except Exception as error:  # any other is a defect, and told as one
                return FtpyError(repr(error)), [f"the client raised {error!r}"]
        return None, []

    def _connections(self) -> int:
        assert self.host.service is not None
        return self.host.service.admission.connections

    def _strays(self) -> list[str]:
        """What is visible and was never put, or is gone; told once."""
        seen = files_below(self.host.root)
        for name in set(seen) - self._names:
            seen[name].unlink()
        return [
            *(f"{name!r} is visible and was never put" for name in sorted(set(seen) - self._names)),
            *(f"{name!r} is gone" for name in sorted(self._names - set(seen))),
        ]

    def _serve(self, wrong: list[str], again: Act | None = None) -> None:
        """A fresh client puts, gets and lists in time, and does what failed; a second one where only time lacked.

        A machine that is busy with other work may take too long once, by chance.
        """
        for last in (False, True):
            began = time.monotonic()
            with contextlib.closing(self.host.client(transfer=structs.replace(PATIENT, streams=1))) as client:
                try:
                    client.put(self._probe, "probe")
                    back = io.BytesIO()
                    client.get("probe", back)
                    listed = {str(info.path) for info in client.ls(recursive=True) if info.type != "directory"}
                    seconds = time.monotonic() - began
                    if again is not None:
                        again.run(client)
                except FtpyError as error:
                    wrong.append(f"a fresh client fails: {error!r}")
                    return
            if back.getvalue() != self._probe.read_bytes():
                wrong.append("a get brought other bytes than the put before it")
            if listed != (there := set(files_below(self.host.root))):
                wrong.append(f"the listing is not what is there: {listed ^ there}")
            if again is not None:
                wrong += again.check(done=True)
                wrong += [f"the upload {name} is left" for name in self.host.uploads]
            if seconds < served_within():
                break
            if last:
                wrong.append(f"a fresh client was served after {seconds:.2f} s (load {os.getloadavg()[0]:.1f})")
        self.served = max(self.served, seconds)

    def rest(self) -> None:
        """Nothing is under way: what this process holds now is what it may hold after each case.

        Neither the thread of a connection that has ended nor garbage: counted in, it would hide one that is left.
        """
        gc.collect()
        until(lambda: not any("process_request" in thread.name for thread in threading.enumerate()))
        self._base, self._open = _usage(), _opened()

    def _check_rest(self) -> list[str]:
        """Whether threads or descriptors are left; told once."""

        def rests() -> bool:
            return all(now <= base for now, base in zip(_usage(), self._base, strict=True))

        if until(rests, pause_seconds=PAUSE_SECONDS):
            return []
        left = [_described(*opened) for opened in sorted(_opened().items() - self._open.items())]
        names = sorted(thread.name for thread in threading.enumerate())
        told = f"threads and descriptors are left, {_usage()} where {self._base} is the base: {left}, {names}"
        self.rest()
        return [told]


def _usage() -> tuple[int, int]:
    """Threads and descriptors of this process."""
    return threading.active_count(), open_files()


def _opened() -> dict[int, str]:
    """What each descriptor of this process leads to."""
    return links(os.getpid()) if HAS_PROC else {}


def _described(number: int, what: str) -> str:
    """What a descriptor leads to, with a socket's addresses."""
    if not what.startswith("socket:"):
        return what
    with socket.socket(fileno=os.dup(number)) as sock:
        return f"{what} {sock!r}"


# ------------------------------------------------------------------ what is done to it

Sizes = Mapping[tuple[str, bool, bool], list[tuple[int, int]]]
"""(act, TLS, within) -> bytes up and down of each connection when nothing breaks."""
SPARE_BYTES = 4
"""What a TLS handshake may be longer than the one that was measured: a signature's length varies."""


def _everywhere(sizes: Sizes, what: str, seed: int = 0, *, retries: bool = False) -> Iterator[Case]:
    """At every byte of a small put and get, up and down, with TLS and without."""
    for act, encrypted, way in PLACES:
        for after in range(sizes[act, encrypted, False][0][way] + SPARE_BYTES):
            yield Case(act, encrypted, way, Fault(what, after, bit=(after * 5 + seed) % 8), retries)


def _within(sizes: Sizes, what: str) -> Iterator[Case]:
    """At every byte of what is inside TLS: the end comes with TLS's own farewell."""
    for act in SMALL:
        for way in (0, 1):
            for after in range(sizes[act, True, True][0][way] + 1):
                yield Case(act, True, way, Fault(what, after), within=True)


def _sliced(sizes: Sizes) -> Iterator[Case]:
    """One byte at a time, to the end and up to a cut."""
    for act, encrypted, way in PLACES:
        for after in range(0, sizes[act, encrypted, False][0][way], 50):
            yield Case(act, encrypted, way, Fault("cut", after, slice_bytes=1), retries=True)
        yield Case(act, encrypted, way, Fault("none", slice_bytes=1))


def _large(sizes: Sizes, rng: random.Random, *whats: str) -> Iterator[Case]:
    """Anywhere in what takes several connections or many files; one in three has its fault in a first KiB."""
    acts = [act for act in ACTS if act not in SMALL]
    while True:
        act, encrypted, way, what = rng.choice(acts), rng.random() < 0.5, rng.choice((0, 1)), rng.choice(whats)
        sent = sizes[act, encrypted, False]
        connection = rng.randrange(len(sent))
        most = sent[connection][way] if rng.random() < 0.7 else 1500
        fault = Fault(what, rng.randrange(most), bit=rng.randrange(8))
        retries = what != "flip" and rng.random() < 0.5
        yield Case(act, encrypted, way, fault, retries, connection=connection)


LARGE_CASES = 1000
TRIES = 5
"""How often a case is run until its fault comes about: which connection carries how much of a large one is chance."""
KINDS: dict[str, Callable[[Sizes, random.Random], list[Case]]] = {
    "cut": lambda sizes, _: list(_everywhere(sizes, "cut")),
    "cut-retried": lambda sizes, _: list(_everywhere(sizes, "cut", retries=True)),
    "reset": lambda sizes, _: list(_everywhere(sizes, "reset")),
    "half-close": lambda sizes, _: list(_everywhere(sizes, "half-close")),
    "farewell": lambda sizes, _: list(_within(sizes, "half-close")),
    "stall": lambda sizes, _: list(_everywhere(sizes, "stall"))[::29],
    "sliced": lambda sizes, _: list(_sliced(sizes)),
    "flip": lambda sizes, rng: list(_everywhere(sizes, "flip", rng.randrange(8))),
    "large": lambda sizes, rng: _some(_large(sizes, rng, "cut", "reset", "half-close", "stall")),
    "large-flip": lambda sizes, rng: _some(_large(sizes, rng, "flip")),
}
"""Kind -> all its cases."""


def _some(cases: Iterator[Case]) -> list[Case]:
    return [next(cases) for _ in range(LARGE_CASES)]


@dataclass
class Rig:
    """Both benches, the sizes measured on them, and the report; use it in a ``with``."""

    folder: Path
    report: Report = field(default_factory=Report)

    def __enter__(self) -> Rig:
        with contextlib.ExitStack() as opened:
            opened.callback(setattr, lines, "BACKOFF_SECONDS", lines.BACKOFF_SECONDS)
            lines.BACKOFF_SECONDS = BACKOFF_SECONDS
            self.benches = {
                on: opened.enter_context(Bench(self.folder / ("tls" if on else "plain"), tls_on=on))
                for on in (False, True)
            }
            self.sizes: Sizes = {
                (act, on, within): bench.measure(act, within=within)
                for on, bench in self.benches.items()
                for act in ACTS
                for within in bench.breakers
            }
            for bench in self.benches.values():
                bench.rest()
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def cases(self, kind: str, seed: int, count: int | None = None) -> list[Case]:
        """The cases of a kind, or so many of them, by chance."""
        rng = random.Random(f"{kind} {seed}")
        cases = KINDS[kind](self.sizes, rng)
        return cases if count is None or count >= len(cases) else rng.sample(cases, count)

    def run(self, kind: str, cases: Iterable[Case]) -> None:
        """Run them, and keep what came of each."""
        for case in cases:
            self._run(kind, case)

    def _run(self, kind: str, case: Case) -> None:
        report, bench = self.report, self.benches[case.tls]
        breaker = bench.breakers[case.within]
        for _ in range(1 if case.fault.what == "none" else TRIES):
            began = time.monotonic()
            error, wrong = bench.run(case)
            report.slowest = max(report.slowest, time.monotonic() - began)
            report.served = max(report.served, bench.served)
            if breaker.fired or wrong:
                break
        report.cases[kind] += 1
        if breaker.fired:
            report.fired[kind] += 1
            outcome = type(error).__name__ if error is not None else "done"
            if case.fault.what == "flip" and error is None and not wrong:
                outcome = self._judge(case, breaker, wrong)
            report.outcomes[f"{kind} {outcome}"] += 1
        report.violations += [f"{case}: {sentence}" for sentence in wrong]

    def _judge(self, case: Case, breaker: Breaker, wrong: list[str]) -> str:
        """What became of a flip although all is well: repaired, or without consequence for a reason."""
        sent = breaker.passages[case.connection].sent[case.way]
        place = field_at(bytes(sent), case.fault.after, encrypted=case.tls)
        if place in HARMLESS:
            self.report.harmless[place] += 1
            return "harmless"
        if case.act not in SMALL:
            return "repaired"  # the file is right, so it was noticed: what broke was sent again
        wrong.append(f"nobody noticed: {place}")
        return "unnoticed"
