"""Every verb, asked by users of every right at and around the path of a rule, against a model of what must come of it.

The model knows paths as text and rights as words; it shares nothing with the code that it judges.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import secrets
import shutil
from collections.abc import Callable, Generator, Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from ftpy.files import RemotePath
from ftpy.storage.base import KnownDigest, NewFile
from ftpy.storage.operations import OperationKey
from ftpy.storage.versions import digests, version_of
from tests.rig import Host
from tests.rigs.peer import Answer, RawPeer

WORDS = ("list", "read", "write", "replace", "delete")
SETS: dict[str, frozenset[str]] = {
    "none": frozenset(),
    **{word: frozenset({word}) for word in WORDS},
    "all": frozenset(WORDS),
    "read-only": frozenset({"list", "read"}),
    "drop-box": frozenset({"write"}),
    "no-delete": frozenset(WORDS) - {"delete"},
    "put": frozenset({"write", "replace"}),
    "moving": frozenset({"read", "write", "delete"}),
}
"""Every right alone, the presets, and what some verbs need together."""
PAIRS = sorted(
    {(own, ruled) for own in SETS for ruled in ("none", "all")}
    | {(own, ruled) for own in ("none", "all") for ruled in SETS}
)
"""A user's own rights, and those of the rule: one of the two is nothing or everything."""

RULED = "top/ruled"
PLACES = {
    "self": RULED,
    "sibling": "top/ruled-not",  # begins with the same letters
    "parent": "top",
    "child": "top/ruled/child",
    "other letters": "top/RULED",
    "elsewhere": "away",
}
"""Where is asked, as seen from the rule's path."""
KINDS = ("absent", "file", "folder")
KINDS_OF: dict[str, tuple[str, ...]] = {
    "df": ("absent",),
    "ping": ("absent",),
    "part": ("absent",),
    "abort": ("absent",),
    "begin": ("absent",),
    "operations": ("absent",),
    "forget": ("absent",),
    "undo put": ("absent", "file"),
    "undo rm": ("file",),
}
"""What can be there, where not all of KINDS: these verbs have nothing to do with what is at their path."""

OLD, NEW = b"what was there", b"what is new"
SOURCE, TARGET = "source", "target"
"""Where a move comes from or goes to when its other end is asked about."""
MTIME_NS = 5_000_000_000
"""What nothing here has by itself."""

Tree = dict[str, Any]
"""Path -> bytes of a file, (mode, whether its time is MTIME_NS) of a folder."""


@dataclass(frozen=True)
class User:
    """Own rights, and those of the rule, by their names in SETS."""

    own: str
    ruled: str

    @property
    def name(self) -> str:
        """What the server knows it as."""
        return f"{self.own}.{self.ruled}"

    @property
    def changes(self) -> bool:
        """The model: whether there is anything that it may change anywhere."""
        return not {"write", "delete"}.isdisjoint(SETS[self.own] | SETS[self.ruled])

    def at(self, path: str) -> frozenset[str]:
        """The model: rights at a path; in other letters than the rule's, what both readings allow."""
        rights = SETS[self.own] | SETS[self.ruled]
        for reading in (path, path.lower()):
            inside = reading == RULED or reading.startswith(RULED + "/")
            rights &= SETS[self.ruled if inside else self.own]
        return rights

    def below(self, path: str) -> frozenset[str]:
        """The model: rights at a path that hold everywhere below."""
        leads = path == "" or RULED.startswith(path + "/")
        return self.at(path) & SETS[self.ruled] if leads else self.at(path)


