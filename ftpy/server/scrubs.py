"""A scrub of all that a server stores: root after root, from where the last one was interrupted."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ftpy.config.server import ServerConfig
from ftpy.durable import replace_file, writing
from ftpy.errors import ConfigError
from ftpy.files import RemotePath, display
from ftpy.server.accounts import Accounts
from ftpy.storage.scrubbing import Scrub, Scrubbed

SAVE_SECONDS = 2.0
"""How often it is written down how far a scrub is: so much is read again at most, and one file."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a scrub stands: behind this path of this root."""

    root: str
    path: RemotePath


def roots_of(config: ServerConfig) -> list[str]:
    """The real paths of all that is served, sorted: the server's root and those of users. Raises ConfigError."""
    named = [config.root, *Accounts(config.users).roots()]
    return sorted({os.path.realpath(root) for root in named})


class ScrubAll:
    """Iterate once: (root, what came of a file), where each file comes once, under the innermost root."""

    def __init__(
        self, config: ServerConfig, *, learns: bool, passed: Callable[[int], None], restart: bool = False
    ) -> None:
        self._config, self._learns, self._passed = config, learns, passed
        self._file = os.path.join(config.state, "scrub.json")
        self._saved = time.monotonic()
        self.resumed = None if restart else self._load()
        """Where the last one was interrupted."""

    def __iter__(self) -> Iterator[tuple[str, Scrubbed]]:
        roots = roots_of(self._config)
        for root in roots:
            if self.resumed is not None and root < self.resumed.root:
                continue
            after = self.resumed.path if self.resumed is not None and root == self.resumed.root else None
            skip = frozenset(_below(root, other) for other in roots if other != root and _is_below(root, other))
            yield from self._root(root, after, skip)
        with writing(self._file):
            if os.path.lexists(self._file):
                os.unlink(self._file)

    def _root(self, root: str, after: RemotePath | None, skip: frozenset[RemotePath]) -> Iterator[tuple[str, Scrubbed]]:
        last = after
        try:
            with Scrub(root, self._config.state, learns=self._learns, passed=self._passed) as scrub:
                for one in scrub.run(after, skip):
                    yield root, one
                    last = one.path
                    if time.monotonic() - self._saved > SAVE_SECONDS:
                        self._save(Place(root, last))
        except OSError as error:
            raise ConfigError(f"{display(root)}: {error.strerror or error}") from None
        except BaseException:  # interrupted: the next one goes on here
            if last is not None:
                self._save(Place(root, last))
            raise

    def _save(self, place: Place) -> None:
        data = json.dumps({"root": place.root, "path": place.path.parts}).encode()
        with writing(self._file):
            replace_file(self._file, data, 0o600)
        self._saved = time.monotonic()

    def _load(self) -> Place | None:
        try:
            with open(self._file, "rb") as file:
                found: dict[str, Any] = json.loads(file.read())
            return Place(str(found["root"]), RemotePath(tuple(map(str, found["path"]))))
        except (OSError, ValueError, KeyError, TypeError):
            return None  # none was interrupted, or it cannot be told where: from the beginning


def _is_below(root: str, other: str) -> bool:
    return other.startswith(root.rstrip("/") + "/")


def _below(root: str, other: str) -> RemotePath:
    return RemotePath(tuple(other[len(root.rstrip("/")) + 1 :].split("/")))
