"""Log lines: one for each event, nothing forged by a peer, nothing secret."""

from __future__ import annotations

import errno
import io
import json
import logging
import re

import pytest

from ftpy.config.server import Log
from ftpy.server.logs import setup_logging
from ftpy.wire.auth import verifier
from ftpy.wire.spelling import b64encode
from ftpy.wire.token import PairingToken

KEY = bytes(range(32))
TOKEN = PairingToken(addresses=["a:1"], user="alice", key=b64encode(KEY), certificate_sha256=None).to_text()


@pytest.fixture
def lines(capsys):
    """Logs with the given settings: what came out on standard error, line by line."""
    logger = logging.getLogger("ftpy")
    before = logger.handlers, logger.propagate, logger.level

    def said(settings: Log, *calls):
        setup_logging(settings)
        for call in calls:
            call(logging.getLogger("ftpy.server.x"))
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err.splitlines()

    yield said
    logger.handlers, logger.propagate = before[:2]
    logger.setLevel(before[2])


class Full(io.StringIO):
    """A log on a full disk."""

    def write(self, _: str) -> int:
        """Nothing can be written."""
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_line_that_cannot_be_written_is_lost_without_a_traceback(lines):
    def on_a_full_disk(logger: logging.Logger) -> None:
        handler = logging.getLogger("ftpy").handlers[0]
        before = handler.setStream(Full())
        logger.warning("lost")
        handler.setStream(before)
        logger.warning("said")

    (line,) = lines(Log(), on_a_full_disk)
    assert "said" in line


def event(name: str, level: int = logging.INFO, message: str = "", **fields):
    return lambda log: log.log(level, message or name, extra={"event": name, "fields": fields})


def failure(text: str):
    def call(log):
        try:
            raise ValueError(text)
        except ValueError:
            log.exception("internal", extra={"event": "internal", "fields": {"verb": "put"}})

    return call


def test_text_line_has_time_level_event_and_fields(lines):
    [line] = lines(Log(), event("login", user="alice", seconds=0.25, known=True, root=None, rights=("ls", "get")))
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO    login user=alice seconds=0.25 known=true root=- rights=ls,get",
        line,
    )


def test_json_line_is_one_object_with_the_fields_beside_the_event(lines):
    [line] = lines(Log(format="json"), event("put", bytes=2**40, path="a b", ok=True, etag=None, message="stored"))
    found = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("time"))
    assert found == {
        "level": "info",
        "event": "put",
        "bytes": 2**40,
        "path": "a b",
        "ok": True,
        "etag": None,
        "message": "stored",
    }


def test_json_line_keeps_a_field_that_has_the_name_of_ours(lines):
    calls = (event("real"), lambda log: log.info("x", extra={"event": "e", "fields": {"event": "forged", "level": 1}}))
    found = json.loads(lines(Log(format="json"), *calls)[1])
    assert (found["event"], found["event_"], found["level"], found["level_"]) == ("e", "forged", "info", 1)


def test_line_without_event_is_named_by_its_logger(lines):
    [line] = lines(Log(format="json"), lambda log: log.warning("free %s", "text"))
    found = json.loads(line)
    assert (found["event"], found["message"], found["level"]) == ("ftpy.server.x", "free text", "warning")


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize(
    "name", ["a\nINFO login user=root", "\x1b[2J", "a\r", "\u202egpj.exe", "\udcff", "\x9b31m", "\u2028x", "\0", "\x7f"]
)
def test_line_stays_one_and_printable_when_a_peer_sends_control_characters(lines, format, name):
    [line] = lines(Log(format=format), event("put", path=name, paths=[name]))
    assert line.isprintable()
    assert "put" in line


@pytest.mark.parametrize("value", ["a b", 'a"b', "a=b", "a\\b", ""])
def test_text_value_is_quoted_when_it_could_be_taken_for_more(lines, value):
    [line] = lines(Log(), event("put", path=value, after=1))
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    assert line.endswith(f'put path="{quoted}" after=1')


@pytest.mark.parametrize(("level", "said"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_level_is_the_least_that_is_said(lines, level, said):
    levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
    assert len(lines(Log(level=level), *(event("x", number) for number in levels))) == said


def test_setup_replaces_what_was_set_up_before(lines):
    lines(Log())
    assert len(lines(Log(format="json"), event("once"))) == 1


def test_json_exception_is_one_line_with_its_traceback_as_a_field(lines):
    [line] = lines(Log(format="json"), failure("bad\nnews"))
    found = json.loads(line)
    assert found["error"] == "ValueError: bad\\nnews"
    assert found["verb"] == "put"
    assert found["traceback"].startswith("Traceback (most recent call last):\n")
    assert "test_logs.py" in found["traceback"]


def test_text_exception_is_one_line_that_says_where_above_debug(lines):
    [line] = lines(Log(), failure("bad\nnews"))
    assert re.search(r'internal verb=put error="ValueError: bad\\\\nnews" at="test_logs.py:\d+ call"', line)


def test_text_exception_has_its_traceback_on_marked_lines_at_debug(lines):
    first, *rest = lines(Log(level="debug"), failure("bad\nnews"))
    assert "internal" in first
    assert rest[0] == "  | Traceback (most recent call last):"
    assert all(line.startswith("  | ") for line in rest)


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize("level", ["debug", "info"])
def test_no_secret_comes_out_whichever_way_it_gets_in(lines, format, level):
    keys = verifier(KEY, "alice")
    said = "\n".join(
        lines(
            Log(format=format, level=level),
            event("a", key=b64encode(KEY), token=TOKEN, stored_key=keys.stored_key, server_proof="proof"),
            event("b", data=KEY, text=f"pair with {TOKEN}", many=[TOKEN, KEY], cut=TOKEN[:-9]),
            event("c", message=f"it was {TOKEN}", keys=keys, token_of=PairingToken.from_text(TOKEN)),
            failure(f"not a token: {TOKEN}"),
        )
    )
    for secret in (b64encode(KEY), TOKEN.split(".")[1], b64encode(keys.stored_key), repr(KEY), '"proof"', "=proof"):
        assert secret not in said
    assert "<32 bytes>" in said