@dataclass
class World:
    """A server with a user for each of PAIRS, and a connection of each."""

    host: Host
    users: dict[str, User] = field(default_factory=dict)
    peers: dict[str, RawPeer] = field(default_factory=dict)
    _times: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        for user in (User(*pair) for pair in PAIRS):
            self.users[user.name] = user
            self.host.add_user(user.name, rights=tuple(SETS[user.own]), rules=[(RULED, tuple(SETS[user.ruled]))])
        self.host.start()
        self.peers = {name: RawPeer(self.host, name) for name in self.users}
        assert self.host.service is not None
        self.storage = self.host.service.roots.open(str(self.host.root))

    def close(self) -> None:
        """End everything."""
        for peer in self.peers.values():
            peer.close()
        self.host.stop()

    @property
    def root(self) -> Path:
        """What is served."""
        return self.host.root

    def build(self, path: str, kind: str) -> None:
        """The same tree again, with this at the path."""
        for found in self.root.iterdir():
            if found.name != ".ftpy":
                shutil.rmtree(found) if found.is_dir() else found.unlink()
        for trees in ("trees", "previous"):
            for left in (self.root / ".ftpy" / trees).iterdir():
                shutil.rmtree(left)
        for name in ("top/f", "top/ruled/f", "top/ruled-not/f", SOURCE):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_bytes(OLD)
        asked = self.root / path
        if asked.is_dir():
            shutil.rmtree(asked)
        if kind == "file":
            asked.write_bytes(OLD)
        elif kind == "folder":
            for below in ("f", *(["ruled/f", "ruled-not/f"] if path == "top" else [])):
                (asked / below).parent.mkdir(parents=True, exist_ok=True)
                (asked / below).write_bytes(OLD)

    def remember_digests(self, tree: Tree) -> None:
        """Let the server know the digests of all files."""
        files = {path: content for path, content in tree.items() if isinstance(content, bytes)}
        self.storage._remembered.keep(  # at once: a reader would not of what has just been written
            [
                (version_of((self.root / path).lstat()), digests(KnownDigest("md5", hashlib.md5(content).hexdigest())))
                for path, content in files.items()
            ]
        )

    def tree(self) -> Tree:
        """What is on disk."""
        found: Tree = {}
        top = os.fspath(self.root)
        for folder, folders, files in os.walk(top):
            folders[:] = [name for name in folders if name != ".ftpy"]
            for name in folders:
                status = os.lstat(f"{folder}/{name}")
                found[f"{folder}/{name}"] = (status.st_mode & 0o777, status.st_mtime_ns == MTIME_NS)
            for name in files:
                with open(f"{folder}/{name}", "rb") as file:
                    found[f"{folder}/{name}"] = file.read()
        return {name[len(top) + 1 :]: what for name, what in found.items()}

    def begin(self, user: User, path: str) -> str:
        """An upload of this user, complete but for its commit, begun when everything was allowed: its id."""
        file = NewFile(RemotePath.parse(path), len(NEW), next(self._times))  # never the same one twice
        with self.storage.open_upload(self.host.owner(user.name), file) as upload:
            with upload.part(0, len(NEW)) as part:
                for view in part:
                    view[:] = NEW
                part.finish(blake3(NEW).hexdigest())
            return upload.id

    def clear_uploads(self, user: User, others: Set[str]) -> int:
        """Drop what this user has unfinished: how many uploads there were."""
        left = set(self.storage.uploads()) - others
        for upload_id in left:
            with self.storage.find_upload(self.host.owner(user.name), upload_id) as upload:
                upload.abort()
        return len(left)


@dataclass(frozen=True)
class Case:
    """One question."""

    user: User
    path: str
    kind: str
    upload: str = ""
    verb: str = ""

    @property
    def may(self) -> frozenset[str]:
        """The rights at the path."""
        return self.user.at(self.path)


Ask = Callable[[RawPeer, Case], Answer]
Expected = tuple[str | None, Tree, int]
"""The error, what is on disk afterwards, and how many uploads are left."""
Model = Callable[[Case, Tree], Expected]

DIGEST = {"md5": hashlib.md5(NEW).hexdigest()}
OLD_DIGEST = {"md5": hashlib.md5(OLD).hexdigest()}


def _without(tree: Tree, path: str) -> Tree:
    return {name: what for name, what in tree.items() if name != path and not name.startswith(path + "/")}


def _put(case: Case, tree: Tree) -> Expected:
    if "write" not in case.may:
        return "permission-denied", tree, 0
    if case.kind != "absent" and "replace" not in case.may:
        return "already-exists", tree, 0
    return ("is-a-directory", tree, 0) if case.kind == "folder" else (None, tree | {case.path: NEW}, 0)


def _put_over(case: Case, tree: Tree) -> Expected:
    if not {"write", "replace"} <= case.may:
        return "permission-denied", tree, 0
    error = {"absent": "changed", "folder": "is-a-directory", "file": None}[case.kind]
    return error, tree if error else tree | {case.path: NEW}, 0


def _commit(case: Case, tree: Tree) -> Expected:
    error, after, _ = _put(case, tree)
    return error, after, int(error is not None)


def _of_upload(left: int) -> Model:
    return lambda case, tree: (None, tree, left) if "write" in case.may else ("permission-denied", tree, 1)


def _mkdir(case: Case, tree: Tree) -> Expected:
    if "write" not in case.may:
        return "permission-denied", tree, 0
    if case.kind != "absent":
        return "already-exists", tree, 0
    return None, tree | {case.path: (0o700, True)}, 0


