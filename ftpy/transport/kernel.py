"""What the kernel knows of a TCP connection (Linux: TCP_INFO of tcp(7), struct tcp_info of linux/tcp.h)."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

_TOTAL_RETRANSMITS = 100
_BUSY, _WINDOW_LIMITED, _BUFFER_LIMITED, _END = 168, 176, 184, 192
"""Where the fields begin, bytes; the last three count microseconds (since Linux 4.10)."""


class LineTimes(NamedTuple):
    """Nanoseconds with something on its way to the peer, and of these with more to send and no room for it at the peer
    or in our buffer; packets sent again. All 0 where the kernel does not tell.
    """

    busy_ns: int = 0
    window_ns: int = 0
    resent: int = 0


def line_times(sock: socket.socket) -> LineTimes:
    """What was counted since the connection began, of what this end sent."""
    if not hasattr(socket, "TCP_INFO"):
        return LineTimes()
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _END)
    except OSError:  # a Unix socket, or one that is closed
        return LineTimes()
    if len(info) < _END:
        return LineTimes()
    (resent,) = struct.unpack_from("=I", info, _TOTAL_RETRANSMITS)
    busy, window, buffer = (struct.unpack_from("=Q", info, at)[0] for at in (_BUSY, _WINDOW_LIMITED, _BUFFER_LIMITED))
    return LineTimes(busy * 1000, (window + buffer) * 1000, resent)
