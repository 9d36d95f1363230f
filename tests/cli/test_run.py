"""``ftpy run`` as users meet it: processes, pipes, terminals, and a real server with workers, in its sandbox."""

from __future__ import annotations

import json
import os
import pty
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpy.config.server import ServerConfig
from ftpy.toml import to_toml
from tests.cli.desk import Desk
from tests.e2e.test_commands import GREETING, STUBBORN
from tests.rig import Daemon, Host, eventually
from tests.rigs.leftovers import Mark
from tests.rigs.processes import usage_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="remote commands need Linux")
ESCAPES = "red \\033[31m\\007\\r\\n"


def settings(commands: dict[str, object]) -> str:
    """The tables of server.toml that name these commands."""
    text = to_toml(ServerConfig(root="x", listen=["x"], commands=commands), comments=False)
    return "\n" + text[text.index("[commands.") :]


@pytest.fixture(scope="module")
def mark() -> Mark:
    return Mark()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, mark: Mark) -> Iterator[Daemon]:
    commands = {
        "both": mark.sh("echo out; echo err >&2; exit 3"),
        "print": mark.command("printf", "%s|", args=("[^x]*", "-?[a-z]*"), summary="say it"),
        "sort": mark.command("sort", stdin=True),
        "gbk": mark.command("printf", "".join(f"\\{byte:03o}" for byte in GREETING), encoding="gb18030"),
        "escapes": mark.command("printf", ESCAPES),
        "asked": mark.sh("trap 'echo asked to end' TERM; echo begun; while :; do sleep 0.05; done"),
        "stubborn": mark.sh(STUBBORN),
        "timed": mark.sh(STUBBORN, timeout_seconds=1.5),
        "large": mark.command("head", "-c", "100000000", "/dev/zero"),
        "endless": mark.command("yes"),
        "secret": mark.command("true", users=("bob",)),
    }
    host = Host(tmp_path_factory.mktemp("run") / "host")
    with Daemon(host, "workers = 2\n[limits]\ndrain_seconds = 0.5\n" + settings(commands)) as made:
        yield made
    mark.gone()


@pytest.fixture
def desk(tmp_path: Path, daemon: Daemon) -> Desk:
    made = Desk(tmp_path / "desk", daemon.host)
    made.pair()
    return made


def test_run_lists_the_commands_that_the_user_may_run(desk: Desk) -> None:
    ended = desk("run")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-4:] == ["print [^x]* -?[a-z]*  say it", "sort <", "stubborn", "timed"]
    assert "secret" not in ended.out
    sort = next(one for one in map(json.loads, desk("run", "--json").out.splitlines()) if one["name"] == "sort")
    assert sort == {"name": "sort", "summary": "", "arguments": [], "stdin": True}


