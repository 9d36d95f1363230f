"""The part of ``Client`` that puts a tree as one thing: staged out of sight, swapped in, gone back from."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ftpy.client.base import PathLike, remote_path
from ftpy.client.changing import look
from ftpy.client.connection import Connection
from ftpy.client.results import RolledBack
from ftpy.client.transfers import Transfers
from ftpy.client.trees import TreeOptions, TreeResult
from ftpy.errors import (
    ConnectionLost,
    Incomplete,
    IsADirectory,
    NotADirectory,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
)
from ftpy.files import RemotePath, display
from ftpy.wire.spelling import path_to_wire
from ftpy.wire.trees import (
    DiscardReply,
    DiscardRequest,
    RollbackReply,
    RollbackRequest,
    StageReply,
    StageRequest,
    SwapReply,
    SwapRequest,
)

if TYPE_CHECKING:
    from ftpy.client.treeput import TreePut

_MISFITS = (IsADirectory, NotADirectory)
"""How files fail where an earlier run has left something else in their way."""


class Swapping(Transfers):
    """Trees at once."""

    def put_tree(
        self, source: str | os.PathLike[str], path: PathLike, options: TreeOptions | None = None
    ) -> TreeResult:
        """Store the folder ``source`` as the folder ``path``; what is there already and identical is passed over.

        A file that fails is told in the result and does not stop the others. With ``options.atomic`` all of the tree is
        put out of sight, what an earlier run has left of that is compared by digest and gone on with, and then it takes
        the place of what is there in one step; where a file failed it does not (``swapped`` in the result).
        Raises LocalFileError for ``source`` itself, and what ends a connection for good.
        """
        options = options or TreeOptions(digest=self._transfer.digest)
        if not options.atomic or options.dry_run:
            return super().put_tree(source, path, options)
        target = remote_path(path)
        staged = self._stage(target, options)
        try:
            return self._put_at_once(os.fspath(source), target, options, staged)
        except Incomplete as error:
            if not staged.resumed:
                raise
            self._notify(f"{error}, of an earlier put; starting over")
        self._discard(target, staged)
        return self._put_at_once(os.fspath(source), target, options, self._stage(target, options))

    def rollback(self, path: PathLike) -> RolledBack:
        """Swap what is at ``path`` with the tree that was there before the last ``put_tree`` with ``atomic``.

        A second one returns. Durable when it returns. Raises NoPrevious, OutcomeUnknown, ….
        """
        where = remote_path(path)

        def attempt(live: Connection) -> RolledBack:
            with contextlib.suppress(NotFound, PermissionDenied):
                look(live, where)  # a connection that has broken long ago is found out by what may be asked again
            try:
                reply = live.call(RollbackRequest(id=live.next_id(), **path_to_wire(where)), RollbackReply)
            except ConnectionLost as error:  # it may have been done, and asked again would be undone
                raise OutcomeUnknown(f"{display(str(where))}: {OutcomeUnknown.sentence()}") from error
            return RolledBack(where, replaced=reply.replaced)

        return self._persist(attempt)

    # ---------------------------------------------------------------- steps

    def _put_at_once(self, source: str, target: RemotePath, options: TreeOptions, staged: StageReply) -> TreeResult:
        """Put all of it out of sight, then in place. Raises Incomplete where what was left there does not fit."""
        from ftpy.client.treeput import TreePut

        with self._listing(target, staged.resumed, tree=staged.tree) as theirs:
            each = replace(options, if_absent=False)  # that is said of the whole
            tree = TreePut(source, target, each, self._connected().inline_bytes, theirs, staged=staged.tree)
            result = self._run_tree(tree, options)
        if result.failed:
            if any(isinstance(told.error, _MISFITS) for told in result.failures):
                raise Incomplete(f"{display(str(target))}: something else is in the way")
            return result
        self._swap(target, staged, tree, options)
        result.swapped = True
        return result

    def _stage(self, target: RemotePath, options: TreeOptions) -> StageReply:
        absent = options.if_absent
        return self._persist(
            lambda live: live.call(
                StageRequest(id=live.next_id(), **path_to_wire(target), condition="absent" if absent else None),
                StageReply,
            )
        )

    def _swap(self, target: RemotePath, staged: StageReply, tree: TreePut, options: TreeOptions) -> None:
        """In place; asked again after a lost answer, it was done the first time."""
        self._persist(
            lambda live: live.call(
                SwapRequest(
                    id=live.next_id(),
                    **path_to_wire(target),
                    tree=staged.tree,
                    files=tree.tally.result.files + tree.tally.result.identical,
                    folders=tree.folders,
                    file_bytes=tree.tally.there,
                    condition="absent" if options.if_absent else None,
                ),
                SwapReply,
            )
        )

    def _discard(self, target: RemotePath, staged: StageReply) -> None:
        self._persist(
            lambda live: live.call(
                DiscardRequest(id=live.next_id(), **path_to_wire(target), tree=staged.tree), DiscardReply
            )
        )
