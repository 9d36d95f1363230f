"""Landlock, by which a process gives up for good what it does not need (landlock(7)): the system calls, through ctypes.

All raise OSError. ENOSYS: not this system, or a kernel before 5.13; EOPNOTSUPP: switched off at boot; EPERM: some
filter of system calls does not know them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
from collections.abc import Callable
from typing import Any

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""The same on every architecture that Python runs on."""
_VERSION = 1
_PATH_BENEATH = 1
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
"""What can be allowed of something that is no directory."""

_FILES_BY_ABI = {1: (1 << 13) - 1, 2: REFER, 3: TRUNCATE, 5: IOCTL_DEV}
_NET_BY_ABI = {4: 0b11}
"""TCP: bind, connect."""
_SCOPES_BY_ABI = {6: 0b11}
"""Of whoever is not confined with us: abstract Unix sockets, signals."""


class _RulesetAttr(ctypes.Structure):
    """``struct landlock_ruleset_attr``; an older kernel knows only its beginning."""

    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneathAttr(ctypes.Structure):
    """``struct landlock_path_beneath_attr``."""

    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def _known(by_abi: dict[int, int], abi: int) -> int:
    return sum(bits for since, bits in by_abi.items() if since <= abi)


def _function(name: str, *arguments: Any) -> Callable[..., int]:
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    function.argtypes, function.restype = arguments, ctypes.c_long
    return function  # type: ignore[no-any-return]


def _syscall(number: int, *arguments: int) -> int:
    function = _function("syscall", *[ctypes.c_long] * (1 + len(arguments)))
    return _checked(function(number, *arguments))


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def prctl(option: int, argument: int) -> None:
    """Tell the kernel something about this process (prctl(2))."""
    function = _function("prctl", ctypes.c_int, *[ctypes.c_ulong] * 4)
    _checked(function(option, argument, 0, 0, 0))


def abi() -> int:
    """Which version the kernel has: a higher one knows more to give up."""
    return _syscall(_CREATE_RULESET, 0, 0, _VERSION)


class Ruleset:
    """What this thread, and whatever it makes from then on, is left with: nothing but what was allowed."""

    def __init__(self, abi: int) -> None:
        """Give up all that this version knows of."""
        self._files = _known(_FILES_BY_ABI, abi)
        attr = _RulesetAttr(self._files, _known(_NET_BY_ABI, abi), _known(_SCOPES_BY_ABI, abi))
        size = 8 * (1 + (abi >= min(_NET_BY_ABI)) + (abi >= min(_SCOPES_BY_ABI)))
        self._fd = _syscall(_CREATE_RULESET, ctypes.addressof(attr), size, 0)

    def allow(self, path: str, rights: int) -> None:
        """Keep ``rights`` on a file, or on a directory and all below it; links are followed now, once."""
        beneath = os.open(path, os.O_PATH)  # type: ignore[attr-defined,unused-ignore]
        try:
            if not stat.S_ISDIR(os.fstat(beneath).st_mode):
                rights &= _FILE
            attr = _PathBeneathAttr(rights & self._files, beneath)
            _syscall(_ADD_RULE, self._fd, _PATH_BENEATH, ctypes.addressof(attr), 0)
        finally:
            os.close(beneath)

    def enforce(self) -> None:
        """Give up the rest, and ever to get more by a program that is setuid; there is no way back."""
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        _syscall(_RESTRICT_SELF, self._fd, 0)

    def close(self) -> None:
        """Close it; what is enforced stays."""
        os.close(self._fd)
