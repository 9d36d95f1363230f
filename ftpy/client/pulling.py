"""A sync the other way: a folder of this side becomes equal to one on the server; what gives way is kept here."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec import structs

from ftpy.client.getjobs import FileJob, FolderEnd
from ftpy.client.kept import KeptHere
from ftpy.client.landing import Landing
from ftpy.client.source import read_digest
from ftpy.client.syncing import (
    Local,
    SyncOptions,
    SyncResult,
    ask_digest,
    items_of,
    judged,
    list_local,
    list_there,
    unread,
)
from ftpy.client.syncplan import Contents, Item, Plan, Rules, Step, make_plan
from ftpy.client.treeget import TreeGet
from ftpy.client.trees import OWNER_BITS, TreeOptions, same_time
from ftpy.client.walking import Found, Selection
from ftpy.errors import (
    FtpyError,
    InvalidPath,
    LocalFileError,
    NotADirectory,
    PermissionDenied,
    ProtocolError,
    SyncRefused,
)
from ftpy.files import FileInfo, RemotePath, check_portable, display
from ftpy.storage.base import KnownInode, NewDirectory
from ftpy.storage.record import Identity, identity

if TYPE_CHECKING:
    from ftpy.client.syncs import Syncs


CHECKS_NAMES = os.name == "nt"
"""Whether there are legal names that this system could not hold, or would take for another place."""

Planned = tuple[Step, FileInfo, KnownInode | None]
"""A file to be fetched, and what of this side may give way to it, as it is kept; None: nothing."""


class Pull:
    """The folder ``source`` on the server, to be what the folder ``root`` of this side becomes."""

    def __init__(self, client: Syncs, root: str, source: RemotePath, options: SyncOptions) -> None:
        self._client, self._root, self._source, self._options = client, root, source, options
        self._filter = options.selection.compiled()
        self._there: dict[RemotePath, FileInfo]
        self._local: Local
        self._unheld: list[tuple[RemotePath, FtpyError]] = []
        """What of the source this system cannot hold by its name."""

    def run(self) -> SyncResult:
        """List, plan, and do it. Raises SyncRefused, LocalFileError for the root, NotFound, NotADirectory, …."""
        plan = self._plan()
        options = self._options
        result = SyncResult(plan)
        for path, error in self._unheld:
            self._fail(result, path, error)
        if options.dry_run:
            options.on_plan(plan)
        # What cannot be read here cannot be kept.
        plan.check(unread=unread("target", self._local), most_deleted=options.most_deleted)
        if options.dry_run:
            return result
        options.on_plan(plan)
        with Landing(self._root) as landing:
            ends = list(self._ends(plan))
            if plan.steps and not landing.groups and not plan.count("replace", "move", "delete", "remove"):
                jobs: list[Planned] = [(step, self._there[step.path], None) for step in plan.steps if step.do == "add"]
                self._get(result, landing, jobs, [])  # nothing gives way
            elif plan.steps:
                with KeptHere(landing) as kept:
                    result.operation = secrets.token_hex(16)
                    kept.begin(result.operation, f"sync --pull {self._root} {str(self._source) or '/'}")
                    self._carry_out(plan, result, kept)
            self._get(result, landing, [], ends)
        return result

    # ---------------------------------------------------------------- planning

    def _plan(self) -> Plan:
        options = self._options
        if self._source.parts and self._client.stat(self._source).type != "directory":
            raise NotADirectory(f"{display(str(self._source))}: not a folder")
        try:
            # What is hidden there would be taken for gone.
            listed = list_there(self._client, self._source, whole=options.delete)
        except PermissionDenied:
            if not options.delete:
                raise
            raise SyncRefused(
                "the source, or part of it, may not be listed by this user, so nothing is deleted; nothing was changed"
            ) from None
        self._there = {RemotePath(info.path.parts[len(self._source.parts) :]): info for info in listed}
        _check_listing(self._there)
        try:
            self._local = list_local(self._root, RemotePath(), Selection(), "skip")
        except LocalFileError as error:
            if not isinstance(error.__context__, FileNotFoundError):
                raise
            self._local = Local([], {}, [])
        self._local.failed = [found for found in self._local.failed if self._is_meant(found)]
        theirs = [
            structs.replace(item, kind="passed") if item.kind == "other" or not self._holds(item) else item
            for item in judged(items_of(listed, self._source), self._filter)
            if item.meant
        ]
        ours = [structs.replace(item, kind="other") if item.kind == "passed" else item for item in self._local.items]
        rules = Rules(
            delete=options.delete,
            keep_newer=options.keep_newer,
            by_digest=options.by_digest,
            only_some=self._filter is not None and self._filter.only_some,
            ahead_ns=-self._client.clock.offset_ns,
        )
        contents = Contents(self._digest_there, self._digest_here)
        return make_plan(theirs, judged(ours, self._filter), rules, contents)

    def _is_meant(self, found: Found) -> bool:
        """Whether what could not be read here matters."""
        if self._filter is None:
            return True
        return (self._filter.enters if os.path.isdir(found.local) else self._filter.takes_file)(str(found.path))

    def _holds(self, item: Item) -> bool:
        try:
            if CHECKS_NAMES:
                check_portable(item.path)
        except InvalidPath as error:
            last = self._unheld[-1][0].parts if self._unheld else None
            if last is None or item.path.parts[: len(last)] != last:  # else it goes with the folder that it is in
                self._unheld.append((item.path, error))
            return False
        return True

    def _digest_here(self, ours: Item) -> str | None:
        return read_digest(self._local.found[ours.path].local, self._options.digest)

    def _digest_there(self, theirs: Item) -> str | None:
        return ask_digest(self._client, self._there[theirs.path], self._options.digest)

    # ---------------------------------------------------------------- doing it

    def _carry_out(self, plan: Plan, result: SyncResult, kept: KeptHere) -> None:
        steps = list(plan.steps)
        while steps:
            step = steps[0]
            if step.do in ("add", "replace"):
                files = [one for one in steps if one.do in ("add", "replace")]  # they come one after the other
                self._fetch(files, result, kept)
                steps = steps[len(files) :]
                continue
            if step.do in ("delete", "remove") and result.failed:
                result.stopped = True
                return
            self._take(steps.pop(0), result, kept)

    def _take(self, step: Step, result: SyncResult, kept: KeptHere) -> None:
        assert result.operation is not None
        operation = result.operation
        try:
            if step.do == "make":
                kept.make(operation, step.path)
            elif step.do == "move":
                assert step.origin is not None
                kept.move(operation, step.origin, step.path, self._known(step.origin))
            else:
                kept.delete(operation, step.path, self._known(step.path))
        except FtpyError as error:
            self._fail(result, step.path, error)
            return
        result.moved += step.do == "move"
        result.deleted += step.do == "delete"
        self._options.on_step(step)

    def _known(self, path: RemotePath) -> Identity | None:
        """What was listed there on this side."""
        found = self._local.found.get(path)
        return None if found is None or found.status is None else identity(found.status)

    def _fetch(self, steps: list[Step], result: SyncResult, kept: KeptHere) -> None:
        assert result.operation is not None
        infos = [self._there[step.path] for step in steps]
        announced = [
            (step.path, info.size, info.mtime_ns, self._known(step.path) if step.do == "replace" else None)
            for step, info in zip(steps, infos, strict=True)
        ]
        jobs: list[Planned] = []
        for step, info, found in zip(steps, infos, kept.announce(result.operation, announced), strict=True):
            if isinstance(found, FtpyError):
                self._fail(result, step.path, found)
            else:
                jobs.append((step, info, found))
        self._get(result, kept.landing, jobs, [])

    def _get(self, result: SyncResult, landing: Landing, jobs: list[Planned], ends: list[FolderEnd]) -> None:
        if not jobs and not ends:
            return
        options = self._options
        wanted = TreeOptions(
            digest=options.digest, force=True, on_told=options.on_told, on_progress=options.on_progress
        )
        inline_bytes, several = self._client._connected().inline_bytes, self._client._streams.several
        tree = PlannedGet(self._source, landing, wanted, inline_bytes, (jobs, ends), several=several)
        result.add(self._client._run_tree(tree, wanted))

    def _ends(self, plan: Plan) -> Iterator[FolderEnd]:
        """Folders whose mode or time is not as there, or will not be once the plan is carried out; deepest first."""
        if self._filter is not None and self._filter.only_some:
            return
        touched = {way.parent for step in plan.steps for way in (step.path, step.origin) if way is not None}
        made = {step.path for step in plan.steps if step.do == "make"}
        for path in sorted(self._there, reverse=True):
            info = self._there[path]
            status = self._local.found[path].status if path in self._local.found else None
            if info.type != "directory" or (status is None and path not in made):
                continue
            mode = info.mode | OWNER_BITS
            if (
                path not in touched
                and status is not None
                and status.st_mode & 0o777 == mode
                and same_time(status.st_mtime_ns, info.mtime_ns)
            ):
                continue
            yield FolderEnd(NewDirectory(path, parents=True, mode=mode, mtime_ns=info.mtime_ns))

    def _fail(self, result: SyncResult, path: RemotePath, error: FtpyError) -> None:
        there = RemotePath((*self._source.parts, *path.parts))
        result.fail(there, os.path.join(self._root, *path.parts), error)


def _check_listing(there: dict[RemotePath, FileInfo]) -> None:
    """Raises ProtocolError where something is below a file: not both can come, and an undo would miss one of them."""
    above: RemotePath | None = None
    for path in sorted(there):  # what is below another comes right behind it
        if above is not None and path.parts[: len(above.parts)] == above.parts:
            raise ProtocolError(f"the server lists {display(str(path))} below what it lists as a file")
        if there[path].type == "file":
            above = path


class PlannedGet(TreeGet):
    """The files that a plan adds and replaces, and folders to be finished."""

    _as_listed = True

    def __init__(
        self,
        path: RemotePath,
        landing: Landing,
        options: TreeOptions,
        inline_bytes: int,
        planned: tuple[list[Planned], list[FolderEnd]],
        *,
        several: bool,
    ) -> None:
        self._planned = planned
        super().__init__(path, landing, options, inline_bytes, [], several=several)  # type: ignore[arg-type]

    def _found(self) -> Iterator[FileJob | FolderEnd]:
        steps, ends = self._planned
        for step, info, known in steps:
            self.tally.found(info.size)
            alone = info.size > self._inline_bytes
            name = self._landing.name(step.path)
            # What has come where nothing was to be replaced, or was kept, stays.
            replaces = step.do == "replace" and known is not None
            yield FileJob(info, step.path, name, alone=alone, replaces=replaces, known=known)
        self.tally.progress.known = True
        yield from ends