def test_run_brings_both_streams_and_ends_with_the_code_of_the_command(desk: Desk) -> None:
    ended = desk("run", "both")
    assert (ended.code, ended.out, ended.err) == (3, "out\n", "err\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nothing"], 1, "There is no such command for this user."),
        (["secret"], 1, "There is no such command for this user."),
        (["../sh"], 1, "../sh: There is no such command for this user."),
        (["print", "x"], 1, "print does not take argument 1"),
        (["both", "-h"], 1, "both does not take argument 1"),
        (["--nothing"], 2, "No such option"),
    ],
)
def test_run_says_in_one_line_what_is_refused(desk: Desk, arguments: list[str], code: int, said: str) -> None:
    ended = desk("run", *arguments)
    assert (ended.code, ended.out) == (code, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("ftpy: ") and said in line


def test_options_before_the_name_are_ours_and_all_behind_it_the_commands(desk: Desk) -> None:
    assert desk("run", "-s", "home", "print", "a b", "--json").code == 1  # not [a-z]* with one dash
    assert desk("run", "-s", "home", "print", "a b", "-s").out == "a b|-s|"


def test_standard_input_goes_through_the_command_unless_that_is_not_wanted(desk: Desk) -> None:
    assert desk("run", "sort", input="b\nc\na\n").out == "a\nb\nc\n"
    assert desk("run", "-n", "sort", input="b\n").out == ""
    assert desk("run", "both", input="b\n").code == 3


def test_pipes_get_the_bytes_of_the_host(desk: Desk) -> None:
    assert desk("run", "gbk").raw == GREETING
    assert desk("run", "escapes").raw == b"red \033[31m\007\r\n"


def test_json_has_text_or_bytes_and_the_end(desk: Desk) -> None:
    said, end = map(json.loads, desk("run", "--json", "gbk").out.splitlines())
    assert said == {"stream": "stdout", "text": "你好\n"}
    assert end.pop("seconds") >= 0
    assert end == {"command": "gbk", "ok": True, "code": 0, "ended": "exit"}
    said, _ = map(json.loads, desk("run", "--json", "--raw", "gbk").out.splitlines())
    assert said == {"stream": "stdout", "base64": "xOO6wwo="}


def on_terminal(desk: Desk, *arguments: str) -> bytes:
    """What a terminal gets to see of standard output."""
    master, slave = pty.openpty()
    process = desk.start(*arguments, stdout=slave, env={"PYTHONIOENCODING": "utf-8"})
    os.close(slave)
    seen = b""
    try:
        while data := os.read(master, 65536):
            seen += data
    except OSError:  # EIO: nobody has it open any more
        pass
    os.close(master)
    process.communicate(timeout=30)
    return seen.replace(b"\r\n", b"\n")


def test_terminal_shows_the_encoding_of_the_host_in_its_own_and_no_control_codes(desk: Desk) -> None:
    assert on_terminal(desk, "run", "gbk").decode() == "你好\n"
    assert on_terminal(desk, "run", "escapes") == b"red \\x1b[31m\\x07\r\n"


def test_terminal_gets_bytes_as_they_are_where_that_is_asked_for(desk: Desk) -> None:
    assert on_terminal(desk, "run", "--raw", "gbk") == GREETING
    assert b"\033[31m\007" in on_terminal(desk, "run", "--raw", "escapes")


def test_time_that_is_up_is_said_and_is_the_exit_code_124(desk: Desk, mark: Mark) -> None:
    ended = desk("run", "timed")
    assert ended.code == 124 and ended.out.startswith("tick\n")
    assert ended.err == "ftpy: timed: its time on the host was up; it was ended there\n"
    assert mark.left() == []


def test_ctrl_c_ends_the_command_on_the_host(desk: Desk, mark: Mark) -> None:
    process = desk.start("run", "stubborn")
    mark.runs(4)
    assert process.stdout is not None and process.stdout.readline() == "tick\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "ftpy: interrupted\n")
    assert mark.left() == []  # it was over before we were told


def test_second_ctrl_c_leaves_at_once(desk: Desk, mark: Mark) -> None:
    process = desk.start("run", "asked")
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked to end\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)  # a shell may say of what it ran that it was terminated
    assert process.returncode == 130 and err.endswith("ftpy: interrupted\n")
    mark.gone()


def test_reader_that_goes_away_ends_the_command(desk: Desk, mark: Mark) -> None:
    process = desk.start("run", "endless")
    assert process.stdout is not None and process.stdout.readline() == "y\n"
    process.stdout.close()
    assert process.stderr is not None and process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(30) == 141
    mark.gone()


@pytest.mark.slow
def test_client_that_is_killed_at_any_moment_leaves_no_process_behind(desk: Desk, mark: Mark, daemon: Daemon) -> None:
    rng = random.Random(1)
    for _ in range(20):
        process = desk.start("run", rng.choice(["stubborn", "endless", "timed", "large"]))
        time.sleep(rng.uniform(0.0, 0.8))
        process.kill()
        process.communicate()
    mark.gone()
    assert not _zombies(daemon)


def _zombies(daemon: Daemon) -> list[str]:
    assert daemon.process is not None
    listed = subprocess.run(["ps", "--ppid", str(daemon.process.pid), "-o", "stat="], capture_output=True, text=True)
    return [state for state in listed.stdout.split() if state.startswith("Z")]


def test_search_for_leftovers_finds_one_that_is_left(mark: Mark) -> None:
    """The control: what the tests above look for is seen when it is there."""
    command = mark.sh("sleep 1000")
    with subprocess.Popen([*command.run], env=command.environment | {"PATH": os.environ["PATH"]}) as process:
        mark.runs()
        process.kill()
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            if mark.value.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                os.kill(pid, signal.SIGKILL)
        except OSError:
            continue
    mark.gone()


@pytest.mark.slow
def test_much_output_and_output_without_end_take_no_memory_at_either_end(
    desk: Desk, mark: Mark, daemon: Daemon
) -> None:
    process = desk.start("run", "endless", stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: _written(process.pid) > 20_000_000, 60)
        ends = [process.pid, *_family(daemon)]
        before = sum(usage_of(pid).resident for pid in ends)
        eventually(lambda: _written(process.pid) > 120_000_000, 100)
        assert sum(usage_of(pid).resident for pid in ends) < before + 8 * 1024 * 1024
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    mark.gone()


