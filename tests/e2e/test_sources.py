"""What a put reads on this side: all of a file or nothing, and of a tree only what is in it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ftpy.client.source import Source
from ftpy.errors import SourceChanged
from tests.rig import Host

MIB = 1024 * 1024


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="no /proc, whose files are of size 0")


@needs_proc
def test_a_file_that_holds_more_than_its_size_says_is_refused_and_nothing_is_stored(plain_host: Host) -> None:
    with plain_host.client() as client, pytest.raises(SourceChanged, match="/proc/version holds more than its size"):
        client.put("/proc/version", "x")
    assert not (plain_host.root / "x").exists()


@needs_proc
def test_no_file_of_a_tree_that_holds_more_than_its_size_says_is_stored(plain_host: Host) -> None:
    with plain_host.client() as client:
        result = client.put_tree("/proc/sys/kernel/keys", "t")
    assert result.failed > 0 and result.files == 0
    assert all("holds more than its size" in str(told.error) for told in result.failures)
    assert [path for path in (plain_host.root / "t").rglob("*") if path.is_file()] == []


@needs_proc
def test_a_file_that_holds_more_than_its_size_says_has_no_digest() -> None:
    with Source("/proc/version", "md5") as opened, pytest.raises(SourceChanged):
        opened.read_digest()


def test_a_large_file_that_holds_more_than_its_size_says_is_refused_before_it_is_stored(
    plain_host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "big").write_bytes(os.urandom(3 * MIB + 1))
    opened = Source.__init__

    def says_less(self: Source, *arguments: str) -> None:
        opened(self, *arguments)  # type: ignore[arg-type]
        self.size -= 1

    monkeypatch.setattr(Source, "__init__", says_less)
    with plain_host.client() as client, pytest.raises(SourceChanged, match="holds more than its size"):
        client.put(tmp_path / "big", "x")
    assert not (plain_host.root / "x").exists() and plain_host.uploads == []
