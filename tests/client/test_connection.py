"""What a connection of the client's sees to by itself."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from ftpy.client.connection import prepare_decoder
from ftpy.wire import codec
from ftpy.wire.ping import PingReply

INTERRUPTED = """
import os, signal
from typing import Annotated
from msgspec import Struct
from ftpy.client.connection import prepare_decoder
from ftpy.wire import codec

class Odd:
    armed = False
    def __hash__(self):  # asked for by msgspec while it makes a decoder
        if Odd.armed:
            os.kill(os.getpid(), signal.SIGINT)
        return 1

class Kind(Struct):
    field: Annotated[int, Odd()]

Odd.armed = True
try:
    prepare_decoder(Kind)
    codec.decode(b'{"field":1}', Kind)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(os.name != "posix", reason="needs a signal to oneself")
def test_an_interrupt_is_not_lost_while_a_decoder_is_made() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def test_where_no_thread_is_to_be_had_a_decoder_is_made_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(codec, "_decoders", {})
    monkeypatch.setattr(threading.Thread, "start", none_left)
    prepare_decoder(PingReply)
    assert not codec.is_prepared(PingReply)
    assert codec.decode(b'{"id":1,"ok":true,"length":0}', PingReply).id == 1
