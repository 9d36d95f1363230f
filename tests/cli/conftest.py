"""What several tests of the commands begin with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.administering import invoke
from tests.cli.desk import Desk
from tests.rig import Host, running


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A server for the tests of a module."""
    with running(tmp_path_factory.mktemp("server") / "host") as made:
        yield made


@pytest.fixture
def root(host: Host) -> Path:
    """The server's folder, empty."""
    for path in host.root.iterdir():
        if path.name != ".ftpy":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return host.root


@pytest.fixture
def desk(tmp_path: Path, host: Host, root: Path) -> Desk:
    """A workstation that is paired with the server, which has nothing yet."""
    made = Desk(tmp_path / "desk", host)
    made.pair()
    return made


@pytest.fixture
def fresh(tmp_path: Path, host: Host, root: Path) -> Desk:
    """A workstation that is not paired yet."""
    return Desk(tmp_path / "desk", host)


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
