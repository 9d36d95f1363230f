"""A network that breaks anywhere: a sample of what scripts/rig-network does at every byte; builds that must fail."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftpy.client import putting
from ftpy.errors import ConnectionLost
from ftpy.server import handlers, reading
from ftpy.storage import following
from ftpy.transport.channel import Channel
from ftpy.wire.fields import Trailer
from tests.descriptors import open_files, settled_files
from tests.rig import eventually
from tests.rigs.fields import field_at
from tests.rigs.network import KINDS, Case, Rig

COUNTS = {
    "cut": 80,
    "cut-retried": 80,
    "reset": 40,
    "half-close": 40,
    "farewell": 30,
    "stall": 3,
    "sliced": 8,
    "flip": 150,
    "large": 6,
    "large-flip": 6,
}
"""Cases of each kind that are tried here."""


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder that no disk is waited for."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def rig(memory: Path) -> Iterator[Rig]:
    """Servers and proxies, with TLS and without."""
    with Rig(memory / "sound") as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_is_whole_and_truly_told_when_the_network_breaks(rig: Rig, kind: str) -> None:
    rig.run(kind, rig.cases(kind, seed=1, count=COUNTS[kind]))
    assert rig.report.violations == []
    assert rig.report.fired[kind] > rig.report.cases[kind] // 2


def test_every_place_of_a_small_transfer_is_broken(rig: Rig) -> None:
    """What the campaign counts as everywhere is every byte, both ways, with TLS and without."""
    for kind in ("cut", "flip"):
        cases = rig.cases(kind, seed=1)
        for (act, encrypted, within), ((up, down), *_) in rig.sizes.items():
            if act in ("put", "get") and not within:
                for way, sent in ((0, up), (1, down)):
                    places = {c.fault.after for c in cases if (c.act, c.tls, c.way) == (act, encrypted, way)}
                    assert places >= set(range(sent))


def test_a_rig_that_has_ended_holds_no_descriptor(memory: Path) -> None:
    """Those of a control, which nobody has collected yet, would be found left by what runs after it."""
    before = settled_files()
    with Rig(memory / "ended") as ended:
        pass
    eventually(lambda: open_files() <= before)
    assert ended.report.violations == []


def test_a_byte_is_told_by_the_field_that_it_is_in() -> None:
    header = b'{"cmd":"put","id":1,"path":"a","length":2}'
    sent = len(header).to_bytes(4, "little") + header + b"xy" + b'\x0c\0\0\0{"md5":"00"}'
    places = [field_at(sent, offset, encrypted=False) for offset in range(len(sent))]
    assert places[0] == "put, the frame's length"
    assert places[4 + header.index(b"path") - 1] == places[4 + header.index(b"a")] != places[4]
    assert places[4 + header.index(b'"a"')] == "put, path"
    assert places[4 + len(header)] == "put, body"
    assert places[-1] == "trailer, md5"
    record = b"\x16\x03\x01\0\x02ab\x17\x03\x03\0\x01c\x17\x03\x03\0\x13" + bytes(19)
    assert [field_at(record, offset, encrypted=True) for offset in (0, 1, 3, 5, 8, 12, 13, 18)] == [
        "TLS handshake record, type",
        "TLS handshake record, version",
        "TLS handshake record, length",
        "TLS handshake record, payload",
        "TLS application record, version",
        "TLS application record, payload",
        "TLS farewell",
        "TLS farewell",
    ]


# ------------------------------------------------------------------ the controls: builds that must be told


class Blind:
    """A digest that sees nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def update(self, _: object) -> None:
        """Look away."""

    def hexdigest(self) -> str:
        """The same of everything."""
        return "0" * 32


def without_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever arrives is what was sent."""
    monkeypatch.setattr(following, "new_hasher", Blind)
    for module in (handlers, reading, putting):
        monkeypatch.setattr(module, "hexdigest", lambda *_: Blind().hexdigest())


def end_of_file_ends_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the stream ends, so does the file."""
    receive_into, compare_trailer = Channel.receive_into, Channel.compare_trailer

    def until_the_end(channel: Channel, view: memoryview) -> None:
        try:
            receive_into(channel, view)
        except ConnectionLost:
            return

    def if_there_is_one(channel: Channel, *digest: Any) -> Trailer | None:
        try:
            return compare_trailer(channel, *digest)
        except ConnectionLost:
            channel.session.incoming.trailer()
            return None

    monkeypatch.setattr(Channel, "receive_into", until_the_end)
    monkeypatch.setattr(Channel, "compare_trailer", if_there_is_one)


def in_the_body(rig: Rig, kind: str) -> list[Case]:
    """Of a put without TLS, the cases in the middle of its body."""
    cases = [case for case in rig.cases(kind, seed=1) if (case.act, case.tls, case.way) == ("put", False, 0)]
    return cases[len(cases) // 2 :: 60]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "broken"), [("flip", without_digests), ("cut", end_of_file_ends_a_body)])
def test_the_rig_tells_a_build(
    kind: str, broken: Callable[[pytest.MonkeyPatch], None], memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Rig(memory / kind) as rig:
        broken(monkeypatch)
        rig.run(kind, in_the_body(rig, kind))
        assert any("must be" in violation for violation in rig.report.violations), rig.report


@pytest.mark.slow
def test_the_rig_tells_headers_without_their_crc(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path with one bit turned over is a path: where headers had no sum, the file was put under another name."""
    with Rig(memory / "crc") as rig:
        monkeypatch.setattr("ftpy.wire.codec.add_crc", lambda header: header)
        bench = rig.benches[False]
        bench.measure("put")
        sent = bytes(bench.breakers[False].passages[0].sent[0])
        cases = [case for case in rig.cases("flip", seed=1) if (case.act, case.tls, case.way) == ("put", False, 0)]
        in_path = [case for case in cases[: len(sent)] if "path" in field_at(sent, case.fault.after, encrypted=False)]
        rig.run("flip", in_path)
        assert any("was never put" in violation for violation in rig.report.violations), rig.report
