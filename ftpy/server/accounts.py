"""Who may come in, and what each may do: a file of verifiers, read again whenever it changes.

The file holds no key: it is enough to check a proof, not to make one (docs/protocol.md, authentication). It
is still kept from others, because with it a server could be impersonated towards its users.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from ftpy.durable import check_private, locked, read_file, replace_file, writing
from ftpy.errors import ConfigError, ProtocolError
from ftpy.files import display
from ftpy.toml import unknown
from ftpy.wire.auth import KEY_BYTES, Verifier, verifier
from ftpy.wire.messages import UserName
from ftpy.wire.spelling import b64decode, b64encode

RIGHTS = ("ls", "get", "put")
"""What a user can be allowed; a verb names the right that it needs."""
LOOK_SECONDS = 0.25
"""Least time between two looks at the file for open sessions, seconds."""

log = logging.getLogger(__name__)

_Secret = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43}\Z")]
"""32 bytes, base64url."""


class _User(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One user in the file; ``root`` null is the server's root, relative ones are relative to the file's folder."""

    name: UserName
    stored_key: _Secret
    server_key: _Secret
    root: Annotated[str, Meta(min_length=1)] | None = None
    rights: list[str]
    created_ns: int

    def __repr__(self) -> str:
        return f"_User(name={self.name!r}, root={self.root!r}, rights={self.rights!r})"


class _File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """users.json; ``decoy_key`` makes the verifiers of users that do not exist."""

    decoy_key: _Secret
    users: list[_User] = []

    def __repr__(self) -> str:
        return f"_File(users={self.users!r})"


@dataclass(frozen=True, slots=True)
class Account:
    """A user: ``root`` is an absolute path, or None for the server's root; ``rights`` out of RIGHTS."""

    name: str
    root: str | None
    rights: frozenset[str]
    created_ns: int = 0
    stored_key: str = field(default="", repr=False)
    """Tells an account from the same one with another key."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What the file said when it was last good."""

    decoy_key: bytes = field(repr=False)
    users: dict[str, tuple[Verifier, Account]]


_Stamp = tuple[int, int, int, int]
"""A file's mtime_ns, ctime_ns (a chmod also counts), inode, size."""


