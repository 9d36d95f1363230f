"""The audit trail: a line for everything that was done or refused, with who, what and how it ended.

An ``Act`` is one request under way. However it ends, it becomes one line in the ``Trail`` of its connection, which goes
to the log and, as a JSON object, to the file of ``log.audit``: several lines in one write (``Audit``).
"""

from __future__ import annotations

import logging
import os
import re
import stat
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import msgspec

from ftpy.durable import check_private
from ftpy.errors import ConfigError, RequestError
from ftpy.files import display
from ftpy.server.logs import clean, timestamp
from ftpy.storage.base import KnownDigest
from ftpy.wire.bases import PathRequest, Request, UnknownRequest
from ftpy.wire.commands import RunRequest
from ftpy.wire.messages import CommitRequest, GetRequest, MkdirRequest, MvRequest, PutRequest, RmRequest
from ftpy.wire.operations import ForgetRequest, UndoRequest
from ftpy.wire.trees import DiscardRequest, RollbackRequest, StageRequest, SwapRequest
from ftpy.wire.upkeep import TouchRequest

log = logging.getLogger("ftpy.server")

MOST_LINES = 256
"""Lines kept back at most; they are written before the connection waits for its peer, too."""
MOST_CHARACTERS = 1024
"""Of one fact: a legal path has no more, and an illegal one need not fill the disk."""
REPEAT_SECONDS = 60.0
"""How often it is said again that the file cannot be written."""
OK = "ok"
_FLAGS = (
    os.O_WRONLY
    | os.O_APPEND
    | os.O_CREAT
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a FIFO that nobody reads must not keep the server waiting
)
_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])")


EVENTS: dict[type[Request], str] = {
    PutRequest: "put",
    CommitRequest: "put",
    MkdirRequest: "mkdir",
    RmRequest: "delete",
    MvRequest: "move",
    GetRequest: "get",
    TouchRequest: "touch",
    RunRequest: "run",
    UndoRequest: "undo",
    ForgetRequest: "forget",
    StageRequest: "stage",
    SwapRequest: "swap",
    DiscardRequest: "discard",
    RollbackRequest: "rollback",
}
"""What comes of a request; of others only refusals are told, as ``refused``."""

Facts = dict[str, Any]


@dataclass(slots=True)
class Lines:
    """Several events that differ in their ``facts``, at ``time`` (seconds since the epoch).

    The log calls them ``said`` and leaves the digests out; empty: it does not say them. There are always some facts.
    """

    event: str
    outcome: str
    facts: list[Facts]
    said: str
    level: int = logging.INFO
    time: float = field(default_factory=time.time)


def outcome_of(error: BaseException) -> str:
    """The word for how something failed: an error's code, or its name in that form."""
    return getattr(error, "code", "") or _WORDS.sub("-", type(error).__name__).lower()


