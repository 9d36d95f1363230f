"""What the servers of one socket each share: a loop that goes on where memory runs out, and ends in any case."""

from __future__ import annotations

import errno
import os
import socket
import socketserver
import threading
import time

POLL_SECONDS = 0.2
"""How soon a loop notices that it is to stop."""
STARVED_SECONDS = 0.1
"""Pause before the next look when there is no descriptor, thread or memory left: no spinning."""


class Serving(socketserver.BaseServer):
    """One of ``socketserver``'s servers for a socket that is ready: others may listen at it too."""

    def __init__(self, ready: socket.socket, handler: type[socketserver.BaseRequestHandler]) -> None:
        socketserver.BaseServer.__init__(self, ready.getsockname(), handler)  # TCPServer's would make a socket
        self.socket = ready
        self._is_over = threading.Event()

    def serve(self) -> None:
        """Serve until it is shut down, also after memory was not enough for that."""
        while True:
            try:
                self.serve_forever(POLL_SECONDS)  # also where it is over already: who shuts it down waits for its end
            except MemoryError:
                self.starve(os.strerror(errno.ENOMEM))
            if self._is_over.is_set():
                return

    def shutdown(self) -> None:
        """Serve nobody new; returns when the loop has ended."""
        self._is_over.set()
        super().shutdown()

    def starve(self, reason: str) -> None:  # noqa: ARG002
        """Something is used up: wait a moment."""
        time.sleep(STARVED_SECONDS)
