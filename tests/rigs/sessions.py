"""One session of the real client with a hostile server: what it works on, what it was told, and what none may do."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpy.client.client import Client
from ftpy.client.trees import Told, TreeOptions
from ftpy.config.client import Transfer
from ftpy.digests import hexdigest
from ftpy.errors import FtpyError
from ftpy.files import RemotePath
from tests.rigs.lying import Heard, LyingServer

if TYPE_CHECKING:
    from tests.rigs.hostilesyncs import Sync

STALL_SECONDS = 0.4
IMPATIENT = Transfer(stall_seconds=STALL_SECONDS, connect_seconds=5.0, retries=1)
FILES = {
    "a.txt": b"a" * 40,
    "d/b": bytes(range(256)) * 12,
    "d/e": b"",
    "keep.txt": b"theirs",
    "same": b"same",
    "big": bytes(range(250)) * 40,
    "link/planted": b"p",
}
"""What the server has; anything over 1,024 bytes is large to it."""
FURNITURE = {"keep.txt": b"ours", "same": b"same", "kept/deep": b"deep"}


@dataclass
class Session:
    """One session: what was asked of the client, what it said, and what is wrong with that."""

    folder: Path
    server: LyingServer
    rng: random.Random
    heard: Heard
    script: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """All that the client told its caller."""
    told: list[Told] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    sync: Sync | None = None
    """What the session did was a sync, which is judged in a way of its own."""
    force: bool = False
    process: bool = False
    """The command is a process of its own, on a pseudo-terminal."""

    @property
    def target(self) -> Path:
        """The one folder on this side that the client was told of."""
        return self.folder / "target"

    def client(self, **options: Any) -> Client:
        """A client of the hostile server; over two connections now and then."""
        transfer = IMPATIENT
        if self.rng.random() < 0.25:
            transfer = Transfer(stall_seconds=STALL_SECONDS, connect_seconds=5.0, retries=1, streams=2)
        return Client(self.server.profile, transfer, self.said.append, **options)

    def options(self) -> TreeOptions:
        """Of a tree."""
        rng = self.rng
        return TreeOptions(
            digest=rng.choice(["md5", "blake3"]),
            force=self.force,
            by_digest=rng.random() < 0.2,
            dry_run=rng.random() < 0.1,
            if_absent=rng.random() < 0.2,
            atomic=rng.random() < 0.3,
            on_told=self.told.append,
        )

    def require(self, holds: object, text: str) -> None:
        """Note what does not hold."""
        if not holds:
            self.wrong.append(text)

    def vouched(self, digest: str, what: str) -> None:
        """The server said this digest, so a success that names it is its lie and not ours."""
        self.require(digest in self.heard.digests, f"{what}: {digest} was never said by the server")


Scene = Callable[[Session], None]


def check_tree(session: Session, before: dict[str, bytes]) -> None:
    """Every file that was told as received is there, with a digest that the server said."""
    for told in session.told:
        path = Path(told.name)
        session.require(path.is_relative_to(session.target), f"get -r: told of {path}")
        if told.verdict == "identical":
            content = path.read_bytes()  # as it was before, or as it came under a name told of twice
            either = {hexdigest("md5", content), hexdigest("blake3", content)}
            ours = content == before.get(told.name) or either & session.heard.digests
            session.require(ours, f"get -r: {path} is not what was identical")
        elif told.verdict == "received" and path.exists():
            content = path.read_bytes()
            either = {hexdigest("md5", content), hexdigest("blake3", content)}
            session.require(either & session.heard.digests, f"get -r: the content of {path} was never vouched for")


def contents(target: Path) -> dict[str, bytes]:
    """Every file in the target by its path; a link says where it leads."""
    found = {}
    for where, folders, names in os.walk(target):
        for name in (*names, *folders):
            path = os.path.join(where, name)
            if os.path.islink(path):
                found[path] = os.fsencode(os.readlink(path))
            elif name in names:
                with open(path, "rb") as file:
                    found[path] = file.read()
    return found


def check_names(session: Session, new: Iterable[str]) -> None:
    """What is new in the target has a legal name and is no link."""
    for path in new:
        name = os.path.relpath(path, session.target)
        if not os.path.basename(path).startswith(".ftpy-"):
            try:
                RemotePath.parse(name)
            except FtpyError as error:
                session.wrong.append(f"a name that no file may have: {error}")
        session.require(not os.path.islink(path), f"{path} is a link")
