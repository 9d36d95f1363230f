"""Who is removed, changed or kicked while the server works for them: nothing more is changed on their behalf."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ftpy.client.connection import Connection
from ftpy.config.server import Limits
from ftpy.digests import hexdigest
from ftpy.errors import ConnectionFailed
from ftpy.wire.bases import ProgressReply, Request
from ftpy.wire.fields import Trailer, digest_of
from ftpy.wire.messages import (
    CommitRequest,
    DigestRequest,
    MkdirReply,
    MkdirRequest,
    MvRequest,
    PartReply,
    PartRequest,
    PutRequest,
    RmReply,
    RmRequest,
    StoredReply,
    UploadReply,
)
from ftpy.wire.operations import BeginReply, BeginRequest, UndoRequest
from ftpy.wire.trees import StageReply, StageRequest, SwapRequest
from ftpy.wire.upkeep import TouchRequest
from tests.rig import FAST, Host, eventually, running

MIB = 1024 * 1024
OPERATION = "0" * 31 + "1"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A server with a user who will not stay, and a file of theirs."""
    with running(tmp_path / "host", tls=False, limits=Limits(drain_seconds=0.1)) as made:
        made.add_user("bob")
        (made.root / "f").write_bytes(b"f")
        made.swept()
        yield made


def session(host: Host) -> contextlib.closing[Connection]:
    return contextlib.closing(Connection.open(host.profile("bob"), FAST))


@contextlib.contextmanager
def nobody_publishes(root: Path) -> Iterator[None]:
    """Publications wait meanwhile, as on a disk that hangs."""
    fd = os.open(root / ".ftpy" / "lock", os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def send(live: Connection, request: Request, body: bytes | None = None, *, digest: str = "md5") -> None:
    live.channel.send(request)
    if body is not None:
        live.channel.send_body(body)
        live.channel.send(Trailer(**{digest: hexdigest(digest, body)}))  # type: ignore[arg-type]
    live.channel.flush()


def small_put(live: Connection, path: str = "new", **fields: str) -> tuple[Request, bytes]:
    return PutRequest(id=live.next_id(), path=path, file_size=1, mtime_ns=5, length=1, **fields), b"x"  # type: ignore[arg-type]


def commit(live: Connection) -> tuple[Request, None]:
    body = bytes(2 * MIB)
    opened = PutRequest(id=live.next_id(), path="new", file_size=len(body), mtime_ns=5)
    upload = live.call(opened, UploadReply).upload
    send(live, PartRequest(id=live.next_id(), upload=upload, part=0, length=len(body)), body, digest="blake3")
    live.wait(PartReply)
    digest = digest_of("md5", hashlib.md5(body).hexdigest())
    return CommitRequest(id=live.next_id(), upload=upload, digest=digest), None


def undo(live: Connection) -> tuple[Request, None]:
    live.call(BeginRequest(id=live.next_id(), operation=OPERATION, what="by hand"), BeginReply)
    send(live, *small_put(live, "added", operation=OPERATION))
    live.wait(StoredReply)
    live.call(RmRequest(id=live.next_id(), path="f", operation=OPERATION), RmReply)
    return UndoRequest(id=live.next_id(), operation=OPERATION, by="0" * 31 + "2"), None


def swap(live: Connection) -> tuple[Request, None]:
    tree = live.call(StageRequest(id=live.next_id(), path="site"), StageReply).tree
    request = SwapRequest(id=live.next_id(), path="site", tree=tree, files=0, folders=0, file_bytes=0)
    return request, None


CHANGES: dict[str, Callable[[Connection], tuple[Request, bytes | None]]] = {
    "put": small_put,
    "commit": commit,
    "mkdir": lambda live: (MkdirRequest(id=live.next_id(), path="folder"), None),
    "rm": lambda live: (RmRequest(id=live.next_id(), path="f"), None),
    "mv": lambda live: (MvRequest(id=live.next_id(), path="f", to="g"), None),
    "touch": lambda live: (TouchRequest(id=live.next_id(), path="new", create=True), None),
    "swap": swap,
    "undo": undo,
}
"""What changes something, and how it is asked for."""


def remove(host: Host) -> None:
    host.accounts.remove("bob")


def change(host: Host) -> None:
    host.accounts.change("bob", rights={"read"})


def kick(host: Host) -> None:
    assert host.service is not None
    (row,) = host.service.session_rows()
    assert host.service.kick(row.session)


def until_ended(live: Connection) -> None:
    """Hear progress until the server has ended the connection."""
    with contextlib.suppress(ConnectionFailed):
        while (message := live.channel.receive(silence_seconds=20)) is not None:
            assert isinstance(message, ProgressReply), message


def files(root: Path) -> dict[str, int]:
    """All that is seen below the root, with times."""
    found = (path for path in root.rglob("*") if ".ftpy" not in path.parts)
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in found}


def check_nothing_changes(host: Host, verb: str, end: Callable[[], object]) -> None:
    """Whatever the session asks for waits when it is ended, and is not done when it could be."""
    service = host.service
    assert service is not None
    with session(host) as live:
        request, body = CHANGES[verb](live)
        before = files(host.root)
        with nobody_publishes(host.root):
            send(live, request, body)
            eventually(lambda: [row.state for row in service.session_rows()] == [verb])
            end()
            until_ended(live)
        eventually(lambda: not service.session_rows())
    assert files(host.root) == before


@pytest.mark.parametrize("verb", CHANGES)
@pytest.mark.parametrize("end", [remove, change, kick])
def test_nothing_is_changed_for_a_session_that_was_ended_while_it_waited(
    host: Host, end: Callable[[Host], None], verb: str
) -> None:
    check_nothing_changes(host, verb, lambda: end(host))


def test_a_session_is_whole_until_it_is_broken_however_long_the_log_takes(host: Host) -> None:
    """So nothing that stops because of its end is told as an answer."""
    made = []

    def told(record: logging.LogRecord) -> bool:
        if getattr(record, "event", None) == "session-ended":
            made.append(live.call(MkdirRequest(id=live.next_id(), path="folder"), MkdirReply))
        return True

    log = logging.getLogger("ftpy.server")
    with session(host) as live:
        log.addFilter(told)
        try:
            kick(host)
        finally:
            log.removeFilter(told)
        assert live.channel.receive(silence_seconds=20) is None
    assert len(made) == 1 and (host.root / "folder").is_dir()


@pytest.mark.parametrize("verb", CHANGES)
def test_nothing_is_changed_any_more_when_the_time_to_drain_is_over(host: Host, verb: str) -> None:
    with ThreadPoolExecutor() as pool:
        check_nothing_changes(host, verb, lambda: pool.submit(host.stop))


def leave(_: Host, live: Connection) -> None:
    live.close()


@pytest.mark.parametrize("end", [lambda host, _: remove(host), leave], ids=["removed", "left"])
def test_digest_is_not_computed_on_for_who_is_gone(host: Host, end: Callable[[Host, Connection], None]) -> None:
    service = host.service
    assert service is not None
    os.truncate(host.root / "f", 64 * 1024 * MIB)  # minutes
    with session(host) as live:
        send(live, DigestRequest(id=live.next_id(), path="f", digest="md5"))
        eventually(lambda: [row.state for row in service.session_rows()] == ["digest"])
        end(host, live)
        eventually(lambda: not service.session_rows(), 10)
