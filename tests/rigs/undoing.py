"""A process dies, or the power fails, at every single call that changes the disk, of an operation and of its undo.

Whatever is left must be undone to what was there before. Each moment is one forked child that ends there by itself.
The control (``unsealed``) writes steps down only when they are done, and must lose.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ftpy.digests import hexdigest
from ftpy.errors import RequestError
from ftpy.files import RemotePath
from ftpy.storage import keeping, syscalls
from ftpy.storage.base import KnownDigest, NewFile
from ftpy.storage.local import LocalStorage
from ftpy.storage.operations import OperationKey, Undone
from tests.rigs.disks import PoweredDisk

MTIME_NS = 10**18
MOST_MOMENTS = 1000
CALLS = ("rename", "link", "mkdir", "rmdir", "unlink", "write")
"""What of ``os`` changes the disk, or makes it durable together with what ``syscalls`` has."""
Tree = dict[str, Any]
Death = Callable[[], None]


def tree(root: Path) -> Tree:
    """What users see."""
    found: Tree = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if not name.startswith(".ftpy"):
            found[name] = "folder" if stat.S_ISDIR(path.lstat().st_mode) else path.read_bytes()
    return found


def put(storage: LocalStorage, files: dict[str, bytes], key: OperationKey | None) -> None:
    """A group of small files."""
    staged = []
    for name, data in files.items():
        file = NewFile(RemotePath.parse(name), len(data), MTIME_NS, operation=key)
        staged.append(storage.stage(file, memoryview(data), KnownDigest("md5", hexdigest("md5", data))))
    for result in storage.publish(staged):
        if isinstance(result, RequestError):
            raise result


def build(root: Path, state: Path) -> OperationKey:
    """What is there before, and an operation that has begun."""
    with LocalStorage(root, state) as storage:
        put(storage, {"a": b"old a", "c": b"old c", "d": b"old d", "e": b"old e", "f/g/h": b"old h"}, None)
        key = OperationKey("alice", secrets.token_hex(16))
        storage.begin(key, "a rig")
        return key


def operate(root: Path, state: Path, key: OperationKey) -> None:
    """Every kind of step, and the undo of all of them."""
    path = RemotePath.parse
    with LocalStorage(root, state) as storage:
        put(storage, {"a": b"new a", "n/m/b": b"new b"}, key)
        storage.rm(path("c"), recursive=False, operation=key)
        storage.mv(path("d"), path("e"), operation=key)
        storage.rm(path("f"), recursive=True, operation=key)
        undo(storage, key)


def undo(storage: LocalStorage, key: OperationKey) -> Undone:
    """Reverse it, as a new operation."""
    by = OperationKey("alice", secrets.token_hex(16))
    storage.begin(by, "undo")
    return storage.undo(key, by, lambda effect, path: True)


def die_at(moment: int, death: Death) -> None:
    """From now on the ``moment``-th call that changes the disk is the last thing before the death."""
    left = moment

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def one(*args: Any, **kw: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                death()
            return call(*args, **kw)

        return one

    for module, names in ((os, CALLS), (syscalls, ("fsync", "syncfs", "rename_noreplace"))):
        for name in names:
            setattr(module, name, counted(getattr(module, name)))


def unsealed() -> None:
    """The control build."""
    seal, settle = keeping.Keeping.seal, keeping.Keeping.settle

    def late(self: keeping.Keeping) -> None:
        settle(self)
        seal(self)

    keeping.Keeping.seal = lambda self: None  # type: ignore[method-assign]
    keeping.Keeping.settle = late  # type: ignore[method-assign]


def moments(root: Path, state: Path, death: Death, after: Callable[[], None], step: int) -> Iterator[str]:
    """Die at one moment after the other until the work ends alive: what was violated."""
    for moment in range(1, MOST_MOMENTS, step):
        with contextlib.suppress(FileNotFoundError):
            _empty(root)
        key = build(root, state)
        before = tree(root)
        child = os.fork()
        if child == 0:
            try:
                die_at(moment, death)
                operate(root, state, key)
                os._exit(0)
            finally:
                os._exit(1)
        alive = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        if not alive:
            after()
        with LocalStorage(root, state) as storage:
            left = undo(storage, key).left
            if left:
                yield f"moment {moment}: left alone: {[str(one.error) for one in left]}"
            if tree(root) != before:
                yield f"moment {moment}: {tree(root)} is there, not {before}"
        if alive:
            print(f"{moment - 1} moments", flush=True)
            return
    yield "it never ended"


def _empty(root: Path) -> None:
    for path in root.iterdir():
        if path.name != "lost+found":
            os.system(f"rm -rf {path}")


def main(what: str, folder: str, build_name: str = "") -> int:
    """``kill`` or ``power``: violations are printed, a line each."""
    if build_name == "unsealed":
        unsealed()
    top = Path(folder)
    if what == "kill":
        root = top / "root"
        root.mkdir()
        found = list(moments(root, top / "state", lambda: os._exit(9), lambda: None, 1))
    else:
        with PoweredDisk(top) as disk:

            def power_fails() -> None:
                disk.cut()
                os._exit(9)

            def comes_back() -> None:
                disk.unmount()
                disk.mount()

            root = disk.place / "root"
            root.mkdir()
            found = list(moments(root, top / "state", power_fails, comes_back, 3))
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="ftpy-undoing-", dir=sys.argv[2]) as made:
        sys.exit(main(sys.argv[1], made, *sys.argv[3:]))
