"""Capabilities(7) of root."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def without_overriding() -> Iterator[None]:
    """Modes stop this thread, and those that it starts, even where it is root. Elsewhere the test is passed over."""
    if sys.platform != "linux":
        pytest.skip("capabilities(7) are Linux's")
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    words = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, words) == 0
    effective = words[0]
    words[0] &= ~(1 << 1 | 1 << 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, words) == 0
    try:
        yield
    finally:
        words[0] = effective
        assert libc.capset(header, words) == 0
