"""Syncs with a hostile server, either way: no original of this side is lost, and an undo brings back what was there."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ftpy.client.kept import KeptHere, find_here, kept_in
from ftpy.client.results import Undone
from ftpy.client.syncing import SyncOptions
from ftpy.client.walking import Selection
from ftpy.digests import hexdigest
from ftpy.errors import SyncRefused
from ftpy.files import RemotePath, is_unfinished
from ftpy.storage.area import AREA
from ftpy.storage.trash import TRASH
from tests.rigs.lying import MTIME_NS
from tests.rigs.sessions import FILES, Session, check_names, check_tree, contents
from tests.rigs.trees import Facts, facts_of

if TYPE_CHECKING:
    from ftpy.client.syncing import SyncResult

MORE = {
    "old/a.txt": FILES["a.txt"],
    "old/deep/b": FILES["d/b"],
    "d": b"a file where they have a folder",
    "d/b": b"ours",
    "d/n": b"they have none",
    "a.txt": FILES["a.txt"],
    "big": FILES["big"],
    "big/inner": b"a folder where they have a file",
    "link2/x": b"",
}
"""What a sync may find here besides: names that moved, kinds that changed, what is the same already."""
CHANGES = frozenset(("begin", "put", "part", "commit", "mkdir", "mv", "rm", "undo", "forget", "touch", "stage", "swap"))
"""Requests that change what a server has."""
REFUSED = "nothing was changed"
"""What every refusal of a sync says."""


class Node(NamedTuple):
    """A file or a link on this side: what a move, a second name or an undo changes nothing of."""

    ino: int
    mode: int
    mtime_ns: int
    content: bytes


Files = dict[str, Node]
"""By their paths below the target."""


@dataclass
class Sync:
    """What a session was told to sync, and all that was on this side before."""

    pull: bool
    delete: bool
    dry_run: bool
    facts: Facts
    files: Files
    folders: set[str]
    refused: bool = False


def push(session: Session) -> None:
    """The folder here to the server; now and then what it did there is undone."""
    result = synced(session, pull=False)
    rng = session.rng
    if result.operation is not None and rng.random() < 0.5:
        with session.client() as client:
            undone = client.undo(result.operation)
        for one in undone.paths:
            session.require(RemotePath.parse(str(one.path)) == one.path, f"undo: {one.path!r} is no path")
    for told in session.told:
        if told.verdict == "sent":
            content = Path(told.name).read_bytes()
            either = {hexdigest("md5", content), hexdigest("blake3", content)}
            session.require(either & session.heard.digests, f"sync: nobody vouched for {told.name}")


def pull(session: Session) -> None:
    """A folder of the server's to the one here."""
    before = contents(session.target)
    result = synced(session, pull=True)
    assert session.sync is not None
    session.require(session.heard.complete, "sync --pull: success without a last page")
    session.require(not (result.stopped and not result.failed), "sync --pull: stopped by nothing")
    if not session.sync.dry_run:
        check_tree(session, before | contents(session.target))


def synced(session: Session, *, pull: bool) -> SyncResult:
    """Sync, by any options. Raises FtpyError."""
    rng = session.rng
    sync = begun(session, pull=pull, delete=rng.random() < 0.6, dry_run=rng.random() < 0.05)
    options = SyncOptions(
        digest=rng.choice(["md5", "blake3"]),
        selection=Selection((), ("*.txt",)) if rng.random() < 0.1 else Selection(),
        by_digest=rng.random() < 0.3,
        delete=sync.delete,
        most_deleted=rng.choice([50, 100, 100]),
        keep_newer=rng.random() < 0.1,
        dry_run=sync.dry_run,
        on_told=session.told.append,
    )
    try:
        with session.client() as client:
            return client.sync(session.target, rng.choice(["", "", "d", "t"]), options, pull=pull)
    except SyncRefused:
        sync.refused = True
        raise


def begun(session: Session, *, pull: bool, delete: bool, dry_run: bool) -> Sync:
    """Furnish the target further, and remember all that is in it."""
    rng, target = session.rng, session.target
    for name in rng.sample(list(MORE), rng.randrange(len(MORE))):
        path = target / name
        if path.exists() or not (path.parent.is_dir() or not path.parent.exists()):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(MORE[name])
        if rng.random() < 0.7:
            os.utime(path, ns=(MTIME_NS, MTIME_NS))
    session.sync = Sync(pull, delete, dry_run, facts_of(target), files_of(target), folders_of(target))
    return session.sync


