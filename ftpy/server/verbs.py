"""A row per verb: who answers it, and which rights it takes at which path. Permission is checked once, here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ftpy.errors import PermissionDenied, Unsupported
from ftpy.files import RemotePath, display
from ftpy.server import events, handlers, operations, ping, reading, receipts, running, trees, upkeep
from ftpy.server.context import Context
from ftpy.server.rights import Permissions
from ftpy.storage.base import Admits
from ftpy.wire.bases import Reply, Request, UnknownRequest
from ftpy.wire.commands import CommandsRequest, RunRequest
from ftpy.wire.events import EventsRequest
from ftpy.wire.fields import DigestOf
from ftpy.wire.messages import (
    AbortRequest,
    CommitRequest,
    DigestRequest,
    GetRequest,
    LsRequest,
    MkdirRequest,
    MvRequest,
    PartRequest,
    PutRequest,
    RmRequest,
    StatRequest,
    TimesRequest,
)
from ftpy.wire.operations import BeginRequest, ForgetRequest, OperationsRequest, UndoRequest
from ftpy.wire.ping import PingRequest
from ftpy.wire.receipts import ReceiptRequest
from ftpy.wire.trees import DiscardRequest, RollbackRequest, StageRequest, SwapRequest
from ftpy.wire.upkeep import DfRequest, TouchRequest

PathOf = Callable[[Any, Context], RemotePath]
"""Which path of a request a right is needed at."""
Of = Callable[[Any], bool]
"""Whether something is so of a request."""


def _named(request: Any, context: Context) -> RemotePath:  # noqa: ARG001
    path: RemotePath = request.remote_path()
    return path


def _new(request: MvRequest, context: Context) -> RemotePath:  # noqa: ARG001
    return request.remote_target()


def _of_upload(request: Any, context: Context) -> RemotePath:
    return context.upload(request.upload).path


def _always(request: Any) -> bool:  # noqa: ARG001
    return True


def _never(request: Any) -> bool:  # noqa: ARG001
    return False


@dataclass(frozen=True, slots=True)
class Need:
    """A right that a request takes at a path: where ``when`` is so, and everywhere ``below`` where that is so.

    Without a ``path`` it takes the right anywhere, and the handler sees to where.
    """

    right: str
    path: PathOf | None = _named
    below: Of = _never
    when: Of = _always
    beside: str | None = None
    """Only who holds this right there as well needs it."""


@dataclass(frozen=True, slots=True)
class Verb:
    """How one verb is answered: ``handler`` returns the reply, or None when it has spoken or will speak itself.

    It takes what it ``needs``; nothing where it is about the connection alone. With ``replaces`` the handler is told
    whether the user may replace what is at that path, as ``replacing``; with ``shows`` which paths may be told of,
    those with that right, as ``admits`` (None: all); with ``digests`` likewise of which digests may be, as ``tells``.
    """

    handler: Callable[..., Reply | None]
    needs: tuple[Need, ...] = ()
    replaces: PathOf | None = None
    replaces_all: PathOf | None = None
    """The same for all that is at that path and below it, which goes."""
    shows: str | None = None
    digests: str | None = None
    ever: tuple[str, ...] = ()
    """Rights of which one must be held somewhere."""


def _compares(request: PutRequest) -> bool:
    """Whether a put is to replace the content or version that it names."""
    return isinstance(request.condition, DigestOf) or request.etag is not None


def _staged(request: LsRequest | DigestRequest) -> bool:
    """Whether it is about what the user has put into a staged tree."""
    return request.tree is not None


def _in_sight(request: LsRequest | DigestRequest) -> bool:
    return request.tree is None


_CHANGES = ("write", "delete")
"""Who may not change anything has no operations."""

_WRITE_UPLOAD = Need("write", path=_of_upload)

VERBS: dict[type[Request], Verb] = {
    PutRequest: Verb(handlers.handle_put, (Need("write"), Need("replace", when=_compares)), replaces=_named),
    PartRequest: Verb(handlers.handle_part, (_WRITE_UPLOAD,)),
    CommitRequest: Verb(handlers.handle_commit, (_WRITE_UPLOAD,), replaces=_of_upload),
    AbortRequest: Verb(handlers.handle_abort, (_WRITE_UPLOAD,)),
    MkdirRequest: Verb(handlers.handle_mkdir, (Need("write"),), replaces=_named),
    RmRequest: Verb(handlers.handle_rm, (Need("delete", below=lambda request: request.recursive),)),
    MvRequest: Verb(
        handlers.handle_mv,
        (
            # Names and contents could be looked at where they go to.
            Need("list", below=_always),
            Need("read", below=_always),
            Need("delete", below=_always),
            Need("write", path=_new, below=_always),
        ),
        replaces=_new,
    ),
    GetRequest: Verb(reading.handle_get, (Need("read"),)),
    DigestRequest: Verb(reading.handle_digest, (Need("read", when=_in_sight), Need("write", when=_staged))),
    LsRequest: Verb(
        reading.handle_ls,
        (Need("list", below=lambda request: request.whole, when=_in_sight), Need("write", when=_staged)),
        shows="list",
        digests="read",
    ),
    StatRequest: Verb(reading.handle_stat, (Need("list"),), digests="read"),
    TimesRequest: Verb(reading.handle_times),
    TouchRequest: Verb(upkeep.handle_touch, (Need("write"),), replaces=_named),
    PingRequest: Verb(ping.handle_ping),
    DfRequest: Verb(upkeep.handle_df),  # who may only put must know whether there is room
    EventsRequest: Verb(events.handle_events, (Need("list", path=None),), shows="list"),
    ReceiptRequest: Verb(
        receipts.handle_receipt,
        (
            Need("read", when=lambda request: request.etag is None),
            # Who knows the version has put it, unless it was in a listing.
            Need("write", when=lambda request: request.etag is not None),
            Need("read", when=lambda request: request.etag is not None, beside="list"),
        ),
    ),
    # Which commands a user may run is said by each command's own settings.
    CommandsRequest: Verb(running.handle_commands),
    RunRequest: Verb(running.handle_run),
    # What is in the tree was put there under the rights of that time: those of now hold wherever it may lie.
    StageRequest: Verb(trees.handle_stage, (Need("write", below=_always),), replaces_all=_named),
    SwapRequest: Verb(trees.handle_swap, (Need("write", below=_always),), replaces_all=_named),
    DiscardRequest: Verb(trees.handle_discard, (Need("write"),)),
    RollbackRequest: Verb(
        trees.handle_rollback, tuple(Need(right, below=_always) for right in ("write", "replace", "delete"))
    ),
    BeginRequest: Verb(operations.handle_begin, ever=_CHANGES),
    OperationsRequest: Verb(operations.handle_operations, ever=_CHANGES),
    UndoRequest: Verb(operations.handle_undo, ever=_CHANGES),
    ForgetRequest: Verb(operations.handle_forget, ever=_CHANGES),
}


def dispatch(request: Request | UnknownRequest, context: Context) -> Reply | None:
    """Answer one request. Raises PermissionDenied, Unsupported, and what the handler raises."""
    if isinstance(request, UnknownRequest):
        raise Unsupported(f"this server does not know the verb {request.cmd!r}")
    verb = VERBS[type(request)]
    allowed = context.account.permissions
    for need in verb.needs:
        if need.when(request):
            _check(need, request, context, allowed)
    if verb.ever and not any(map(allowed.ever, verb.ever)):
        raise PermissionDenied(f"user {context.account.name} has no right to {' or '.join(verb.ever)}")
    more: dict[str, Any] = {}
    if verb.replaces is not None:
        more["replacing"] = "replace" in allowed.at(verb.replaces(request, context))
    if verb.replaces_all is not None:
        more["replacing"] = {"replace", "delete"} <= allowed.below(verb.replaces_all(request, context))
    if verb.shows is not None:
        more["admits"] = _where(_seen(verb.shows, request), allowed)
    if verb.digests is not None:
        more["tells"] = _where(_seen(verb.digests, request), allowed)
    return verb.handler(request, context, **more)


def _seen(right: str, request: Request) -> str:
    """The right to be told of something: of what is staged it is the one that put it there."""
    return "write" if getattr(request, "tree", None) is not None else right


def _where(right: str, allowed: Permissions) -> Admits:
    """The paths at which a right is held."""
    if not allowed.rules and right in allowed.rights:
        return None
    return lambda path: right in allowed.at(path)


def _check(need: Need, request: Request, context: Context, allowed: Permissions) -> None:
    refused = f"user {context.account.name} has no right to {need.right}"
    if not allowed.ever(need.right) and need.beside is None:
        raise PermissionDenied(refused)  # before anything is looked up
    if need.path is None:
        return
    path = need.path(request, context)
    held = allowed.below(path) if need.below(request) else allowed.at(path)
    if need.beside is not None and need.beside not in held:
        return
    if need.right not in held:
        raise PermissionDenied(f"{refused} {display(str(path)) or '/'}")