class Accounts:
    """The users of one file. Every method is safe in any thread, and beside other processes that edit the file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the file. Raises ConfigError: absent, readable by others, not ours, not right."""
        self._path = os.path.abspath(path)
        self._lock = threading.Lock()
        file, self._stamp = self._read()
        self._known = self._understand(file)
        self._looked = time.monotonic()
        self._reported: _Stamp | None = None

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> Accounts:
        """Begin a file without users. Raises ConfigError where there is one already."""
        target = os.path.abspath(path)
        with writing(target), locked(target):
            if os.path.lexists(target):
                raise ConfigError(f"{display(target)}: exists already")
            _write(target, _File(decoy_key=b64encode(secrets.token_bytes(KEY_BYTES))))
        return cls(target)

    # ---------------------------------------------------------------- for the server

    def lookup(self, user: str) -> tuple[Verifier, Account | None]:
        """The verifier to check a proof with, and the account.

        For an unknown user a verifier that nobody can meet, always the same for the same name, after the
        same work: neither the answer nor its time tells who exists.
        """
        with self._lock:
            self._look()
            known = self._known
        decoy: tuple[Verifier, Account | None] = (verifier(known.decoy_key, user), None)
        return known.users.get(user, decoy)

    def is_current(self, account: Account) -> bool:
        """Whether the account stands as it was looked up: not removed, same key, root and rights.

        Cheap enough to be asked before every request.
        """
        with self._lock:
            if time.monotonic() - self._looked >= LOOK_SECONDS:
                self._look()
            found = self._known.users.get(account.name)
        return found is not None and (found[1] is account or found[1] == account)

    def _look(self) -> None:
        """Read the file again if it changed; a broken one is reported once and changes nothing."""
        self._looked = time.monotonic()
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        try:
            file, read = self._read()
            self._known = self._understand(file)
        except ConfigError as error:
            # It may only have been out of reach for a moment: it is read again at the next look.
            if stamp != self._reported:
                log.error("users kept as they were", extra={"event": "users-broken", "fields": {"error": str(error)}})
            self._reported = stamp
        else:
            self._stamp = read
            log.info("users read", extra={"event": "users-read", "fields": {"users": len(self._known.users)}})

    # ---------------------------------------------------------------- for the administrator

    def all(self) -> list[Account]:
        """Every account, by name."""
        with self._lock:
            self._look()
            return [account for _, (_, account) in sorted(self._known.users.items())]

    def add(self, name: str, *, root: str | None = None, rights: tuple[str, ...] = RIGHTS) -> bytes:
        """Add a user: the key to hand over, 32 bytes, kept nowhere. Raises ConfigError."""
        check_user_name(name)
        with self._edited() as users:
            if name in users:
                raise ConfigError(f"there is a user {name} already; `user rotate` gives a new key")
            key, keys = _fresh_keys(name)
            users[name] = _User(
                name=name,
                root=os.path.abspath(root) if root is not None else None,
                rights=[right for right in RIGHTS if right in rights],
                created_ns=time.time_ns(),
                **keys,
            )
        return key

    def rotate(self, name: str) -> bytes:
        """Replace a user's key: the new one; the old one is worth nothing from now on. Raises ConfigError."""
        with self._edited() as users:
            _check_known(name, users)
            key, keys = _fresh_keys(name)
            users[name] = msgspec.structs.replace(users[name], **keys)
        return key

    def remove(self, name: str) -> None:
        """Remove a user, but none of the files. Raises ConfigError."""
        with self._edited() as users:
            _check_known(name, users)
            del users[name]

    @contextlib.contextmanager
    def _edited(self) -> Iterator[dict[str, _User]]:
        """The users as they are in the file now, to be changed; written when all went well."""
        with writing(self._path), locked(self._path):
            file, _ = self._read()
            users = {user.name: user for user in file.users}
            yield users
            after = msgspec.structs.replace(file, users=[users[name] for name in sorted(users)])
            known = self._understand(after)
            _write(self._path, after)
            with self._lock:
                self._known, self._stamp = known, _stamp(self._path)

    def _read(self) -> tuple[_File, _Stamp]:
        data, status = read_file(self._path)
        check_private(self._path, status)
        try:
            return msgspec.json.decode(data, type=_File), _stamp_of(status)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{display(self._path)}: {display(str(error))}") from None

    def _understand(self, file: _File) -> _Known:
        users: dict[str, tuple[Verifier, Account]] = {}
        for user in file.users:
            if user.name in users:
                raise ConfigError(f"{display(self._path)}: user {user.name} is there twice")
            for right in user.rights:
                if right not in RIGHTS:
                    message = unknown(f"user {user.name}: unknown right {display(right)}", right, RIGHTS)
                    raise ConfigError(f"{display(self._path)}: {message}")
            users[user.name] = (
                Verifier(stored_key=self._secret(user.stored_key), server_key=self._secret(user.server_key)),
                Account(
                    name=user.name,
                    root=os.path.join(os.path.dirname(self._path), user.root) if user.root is not None else None,
                    rights=frozenset(user.rights),
                    created_ns=user.created_ns,
                    stored_key=user.stored_key,
                ),
            )
        return _Known(decoy_key=self._secret(file.decoy_key), users=users)

    def _secret(self, text: str) -> bytes:
        try:
            return b64decode(text)
        except ProtocolError:
            raise ConfigError(f"{display(self._path)}: a key in it is not base64url") from None


def check_user_name(name: str) -> None:
    """Raises ConfigError for what cannot be a user's name."""
    try:
        msgspec.convert(name, UserName)
    except msgspec.ValidationError:
        raise ConfigError(
            f"{display(name)}: a user's name is 1 to 64 of a-z, 0-9, . _ - and begins with a letter or digit"
        ) from None


def legal_user_name(name: str) -> str:
    """A legal user name that resembles ``name``; ``user`` where nothing is left of it."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).lstrip("._-")[:64] or "user"


def _check_known(name: str, users: dict[str, _User]) -> None:
    if name not in users:
        raise ConfigError(unknown(f"there is no user {display(name)}", name, users))


def _fresh_keys(name: str) -> tuple[bytes, dict[str, Any]]:
    key = secrets.token_bytes(KEY_BYTES)
    keys = verifier(key, name)
    return key, {"stored_key": b64encode(keys.stored_key), "server_key": b64encode(keys.server_key)}


def _write(path: str, file: _File) -> None:
    replace_file(path, msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n", 0o600)


def _stamp(path: str) -> _Stamp:
    try:
        return _stamp_of(os.stat(path))
    except OSError:
        return (0, 0, 0, 0)  # reading it will say what is wrong


def _stamp_of(status: os.stat_result) -> _Stamp:
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size)
