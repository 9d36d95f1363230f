"""The runner by itself: what it takes for an order, and that it ends with whoever may give them."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ftpy.config.server import ServerConfig
from ftpy.errors import Busy, CommandFailed, ConfigError
from ftpy.server.orders import Began, Ended, Refused, Runner, encode, start_runner
from ftpy.server.runner import MOST_DEATHS
from ftpy.toml import to_toml
from tests.descriptors import descriptors_left, open_numbers, settled_numbers
from tests.rig import eventually
from tests.rigs.leftovers import Mark

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="remote commands need Linux")


def config(**commands: object) -> ServerConfig:
    return ServerConfig(root="x", listen=["x"], commands=commands)


@pytest.fixture
def mark() -> Mark:
    return Mark()


@pytest.fixture
def runner(mark: Mark) -> Iterator[Runner]:
    with Runner(config(true=mark.command("true"), deaf=mark.command("sleep", "1000"))) as made:
        yield made
    mark.gone()


def test_no_command_no_runner():
    assert start_runner(config()) is None


def test_runner_that_does_not_start_is_said_before_anybody_is_served(mark, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ConfigError, match="did not start"):
        Runner(config(true=mark.command("true")))


def test_supervisor_says_that_it_began_and_how_it_ended(runner):
    with runner.run("true", [], "alice") as running:
        assert isinstance(running.hear(), Began)
        assert running.hear() == Ended(code=0, ended="exit")


def test_run_is_busy_and_leaves_nothing_open_when_there_are_too_few_descriptors_for_its_ends(runner):
    before = settled_numbers()
    for room in range(8):
        with descriptors_left(room), pytest.raises(Busy, match="too many files open"):
            runner.run("true", [], "alice")
        assert open_numbers() == before
    with descriptors_left(8), runner.run("true", [], "alice") as running:
        assert isinstance(running.hear(), Began)


@pytest.mark.parametrize("room", [1, 2, 3])
def test_run_is_busy_when_the_runner_has_too_few_descriptors_for_its_ends(runner, room):
    eventually(lambda: _children_of(runner._process.pid))
    with descriptors_left(room, taker(runner)), runner.run("true", [], "alice") as running:
        said = running.hear()
        assert isinstance(said, Refused) and said.error == "busy" and "too many files open" in said.message
    assert runs(runner)


def test_runner_looks_by_itself_whether_there_is_such_a_command_and_what_it_takes(runner):
    """Whoever has taken the server over gets no further than the settings say."""
    for command, arguments, error in (("sh", [], "unknown-command"), ("true", ["x"], "invalid-argument")):
        with runner.run(command, arguments, "alice") as running:
            said = running.hear()
            assert isinstance(said, Refused) and said.error == error


def test_user_runs_no_more_than_are_left_for_others_and_whoever_has_none_finds_room(runner):
    """So one user's many connections starve nobody: of 16, 8, then 4, 2, 1 and 1."""
    with contextlib.ExitStack() as opened:
        for user, share, said in (("a", 8, "8 of 8"), ("b", 4, "4 of 12"), ("c", 2, "2 of 14"), ("d", 1, "1 of 15")):
            for _ in range(share):
                assert isinstance(opened.enter_context(runner.run("deaf", [], user)).hear(), Began)
            refused = opened.enter_context(runner.run("deaf", [], user)).hear()
            assert isinstance(refused, Refused) and refused.error == "busy"
            assert refused.message.startswith(f"{said} commands that run are yours")
        assert isinstance(opened.enter_context(runner.run("deaf", [], "e")).hear(), Began)
        refused = opened.enter_context(runner.run("deaf", [], "f")).hear()
        assert isinstance(refused, Refused) and refused.message == "16 commands run already; try again later"


