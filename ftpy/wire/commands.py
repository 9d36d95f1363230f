"""Remote commands: which ones there are, one that runs, and what is said while it does (docs/protocol.md 19)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType, field

from ftpy.digests import PartDigestName
from ftpy.wire.bases import Continuation, Reply, Request
from ftpy.wire.fields import Message, Size, Text

MOST_ARGUMENTS = 64
"""Arguments of one command."""
ARGUMENT_CHARACTERS = 4096
"""Of one argument: the longest path that Linux knows."""
PIECE_BYTES = 64 * 1024
"""Longest piece of input or output: what a pipe holds."""

CommandName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}\Z")]
EncodingName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:+-]{0,63}\Z")]
PieceSize = Annotated[int, Meta(ge=1, le=PIECE_BYTES)]
ExitCode = Annotated[int, Meta(ge=0, le=255)]
StreamName = Literal["stdout", "stderr"]
Ended = Literal["exit", "signal", "timeout", "cancel"]
"""How a command came to its end: by itself, by a signal, because its time was up, because the client said so."""


class CommandsRequest(Request, frozen=True, kw_only=True, tag="commands"):
    """Which commands may this user run?"""


class RunRequest(Request, frozen=True, kw_only=True, tag="run"):
    """Run a command of the host's; ``digest`` is the one of every trailer, both ways."""

    command: CommandName
    arguments: Annotated[
        list[Annotated[str, Meta(max_length=ARGUMENT_CHARACTERS)]], Meta(max_length=MOST_ARGUMENTS)
    ] = field(default_factory=list)
    digest: PartDigestName = "blake3"

    @property
    def takes_more(self) -> bool:
        """Input, or word to end it."""
        return True


class InputMessage(Continuation, frozen=True, kw_only=True, tag="input"):
    """``length`` bytes for the command's standard input follow; without it, its end."""

    length: PieceSize | None = None

    @property
    def body_length(self) -> int | None:
        """The piece's bytes."""
        return self.length


class CancelMessage(Continuation, frozen=True, kw_only=True, tag="cancel"):
    """End the command."""


class CommandEntry(Message, frozen=True, kw_only=True):
    """A command: what it is for, a regular expression for each argument, whether it takes standard input."""

    name: CommandName
    summary: Text = ""
    arguments: Annotated[list[Text], Meta(max_length=MOST_ARGUMENTS)] = field(default_factory=list)
    stdin: bool = False


class CommandsReply(Reply, frozen=True, kw_only=True):
    """One command, or (``complete``) that these were all."""

    command: CommandEntry | UnsetType = UNSET
    complete: bool

    def __post_init__(self) -> None:
        if self.complete != (self.command is UNSET):
            raise ValueError("a command, or the end of them")

    @property
    def last(self) -> bool:
        """Whether these were all."""
        return self.complete


_SHAPES = ({"encoding", "credit"}, {"credit"}, {"stream", "length"}, {"code", "ended"})


class RunReply(Reply, frozen=True, kw_only=True):
    """It has begun (``encoding`` and ``credit``), took input (``credit``), said something, or has ended (``code``).

    ``credit`` is how many bytes of input more it takes, ``stream`` and ``length`` are of the piece of output that
    follows.
    """

    encoding: EncodingName | UnsetType = UNSET
    credit: Size | UnsetType = UNSET
    stream: StreamName | UnsetType = UNSET
    length: PieceSize | UnsetType = UNSET
    code: ExitCode | UnsetType = UNSET
    ended: Ended | UnsetType = UNSET

    def __post_init__(self) -> None:
        fields = ("encoding", "credit", "stream", "length", "code", "ended")
        if {name for name in fields if getattr(self, name) is not UNSET} not in _SHAPES:
            raise ValueError("a run's reply says one thing")

    @property
    def body_length(self) -> int | None:
        """The piece's bytes."""
        return None if self.length is UNSET else self.length

    @property
    def last(self) -> bool:
        """Whether the command has ended."""
        return self.code is not UNSET
