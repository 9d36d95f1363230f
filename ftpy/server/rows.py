"""What is asked and answered at the control socket: one row a frame, then the end (docs/operations.md, status)."""

from __future__ import annotations

import msgspec
from msgspec import Struct


class StatusQuestion(Struct, frozen=True, forbid_unknown_fields=True, tag_field="ask", tag="status"):
    """Who is there, and what is going on?"""


class KickQuestion(Struct, frozen=True, forbid_unknown_fields=True, tag_field="ask", tag="kick"):
    """End a session."""

    session: str


Question = StatusQuestion | KickQuestion


class ServerRow(Struct, frozen=True, kw_only=True, tag_field="row", tag="server"):
    """The server as a whole; ``silent`` of its ``workers`` did not answer in time, their sessions are missing."""

    version: str
    pid: int
    since_ns: int
    workers: int
    silent: int = 0
    listening: list[str]
    connections: int
    limit: int
    draining: bool


class RootRow(Struct, frozen=True, tag_field="row", tag="root"):
    """A folder that is served; the server's own comes first. A row each: of a thousand users' they fill no frame."""

    root: str


class SessionRow(Struct, frozen=True, kw_only=True, tag_field="row", tag="session"):
    """A connection: what it does, and ``bytes`` moved so far of the ``size`` of that (None: not known).

    ``state`` is "login", "idle" or a verb; ``rate`` is bytes a second both ways, lately. What the peer worded is
    cut and cleaned.
    """

    session: str
    user: str
    source: str
    since_ns: int
    state: str
    path: str | None = None
    bytes: int = 0
    size: int | None = None
    rate: int = 0


class UploadRow(Struct, frozen=True, kw_only=True, tag_field="row", tag="upload"):
    """An unfinished upload, open or not: ``stored`` of ``size`` bytes, nothing came for ``age_seconds``."""

    owner: str
    path: str
    size: int | None
    stored: int
    age_seconds: int
    root: str


class PenaltyRow(Struct, frozen=True, kw_only=True, tag_field="row", tag="penalty"):
    """A source that misbehaved: ``seconds`` until that is forgotten, refused for the first ``refused_seconds`` of them.

    ``refused`` connections were, so far.
    """

    source: str
    seconds: float
    refused_seconds: float
    refused: int


class BeaconRow(Struct, frozen=True, kw_only=True, tag_field="row", tag="beacon"):
    """The beacon: where it listens, and what became of the datagrams that came.

    ``answered``; dropped because they were ``garbage`` (no question of this version), came too fast (``limited``: from
    one source or in all), or because the system did not take the answer (``failed``).
    """

    listening: list[str]
    name: str
    answered: int
    garbage: int
    limited: int
    failed: int


class EndRow(Struct, frozen=True, kw_only=True, tag_field="row", tag="end"):
    """All was said; ``found``: what was asked about is there."""

    found: bool = True


Row = ServerRow | RootRow | SessionRow | UploadRow | PenaltyRow | BeaconRow | EndRow

encode = msgspec.json.Encoder().encode
decode_question = msgspec.json.Decoder(Question).decode
decode_row = msgspec.json.Decoder(Row).decode