def _mkdir_parents(case: Case, tree: Tree) -> Expected:
    if "write" not in case.may:
        return "permission-denied", tree, 0
    if case.kind == "file":
        return "not-a-directory", tree, 0
    touched = case.kind == "absent" or "replace" in case.may
    return None, tree | {case.path: (0o700, True)} if touched else tree, 0


def _touch(case: Case, tree: Tree, *, create: bool = True) -> Expected:
    if "write" not in case.may:
        return "permission-denied", tree, 0
    if case.kind == "absent":
        return (None, tree | {case.path: b""}, 0) if create else ("not-found", tree, 0)
    if "replace" not in case.may:
        return "already-exists", tree, 0
    was = tree[case.path]
    return None, tree | {case.path: was if isinstance(was, bytes) else (was[0], True)}, 0


def _reading(right: str, *, of_folder: str | None = None, of_file: str | None = None) -> Model:
    """What looks and changes nothing."""

    def model(case: Case, tree: Tree) -> Expected:
        if right not in case.may:
            return "permission-denied", tree, 0
        return {"absent": "not-found", "folder": of_folder, "file": of_file}[case.kind], tree, 0

    return model


def _of_version(case: Case, tree: Tree) -> Expected:
    """Who may list is told every version: naming one proves nothing then."""
    if "write" not in case.may or ("list" in case.may and "read" not in case.may):
        return "permission-denied", tree, 0
    return {"absent": "not-found", "folder": "is-a-directory", "file": "changed"}[case.kind], tree, 0


def _anywhere(right: str, answer: str) -> Model:
    """What takes the right at any path."""
    return lambda case, tree: (
        answer if right in SETS[case.user.own] | SETS[case.user.ruled] else "permission-denied",
        tree,
        0,
    )


def _rm(*, recursive: bool) -> Model:
    def model(case: Case, tree: Tree) -> Expected:
        if "delete" not in (case.user.below(case.path) if recursive else case.may):
            return "permission-denied", tree, 0
        if case.kind == "absent":
            return "not-found", tree, 0
        if case.kind == "folder" and not recursive:
            return "not-empty", tree, 0
        return None, _without(tree, case.path), 0

    return model


def _mv_from(case: Case, tree: Tree) -> Expected:
    if not {"list", "read", "delete"} <= case.user.below(case.path) or "write" not in case.user.below(TARGET):
        return "permission-denied", tree, 0
    if case.kind == "absent":
        return "not-found", tree, 0
    moved = {
        TARGET + name[len(case.path) :]: what for name, what in tree.items() if name not in _without(tree, case.path)
    }
    return None, _without(tree, case.path) | moved, 0


def _mv_to(case: Case, tree: Tree) -> Expected:
    if not {"list", "read", "delete"} <= case.user.below(SOURCE) or "write" not in case.user.below(case.path):
        return "permission-denied", tree, 0
    if case.kind != "absent" and "replace" not in case.may:
        return "already-exists", tree, 0
    if case.kind == "folder":
        return "is-a-directory", tree, 0
    return None, _without(tree, SOURCE) | {case.path: tree[SOURCE]}, 0


def _stage(case: Case, tree: Tree) -> Expected:
    if "write" not in case.user.below(case.path):
        return "permission-denied", tree, 0
    if case.kind != "absent" and not {"replace", "delete"} <= case.user.below(case.path):
        return "already-exists", tree, 0
    return "not-a-directory" if case.kind == "file" else None, tree, 0


def _swap(case: Case, tree: Tree) -> Expected:
    error = _stage(case, tree)[0]
    return error, tree if error else _without(tree, case.path) | {case.path: (0o700, True)}, 0


def _rollback(case: Case, tree: Tree) -> Expected:
    """After a swap, where that could be."""
    error, swapped, _ = _swap(case, tree)
    if error is not None:
        return error, tree, 0
    if not {"write", "replace", "delete"} <= case.user.below(case.path):
        return "permission-denied", swapped, 0
    return ("no-previous", swapped, 0) if case.kind == "absent" else (None, tree, 0)


def _ask_staged(*verbs: str) -> Ask:
    """Stage an empty tree and go on with it: the answer to the last, or the first error."""

    def ask(peer: RawPeer, case: Case) -> Answer:
        answer = peer.ask("stage", path=case.path)
        tree = answer.fields.get("tree")
        for verb in verbs:
            if answer.error is not None:
                break
            if verb == "swap":
                made: dict[str, Any] = {"parents": True, "mode": 0o700, "mtime_ns": MTIME_NS}
                peer.ask("mkdir", path=case.path, tree=tree, **made)
                answer = peer.ask("swap", path=case.path, tree=tree, files=0, folders=0, file_bytes=0)
            elif verb == "rollback":
                answer = peer.ask(verb, path=case.path)
            else:
                answer = peer.ask(verb, path=case.path, tree=tree)
        return answer

    return ask


