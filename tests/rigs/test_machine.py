"""All verbs in any order against a model; ``scripts/rig-machine`` does it by the thousand."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from ftpy.storage.publishing import Publisher
from ftpy.storage.upload import LiveUpload
from tests.rig import running
from tests.rigs.machine import LIMITS, parts_are_small, run

pytestmark = pytest.mark.slow


def test_a_server_does_what_the_model_says_whatever_comes_in_whatever_order(tmp_path: Path) -> None:
    with parts_are_small(), running(tmp_path / "host", tls=False, limits=LIMITS) as host:
        run(host, examples=200, steps=30)


@pytest.mark.parametrize(
    "defect",
    [
        mock.patch.object(Publisher, "check", lambda *_, **__: None),
        mock.patch.object(LiveUpload, "_verify", lambda *_: None),
        mock.patch("ftpy.storage.partbook.PartBook.check_complete", lambda *_: None),
    ],
    ids=["conditions are not looked at", "the whole is not verified", "parts may be missing"],
)
def test_a_server_that_does_something_else_is_told(tmp_path: Path, defect: object) -> None:
    """The control: three defects, each met within some examples."""
    with (
        parts_are_small(),
        running(tmp_path / "host", tls=False, limits=LIMITS) as host,
        defect,  # type: ignore[attr-defined]
        pytest.raises(AssertionError),
    ):
        run(host, examples=200, steps=30, shortened=False)
