"""One listening socket: accept, admit, a thread for the connection; and what is done where something is used up."""

from __future__ import annotations

import errno
import logging
import os
import socket
import socketserver
import sys
from typing import TYPE_CHECKING, Any

from ftpy.server.admission import source_of
from ftpy.server.audit import Trail
from ftpy.server.connection import RequestHandler
from ftpy.server.listening import Listener
from ftpy.server.seldom import Seldom
from ftpy.server.serving import Serving

if TYPE_CHECKING:
    from ftpy.server.server import Service

log = logging.getLogger("ftpy.server")

STARVED_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Server(Serving, socketserver.ThreadingTCPServer):
    """One listening socket; a thread only for a connection that was admitted."""

    daemon_threads = False
    block_on_close = False  # the service waits for its connections itself, with a limit

    def __init__(self, listener: Listener, service: Service) -> None:
        self.service = service
        self.address = listener.address
        self.listener = listener
        self._sources: dict[int, str] = {}
        self._seldom = Seldom()
        super().__init__(listener.socket, RequestHandler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; when this process is starved, wait a moment instead of spinning on the same error."""
        try:
            accepted, address = self.socket.accept()
            if self.socket.gettimeout() is not None:
                accepted.setblocking(True)  # macOS: it takes after a listening socket that does not block
            return accepted, address
        except OSError as error:
            if error.errno in STARVED_ERRNOS:
                self.starve(os.strerror(error.errno))
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for the connection; where there is none to be had, it is closed: it may come again."""
        try:
            super().process_request(request, client_address)
        except RuntimeError as error:
            self.shutdown_request(request)
            self.starve(str(error))

    def starve(self, reason: str) -> None:
        """Something is used up: say so now and then, and wait a moment."""
        self._seldom.say_failed("accept-failed", reason)
        super().starve(reason)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Admit the connection, or refuse it before it costs a thread."""
        source = source_of(client_address)
        reason, evicted = self.service.admission.admit(id(request), source)
        if evicted is not None:
            self.service.break_off(evicted)
        if reason is not None:
            outcome = "penalised" if reason == "penalties" else "refused-at-limit"
            said = "" if reason == "penalties" else outcome  # said once a penalty, by who keeps them
            if times := self._seldom.due((source, reason)):
                trail = Trail(self.service.audit, source=source)
                trail.tell("refused", outcome, said=said, level=logging.WARNING, limit=reason, times=times)
            return False
        self._sources[id(request)] = source
        return True

    def shutdown_request(self, request: Any) -> None:
        """Close the socket and count its connection out."""
        super().shutdown_request(request)
        source = self._sources.pop(id(request), None)
        if source is not None:
            self.service.admission.leave(id(request), source)

    def describe(self, client_address: Any) -> str:
        """The peer, for the log."""
        if isinstance(client_address, tuple):
            host, port = client_address[:2]
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return "unix"

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A defect: what escaped a handler; or no memory was left, which is none. The server goes on."""
        if isinstance(sys.exc_info()[1], MemoryError):
            self.starve(os.strerror(errno.ENOMEM))
            return
        log.exception(
            "connection-failed",
            extra={"event": "connection-failed", "fields": {"source": self.describe(client_address)}},
        )

    def server_close(self) -> None:
        """Stop listening; the file of a Unix socket goes with it, if we made it."""
        super().server_close()
        self.listener.close()