def prepare(session: Session, arguments: tuple[str, ...]) -> None:
    """Make all ready for a command, if it is a sync."""
    if arguments[0] == "sync":
        pull, delete, dry_run = (option in arguments for option in ("--pull", "--delete", "--dry-run"))
        begun(session, pull=pull, delete=delete, dry_run=dry_run)


def files_of(top: Path) -> Files:
    """Every file and link below ``top``, but for what is kept and what a get may go on with."""
    found = {}
    for path, status in _below(top):
        if not stat.S_ISDIR(status.st_mode) and not is_unfinished(path.name):
            content = os.fsencode(os.readlink(path)) if stat.S_ISLNK(status.st_mode) else path.read_bytes()
            found[str(path.relative_to(top))] = Node(status.st_ino, status.st_mode, status.st_mtime_ns, content)
    return found


def folders_of(top: Path) -> set[str]:
    """Every folder below ``top``, but for what is kept."""
    return {str(path.relative_to(top)) for path, status in _below(top) if stat.S_ISDIR(status.st_mode)}


def _below(top: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for where, folders, names in os.walk(top):
        folders[:] = [name for name in folders if name != AREA]
        for name in (*names, *folders):
            path = Path(where, name)
            yield path, path.lstat()


# ------------------------------------------------------------------ afterwards


def judge(session: Session, sync: Sync) -> None:
    """However it ended: nothing of this side was changed by what changes nothing here, and nothing was lost."""
    requests = CHANGES.intersection(session.heard.requests)
    if sync.dry_run or sync.refused or sync.pull:
        session.require(not requests, f"a sync that changes nothing there asked for {sorted(requests)}")
    if not sync.delete:
        session.require(requests.isdisjoint(("rm", "mv")), "something went there without --delete")
    if sync.dry_run or sync.refused or not sync.pull:
        session.require(facts_of(session.target) == sync.facts, "a sync that changes nothing here changed something")
    else:
        _judge_pull(session, sync)


def _judge_pull(session: Session, sync: Sync) -> None:
    """What was here is in its place or kept; what is new has a legal name; what is undone is as it was."""
    target, area = session.target, session.target / AREA
    files = files_of(target)
    there = {*files.values(), *files_of(area / TRASH).values()}
    for path, node in sync.files.items():
        session.require(node in there, f"{path} is lost")
        session.require(sync.delete or path in files, f"{path} is gone without --delete")
    size = sum(len(node.content) for node in files.values())
    had = sum(len(node.content) for node in sync.files.values())
    session.require(size <= session.heard.sent + had + 4096, "more bytes came than were sent")
    known = {*sync.files.values()}
    check_names(session, [str(target / path) for path, node in files.items() if node not in known])
    session.require(not area.exists() or os.listdir(area) == [TRASH], "more than the trash was left")
    if area.exists():
        _undo(session, sync)
        session.require(os.listdir(area) == [TRASH], "more than the trash was left by undo")
    _compare(session, "sync", sync, area.exists())


def _undo(session: Session, sync: Sync) -> None:
    """Undo the one operation, and now and then that again: each time all is as it was."""
    target = session.target
    after = Sync(True, sync.delete, False, {}, files_of(target), folders_of(target))
    with kept_in(str(target)) as kept:
        found = kept.operations()
        session.require(len(found) == 1, f"{len(found)} operations of one sync")
        for one in found:
            session.require(find_here(one.id[:12]) == one, "the operation is not found by its id")
            undone = _undone(session, kept, one.id)
            _compare(session, "undo", sync, True)
            if session.rng.random() < 0.3:
                again = _undone(session, kept, undone.by)
                _compare(session, "undo of an undo", after, True)
                _undone(session, kept, again.by)


def _undone(session: Session, kept: KeptHere, operation: str) -> Undone:
    """Nobody else was at work here, so nothing may be left alone."""
    undone = kept.undo(operation, secrets.token_hex(16))
    session.require(not undone.left, f"undo left alone: {[(str(one.path), str(one.error)) for one in undone.paths]}")
    return undone


def _compare(session: Session, what: str, wanted: Sync, undone: bool) -> None:
    """What is here is what there was: files by all they are, folders by their names."""
    files, folders = files_of(session.target), folders_of(session.target)
    differ = [path for path in {**files, **wanted.files} if files.get(path) != wanted.files.get(path)]
    session.require(not differ, f"after {what} these are not as they were: {sorted(differ)}")
    if undone:
        session.require(folders == wanted.folders, f"after {what} other folders: {sorted(folders ^ wanted.folders)}")
