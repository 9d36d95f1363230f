"""Addresses as people write them: what is read, what is refused."""

from __future__ import annotations

import pytest

from ftpy.config.addresses import DEFAULT_PORT, Address, parse_address
from ftpy.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("files.example.org:22", Address("tcp", "files.example.org", 22)),
        ("localhost", Address("tcp", "localhost", DEFAULT_PORT)),
        ("0.0.0.0:0", Address("tcp", "0.0.0.0", 0)),
        ("[::]:65535", Address("tcp", "::", 65535)),
        ("[fe80::1%eth0]", Address("tcp", "fe80::1%eth0", DEFAULT_PORT)),
        ("unix:/run/ftpy sock", Address("unix", path="/run/ftpy sock")),
    ],
)
def test_parse_address_reads_what_str_writes(text, address):
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        *[
            "",
            ":1",
            "a:",
            "a:x",
            "a:-1",
            "a:65536",
            "a:1 ",
            "a: 1",
            "a:\u0661",
            "a:1:2",
            "::1",
            "a b:1",
            "a/b:1",
            "-a:1",
        ],
        *[
            "a b:1",
            "a/b:1",
            "-a:1",
            "[]:1",
            "[::1",
            "[::1]1",
            "[::1]:",
            "[1.2.3.4]:1",
            "[g::]:1",
            "a\n:1",
            "a\x1b[1m:1",
            "a:000001",
        ],
        *["unix:", "unix:relative", "unix:/nul\0", "unix:/" + "x" * 103],
    ],
)
def test_parse_address_refuses_in_one_clean_line_when_it_is_none(text):
    with pytest.raises(ConfigError) as refused:
        parse_address(text)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        *[("127.0.0.1:1", True), ("127.9.9.9:1", True), ("[::1]:1", True), ("LOCALHOST:1", True), ("unix:/x", True)],
        *[("0.0.0.0:1", False), ("[::]:1", False), ("10.0.0.1:1", False), ("127.0.0.1.example.org:1", False)],
    ],
)
def test_is_loopback_is_true_of_what_only_this_machine_reaches(text, loopback):
    assert parse_address(text).is_loopback is loopback