def _ask(verb: str, **fields: Any) -> Ask:
    return lambda peer, case: peer.ask(verb, path=case.path, **fields)


def _ask_put(peer: RawPeer, case: Case, **fields: Any) -> Answer:
    return peer.ask("put", NEW, path=case.path, file_size=len(NEW), mtime_ns=MTIME_NS, **fields)


def _ask_put_in_parts(peer: RawPeer, case: Case) -> Answer:
    opened = peer.ask("put", path=case.path, file_size=len(NEW), mtime_ns=MTIME_NS + 1)
    if opened.error is not None:
        return opened
    upload = opened.fields["upload"]
    part = peer.ask("part", NEW, "blake3", upload=upload, part=0)
    return part if part.error is not None else peer.ask("commit", upload=upload, digest=DIGEST)


def _of_operations(error: str | None = None) -> Model:
    """What is about no path takes the right to change something anywhere."""

    def model(case: Case, tree: Tree) -> Expected:
        return error if case.user.changes else "permission-denied", tree, 0

    return model


def _ask_undo(peer: RawPeer, case: Case) -> Answer:
    """Undo a put or an rm that was done when everything was allowed."""
    assert peer.host.service is not None
    storage = peer.host.service.roots.open(str(peer.host.root))
    key = OperationKey(peer.host.owner(case.user.name), secrets.token_hex(16))
    path = RemotePath.parse(case.path)
    storage.begin(key, "")
    if case.verb == "undo rm":
        storage.rm(path, recursive=False, operation=key)
    else:
        file = NewFile(path, len(NEW), MTIME_NS, operation=key)
        storage.publish([storage.stage(file, memoryview(NEW), KnownDigest("md5", DIGEST["md5"]))])
    return peer.ask("undo", operation=key.id, by=secrets.token_hex(16))


def _undo(case: Case, tree: Tree) -> Expected:
    takes = {"undo rm": {"write"}, "undo put": {"delete"} if case.kind == "absent" else {"write", "replace"}}
    done = _without(tree, case.path) if case.verb == "undo rm" else tree | {case.path: NEW}
    allowed = case.user.changes and takes[case.verb] <= case.user.below(case.path)
    return None if case.user.changes else "permission-denied", tree if allowed else done, 0


VERBS: dict[str, tuple[Ask, Model]] = {
    "put": (_ask_put, _put),
    "put over": (lambda peer, case: _ask_put(peer, case, condition=OLD_DIGEST), _put_over),
    "put in parts": (_ask_put_in_parts, _put),
    "part": (
        lambda peer, case: peer.ask("part", NEW, "blake3", upload=case.upload, part=0),
        _of_upload(1),
    ),
    "commit": (lambda peer, case: peer.ask("commit", upload=case.upload, digest=DIGEST), _commit),
    "abort": (lambda peer, case: peer.ask("abort", upload=case.upload), _of_upload(0)),
    "mkdir": (_ask("mkdir", mode=0o700, mtime_ns=MTIME_NS), _mkdir),
    "mkdir with parents": (_ask("mkdir", mode=0o700, mtime_ns=MTIME_NS, parents=True), _mkdir_parents),
    "touch": (_ask("touch", mtime_ns=MTIME_NS), _touch),
    "touch what is there": (
        _ask("touch", mtime_ns=MTIME_NS, create=False),
        functools.partial(_touch, create=False),
    ),
    "stage": (_ask_staged(), _stage),
    "ls staged": (_ask_staged("ls"), _stage),
    "swap": (_ask_staged("swap"), _swap),
    "discard": (_ask_staged("discard"), _stage),
    "rollback": (_ask_staged("swap", "rollback"), _rollback),
    "df": (lambda peer, case: peer.ask("df"), lambda case, tree: (None, tree, 0)),
    "ping": (lambda peer, case: peer.ask("ping"), lambda case, tree: (None, tree, 0)),
    "rm": (_ask("rm"), _rm(recursive=False)),
    "rm below": (_ask("rm", recursive=True), _rm(recursive=True)),
    "mv from": (_ask("mv", to=TARGET), _mv_from),
    "mv to": (lambda peer, case: peer.ask("mv", path=SOURCE, to=case.path), _mv_to),
    "get": (_ask("get"), _reading("read", of_folder="is-a-directory")),
    "digest": (_ask("digest"), _reading("read", of_folder="is-a-directory")),
    "receipt": (_ask("receipt"), _reading("read", of_folder="is-a-directory", of_file="unsupported")),  # without TLS
    "receipt of a version": (
        _ask("receipt", etag="0" * 32),
        _of_version,
    ),
    "events": (lambda peer, case: peer.ask("events"), _anywhere("list", "unsupported")),  # no feed is kept
    "stat": (_ask("stat"), _reading("list")),
    "ls": (_ask("ls"), _reading("list", of_file="not-a-directory")),
    "ls below": (_ask("ls", recursive=True), _reading("list", of_file="not-a-directory")),
    "begin": (lambda peer, case: peer.ask("begin", operation=secrets.token_hex(16)), _of_operations()),
    "operations": (lambda peer, case: peer.ask("operations"), _of_operations()),
    "forget": (lambda peer, case: peer.ask("forget", operation="0" * 32), _of_operations("unknown-operation")),
    "undo put": (_ask_undo, _undo),
    "undo rm": (_ask_undo, _undo),
}
"""How each verb is asked, and what must come of it."""
LISTING = frozenset({"stat", "ls", "ls below"})
OF_UPLOADS = frozenset({"part", "commit", "abort"})


