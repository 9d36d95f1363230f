"""ping over a real socket: what is measured, and that nothing is left of it."""

from __future__ import annotations

import pytest

from ftpy.client.connection import Connection
from ftpy.client.probing import FIRST_BYTES, flow
from ftpy.digests import hexdigest
from ftpy.errors import DigestMismatch, InvalidRequest, ProtocolError, Unsupported
from ftpy.server import verbs
from ftpy.wire.ping import PING_BYTES, PingReply, PingRequest
from tests.rig import FAST, Fault, Host, Proxy, running


def test_ping_measures_a_round_trip(host: Host) -> None:
    with host.client() as client:
        assert 0 < client.ping() < 60


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("size", [1, 1000, 64 * 1024, PING_BYTES])
def test_throughput_is_measured_and_leaves_nothing_behind(host: Host, way: str, size: int) -> None:
    with host.client() as client:
        measured = client.throughput(way, size=size, seconds=0.1)  # type: ignore[arg-type]
        assert measured.bytes >= min(size, FIRST_BYTES) and measured.seconds > 0
        assert client.ping() > 0  # the connection is in step
    assert [path.name for path in host.root.rglob("*") if path.is_file() and not path.name.endswith("lock")] == []


@pytest.mark.parametrize("digest", ["blake3", "xxh128"])
def test_ping_goes_both_ways_at_once_and_each_has_its_trailer(host: Host, digest: str) -> None:
    connection = Connection.open(host.profile(), FAST)
    channel = connection.channel
    try:
        for length, count in ((0, 0), (3, 0), (0, 70_000), (PING_BYTES, PING_BYTES)):
            channel.send(PingRequest(id=1, length=length, count=count, digest=digest))  # type: ignore[arg-type]
            channel.send_body(bytes(length))
            channel.send_trailer(digest, hexdigest(digest, bytes(length)))  # type: ignore[arg-type]
            reply = connection.wait(PingReply)
            assert reply.length == count
            body = channel.receive_body()
            assert channel.compare_trailer(digest, hexdigest(digest, body)) is None  # type: ignore[arg-type]
        assert connection.in_step
    finally:
        connection.close()


def test_a_ping_that_arrives_broken_is_told_and_the_connection_goes_on(host: Host) -> None:
    connection = Connection.open(host.profile(), FAST)
    try:
        for digest, error in (("blake3", DigestMismatch), ("xxh128", InvalidRequest)):
            connection.channel.send(PingRequest(id=1, length=3))
            connection.channel.send_body(b"abc")
            connection.channel.send_trailer(digest, hexdigest(digest, b"other"))  # type: ignore[arg-type]
            with pytest.raises(error):
                connection.wait(PingReply)
        assert connection.call(PingRequest(id=2), PingReply).ok
    finally:
        connection.close()


def test_a_client_notices_what_was_damaged_on_its_way_down(plain_host: Host) -> None:
    faults = (Fault(), Fault("flip", after=20_000))
    with Proxy(plain_host.address, faults) as proxy, plain_host.client(address=proxy.address) as client:
        client.ping()
        with pytest.raises(ProtocolError):
            client.throughput("down", size=65_536, seconds=0.1)


def test_a_ping_takes_no_right_and_is_in_no_line_of_the_trail(tmp_path) -> None:
    with running(tmp_path / "host", audit=True) as host:
        host.add_user("drop", rights=("write",))
        with host.client("drop") as client:
            client.ping()
            client.throughput("up", seconds=0.05)
        assert {line["event"] for line in host.audited()} <= {"login", "session-end"}


def test_an_old_server_is_told_in_one_line(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(request: PingRequest, context: object) -> None:
        raise Unsupported("this server does not know the verb 'ping'")

    monkeypatch.setitem(verbs.VERBS, PingRequest, verbs.Verb(unsupported))
    with host.client() as client:
        for attempt in (client.ping, lambda: client.throughput("up", seconds=0.05)):
            with pytest.raises(Unsupported, match="does not know the verb 'ping'"):
                attempt()


@pytest.mark.parametrize("size", [0, PING_BYTES + 1])
def test_a_size_that_no_ping_has_is_refused_here(size: int) -> None:
    with pytest.raises(ValueError, match="1 to 1048576 bytes"):
        flow(None, "up", size=size, seconds=1)  # type: ignore[arg-type]


def test_a_server_that_sends_another_number_of_bytes_is_not_believed(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(request: PingRequest, context: object) -> PingReply:
        return PingReply(id=request.id, length=0)

    monkeypatch.setitem(verbs.VERBS, PingRequest, verbs.Verb(wrong))
    with host.client() as client, pytest.raises(ProtocolError, match="another number of bytes"):
        client.ping()
