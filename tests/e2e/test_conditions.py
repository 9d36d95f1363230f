"""put under a condition and get only of what changed, between a real client and a real server."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest
from blake3 import blake3

from ftpy.client.client import Client
from ftpy.errors import Changed, PermissionDenied
from ftpy.storage.base import MIB, KnownDigest
from tests.rig import Host

SIZES = (3, 5 * MIB)
"""In one piece, and in parts."""


def make(path: Path, size: int, letter: bytes) -> bytes:
    data = letter * size
    path.write_bytes(data)
    return data


def known(data: bytes, name: str = "md5") -> KnownDigest:
    if name == "md5":
        return KnownDigest("md5", hashlib.md5(data).hexdigest())
    return KnownDigest("blake3", blake3(data).hexdigest())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["md5", "blake3"])
def test_put_if_match_replaces_what_it_names_and_nothing_else(host: Host, tmp_path: Path, size: int, name: str) -> None:
    old, source = make(host.root / "x", size, b"o"), tmp_path / "source"
    new = make(source, size, b"n")
    with host.client() as client:
        with pytest.raises(Changed):
            client.put(source, "x", condition=known(new, name))
        with pytest.raises(Changed):
            client.put(source, "nothing", condition=known(old, name))
        assert (host.root / "x").read_bytes() == old and not (host.root / "nothing").exists()
        assert client.put(source, "x", condition=known(old, name)).size == size
        assert (host.root / "x").read_bytes() == new
        with pytest.raises(Changed):
            client.put(source, "x", condition=known(old, name))
    assert host.uploads == []


def test_put_if_match_takes_the_right_to_replace(host: Host, tmp_path: Path) -> None:
    old = make(host.root / "x", 3, b"o")
    host.add_user("bob", rights=("list", "read", "write"))
    make(tmp_path / "source", 3, b"n")
    with host.client("bob") as client, pytest.raises(PermissionDenied):
        client.put(tmp_path / "source", "x", condition=known(old))
    assert (host.root / "x").read_bytes() == old


def test_put_if_match_has_one_winner_of_many_who_saw_the_same(plain_host: Host, tmp_path: Path) -> None:
    old = make(plain_host.root / "x", 3, b"o")
    outcomes: list[str] = []

    def racer(number: int) -> None:
        make(tmp_path / f"source-{number}", 3 + number, b"n")
        with plain_host.client() as client:
            try:
                client.put(tmp_path / f"source-{number}", "x", condition=known(old))
            except Changed:
                outcomes.append("changed")
            else:
                outcomes.append(f"won with {3 + number}")

    threads = [threading.Thread(target=racer, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [outcome for outcome in outcomes if outcome != "changed"]
    assert len(outcomes) == 6 and winner == f"won with {(plain_host.root / 'x').stat().st_size}"


def received(client: Client, target: Path, **options: bool) -> tuple[bool, int]:
    """Whether the target was left as it was, and how many bytes of body came."""
    seen = [0]

    def watch(progress: object) -> None:
        if getattr(progress, "phase", "") == "receiving":
            seen.append(getattr(progress, "done", 0))

    fetched = client.get("x", target, if_changed=True, on_progress=watch, **options)
    assert fetched.unchanged == fetched.identical
    return fetched.unchanged, max(seen)


@pytest.mark.parametrize("size", SIZES)
def test_get_if_changed_moves_nothing_of_what_is_here_already(host: Host, tmp_path: Path, size: int) -> None:
    data, target = make(host.root / "x", size, b"a"), tmp_path / "target"
    with host.client() as client:
        assert received(client, target) == (False, size)
        os.utime(target, ns=(7, 7))
        assert received(client, target) == (True, 0)
        assert received(client, target, force=True) == (True, 0)
        assert target.read_bytes() == data and target.stat().st_mtime_ns == 7
        for other in (b"b" * size, b"a" * (size + 1)):  # of the same length, and of another
            (host.root / "x").write_bytes(other)
            assert received(client, target) == (False, len(other))
            assert target.read_bytes() == other
            assert received(client, target) == (True, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["host", "target"]


def test_get_if_changed_replaces_a_link_itself_and_not_what_it_leads_to(host: Host, tmp_path: Path) -> None:
    data, target = make(host.root / "x", 3, b"a"), tmp_path / "target"
    make(tmp_path / "elsewhere", 3, b"a")
    target.symlink_to("elsewhere")
    with host.client() as client:
        assert received(client, target) == (False, 3)
    assert not target.is_symlink() and target.read_bytes() == data