def listed(case: Case, tree: Tree, *, recursive: bool) -> set[str]:
    """The model: names that a listing of the path shows, relative to it; nothing below what may not be listed."""
    shown: set[str] = set()
    for path in tree:
        if path.startswith(case.path + "/"):
            parts = path[len(case.path) + 1 :].split("/")
            way = ["/".join([case.path, *parts[:depth]]) for depth in range(1, len(parts) + 1)]
            if (recursive or len(parts) == 1) and all("list" in case.user.at(step) for step in way):
                shown.add("/".join(parts))
    return shown


def judge(world: World, verb: str) -> Generator[str, None, None]:
    """Ask one verb in every way, and say where something else came of it than must."""
    for place, path in PLACES.items():
        for kind in KINDS_OF.get(verb, KINDS):
            begun: dict[str, str] = {}
            if verb in OF_UPLOADS:
                world.build(path, "absent")
                begun = {name: world.begin(user, path) for name, user in world.users.items()}
            try:
                yield from _ask_all(world, verb, place, kind, begun)
            finally:
                for name, upload in begun.items():  # of whoever was not asked
                    with world.storage.find_upload(world.host.owner(name), upload) as hand:
                        hand.abort()


def _ask_all(world: World, verb: str, place: str, kind: str, begun: dict[str, str]) -> Iterator[str]:
    """Ask every user about one place; what is ``begun`` is theirs, and goes as it is asked about."""
    stale = True
    for name, user in world.users.items():
        if stale:
            world.build(PLACES[place], kind)
            before = world.tree()
            if verb in LISTING:
                world.remember_digests(before)
        case = Case(user, PLACES[place], kind, begun.pop(name, ""), verb)
        wrong, stale = _ask_once(world, verb, case, before, set(begun.values()))
        for violation in wrong:
            yield f"{verb} at {place} ({kind}) by {name}: {violation}"


def _ask_once(world: World, verb: str, case: Case, before: Tree, others: Set[str]) -> tuple[list[str], bool]:
    """What is wrong with one answer and with what it left, and whether anything has changed on disk."""
    ask, model = VERBS[verb]
    error, after, uploads = model(case, before)
    answer = ask(world.peers[case.user.name], case)
    found = world.tree()
    left = world.clear_uploads(case.user, others)
    wrong: list[str] = []
    if answer.error != error:
        wrong.append(f"{answer.error} was answered, not {error}")
    if found != after:
        wrong.append(f"left on disk {found}, not {after}")
    if left != uploads:
        wrong.append(f"{left} uploads are left, not {uploads}")
    if error is None and verb in LISTING:
        entries = [answer.fields["entry"] | {"name": ""}] if verb == "stat" else answer.entries
        known = {f"{case.path}/{one['name']}".rstrip("/") for one in entries if one.get("md5") or one.get("blake3")}
        may = {path for path in before if isinstance(before[path], bytes) and "read" in case.user.at(path)}
        asked = {f"{case.path}/{one['name']}".rstrip("/") for one in entries}
        if known != may & asked:
            wrong.append(f"digests of {sorted(known)} were told, not of {sorted(may & asked)}")
    if error is None and verb in ("ls", "ls below"):
        names = {entry["name"] for entry in answer.entries}
        if names != (must := listed(case, before, recursive=verb == "ls below")):
            wrong.append(f"{sorted(names)} was listed, not {sorted(must)}")
    if error is None and verb == "get" and answer.body != OLD:
        wrong.append("something else was read")
    return wrong, found != before
