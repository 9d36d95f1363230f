"""``put --if-match`` and ``get --if-changed`` as users meet them: real processes against a real server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from blake3 import blake3

from tests.cli.desk import Desk, md5


def test_put_if_match_swaps_what_has_that_digest(desk: Desk, root: Path) -> None:
    """Named or told by its length, in either case of letters."""
    (root / "a").write_bytes(b"0")
    for number, spelling in enumerate(
        ("{md5}", "md5:{md5}", "MD5:{MD5}", "{blake3}", "blake3:{blake3}", "BLAKE3:{BLAKE3}"), 1
    ):
        old = (root / "a").read_bytes()
        digests = {"md5": md5(old), "blake3": blake3(old).hexdigest()}
        digests |= {name.upper(): digest.upper() for name, digest in digests.items()}
        (desk.folder / "a").write_text(str(number))
        assert desk("put", "--if-match", spelling.format_map(digests), "a").code == 0
        assert (root / "a").read_text() == str(number)
    ended = desk("put", "--if-match", md5(b"other"), "a")
    ended.failed(1, "a: the file has another md5")
    (told,) = desk("put", "--json", "--if-match", md5(b"other"), "a").objects
    assert told["error"] == "Changed"
    desk("put", "--if-match", md5(b"6"), "a", "gone").failed(1, "gone: the file is no longer there")
    assert (root / "a").read_text() == "6" and not (root / "gone").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--if-match", "abc", "a"), "'abc' is not an md5 of 32 hexadecimal digits or blake3 of 64"),
        (("--if-match", "md5:" + "0" * 64, "a"), "is not an md5"),
        (("--if-match", "sha1:" + "0" * 40, "a"), "is not an md5"),
        (("--if-match", "0" * 31 + "g", "a"), "is not an md5"),
        (("--if-match", "0" * 32, "--if-absent", "a"), "--if-match goes with one file"),
        (("--if-match", "0" * 32, "-r", "a"), "--if-match goes with one file"),
        (("--if-match", "0" * 32, "a", "b", "c/"), "--if-match goes with one file"),
    ],
)
def test_put_if_match_refuses_what_makes_no_sense(desk: Desk, arguments: tuple[str, ...], reason: str) -> None:
    desk.make("a")
    desk("put", *arguments).failed(2, reason)


def test_get_if_changed_says_unchanged_and_replaces_what_differs(desk: Desk, root: Path) -> None:
    (root / "c").write_bytes(b"theirs")
    assert desk("get", "--if-changed", "c").out == f"c: 6 B, verified md5 {md5(b'theirs')}, durable\n"
    unchanged = desk("get", "--if-changed", "c")
    assert (unchanged.code, unchanged.out) == (0, f"c: 6 B, unchanged, verified md5 {md5(b'theirs')}\n")
    (desk.folder / "c").write_bytes(b"Theirs")
    changed, same = (json.loads(desk("get", "--if-changed", "--json", "c").out) for _ in range(2))
    assert (changed["unchanged"], same["unchanged"], same["ok"]) == (False, True, True)
    assert (desk.folder / "c").read_bytes() == b"theirs"
    desk("get", "--if-changed", "none").failed(1, "none: there is no such file")
    desk("get", "--if-changed", "c", "-").failed(2, "--if-changed compares files")
    desk("get", "--if-changed", "-r", "c").failed(2, "--if-changed compares files")
