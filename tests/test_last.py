"""What no test alone can tell: rules about the whole run."""

from __future__ import annotations

import pytest

from tests.conftest import secrets_in
from tests.rig import KEYS

pytestmark = pytest.mark.last


def test_no_key_and_no_token_is_in_any_log_of_this_run(logs_of_the_run: list[tuple[str, bytes]]) -> None:
    assert [(where, found) for where, text in logs_of_the_run if (found := secrets_in(text))] == []


def test_a_key_or_token_in_a_log_would_be_found() -> None:
    """The control."""
    KEYS["A" * 42 + "E"] = "0" * 62 + "04"
    try:
        for text in (b"key=" + b"A" * 42 + b"E.", b"x" + b"0" * 62 + b"04", b"token ftpy1." + b"e" * 50 + b".1234"):
            assert len(secrets_in(text)) == 1
        assert secrets_in(b"ftpy1.\xe2\x80\xa6 " + b"A" * 43) == []
    finally:
        del KEYS["A" * 42 + "E"]
