"""Remote commands over real sockets: what they say, what they are given, and that nothing of them stays."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpy.client.client import Client
from ftpy.client.connection import Connection
from ftpy.client.running import Output, Run
from ftpy.config.server import Limits
from ftpy.errors import (
    Busy,
    CommandFailed,
    ConnectionFailed,
    ConnectionLost,
    InvalidArgument,
    LocalFileError,
    ProtocolError,
    UnknownCommand,
)
from ftpy.wire.commands import CancelMessage, InputMessage, RunReply, RunRequest
from ftpy.wire.messages import StatReply, StatRequest
from tests.descriptors import open_files, settled_files
from tests.rig import FAST, Host, eventually, running
from tests.rigs.leftovers import VARIABLE, Mark

STUBBORN = (
    "trap '' TERM; setsid sh -c \"trap '' TERM; while :; do sleep 1; done\" & while :; do echo tick; sleep 0.05; done"
)
"""Never ends, says something all the time, minds no SIGTERM, and has a child in a session of its own that does not."""
GREETING = "你好\n".encode("gb18030")


@pytest.fixture(scope="module")
def mark() -> Mark:
    return Mark()


@pytest.fixture(scope="module", params=["tls", "plaintext"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, mark: Mark) -> Iterator[Host]:
    commands = {
        "both": mark.sh("printf out; printf err >&2; exit 3"),
        "killed": mark.sh("kill -SEGV $$"),
        "print": mark.command("printf", "%s|", args=("(?s).*", "[a-z]*"), audit_args=True),
        "optional": mark.sh('echo "$#"', args=("[a-z]+", "(-v)?", "[0-9]*")),
        "hang-regex": mark.command("true", args=("(a+)+",)),
        "env": mark.command("env", summary="what it gets"),
        "look": mark.sh("pwd; ls /proc/self/fd | wc -l; ulimit -c; ulimit -n; grep NoNewPrivs /proc/$$/status"),
        "session": mark.sh("cut -d' ' -f1,5,6 /proc/$$/stat"),
        "cat": mark.command("cat", stdin=True),
        "sort": mark.command("sort", stdin=True, args=("(-r)?",)),
        "first": mark.sh("head -c 1; exec 0<&-; sleep 0.3; echo end", stdin=True),
        "deaf": mark.command("sleep", "1000", stdin=True),
        "no-input": mark.command("cat"),
        "gbk": mark.command(
            "printf", "%s" + "".join(f"\\{byte:03o}" for byte in GREETING), encoding="gb18030", args=(".*",)
        ),
        "stubborn": mark.sh(STUBBORN),
        "timed": mark.sh(STUBBORN, timeout_seconds=1.5),
        "quick": mark.command("sleep", "1000", timeout_seconds=0.2),
        "parent": mark.sh("sleep 1000 & setsid sleep 1000 & echo done"),
        "silent": mark.command("sleep", "2.5"),
        "large": mark.command("head", "-c", "3000000", "/dev/zero"),
        "endless": mark.command("yes"),
        "gone": mark.command("/no/such/program"),
        "bobs": mark.command("true", users=("bob",)),
        "nobodys": mark.command("true", users=()),
    }
    folder = tmp_path_factory.mktemp("commands") / "host"
    with running(folder, tls=request.param == "tls", commands=commands, audit=True) as made:
        made.add_user("bob")
        yield made


@pytest.fixture
def client(host: Host, mark: Mark) -> Iterator[Client]:
    with host.client() as made:
        yield made
    mark.gone()


def run(
    client: Client, name: str, *arguments: str, stdin: bytes | None = None
) -> tuple[bytes, bytes, int | None, str | None]:
    """Run it to its end: standard output and error, the code, how it ended."""
    said = {"stdout": b"", "stderr": b""}
    with client.run(name, arguments, stdin=stdin) as command:
        for output in command:
            said[output.stream] += output.data
    return said["stdout"], said["stderr"], command.code, command.ended


# ---------------------------------------------------------------- what it says


def test_run_tells_both_streams_apart_and_the_exit_code(client):
    assert run(client, "both") == (b"out", b"err", 3, "exit")
    assert run(client, "killed") == (b"", b"", 128 + signal.SIGSEGV, "signal")


def test_run_passes_on_what_was_said_before_the_command_ends(client):
    with client.run("stubborn") as command:
        first = next(iter(command))  # several ticks, where we were late
        assert first.data and first == Output("stdout", b"tick\n" * (len(first.data) // 5))
        assert command.code is None


def test_run_brings_every_byte_of_much_output(client):
    out, _, code, _ = run(client, "large")
    assert (len(out), out.strip(b"\0"), code) == (3_000_000, b"", 0)


def test_run_names_the_encoding_and_leaves_the_bytes_as_they_were(client):
    with client.run("gbk", ["码"]) as command:
        assert command.encoding == "gb18030"
        assert b"".join(output.data for output in command) == "码".encode("gb18030") + GREETING


def test_run_outlasts_a_command_that_is_silent_for_longer_than_a_stall(host):
    with host.client(transfer=type(FAST)(stall_seconds=2.0, retries=0)) as client:
        assert run(client, "silent")[2:] == (0, "exit")


def test_connection_serves_on_after_a_run(client):
    for _ in range(3):
        assert run(client, "both")[2] == 3
    assert client.stat("").type == "directory"


# ---------------------------------------------------------------- what may be run


def test_commands_are_those_of_the_user_in_the_order_of_their_names(host, client):
    names = [command.name for command in client.commands()]
    assert names == sorted(set(host.commands) - {"bobs", "nobodys"})
    assert {c.name: c.summary for c in client.commands() if c.summary} == {"env": "what it gets"}
    assert next(c for c in client.commands() if c.name == "sort")[2:] == (("(-r)?",), True)
    with host.client("bob") as bob:
        assert "bobs" in [command.name for command in bob.commands()]
        assert run(bob, "bobs")[2] == 0


def test_unknown_command_and_one_of_another_user_are_told_alike(client):
    said = []
    for name in ("nothing-of-that-name", "bobs", "nobodys"):
        with pytest.raises(UnknownCommand) as refusal:
            client.run(name)
        said.append(str(refusal.value))
    assert len(set(said)) == 1
    assert client.stat("").type == "directory"


@pytest.mark.parametrize("name", ["", "/bin/sh", "../sh", "Both", "a b", "x" * 65, "\x1b[2J"])
def test_name_that_no_command_can_have_is_unknown(client, name):
    with pytest.raises(UnknownCommand):
        client.run(name)


@pytest.mark.parametrize(
    "text", ["$(reboot)", "`reboot`", "; reboot", "a b", "*", "-n", "", "'", '"', "\\", "é\n\x01", "~"]
)
def test_argument_reaches_the_command_as_it_is(client, text):
    assert run(client, "print", text, "z")[0] == f"{text}|z|".encode()


@pytest.mark.parametrize(
    ("arguments", "which"),
    [
        ((), 1),
        (("UPPER",), 1),
        (("a", "-x"), 2),
        (("a", "-v", "x"), 3),
        (("a\n",), 1),
        (("a", "-v", "1", "more"), 4),
    ],
)
def test_argument_is_refused_when_its_expression_does_not_match_all_of_it(client, arguments, which):
    with pytest.raises(InvalidArgument, match=f"argument {which}$"):
        client.run("optional", arguments)
    assert client.stat("").type == "directory"


@pytest.mark.parametrize("arguments", [("a",), ("a", "-v"), ("a", "", "7")])
def test_argument_may_be_left_out_at_the_end_when_it_may_be_empty(client, arguments):
    assert run(client, "optional", *arguments)[0] == f"{len(arguments)}\n".encode()


@pytest.mark.parametrize(
    "arguments",
    [["\0"], ["\udcff"], ["x" * 4097], ["x"] * 65, ["\x01" * 4000] * 4],
    ids=["NUL", "not UTF-8", "long", "many", "long in JSON"],
)
def test_argument_that_nothing_can_take_is_refused(client, arguments):
    with pytest.raises(InvalidArgument):
        client.run("print", arguments)
    assert client.stat("").type == "directory"


def test_argument_is_refused_when_the_host_cannot_spell_it(tmp_path, mark):
    with (
        running(tmp_path / "host", commands={"print": mark.command("echo", args=(".*",), encoding="ascii")}) as host,
        host.client() as client,
        pytest.raises(InvalidArgument, match="ascii"),
    ):
        client.run("print", ["é"])


@pytest.mark.slow
def test_expression_that_takes_for_ever_ends_its_own_command_only(host, client):
    with host.client() as other:
        hanging = threading.Thread(target=lambda: contextlib.suppress(CommandFailed) and _refused(client), daemon=True)
        hanging.start()
        assert run(other, "both")[2] == 3
        hanging.join(30)
        assert not hanging.is_alive()


def _refused(client: Client) -> None:
    with pytest.raises(CommandFailed):
        client.run("hang-regex", ["a" * 64 + "!"])


def test_command_that_cannot_be_started_is_refused_without_a_word_why(client):
    with pytest.raises(CommandFailed) as refusal:
        client.run("gone")
    assert "such" not in str(refusal.value)


# ---------------------------------------------------------------- what it runs in


def test_command_has_only_the_environment_that_is_documented(client, mark, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_SERVER", "x")
    names = {line.partition(b"=")[0].decode() for line in run(client, "env")[0].splitlines()}
    allowed = {"PATH", "HOME", "USER", "LOGNAME", "FTPY_USER", "FTPY_COMMAND", VARIABLE, "LANG", "TZ"}
    assert {name for name in names if not name.startswith("LC_")} <= allowed
    assert b"FTPY_USER=alice\n" in run(client, "env")[0]


def test_command_has_the_root_as_folder_no_foreign_descriptor_no_core_and_no_way_to_more_rights(client):
    folder, descriptors, core, files, privileges = run(client, "look")[0].decode().splitlines()
    assert folder == "/"
    assert descriptors == "4"  # three, and that of the listing itself
    assert core == "0"
    assert int(files) <= 1024
    assert privileges.split() == ["NoNewPrivs:", "1"]


def test_command_leads_a_group_and_session_of_its_own(client):
    pid, group, session = run(client, "session")[0].split()
    assert pid == group == session != str(os.getpid()).encode()


# ---------------------------------------------------------------- what it is given


def test_input_goes_through_the_command(client):
    assert run(client, "sort", "-r", stdin=b"b\na\nc\n")[0] == b"c\nb\na\n"
    assert run(client, "sort")[0] == b""


def test_much_input_comes_back_whole_while_output_comes(client):
    data = hashlib.shake_128(b"x").digest(3_000_001)
    assert run(client, "cat", stdin=data)[:3] == (data, b"", 0)


def test_input_is_not_asked_for_when_the_command_takes_none(client):
    class Never(io.RawIOBase):
        def read(self, _: int = -1) -> bytes:
            raise AssertionError("it was read")

    with client.run("no-input", stdin=Never()) as command:
        assert not command.takes_input
        assert list(command) == []
    assert command.code == 0


def test_command_that_stops_reading_is_not_held_up_by_what_still_comes(client):
    assert run(client, "first", stdin=b"x" * 3_000_000) == (b"xend\n", b"", 0, "exit")
    assert client.stat("").type == "directory"


def test_input_that_cannot_be_read_to_its_end_is_never_taken_for_whole(client, mark):
    class Broken(io.RawIOBase):
        def __init__(self) -> None:
            self.pieces = [b"half"]

        def read(self, _: int = -1) -> bytes:
            if self.pieces:
                return self.pieces.pop()
            raise OSError(5, "Input/output error")

    with (
        pytest.raises(LocalFileError, match="standard input: Input/output error"),
        client.run("cat", stdin=Broken()) as command,
    ):
        list(command)
    mark.gone()


def test_no_more_input_is_sent_than_the_command_has_room_for(client):
    """Both ends keep little, whatever there is to send."""

    class Endless(io.RawIOBase):
        given = 0

        def read(self, count: int = -1) -> bytes:
            Endless.given += count
            return bytes(count)

    with client.run("deaf", stdin=Endless()) as command:
        threading.Timer(0.5, command.cancel).start()
        list(command)
    assert (command.code, command.ended) == (128 + signal.SIGTERM, "cancel")
    assert Endless.given < 4_000_000


# ---------------------------------------------------------------- its end


def test_command_is_ended_with_all_that_it_started_when_its_time_is_up(client, mark):
    out, _, code, ended = run(client, "timed")
    assert (code, ended) == (124, "timeout")
    assert out.startswith(b"tick\n")
    assert mark.left() == []


def test_command_is_ended_at_once_when_it_minds_the_signal(client):
    assert run(client, "quick")[2:] == (124, "timeout")


def test_cancel_ends_a_command_with_all_that_it_started(client, mark):
    with client.run("stubborn") as command:
        mark.runs(4)
        command.cancel()
        command.cancel()
        assert all(output == ("stdout", b"tick\n" * (len(output.data) // 5)) for output in command)
    assert (command.code, command.ended) == (128 + signal.SIGKILL, "cancel")
    assert mark.left() == []
    assert client.stat("").type == "directory"


def test_what_a_command_leaves_behind_ends_with_it(client, mark):
    assert run(client, "parent")[:3] == (b"done\n", b"", 0)
    assert mark.left() == []


@pytest.mark.parametrize("way", ["leaves the with", "closes", "is cut off", "ends its half"])
def test_command_is_ended_when_its_client_leaves(host, mark, way):
    with host.client() as client:
        command = client.run("stubborn")
        mark.runs(4)
        if way == "leaves the with":
            command.close()
        elif way == "closes":
            client.close()
        else:
            ending = socket.SHUT_RDWR if way == "is cut off" else socket.SHUT_WR
            assert client._line.connection is not None
            socket.socket.shutdown(client._line.connection.channel.stream._sock, ending)
        mark.gone()
        command.close()


def test_command_is_ended_when_its_session_is_kicked(host, client, mark):
    with client.run("stubborn") as command:
        mark.runs(4)
        (row,) = [row for row in host.service.session_rows() if row.state == "run"]
        assert row.path == "stubborn"
        assert host.service.kick(row.session)
        with pytest.raises(ConnectionLost):
            list(command)
    mark.gone()


def test_client_that_stops_reading_slows_the_command_and_is_ended_for_it(tmp_path, mark):
    counted = tmp_path / "counted"
    script = f"while :; do head -c 65536 /dev/zero; echo >> {counted}; done"
    limits = Limits(stall_seconds=1.0)
    with (
        running(tmp_path / "host", limits=limits, commands={"flood": mark.sh(script)}) as host,
        host.client() as client,
    ):
        with client.run("flood") as command:
            next(iter(command))
            mark.gone()
        assert counted.stat().st_size < 1000  # 64 MB would have gone elsewhere


def test_server_that_drains_ends_commands_when_its_time_is_up(tmp_path, mark):
    limits = Limits(drain_seconds=0.2)
    with (
        running(tmp_path / "host", limits=limits, commands={"stubborn": mark.sh(STUBBORN)}) as host,
        host.client() as client,
        client.run("stubborn"),
    ):
        mark.runs(4)
        assert host.stop()
        assert mark.left() == []


def test_server_that_drains_lets_a_command_end_and_begins_none(tmp_path, mark):
    commands = {"cat": mark.command("cat", stdin=True)}
    with (
        running(tmp_path / "host", limits=Limits(drain_seconds=30), commands=commands) as host,
        host.client() as client,
    ):
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb", buffering=0) as stream, client.run("cat", stdin=stream) as command:
            stopping = threading.Thread(target=host.stop)
            stopping.start()
            eventually(lambda: host.service is None)
            os.write(writer, b"last words")
            os.close(writer)
            assert b"".join(output.data for output in command) == b"last words"
            stopping.join(30)
        assert command.code == 0
        with pytest.raises(ConnectionFailed):
            Client(host.profile(), type(FAST)(retries=0)).run("cat")


def test_command_is_ended_when_what_watches_over_it_is_killed(client, mark):
    with client.run("stubborn") as command:
        mark.runs(4)
        (leader,) = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _leads(pid, mark)]
        supervisor = int(Path(f"/proc/{leader}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(supervisor, signal.SIGKILL)
        with pytest.raises(CommandFailed, match="nobody can tell"):
            list(command)
        eventually(lambda: not os.path.exists(f"/proc/{leader}"))
    for line in mark.left():  # what has left the command's group is beyond reach then
        assert "trap '' TERM; while" in line or line.startswith("sleep")
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        if _bears(pid, mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _bears(pid: int, mark: Mark) -> bool:
    try:
        return f"{VARIABLE}={mark.value}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _leads(pid: int, mark: Mark) -> bool:
    """Not so what the shell has forked and what looks like it until it is another program."""
    with contextlib.suppress(OSError):  # it may end meanwhile
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        return _bears(pid, mark) and os.getpgid(pid) == pid and b"echo tick" in line
    return False


# ---------------------------------------------------------------- several


def test_two_commands_run_at_once(host, client):
    with host.client("bob") as bob, client.run("stubborn") as one, bob.run("stubborn") as two:
        first, second = iter(one), iter(two)
        for _ in range(3):
            assert next(first).data.startswith(b"tick\n")
            assert next(second).data.startswith(b"tick\n")


def test_command_too_many_is_busy_and_runs_when_another_has_ended(tmp_path, mark):
    commands = {"deaf": mark.command("sleep", "1000"), "true": mark.command("true")}
    with (
        running(tmp_path / "host", limits=Limits(commands=1), commands=commands) as host,
        host.client() as client,
        host.client() as other,
    ):
        with client.run("deaf") as command:
            with pytest.raises(Busy, match="1 commands run already"):
                other.run("true")
            command.cancel()
            list(command)
        eventually(lambda: not _is_busy(other))


def _is_busy(client: Client) -> bool:
    try:
        return run(client, "true")[2] != 0
    except Busy:
        return True


def test_no_descriptor_is_left_open_at_any_end(host, mark):
    def once() -> None:
        with host.client() as client:
            run(client, "both")
            run(client, "sort", stdin=b"x")
            with contextlib.suppress(CommandFailed):
                client.run("gone")
            with client.run("endless") as command:
                next(iter(command))
        mark.gone()

    once()
    eventually(lambda: len(host.service.session_rows()) == 0)
    before = settled_files()
    for _ in range(3):
        once()
    eventually(lambda: open_files() <= before)


# ---------------------------------------------------------------- the audit trail


def test_audit_has_a_line_for_every_run_with_arguments_only_where_that_was_asked_for(host, client):
    def lines() -> list[dict[str, object]]:
        return host.audited("run")

    before = len(lines())
    run(client, "sort", "-r", stdin=b"b\na\n")
    run(client, "print", "it's secret", "x")
    for name, error in (("gone", CommandFailed), ("bobs", UnknownCommand)):
        with pytest.raises(error):
            client.run(name)
    client.close()
    eventually(lambda: len(lines()) >= before + 4)
    sort, printed, gone, unknown = lines()[before:]
    assert (
        sort
        | {
            "user": "alice",
            "command": "sort",
            "outcome": "ok",
            "code": 0,
            "ended": "exit",
            "arguments": 1,
            "bytes": 4,
            "input": 4,
        }
        == sort
    )
    assert printed["arguments"] == "'it'\"'\"'s secret' x"
    assert gone | {"outcome": "command-failed", "command": "gone"} == gone
    assert unknown | {"outcome": "unknown-command", "command": "bobs"} == unknown


# ---------------------------------------------------------------- other clients


@contextlib.contextmanager
def raw(host: Host, command: str, *, digest: str = "blake3") -> Iterator[tuple[Connection, RunReply]]:
    connection = Connection.open(host.profile(), FAST)
    try:
        yield connection, connection.call(RunRequest(id=1, command=command, digest=digest), RunReply)
    finally:
        connection.close()


def test_input_that_was_not_asked_for_breaks_the_protocol(host, mark):
    with raw(host, "no-input") as (connection, began):
        assert began.credit == 0
        _send_input(connection, b"x")
        with pytest.raises((ProtocolError, ConnectionLost)):
            while True:
                connection.wait(RunReply)
    mark.gone()


def _send_input(connection: Connection, data: bytes) -> None:
    from ftpy.digests import hexdigest

    connection.channel.send(InputMessage(id=1, length=len(data)))
    connection.channel.send_body(data)
    connection.channel.send_trailer("blake3", hexdigest("blake3", data))
    connection.channel.flush()


def test_input_damaged_on_its_way_ends_the_run_and_not_the_connection(host, mark):
    from ftpy.errors import DigestMismatch

    with raw(host, "cat") as (connection, _):
        connection.channel.send(InputMessage(id=1, length=1))
        connection.channel.send_body(b"x")
        connection.channel.send_trailer("blake3", "0" * 64)
        with pytest.raises(DigestMismatch):
            connection.wait(RunReply)
        mark.gone()
        assert connection.call(StatRequest(id=2), StatReply).entry.type == "directory"


def test_what_crosses_the_end_of_a_run_is_passed_over(host):
    with raw(host, "both") as (connection, _):
        while not (reply := connection.wait(RunReply)).last:
            connection.channel.skip_body()
        assert reply.code == 3
        _send_input(connection, b"late")
        connection.channel.send(CancelMessage(id=1))
        assert connection.call(StatRequest(id=2), StatReply).entry.type == "directory"


def test_command_is_none_of_run_object_when_it_never_began(client):
    with pytest.raises(UnknownCommand):
        Run(client._line, "nobodys", [], None, 5.0)
    assert client.stat("").type == "directory"
