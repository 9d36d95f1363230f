"""How the server speaks on standard error: one line for each event, for people or as JSON.

A caller says ``log.info("what", extra={"event": "word", "fields": {...}})``; the event's name is for searching, the
fields are the facts. Many events of one kind may come at once: then ``each`` is a list of what differs.

What a peer sent is escaped, so that no name can forge a line; secrets never come in: raw
bytes are not printed, pairing tokens and fields with the name of a secret are struck out.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import traceback
from functools import lru_cache
from typing import Any, TextIO

import msgspec

from ftpy.config.server import Log
from ftpy.files import display

_SECRET_FIELDS = frozenset(
    ["key", "token", "proof", "client_proof", "server_proof", "stored_key", "server_key", "decoy_key", "password"]
)
_TOKEN = re.compile(r"\bftpy1\.[A-Za-z0-9_-]+(?:\.[0-9a-f]*)?")
_STRUCK = "…"
_BARE = re.compile(r"[^\s\"=\\]+\Z")
"""A text value that needs no quotes."""
_PLAIN = re.compile(r"[!#-<>-\[\]-~]+\Z").match
"""The same of printable ASCII: nothing in it is to be escaped."""


def setup_logging(settings: Log) -> None:
    """Send what ``ftpy`` logs to standard error, as ``settings`` say; replaces what an earlier call set up."""
    handler = Voice(sys.stderr)
    handler.setFormatter(JsonLines() if settings.format == "json" else TextLines())
    logger = logging.getLogger("ftpy")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(settings.level.upper())


class Voice(logging.StreamHandler[TextIO]):
    """Writes lines; where they cannot be written (a full disk), what does not fit the buffer is lost, and only that."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (its name in logging)
        """Nobody can be told: logging's own way, a traceback in the same place, would not be a line either."""


class JsonLines(logging.Formatter):
    """One JSON object a line: ``time`` (RFC 3339, UTC), ``level``, ``event``, the fields, then ``message``.

    An exception adds ``error`` and ``traceback``. A field that has one of these names gets ``_`` at its end.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line, without its end; with ``each``, a line for each."""
        line: dict[str, Any] = {"time": _time(record), "level": record.levelname.lower(), "event": _event(record)}
        if each := _each(record):
            line |= _fields(record)
            return "\n".join(msgspec.json.encode(line | fields).decode() for fields in each)
        taken = {*line, "message", "error", "traceback"} if record.exc_info else {*line, "message"}
        for name, value in _fields(record).items():
            line[f"{name}_" if name in taken else name] = value
        if message := _message(record):
            line["message"] = message
        if record.exc_info and (error := record.exc_info[1]):
            line["error"] = clean(_error(error))
            line["traceback"] = "\n".join(_traceback(error))
        return msgspec.json.encode(line).decode()


class TextLines(logging.Formatter):
    """``TIME LEVEL event key=value… message``; an exception adds ``error=`` and ``at=``, the calls that led to it.

    Only at level debug a whole traceback follows, on lines of its own that begin with ``|``: otherwise a line is
    an event.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line (several at debug), without its end; with ``each``, a line for each."""
        fields = _fields(record)
        if each := getattr(record, "each", ()):
            words = [_time(record), f"{record.levelname:<7}", _event(record), *_words(fields)]
            begin = " ".join(words)
            return "\n".join([begin + _facts(one) for one in each])
        tail: list[str] = []
        if record.exc_info and (error := record.exc_info[1]):
            fields |= {"error": clean(_error(error)), "at": _calls(error)}
            if logging.getLogger("ftpy").isEnabledFor(logging.DEBUG):
                tail = [f"  | {line}" for line in _traceback(error)]
        words = [_time(record), f"{record.levelname:<7}", _event(record)]
        words += _words(fields)
        if message := _message(record):
            words.append(f"({message})")
        return "\n".join([" ".join(words), *tail])


def timestamp(seconds: float | None = None) -> str:
    """A moment, now if none is given, as RFC 3339 has it: UTC, to the millisecond."""
    whole, part = divmod(time.time() if seconds is None else seconds, 1)
    return f"{_to_the_second(int(whole))}.{int(part * 1000):03d}Z"


@lru_cache(maxsize=4)
def _to_the_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _time(record: logging.LogRecord) -> str:
    return timestamp(record.created)


def _event(record: logging.LogRecord) -> str:
    return clean(str(getattr(record, "event", record.name)))


def _message(record: logging.LogRecord) -> str:
    message = clean(record.getMessage())
    return "" if message == _event(record) else message


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return {clean(name): _value(name, value) for name, value in fields.items()}


def _each(record: logging.LogRecord) -> list[dict[str, Any]]:
    """The facts of several events that differ only in them, by names of ours."""
    return [{name: _value(name, value) for name, value in fields.items()} for fields in getattr(record, "each", ())]


def _words(fields: dict[str, Any]) -> list[str]:
    return [f"{name}={_quoted(value)}" for name, value in fields.items()]


def _facts(facts: dict[str, Any]) -> str:
    """Facts by names of ours, each with a space before it; what nearly all are is told at one glance."""
    line = ""
    for name, value in facts.items():
        kind = type(value)
        plain = kind is int or kind is float or (kind is str and _PLAIN(value) and "ftpy1." not in value)
        line += (
            f" {name}={value}" if plain and name not in _SECRET_FIELDS else f" {name}={_quoted(_value(name, value))}"
        )
    return line


def _value(name: str, value: object) -> Any:
    """A field's value, fit for a line: numbers, booleans and None as they are, all else as clean text."""
    if name in _SECRET_FIELDS:
        return _STRUCK
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, list | tuple | set | frozenset):
        return [_value(name, item) for item in value]
    return clean(str(value))


def clean(text: str) -> str:
    """``text`` fit for a line: what would forge one is escaped, pairing tokens are struck out."""
    return display(_TOKEN.sub(f"ftpy1.{_STRUCK}", text) if "ftpy1." in text else text)


def _quoted(value: Any) -> str:
    if type(value) is int:
        return str(value)
    if isinstance(value, list):
        return ",".join(_quoted(item) for item in value) or '""'
    text = "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    if _BARE.match(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _error(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _calls(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return " > ".join(f"{os.path.basename(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames[-8:])


def _traceback(error: BaseException) -> list[str]:
    return [clean(line) for line in "".join(traceback.format_exception(error)).splitlines()]
