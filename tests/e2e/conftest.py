from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import Host, running


@pytest.fixture(params=["tls", "plaintext"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    """A server that runs, once with TLS and once without."""
    with running(tmp_path / "host", tls=request.param == "tls") as made:
        yield made


@pytest.fixture
def tls_host(tmp_path: Path) -> Iterator[Host]:
    """A server that runs, with TLS."""
    with running(tmp_path / "host") as made:
        yield made


@pytest.fixture
def plain_host(tmp_path: Path) -> Iterator[Host]:
    """A server that runs, without TLS."""
    with running(tmp_path / "host", tls=False) as made:
        yield made