class Audit:
    """Where trails lead: the log, and the file at ``path`` unless that is empty. Safe in any thread and process.

    The file is appended to, each time in one write(2), so that lines of several processes never mix. What cannot be
    written is lost and counted, never waited for.
    """

    def __init__(self, path: str = "") -> None:
        """Open the file. Raises ConfigError: cannot be written, no regular file, readable by others."""
        self._path = path
        self._lock = threading.Lock()
        self._encoder = msgspec.json.Encoder()
        self._lost = 0
        self._said = 0.0
        self._torn = False
        self._file = _opened(path) if path else -1

    def close(self) -> None:
        """Close the file; lines go to the log only from now on."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def reopen(self, path: str) -> None:
        """Go on in what is at ``path`` now, as after the old was renamed; if that fails, say so and keep the old."""
        try:
            fresh = _opened(path) if path else -1
        except ConfigError as error:
            log.error("audit-failed", extra={"event": "audit-failed", "fields": {"reason": str(error)}})
            return
        with self._lock:
            old, self._file, self._path, self._torn = self._file, fresh, path, False
        if old >= 0:
            os.close(old)

    def write(self, who: Facts, several: list[Lines]) -> None:
        """Write lines about one peer."""
        if self._file >= 0:
            data = b"".join([self._encoded(who, lines) for lines in several])
            self._append(data, sum(len(lines.facts) for lines in several))
        for lines in several:
            if lines.said and log.isEnabledFor(lines.level):
                _say(who, lines)

    def _encoded(self, who: Facts, lines: Lines) -> bytes:
        """A JSON object a line: what all have in common is written once, and put before the facts of each."""
        common = {"time": timestamp(lines.time), "event": lines.event, **who, "outcome": lines.outcome}
        head = self._encoder.encode(common)[:-1]
        each = b"\n" + self._encoder.encode_lines(lines.facts)[:-1]  # no line holds an end of line but its own
        return each.replace(b"\n{", b"\n" + head + b",")[1:] + b"\n"

    def _append(self, data: bytes, lines: int) -> None:
        with self._lock:
            if self._file < 0:
                return
            try:
                written = os.write(self._file, b"\n" + data if self._torn else data)
            except OSError as error:
                self._lose(lines, error.strerror or str(error))
                return
            full = len(data) + self._torn
            self._torn = written < full  # the disk is full: what comes next begins on a line of its own
            if self._torn:
                self._lose(lines, "only a part was written")
            elif self._lost:
                fields = {"path": self._path, "lost": self._lost}
                log.warning("audit-written-again", extra={"event": "audit-written-again", "fields": fields})
                self._lost = 0

    def _lose(self, lines: int, reason: str) -> None:
        first, now = not self._lost, time.monotonic()
        self._lost += lines
        if first or now - self._said >= REPEAT_SECONDS:
            self._said = now
            fields = {"path": self._path, "reason": reason, "lost": self._lost}
            log.error("audit-failed", extra={"event": "audit-failed", "fields": fields})


def check_audit(path: str) -> None:
    """Whether a server could write to the file, without making it. Raises ConfigError."""
    if os.path.lexists(path):
        os.close(_opened(path))
    elif not os.access(os.path.dirname(path), os.W_OK | os.X_OK):
        raise ConfigError(f"{display(path)}: cannot be made there; is its folder there?")


def _opened(path: str) -> int:
    """The file at ``path``, to append to; made, for its owner alone, where it is missing. Raises ConfigError."""
    try:
        descriptor = os.open(path, _FLAGS, 0o600)
    except OSError as error:
        raise ConfigError(f"{display(path)}: cannot be written: {error.strerror or error}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{display(path)}: not a regular file")
        check_private(path, status, holds="who did what")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _say(who: Facts, lines: Lines) -> None:
    fields = who if lines.outcome == OK else {**who, "error": lines.outcome}
    each = [facts.copy() for facts in lines.facts]
    for facts in each:
        facts.pop("digest", None)
    extra = {"event": lines.said, "fields": fields, "each": each}
    if len(each) == 1:
        extra = {"event": lines.said, "fields": fields | each[0]}
    log.log(lines.level, lines.said, extra=extra)


class Trail:
    """What is told of one peer; several lines are written at once. Safe in any thread."""

    def __init__(self, audit: Audit, **who: Any) -> None:
        self.who: Facts = who
        """Facts that are in every line."""
        self._audit = audit
        self._lock = threading.Lock()
        self._held: list[Lines] = []
        self._count = 0

    def tell(
        self, event: str, outcome: str, *, said: str = "", level: int = logging.INFO, seconds: float = 0.0, **facts: Any
    ) -> None:
        """Something ended after so many seconds, and is written at once."""
        self.add(Lines(event, outcome, [_clean(facts) | {"seconds": round(seconds, 6)}], said, level))
        self.flush()

    def done(self, acts: Iterable[tuple[Act, int | None, KnownDigest | None]]) -> None:
        """Requests were done, each with so many bytes of this digest."""
        now = time.monotonic()
        for event, several in groupby(acts, key=lambda done: EVENTS.get(type(done[0].request))):  # type: ignore[arg-type]
            facts = [act.facts(now, size, digest) for act, size, digest in several if act.ends()]
            if event is not None and facts:
                self.add(Lines(event, OK, facts, event))

    def add(self, lines: Lines) -> None:
        """Keep lines back, for a while."""
        with self._lock:
            self._held.append(lines)
            self._count += len(lines.facts)
            if self._count >= MOST_LINES:
                self._flush()

    def flush(self) -> None:
        """Write what was kept back."""
        if self._held:
            with self._lock:
                self._flush()

    def _flush(self) -> None:
        held, self._held, self._count = self._held, [], 0
        if held:
            self._audit.write(self.who, held)


class Act:
    """One request, from its first byte until it was done or refused; told once, however often it ends.

    ``path`` is the one that it turned out to be about, where the request does not say; ``more`` is told besides.
    ``moved`` are the bytes of output that a command has had so far.
    """

    __slots__ = ("_told", "more", "moved", "path", "request", "started", "trail")

    def __init__(self, trail: Trail, request: Request | UnknownRequest) -> None:
        self.trail, self.request = trail, request
        self.path: str | None = None
        self.more: Facts = {}
        self.moved = 0
        self.started = time.monotonic()
        self._told = False

    def continues(self, before: Act) -> None:
        """This request ends what another one began, and for the same operation."""
        self.started = before.started
        if (operation := getattr(before.request, "operation", None)) is not None:
            self.more["operation"] = operation

    @property
    def verb(self) -> str:
        """As the peer worded it."""
        request = self.request
        return request.cmd if isinstance(request, UnknownRequest) else str(request.__struct_config__.tag)

    def done(self, size: int | None = None, digest: KnownDigest | None = None) -> None:
        """It was done: ``size`` bytes with this digest."""
        self.trail.done([(self, size, digest)])

    def failed(self, error: BaseException, sent: int | None = None) -> None:
        """It was refused; or it was broken off with its connection, when ``sent`` bytes of a file had left.

        Of the latter the log has the end of the connection already.
        """
        if not self.ends():
            return
        event = EVENTS.get(type(self.request), "refused")  # type: ignore[arg-type]
        facts = {"verb": self.verb, **self.facts(time.monotonic(), sent), "reason": str(error)}
        level = logging.INFO if isinstance(error, RequestError) else logging.DEBUG
        self.trail.add(Lines(event, outcome_of(error), [_clean(facts)], "refused", level))

    def ends(self) -> bool:
        """Whether it ends now for the first time."""
        told, self._told = self._told, True
        return not told

    def facts(self, now: float, size: int | None = None, digest: KnownDigest | None = None) -> Facts:
        """What it was about, and how long it took until ``now``, by the monotonic clock."""
        facts: Facts = {}
        request = self.request
        path = request.spelt_path() if isinstance(request, PathRequest) else self.path
        if path is not None:
            facts["path"] = clean(path[:MOST_CHARACTERS])
        if isinstance(request, MvRequest):
            facts["to"] = clean(request.spelt_target()[:MOST_CHARACTERS])
        if isinstance(request, RunRequest):
            facts["command"] = request.command
        for member in ("operation", "tree"):
            if (named := getattr(request, member, None)) is not None:
                facts[member] = named
        if isinstance(request, UndoRequest):
            facts["by"] = request.by
        facts |= self.more
        if size is not None:
            facts["bytes"] = size
        if digest is not None:
            facts["digest"] = f"{digest.name}:{digest.hex}"
        facts["seconds"] = round(now - self.started, 6)
        return facts


def _clean(facts: Facts) -> Facts:
    """Those that there are; what a peer may have worded is cleaned, as in logs."""
    return {
        name: clean(fact[:MOST_CHARACTERS]) if type(fact) is str else fact
        for name, fact in facts.items()
        if fact is not None
    }