def _written(pid: int) -> int:
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["wchar"])


def _family(daemon: Daemon) -> list[int]:
    """The server's processes."""
    assert daemon.process is not None
    return [daemon.process.pid, *_children_of(daemon.process.pid)]


def _children_of(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True)
    return [*map(int, listed.stdout.split())]


# ---------------------------------------------------------------- the server


@pytest.fixture
def own_mark() -> Mark:
    """For what is looked for after its server has gone."""
    return Mark()


@pytest.fixture
def own(tmp_path: Path, own_mark: Mark) -> Iterator[tuple[Daemon, Desk]]:
    """A server that may be broken, with one command, and a workstation."""
    host = Host(tmp_path / "host")
    with Daemon(host, settings({"stubborn": own_mark.sh(STUBBORN), "true": own_mark.command("true")})) as daemon:
        desk = Desk(tmp_path / "desk", host)
        desk.pair()
        yield daemon, desk
    own_mark.gone()


@pytest.mark.slow
def test_commands_end_with_their_server_even_when_that_is_killed(own: tuple[Daemon, Desk], own_mark: Mark) -> None:
    daemon, desk = own
    process = desk.start("run", "stubborn")
    own_mark.runs(4)
    daemon.signal(signal.SIGKILL)
    assert "ftpy: " in process.communicate(timeout=30)[1]
    assert process.returncode == 3
    own_mark.gone()


@pytest.mark.slow
def test_commands_that_are_read_again_count_at_once(own: tuple[Daemon, Desk], own_mark: Mark) -> None:
    daemon, desk = own
    daemon.reload(settings({"new": own_mark.command("echo", "new"), "true": own_mark.command("false")}))
    eventually(lambda: desk("run", "new").out == "new\n")  # what was waited for is said before they count
    assert desk("run", "true").code == 1
    assert "no such command" in desk("run", "stubborn").err
    daemon.reload(settings({"broken": own_mark.command("true")}).replace('run = ["true"]', "run = 5"))
    assert desk("run", "new").out == "new\n"


@pytest.mark.slow
def test_first_command_needs_a_restart(tmp_path: Path, own_mark: Mark) -> None:
    host = Host(tmp_path / "host")
    with Daemon(host) as daemon:
        desk = Desk(tmp_path / "desk", host)
        desk.pair()
        assert desk("run").err == "this server has no command that you may run\n"
        daemon.reload(settings({"new": own_mark.command("echo", "new")}))
        eventually(lambda: "config-needs-restart keys=commands" in daemon.log)  # said after what was waited for
        assert desk("run", "new").code == 1
        assert len(_family(daemon)) == 1  # nobody is outside of the sandbox


@pytest.mark.slow
def test_runner_that_is_killed_is_started_again_outside_of_the_sandbox(own: tuple[Daemon, Desk]) -> None:
    daemon, desk = own
    _, runner = _family(daemon)
    (taker,) = _children_of(runner)
    os.kill(taker, signal.SIGKILL)
    eventually(lambda: desk("run", "true").code == 0, 30)
    assert "runner-died" in daemon.log and _children_of(runner) != [taker]


@pytest.mark.slow
def test_server_goes_on_without_commands_when_all_of_its_runner_was_killed(own: tuple[Daemon, Desk]) -> None:
    daemon, desk = own
    _, runner = _family(daemon)
    for pid in (runner, *_children_of(runner)):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: "commands cannot be run until the server is restarted" in desk("run", "true").err)
    assert "runner-gone" in daemon.log
    assert desk("ls").code == 0
    eventually(lambda: not _zombies(daemon))


@pytest.mark.slow
def test_server_that_drains_ends_commands_and_leaves_nothing(own: tuple[Daemon, Desk], own_mark: Mark) -> None:
    daemon, desk = own
    daemon.reload("[limits]\ndrain_seconds = 0.3\n" + settings({"stubborn": own_mark.sh(STUBBORN)}))
    process = desk.start("run", "stubborn")
    own_mark.runs(4)
    daemon.signal()
    assert daemon.wait() == 0
    assert own_mark.left() == []
    process.communicate(timeout=30)
    assert process.returncode == 3


def test_no_core_of_a_command_is_left(own: tuple[Daemon, Desk]) -> None:
    daemon, _ = own
    for pid in _family(daemon):
        assert resource.prlimit(pid, resource.RLIMIT_CORE)[0] == 0
