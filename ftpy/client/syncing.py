"""A sync carried out: both sides listed, planned (``syncplan``), and the plan's steps taken in their order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, field, structs

from ftpy.client.connection import Connection
from ftpy.client.pipelining import Pipeline
from ftpy.client.putjobs import FileJob, FolderEnd
from ftpy.client.source import read_digest
from ftpy.client.syncplan import MOST_DELETED, Contents, Item, Plan, Rules, Step, make_plan
from ftpy.client.treeput import TreePut
from ftpy.client.trees import MOST_TOLD, OWNER_BITS, Choices, Told, TreeOptions, TreeResult, same_time
from ftpy.client.walking import Filter, Found, Links, Selection, Walk
from ftpy.digests import DigestName
from ftpy.errors import FtpyError, NotFound, RequestError, SyncRefused
from ftpy.files import FileInfo, RemotePath
from ftpy.storage.base import Condition, KnownVersion
from ftpy.storage.versions import told_ns
from ftpy.wire.messages import MkdirReply, MkdirRequest, MvReply, MvRequest, RmReply, RmRequest, StatReply, StatRequest
from ftpy.wire.spelling import path_to_wire

if TYPE_CHECKING:
    from ftpy.client.syncs import Syncs

MOST_PLANNED = 5_000_000
"""What a server may list below a synced folder; a plan has it all in memory, a kilobyte each, or five deep down."""

STAGES: dict[str, str] = {
    "make": "make",
    "move": "move",
    "add": "put",
    "replace": "put",
    "delete": "rm",
    "remove": "rm",
}
"""Which steps are taken together."""


def _nothing(_: object) -> None:
    return None


class SyncOptions(Choices, frozen=True, kw_only=True):
    """How to sync: what may be deleted, and who hears of it.

    ``most_deleted`` is in percent of the target's files. ``on_plan`` hears the plan before anything is done,
    ``on_step`` of what is moved or deleted.
    """

    delete: bool = False
    most_deleted: int = MOST_DELETED
    keep_newer: bool = False
    on_plan: Callable[[Plan], None] = _nothing
    on_step: Callable[[Step], None] = _nothing


class SyncResult(Struct):
    """What came of a sync: its ``plan``, the ``operation`` that undoes it (None: nothing was to be done).

    ``moved`` and ``deleted`` count files, ``tree`` says what was transferred; ``failures`` are the first of those steps
    that failed. ``stopped``: some failed, so that the deletions behind them were left out.
    """

    plan: Plan
    operation: str | None = None
    moved: int = 0
    deleted: int = 0
    tree: TreeResult = field(default_factory=TreeResult)
    failed: int = 0
    failures: list[Told] = field(default_factory=list)
    stopped: bool = False

    def fail(self, path: RemotePath, name: str, error: FtpyError | None) -> None:
        """Count something that failed."""
        self.failed += 1
        if len(self.failures) < MOST_TOLD:
            self.failures.append(Told("failed", path, name, error=error))

    def add(self, told: TreeResult) -> None:
        """Count what came of a part of the tree."""
        self.tree.files += told.files
        self.tree.size += told.size
        self.tree.seconds += told.seconds
        self.failed += told.failed
        self.failures += told.failures[: MOST_TOLD - len(self.failures)]


class Local(Struct):
    """This side as it was found: ``items`` below the folder, files' and folders' places and status by path."""

    items: list[Item]
    found: dict[RemotePath, Found]
    failed: list[Found]


def list_local(root: str, target: RemotePath, selection: Selection, links: Links) -> Local:
    """All of a tree on this side. Raises LocalFileError for the root itself."""
    depth = len(target.parts)
    local = Local([], {}, [])
    for found in Walk(root, target, selection, links):
        below = RemotePath(found.path.parts[depth:])
        if found.kind == "failed":
            local.failed.append(found)
        elif found.kind != "end":
            local.found[below] = found
            if below.parts:
                local.items.append(_item_of(below, found))
    return local


def unread(side: str, local: Local) -> str:
    """What of this side, the source or the target, could not be read; empty where all could."""
    if not local.failed:
        return ""
    more = f" and {len(local.failed) - 1:,} more" if len(local.failed) > 1 else ""
    return f"part of the {side} could not be read ({local.failed[0].error}{more})"


def _item_of(below: RemotePath, found: Found) -> Item:
    if found.status is None or found.kind not in ("file", "directory"):
        return Item(below, "passed")
    status = found.status
    size = status.st_size if found.kind == "file" else 0
    kind: Literal["file", "directory"] = "file" if found.kind == "file" else "directory"
    return Item(below, kind, size, told_ns(status.st_mtime_ns), status.st_mode & 0o777)


def list_there(client: Syncs, path: RemotePath, *, whole: bool = False) -> list[FileInfo]:
    """All that is below a folder on the server. Raises SyncRefused where that is too much, NotFound, ….

    Where the ``whole`` is wanted, PermissionDenied is raised if this user may not list some of it.
    """
    listed: list[FileInfo] = []
    for info in client.ls(path, recursive=True, whole=whole):
        if len(listed) >= MOST_PLANNED:
            raise SyncRefused(
                f"the server lists more than {MOST_PLANNED:,} files and folders, more than one plan holds;"
                " its folders one by one may do; nothing was changed"
            )
        listed.append(info)
    return listed


def items_of(listed: list[FileInfo], below: RemotePath) -> list[Item]:
    """A listing as one side of a plan."""
    items = []
    for info in listed:
        path = RemotePath(info.path.parts[len(below.parts) :])
        kind: Literal["file", "directory", "other"] = info.type if info.type in ("file", "directory") else "other"
        items.append(Item(path, kind, info.size, info.mtime_ns, info.mode, info.etag))
    return items


def ask_digest(client: Syncs, info: FileInfo, name: DigestName) -> str | None:
    """The digest of a file on the server; None where it cannot be had: it is gone, or out of our sight."""
    known: str | None = getattr(info, name)
    try:
        return known or client.digest(info.path, name).hex
    except RequestError:
        return None


def judged(items: list[Item], filtered: Filter | None) -> list[Item]:
    """The same in order, each with whether the patterns let it through, and the folders that it is in."""
    if filtered is None:
        return items
    found = []
    left_out: set[RemotePath] = set()
    for item in sorted(items, key=lambda item: item.path):
        text = str(item.path)
        passes = filtered.enters(text) if item.kind == "directory" else filtered.takes_file(text)
        meant = passes and item.path.parent not in left_out
        if not meant and item.kind == "directory":
            left_out.add(item.path)
        found.append(structs.replace(item, meant=meant))
    return found


class Push:
    """A folder of this side, ``root``, to be what the folder ``target`` on the server becomes."""

    def __init__(self, client: Syncs, root: str, target: RemotePath, options: SyncOptions) -> None:
        self._client, self._root, self._target, self._options = client, root, target, options
        self._filter = options.selection.compiled()
        self._local: Local
        self._there: dict[RemotePath, FileInfo]

    def run(self) -> SyncResult:
        """List, plan, and do it. Raises SyncRefused, LocalFileError for the root, what ends a connection for good."""
        plan = self._plan()
        options = self._options
        result = SyncResult(plan)
        for found in self._local.failed:
            result.fail(found.path, found.local, found.error)
        if options.dry_run:
            options.on_plan(plan)
        plan.check(unread=unread("source", self._local), most_deleted=options.most_deleted)
        if options.dry_run:
            return result
        options.on_plan(plan)
        ends = list(self._ends(plan))
        if plan.steps or ends:
            if plan.steps:
                result.operation = self._client.begin(f"sync {self._root} {str(self._target) or '/'}")
            self._carry_out(plan, result)
            self._put(result, [], ends)
        return result

    # ---------------------------------------------------------------- planning

    def _plan(self) -> Plan:
        options = self._options
        self._local = list_local(self._root, self._target, options.selection, options.links)
        try:
            listed = list_there(self._client, self._target)
        except NotFound:
            listed = []
        depth = len(self._target.parts)
        self._there = {RemotePath(info.path.parts[depth:]): info for info in listed}
        rules = Rules(
            delete=options.delete,
            keep_newer=options.keep_newer,
            by_digest=options.by_digest,
            only_some=self._filter is not None and self._filter.only_some,
            ahead_ns=self._client.clock.offset_ns,
        )
        theirs = judged(items_of(listed, self._target), self._filter)
        return make_plan(self._local.items, theirs, rules, Contents(self._digest_here, self._digest_there))

    def _digest_here(self, ours: Item) -> str | None:
        return read_digest(self._local.found[ours.path].local, self._options.digest)

    def _digest_there(self, theirs: Item) -> str | None:
        return ask_digest(self._client, self._there[theirs.path], self._options.digest)

    # ---------------------------------------------------------------- doing it

    def _carry_out(self, plan: Plan, result: SyncResult) -> None:
        for stage, group in itertools.groupby(plan.steps, key=lambda step: STAGES[step.do]):
            steps = list(group)
            if stage == "put":
                self._put(result, steps, [])
            elif stage == "rm" and result.failed:
                result.stopped = True
                return
            else:
                pipeline = _PIPELINES[stage](steps, self, result)
                self._client._persist(pipeline.attempt, partial(_done, pipeline))

    def _put(self, result: SyncResult, steps: list[Step], ends: list[FolderEnd]) -> None:
        options = self._options
        wanted = TreeOptions(
            digest=options.digest,
            operation=result.operation,
            on_told=options.on_told,
            on_progress=options.on_progress,
        )
        found = [(step, self._local.found[step.path]) for step in steps]
        tree = PlannedPut(self._root, self._target, wanted, self._client._connected().inline_bytes, (found, ends))
        result.add(self._client._run_tree(tree, wanted))

    def _ends(self, plan: Plan) -> Iterator[FolderEnd]:
        """Folders whose mode or time is not as here, or will not be once the plan is carried out; deepest first."""
        if self._filter is not None and self._filter.only_some:
            return
        touched = {way.parent for step in plan.steps for way in (step.path, step.origin) if way is not None}
        kept = set(plan.conflicts)
        folders = [(path, found) for path, found in self._local.found.items() if found.kind == "directory"]
        for path, found in reversed(folders):
            if any(RemotePath(path.parts[:depth]) in kept for depth in range(1, len(path.parts) + 1)):
                continue
            status, there = found.status, self._there.get(path)
            assert status is not None
            mode = status.st_mode & 0o777 | OWNER_BITS
            as_it_should_be = path not in touched and (
                (there is not None and there.mode == mode and same_time(there.mtime_ns, status.st_mtime_ns))
                or (not path.parts and bool(self._there))
            )
            if found.path.parts and not as_it_should_be:
                yield FolderEnd(found.path, found.local, mode, status.st_mtime_ns)

    def at(self, path: RemotePath) -> RemotePath:
        """A path of the plan on the server."""
        return RemotePath((*self._target.parts, *path.parts))

    def answered(self, result: SyncResult, step: Step, error: FtpyError | None) -> None:
        """A step was taken, or refused."""
        if error is not None:
            result.fail(self.at(step.path), str(self.at(step.path)), error)
            return
        result.moved += step.do == "move"
        result.deleted += step.do == "delete"
        self._options.on_step(step)


class PlannedPut(TreePut):
    """The files that a plan adds and replaces, and folders to be finished."""

    def __init__(
        self,
        root: str,
        target: RemotePath,
        options: TreeOptions,
        inline_bytes: int,
        planned: tuple[list[tuple[Step, Found]], list[FolderEnd]],
    ) -> None:
        super().__init__(root, target, options, inline_bytes, None)
        self._steps, self._planned_ends = planned

    def _found(self) -> Generator[FileJob | FolderEnd, None, None]:
        for step, found in self._steps:
            assert found.status is not None
            self.tally.found(found.status.st_size)
            condition: Condition = "absent" if step.do == "add" else None
            if step.etag is not None:
                condition = KnownVersion(step.etag)
            alone = found.status.st_size > self._inline_bytes
            yield FileJob(found.path, found.local, found.status, alone=alone, condition=condition)
        self.tally.progress.known = True
        yield from self._planned_ends


def _done(pipeline: _Steps) -> int:
    return pipeline.done


class _Steps(Pipeline[Step]):
    """Steps of one stage."""

    def __init__(self, steps: list[Step], push: Push, result: SyncResult) -> None:
        super().__init__(steps)
        self._push, self._result = push, result

    def answered(self, job: Step, error: FtpyError | None) -> None:
        self._push.answered(self._result, job, error)


class _Makes(_Steps):
    reply = MkdirReply

    def request(self, job: Step, request_id: int) -> MkdirRequest:
        path = path_to_wire(self._push.at(job.path))
        return MkdirRequest(id=request_id, **path, parents=True, operation=self._result.operation)


class _Moves(_Steps):
    reply = MvReply

    def request(self, job: Step, request_id: int) -> MvRequest:
        assert job.origin is not None
        paths = path_to_wire(self._push.at(job.origin)) | path_to_wire(self._push.at(job.path), "to")
        operation = self._result.operation
        return MvRequest(id=request_id, **paths, condition="absent", etag=job.etag, operation=operation)

    def found_done(self, connection: Connection, job: Step, error: RequestError) -> bool:
        if not isinstance(error, NotFound):
            return False
        try:
            look = StatRequest(id=connection.next_id(), **path_to_wire(self._push.at(job.path)))
            return connection.call(look, StatReply).entry.size == job.size
        except RequestError:
            return False


class _Removals(_Steps):
    reply = RmReply

    def answered(self, job: Step, error: FtpyError | None) -> None:
        # What is gone already, by whatever hand, is as it is to be: by our own that was cut off, say.
        super().answered(job, None if isinstance(error, NotFound) else error)

    def request(self, job: Step, request_id: int) -> RmRequest:
        path = path_to_wire(self._push.at(job.path))
        return RmRequest(id=request_id, **path, etag=job.etag, operation=self._result.operation)


_PIPELINES: dict[str, type[_Steps]] = {"make": _Makes, "move": _Moves, "rm": _Removals}
