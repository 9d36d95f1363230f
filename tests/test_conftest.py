"""The search for secrets in what all tests log: what it would find."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import secrets_below, secrets_in
from tests.rig import KEYS


def test_a_key_or_token_in_a_log_would_be_found(tmp_path: Path) -> None:
    KEYS["A" * 42 + "E"] = "0" * 62 + "04"
    try:
        for text in (b"key=" + b"A" * 42 + b"E.", b"x" + b"0" * 62 + b"04", b"token ftpy1." + b"e" * 50 + b".1234"):
            assert len(secrets_in(text)) == 1
        assert secrets_in(b"ftpy1.\xe2\x80\xa6 " + b"A" * 43) == []
        (tmp_path / "host").mkdir()
        (tmp_path / "host/server.log").write_text("A" * 42 + "E")
        assert secrets_below(tmp_path) == [(str(tmp_path / "host/server.log"), ["A" * 42 + "E"])]
    finally:
        del KEYS["A" * 42 + "E"]
