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
from ftpy.errors import ConfigError, InvalidPath, ProtocolError
from ftpy.files import RemotePath, display
from ftpy.server.rights import RIGHTS, Permissions, Rule, in_order
from ftpy.storage.base import Quota
from ftpy.toml import unknown
from ftpy.wire.auth import KEY_BYTES, Verifier, verifier
from ftpy.wire.fields import UserName
from ftpy.wire.spelling import b64decode, b64encode

LOOK_SECONDS = 0.25
"""Least time between two looks at the file for open sessions, seconds."""

log = logging.getLogger(__name__)

_Secret = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43}\Z")]
"""32 bytes, base64url."""


_Quantity = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Positive = Annotated[int, Meta(ge=1, le=2**63 - 1)]


class _Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rights at a path and below it, in place of the user's."""

    path: str
    rights: list[str]


class _User(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One user in the file; ``root`` null is the server's root, relative ones are relative to the file's folder."""

    name: UserName
    stored_key: _Secret
    server_key: _Secret
    root: Annotated[str, Meta(min_length=1)] | None = None
    rights: list[str]
    rules: list[_Rule] = []
    quota_bytes: _Quantity | None = None
    quota_files: _Quantity | None = None
    rate: _Positive | None = None
    connections: _Positive | None = None
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
    """A user: ``root`` is an absolute path, or None for the server's root; ``rights`` out of RIGHTS, but for ``rules``.

    ``quota_bytes`` and ``quota_files`` are for all that is below the root, whoever stored it; ``rate`` in bytes a
    second, both ways and over all connections of the user; ``connections`` at once. None: not limited.
    """

    name: str
    root: str | None
    rights: frozenset[str]
    rules: tuple[Rule, ...] = ()
    quota_bytes: int | None = None
    quota_files: int | None = None
    rate: int | None = None
    connections: int | None = None
    created_ns: int = 0
    stored_key: str = field(default="", repr=False)
    """Tells an account from the same one with another key."""

    @property
    def owner(self) -> str:
        """Whose its uploads, operations and staged trees are: not of who has the name after this account is removed."""
        return f"{self.name}/{self.created_ns}"

    @property
    def permissions(self) -> Permissions:
        """The rights, path by path."""
        return Permissions(self.rights, self.rules)

    @property
    def quota(self) -> Quota | None:
        """Most that may lie below the root when this user adds to it."""
        limited = self.quota_bytes is not None or self.quota_files is not None
        return Quota(self.quota_bytes, self.quota_files) if limited else None


@dataclass(frozen=True, slots=True)
class _Known:
    """What the file said when it was last good."""

    decoy_key: bytes = field(repr=False)
    users: dict[str, tuple[Verifier, Account]]
    quota_roots: frozenset[str | None]


_Stamp = tuple[int, int, int, int]
"""A file's mtime_ns, ctime_ns (a chmod also counts), inode, size."""


class Accounts:
    """The users of one file. Every method is safe in any thread, and beside other processes that edit the file."""

    def __init__(self, path: str | os.PathLike[str], *, aloud: bool = True) -> None:
        """Read the file. Raises ConfigError: absent, readable by others, not ours, not right.

        ``aloud``: what becomes of the file later is in the log; of several processes one says it.
        """
        self._aloud = aloud
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

    @property
    def quota_roots(self) -> frozenset[str | None]:
        """The roots of those who have a quota, as the file was read last; the same object until it is read again."""
        return self._known.quota_roots

    def is_current(self, account: Account) -> bool:
        """Whether the account stands as it was looked up: not removed, same key, root and rights.

        Cheap enough to be asked before every request.
        """
        with self._lock:
            if time.monotonic() - self._looked >= LOOK_SECONDS:
                self._look()
            found = self._known.users.get(account.name)
        return found is not None and (found[1] is account or found[1] == account)

    def look(self) -> None:
        """Read the file again if it changed."""
        with self._lock:
            self._look()

    def known(self) -> list[Account]:
        """Every account as the file was when it was read last."""
        return [account for _, account in self._known.users.values()]

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
                self._say(logging.ERROR, "users-broken", error=str(error))
            self._reported = stamp
        else:
            self._stamp = read
            self._say(logging.INFO, "users-read", users=len(self._known.users))

    def _say(self, level: int, event: str, **fields: object) -> None:
        log.log(level if self._aloud else logging.DEBUG, event, extra={"event": event, "fields": fields})

    def roots(self) -> list[str]:
        """The folders that users have of their own."""
        return [account.root for account in self.all() if account.root is not None]

    # ---------------------------------------------------------------- for the administrator

    def all(self) -> list[Account]:
        """Every account, by name."""
        with self._lock:
            self._look()
            return [account for _, (_, account) in sorted(self._known.users.items())]

    def add(self, name: str, **fields: Any) -> bytes:
        """Add a user: the key to hand over, 32 bytes, kept nowhere. ``fields`` as of ``change``. Raises ConfigError."""
        check_user_name(name)
        with self._edited() as users:
            if name in users:
                raise ConfigError(f"there is a user {name} already; `user rotate` gives a new key")
            key, keys = _fresh_keys(name)
            fields = {"rights": RIGHTS} | fields
            users[name] = _User(name=name, created_ns=time.time_ns(), **_stored(fields), **keys)
        return key

    def change(self, name: str, **fields: Any) -> None:
        """Give a user other fields, those of ``Account``, rules as (path, rights); what is not named stays.

        Open sessions end. Raises ConfigError.
        """
        with self._edited() as users:
            _check_known(name, users)
            users[name] = msgspec.structs.replace(users[name], **_stored(fields))

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
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f"{display(self._path)}: {display(str(error))}") from None

    def _understand(self, file: _File) -> _Known:
        users: dict[str, tuple[Verifier, Account]] = {}
        for user in file.users:
            if user.name in users:
                raise ConfigError(f"{display(self._path)}: user {user.name} is there twice")
            users[user.name] = (
                Verifier(stored_key=self._secret(user.stored_key), server_key=self._secret(user.server_key)),
                Account(
                    name=user.name,
                    root=os.path.join(os.path.dirname(self._path), user.root) if user.root is not None else None,
                    rights=self._rights(user, user.rights),
                    rules=self._rules(user),
                    quota_bytes=user.quota_bytes,
                    quota_files=user.quota_files,
                    rate=user.rate,
                    connections=user.connections,
                    created_ns=user.created_ns,
                    stored_key=user.stored_key,
                ),
            )
        quota_roots = frozenset(account.root for _, account in users.values() if account.quota is not None)
        return _Known(decoy_key=self._secret(file.decoy_key), users=users, quota_roots=quota_roots)

    def _rights(self, user: _User, rights: list[str]) -> frozenset[str]:
        for right in rights:
            if right not in RIGHTS:
                message = unknown(f"user {user.name}: unknown right {display(right)}", right, RIGHTS)
                raise ConfigError(f"{display(self._path)}: {message}")
        return frozenset(rights)

    def _rules(self, user: _User) -> tuple[Rule, ...]:
        """The rules of a user, no two for one path, be it in other letters: which of them counts must be plain."""
        rules: dict[tuple[str, ...], Rule] = {}
        for stored in user.rules:
            try:
                rule = Rule(RemotePath.parse(stored.path), self._rights(user, stored.rights))
            except InvalidPath as error:
                raise ConfigError(f"{display(self._path)}: user {user.name}: {error}") from None
            if (other := rules.setdefault(rule.folded, rule)) is not rule:
                both = f"{display(str(other.path))} and {display(stored.path)}"
                raise ConfigError(f"{display(self._path)}: user {user.name}: the rules for {both} are for one path")
        return tuple(rules.values())

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


def user_of(owner: str) -> str:
    """The name of an ``Account.owner``."""
    return owner.partition("/")[0]


def legal_user_name(name: str) -> str:
    """A legal user name that resembles ``name``; ``user`` where nothing is left of it."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).lstrip("._-")[:64] or "user"


def _stored(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields as the file has them."""
    stored = dict(fields)
    if stored.get("root") is not None:
        stored["root"] = os.path.abspath(stored["root"])
    if "rights" in stored:
        stored["rights"] = in_order(stored["rights"])
    if "rules" in stored:
        stored["rules"] = [_Rule(path=path, rights=in_order(rights)) for path, rights in stored["rules"]]
    return stored


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
