"""Where clients are told to look for a server."""

from __future__ import annotations

import socket

import pytest

from ftpy.config.addresses import parse_address
from ftpy.config.server import ServerConfig
from ftpy.errors import ConfigError
from ftpy.server.reach import default_listen, outward_hosts, token_addresses


def addresses(*listen: str, name: str = "box", ipv4: str = "", ipv6: str = "", advertise: tuple[str, ...] = ()):
    """What a token names on a host of that name with these ways out."""
    config = ServerConfig(root="/r", listen=list(listen), advertise=list(advertise))
    ways = {"0.0.0.0": ipv4, "::": ipv6}
    return token_addresses(config, lambda: name, lambda wildcard: [ways[wildcard]] if ways[wildcard] else [])


def test_token_replaces_wildcards_by_the_name_and_the_ways_out():
    ways = {"ipv4": "10.0.0.5", "ipv6": "2001:db8::5"}
    assert addresses("0.0.0.0:1", "[::]:1", **ways) == ["box:1", "10.0.0.5:1", "[2001:db8::5]:1"]
    assert addresses("[::]:2", **ways) == ["box:2", "[2001:db8::5]:2"]


def test_token_falls_back_to_loopback_when_there_is_no_way_out():
    found = addresses("0.0.0.0:1", "[::]:1", name="localhost.localdomain")
    assert found == ["127.0.0.1:1", "[::1]:1"]


def test_token_names_what_only_this_machine_reaches_last():
    found = addresses("unix:/run/x", "127.0.0.1:1", "10.0.0.5:1")
    assert found == ["10.0.0.5:1", "unix:/run/x", "127.0.0.1:1"]


def test_token_names_what_is_advertised_and_nothing_else():
    found = addresses("0.0.0.0:0", "10.0.0.5:1", ipv4="10.0.0.5", advertise=("files.example.org:22",))
    assert found == ["files.example.org:22"]


@pytest.mark.parametrize("name", ["my box", "box\n", "", "box:1", "[::1]", "localhost"])
def test_token_leaves_out_a_host_name_that_leads_nowhere(name):
    assert addresses("0.0.0.0:1", name=name, ipv4="10.0.0.5") == ["10.0.0.5:1"]


def test_token_has_room_for_sixteen_addresses():
    assert addresses(*(f"10.0.0.{number}:1" for number in range(30))) == [f"10.0.0.{number}:1" for number in range(16)]


def test_token_is_refused_when_the_port_is_not_known():
    with pytest.raises(ConfigError, match="port"):
        addresses("127.0.0.1:1", "127.0.0.1:0")


def test_outward_hosts_are_this_machines_own_addresses():
    for wildcard, family in (("0.0.0.0", socket.AF_INET), ("::", socket.AF_INET6)):
        for host in outward_hosts(wildcard):
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.bind((host, 0))
            assert host != wildcard


def test_default_listen_is_everywhere_unless_in_plaintext():
    assert default_listen(plaintext=True) == ["127.0.0.1:7421"]
    assert [parse_address(text).is_wildcard for text in default_listen(plaintext=False)] in ([True], [True, True])
