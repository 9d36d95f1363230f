"""The beacon: who is here and what the time is, over UDP, for anybody who asks (docs/protocol.md 20).

A ``Beacon`` is a ``socketserver.ThreadingUDPServer`` for one address; the ``Gate`` is what all of them share: which
datagrams are answered, and what became of the others.
"""

from __future__ import annotations

import logging
import socket
import socketserver
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

from ftpy.errors import ProtocolError
from ftpy.server.admission import source_of
from ftpy.server.listening import BeaconListener
from ftpy.server.ration import Ration
from ftpy.server.rows import BeaconRow
from ftpy.server.seldom import Seldom
from ftpy.server.serving import Serving
from ftpy.version import __version__
from ftpy.wire.beacon import NAME_CHARACTERS, QUESTION_BYTES, ZONE_CHARACTERS, Answer, read_question, tell

if TYPE_CHECKING:
    from ftpy.server.server import Service

log = logging.getLogger("ftpy.server")

MOST_THREADS = 4
"""Answers under way in threads of their own; the next one is given by the thread that listens, before it reads on."""
MOST_LOOKS = 2000
"""Datagrams a second that a socket looks at, some 6 % of a core; of a flood the kernel drops the rest, unseen."""
REST_SECONDS = 0.02

Outcome = Literal["answered", "garbage", "limited", "failed"]
Datagram = tuple[bytes, int]
"""What came, and when, nanoseconds since the epoch."""


class Gate:
    """What the beacons of one process say, to whom, and what became of all that came. Safe in any thread."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._counts: Counter[Outcome] = Counter()
        self._ration = Ration()
        self._seldom = Seldom()

    def admits(self, datagram: bytes, source: str) -> bool:
        """Whether it is worth a look: what costs the least to tell is looked at first."""
        if len(datagram) != QUESTION_BYTES:
            self.ended("garbage", source)
            return False
        settings = self._service.config.beacon
        with self._lock:
            admitted = self._ration.admits(source, settings.answers_per_second) and self._ration.admits(
                None, settings.most_answers_per_second
            )
        if not admitted:
            self.ended("limited", source)
        return admitted

    def answer(self, nonce: str, received_ns: int) -> bytes:
        """What is said to a question that came at ``received_ns``."""
        service = self._service
        now = time.localtime()
        pin = service.identity.binding.certificate_sha256
        return tell(
            Answer(
                version=1,
                nonce=nonce,
                received_ns=received_ns,
                utc_offset_seconds=now.tm_gmtoff,
                zone=_plain(now.tm_zone, ZONE_CHARACTERS),
                name=self.name,
                server=f"ftpy {__version__}",
                port=self._port(),
                certificate_sha256=pin.hex() if pin else None,
                sent_ns=max(received_ns, time.time_ns()),  # somebody may have set the clock back in between
            )
        )

    @property
    def name(self) -> str:
        """What the server calls itself."""
        return self._service.config.beacon.name or _plain(socket.gethostname(), NAME_CHARACTERS)

    def _port(self) -> int:
        """Where it listens for TCP: the port that others reach, where there is one."""
        found = sorted((one for one in self._service.addresses if one.kind == "tcp"), key=lambda one: one.is_loopback)
        return found[0].port if found else 0

    def ended(self, outcome: Outcome, source: str) -> None:
        """Count what became of a datagram; what is dropped is told seldom."""
        with self._lock:
            self._counts[outcome] += 1
        if outcome != "answered" and (times := self._seldom.due(outcome)):
            fields = {"reason": outcome, "source": source, "times": times}
            log.warning("beacon-dropped", extra={"event": "beacon-dropped", "fields": fields})

    def row(self, listening: list[str]) -> BeaconRow:
        """The same for who asks."""
        with self._lock:
            counts = self._counts.copy()
        return BeaconRow(
            listening=listening,
            name=self.name,
            answered=counts["answered"],
            garbage=counts["garbage"],
            limited=counts["limited"],
            failed=counts["failed"],
        )


class BeaconHandler(socketserver.BaseRequestHandler):
    """Answers one datagram, or drops it."""

    server: Beacon

    def handle(self) -> None:
        """A question is answered where it says that it comes from, with no more bytes than it has."""
        gate, source = self.server.gate, _source(self.client_address)
        datagram, received_ns = self.request
        try:
            answer = gate.answer(read_question(datagram).nonce, received_ns)
        except ProtocolError:
            gate.ended("garbage", source)
            return
        assert len(answer) <= len(datagram)
        try:
            self.server.socket.sendto(answer, self.client_address)
        except OSError:  # no room, no way there, or closed by now: as good as lost on the way
            gate.ended("failed", source)
        else:
            gate.ended("answered", source)


class Beacon(Serving, socketserver.ThreadingUDPServer):
    """One UDP socket; threads for few answers at a time, so that a flood of questions is none of threads."""

    daemon_threads = True
    block_on_close = False
    max_packet_size = QUESTION_BYTES + 1  # so that what is longer shows

    def __init__(self, listener: BeaconListener, gate: Gate) -> None:
        self.listener, self.gate = listener, gate
        self.address = listener.address
        self._threads_left = threading.Semaphore(MOST_THREADS)
        self._looks = Ration()
        super().__init__(listener.socket, BeaconHandler)

    def get_request(self) -> tuple[Any, Any]:
        """The next datagram, with the time; in a flood, after a rest."""
        if not self._looks.admits(None, MOST_LOOKS):
            time.sleep(REST_SECONDS)
        datagram, address = self.socket.recvfrom(self.max_packet_size)
        return (datagram, time.time_ns()), address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether the datagram is worth a look."""
        return self.gate.admits(request[0], _source(client_address))

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread if there is one left, else here."""
        if self._threads_left.acquire(blocking=False):
            try:
                super().process_request(request, client_address)
            except (RuntimeError, MemoryError):  # no thread to be had
                self._threads_left.release()
            else:
                return
        socketserver.UDPServer.process_request(self, request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """As ThreadingMixIn's, for one of few."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._threads_left.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A defect of ours, or no memory was left; it goes on."""
        self.gate.ended("failed", _source(client_address))
        if not isinstance(sys.exc_info()[1], MemoryError):
            log.exception("beacon-failed", extra={"event": "beacon-failed", "fields": {}})

    def server_close(self) -> None:
        """Let the socket go."""
        self.listener.close()


def _source(address: Any) -> str:
    """Whose ration counts: as of connections, but everybody on a link shares the first half of its own addresses."""
    host = str(address[0]).partition("%")[0]
    return host if host.lower().startswith("fe80:") else source_of(address)


def _plain(text: str, most: int) -> str:
    """A word of this host's, fit for an answer."""
    return text[:most] if text.isprintable() else ""
