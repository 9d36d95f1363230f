"""The error tree: one code per class, the same on both ends and in the protocol document."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ftpy import errors
from ftpy.errors import CODES, FtpyError, ProtocolError, RequestError, request_error

PROTOCOL = Path(__file__).parents[1] / "docs" / "protocol.md"


def every_class(base: type[FtpyError] = FtpyError) -> list[type[FtpyError]]:
    return [base, *(found for child in base.__subclasses__() for found in every_class(child))]


def test_codes_are_one_to_one_with_classes():
    requests = [kind for kind in every_class(RequestError) if kind is not RequestError]
    assert sorted(CODES) == sorted(kind.code for kind in requests)
    assert len({kind.code for kind in requests}) == len(requests)
    assert ProtocolError.code not in CODES


def test_codes_are_stable_words():
    assert all(re.fullmatch(r"[a-z][a-z-]{0,63}", code) for code in [*CODES, ProtocolError.code])


def test_protocol_document_lists_exactly_the_codes():
    rows = re.findall(r"^\| `([a-z-]+)` \| ([A-Za-z]+) \|", PROTOCOL.read_text("utf-8"), re.MULTILINE)
    assert dict(rows) == {code: kind.__name__ for code, kind in {**CODES, ProtocolError.code: ProtocolError}.items()}
    assert len(rows) == len(CODES) + 1


@pytest.mark.parametrize("code", CODES)
def test_request_error_comes_back_as_the_same_class(code):
    error = request_error(code, "a: why")
    assert type(error) is CODES[code]
    assert str(error) == "a: why"
    assert str(request_error(code, "")) == CODES[code].sentence()


def test_request_error_stays_readable_when_its_code_is_unknown():
    assert type(request_error("on-fire", "the disk")) is RequestError
    assert str(request_error("on-fire", "the disk")) == "on-fire: the disk"
    assert str(request_error("on-fire", "")) == "on-fire"


@pytest.mark.parametrize("kind", [kind for kind in every_class() if kind.__module__ == errors.__name__])
def test_sentence_is_one_line_for_a_user(kind):
    assert str(kind()) == kind.sentence() == kind.sentence().strip()
    assert kind.sentence()[0].isupper()
    assert kind.sentence().endswith(".")
    assert len(kind.sentence()) < 100


def test_tree_in_the_docstring_names_no_class_that_is_not_there():
    drawn = re.findall(r"[├└]── ([A-Za-z]+)", errors.__doc__)
    assert len(drawn) >= 10
    assert all(issubclass(getattr(errors, name), FtpyError) for name in drawn)


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [
        (errors.ConfigError, 2),
        (errors.LocalFileError, 1),
        (errors.ConnectionLost, 3),
        (errors.Stalled, 3),
        (ProtocolError, 3),
        (errors.Denied, 4),
        (errors.ServerNotTrusted, 4),
        (errors.NotFound, 1),
        (errors.DigestMismatch, 5),
    ],
)
def test_exit_code(kind, exit_code):
    assert kind.exit_code == exit_code