@pytest.mark.parametrize(
    "message",
    [
        b"{}",
        b"[",
        b"\xff",
        b'{"order":"run"}',
        b'{"order":"run","command":"true","arguments":[],"user":"a","run":["sh"]}',
    ],
    ids=["nothing", "half", "bytes", "missing", "more"],
)
def test_what_is_no_order_is_passed_over_and_the_next_is_taken(runner, message):
    runner._end.send(message)
    runner._send(encode({"order": "reload"}), [])
    ours, its = socket.socketpair()
    with ours, its:
        runner._send(encode({"order": "run", "command": "true", "arguments": [], "user": "a"}), [its.fileno()])
        its.close()
        assert ours.recv(1) == b""  # without its streams it is no order, and its end was closed
    with runner.run("true", [], "alice") as running:
        assert isinstance(running.hear(), Began)


def test_command_ends_and_the_runner_too_when_nobody_can_give_orders(mark):
    runner = Runner(config(deaf=mark.command("sleep", "1000")))
    with runner.run("deaf", [], "alice") as running:
        assert isinstance(running.hear(), Began)
        mark.runs()
        runner._end.close()
        assert mark.left() != []  # it has its time still
    mark.gone()
    runner.close()
    assert runner._process.returncode == 0


def test_killed_supervisor_takes_its_command_along(runner, mark):
    with runner.run("deaf", [], "alice") as running:
        assert isinstance(running.hear(), Began)
        mark.runs()
        parent = taker(runner)  # asked now: later on the orphans are children of the other
        (supervisor,) = _children_of(parent)
        os.kill(supervisor, 9)
        with pytest.raises(CommandFailed, match="nobody can tell"):
            running.hear()
        mark.gone()
    eventually(lambda: not _children_of(parent))  # it was waited for


def taker(runner: Runner) -> int:
    """The process that takes the orders."""
    (pid,) = _children_of(runner._process.pid)
    return pid


def runs(runner: Runner) -> bool:
    """Whether a command can be run now."""
    try:
        with runner.run("true", [], "alice") as running:
            return isinstance(running.hear(), Began)
    except CommandFailed:
        return False


def test_runner_that_is_killed_is_started_again_and_what_ran_goes_on(runner, mark):
    with runner.run("deaf", [], "alice") as running:
        assert isinstance(running.hear(), Began)
        mark.runs()
        os.kill(first := taker(runner), 9)
        eventually(lambda: runs(runner), 30)
        assert first not in _children_of(runner._process.pid)
        running.cancel()
        said = running.hear()
        assert isinstance(said, Ended) and said.ended == "cancel"
    mark.gone()


def test_runner_that_is_started_again_has_the_settings_that_count_now(tmp_path, mark):
    settings = tmp_path / "server.toml"
    first = config(old=mark.command("true"))
    settings.write_text(
        to_toml(msgspec.structs.replace(first, commands={"true": mark.command("true")}), comments=False)
    )
    with Runner(first, str(settings)) as runner:
        assert not runs(runner)
        os.kill(taker(runner), 9)
        eventually(lambda: runs(runner), 30)


@pytest.mark.slow
def test_runner_that_dies_all_the_time_is_given_up_and_its_commands_still_end(mark):
    with Runner(config(true=mark.command("true"), deaf=mark.command("sleep", "1000"))) as runner:
        with runner.run("deaf", [], "alice") as running:
            assert isinstance(running.hear(), Began)
            mark.runs()
            seen = {*_children_of(taker(runner))}  # the supervisor, which goes on
            killed: list[int] = []

            def kill() -> bool:
                for pid in _children_of(runner._process.pid):
                    if pid not in seen:
                        os.kill(pid, 9)
                        seen.add(pid)
                        killed.append(pid)
                return len(killed) == MOST_DEATHS

            eventually(kill, 60)
            with pytest.raises(CommandFailed, match="until the server is restarted"):
                eventually(lambda: runner.run("true", [], "alice").close(), 30)
        mark.gone()
        eventually(lambda: runner._process.poll() == 0, 30)


def _children_of(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_bytes().rpartition(b")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
        except OSError:
            continue
    return found
