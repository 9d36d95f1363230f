"""A row per verb: who answers it and which right it takes. Permission is checked once, here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ftpy.errors import PermissionDenied, Unsupported
from ftpy.server import handlers
from ftpy.server.context import Context
from ftpy.wire.messages import (
    AbortRequest,
    CommitRequest,
    DigestRequest,
    GetRequest,
    LsRequest,
    MkdirRequest,
    PartRequest,
    PutRequest,
    Reply,
    Request,
    StatRequest,
    TimesRequest,
    UnknownRequest,
)


@dataclass(frozen=True, slots=True)
class Verb:
    """How one verb is answered: ``handler`` returns the reply, or None when it has spoken or will speak itself.

    ``right`` is what it takes; None where it is about the connection alone.
    """

    handler: Callable[[Any, Context], Reply | None]
    right: str | None


VERBS: dict[type[Request], Verb] = {
    PutRequest: Verb(handlers.handle_put, right="put"),
    PartRequest: Verb(handlers.handle_part, right="put"),
    CommitRequest: Verb(handlers.handle_commit, right="put"),
    AbortRequest: Verb(handlers.handle_abort, right="put"),
    MkdirRequest: Verb(handlers.handle_mkdir, right="put"),
    GetRequest: Verb(handlers.handle_get, right="get"),
    DigestRequest: Verb(handlers.handle_digest, right="get"),
    LsRequest: Verb(handlers.handle_ls, right="ls"),
    StatRequest: Verb(handlers.handle_stat, right="ls"),
    TimesRequest: Verb(handlers.handle_times, right=None),
}


def dispatch(request: Request | UnknownRequest, context: Context) -> Reply | None:
    """Answer one request. Raises PermissionDenied, Unsupported, and what the handler raises."""
    if isinstance(request, UnknownRequest):
        raise Unsupported(f"this server does not know the verb {request.cmd!r}")
    verb = VERBS[type(request)]
    if verb.right is not None and verb.right not in context.account.rights:
        raise PermissionDenied(f"user {context.account.name} has no right to {verb.right}")
    return verb.handler(request, context)
