"""What several tests of the commands begin with."""

from __future__ import annotations

import pytest

from tests.cli.administering import invoke


@pytest.fixture
def made(tmp_path):
    """A server's folder with the user alice: the path of its settings."""
    result = invoke("init", tmp_path / "srv", "--user", "alice", "--listen", "127.0.0.1:7421")
    assert result.exit_code == 0
    return tmp_path / "srv" / "server.toml"


@pytest.fixture
def edited(made):
    """Changes the settings: a function from what is replaced to what replaces it."""

    def edit(old: str, new: str):
        text = made.read_text()
        assert old in text
        made.write_text(text.replace(old, new))
        return made

    return edit
