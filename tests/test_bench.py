"""scripts/bench: it measures what it says, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig import eventually

SCRIPTS = Path(__file__).parent.parent / "scripts"
FTPY = ["ftpy-md5", "ftpy-blake3", "ftpy-tls-md5", "ftpy-tls-blake3"]
MIB = 2**20

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="scripts/bench reads processor time from /proc")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The parts of scripts/bench, importable as the script imports them."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import benchmark.chart
    import benchmark.longline
    import benchmark.options
    import benchmark.results

    yield benchmark
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmark"]:
        del sys.modules[name]


def bench(work: Path, *arguments: str) -> subprocess.Popen[str]:
    """scripts/bench with small files, with the ftpy that is being tested on its path."""
    work.mkdir()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    argv = [sys.executable, str(SCRIPTS / "bench"), "--where", str(work), *arguments]
    return subprocess.Popen(
        argv, env=os.environ | {"PATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def processes_of(text: str) -> list[str]:
    """Command lines that hold a text: a folder's name, for servers and clients of a bench in it."""
    lines = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # it ended meanwhile
                continue
            if text in line:
                lines.append(line)
    return lines


@pytest.mark.slow
def test_bench_measures_put_and_get_of_every_contender_that_was_chosen(tmp_path: Path) -> None:
    work, figures = tmp_path / "work", tmp_path / "figures.json"
    arguments = ["--work", "big,tree", "--size", "4MiB", "--files", "20", "--rounds", "1", "--only", "ftpy*"]
    run = bench(work, *arguments, "--json", str(figures))
    table, said = run.communicate(timeout=100)
    assert run.returncode == 0, said
    big, tree = json.loads(figures.read_text())["runs"]
    measured = [(sample["contender"], sample["verb"]) for sample in big["samples"]]
    assert sorted(measured) == sorted((name, verb) for name in FTPY for verb in ("put", "get"))
    assert {sample["files"] for sample in tree["samples"]} == {20}
    assert all(sample["seconds"] > 0 and sample["client_processor_seconds"] > 0 for sample in big["samples"])
    assert big["failed"] == big["left_out"] == tree["failed"] == tree["left_out"] == {}
    assert all(name in table for name in FTPY)
    assert list(work.iterdir()) == []
    assert processes_of(str(work)) == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_bench_says_the_ratio_to_the_rival_when_both_ran(tmp_path: Path) -> None:
    arguments = ["--work", "big", "--size", "2MiB", "--rounds", "1", "--only", "*-md5", "--verbs", "put"]
    run = bench(tmp_path / "work", *arguments, "--rivals", "rsync-md5", "--json", str(tmp_path / "figures.json"))
    _, said = run.communicate(timeout=100)
    assert run.returncode == 0, said
    (document,) = json.loads((tmp_path / "figures.json").read_text())["runs"]
    rows = {row["contender"]: row for row in document["summary"]}
    (aim,) = document["aims"]
    assert (aim["contender"], aim["rival"]) == ("ftpy-md5", "rsync-md5")
    assert aim["figure"] == pytest.approx(rows["ftpy-md5"]["seconds"] / rows["rsync-md5"]["seconds"])
    assert aim["reached"] is (aim["figure"] <= aim["bound"])


@pytest.mark.slow
def test_bench_reaches_every_server_through_the_long_line_and_stops_it(tmp_path: Path) -> None:
    work, figures = tmp_path / "work", tmp_path / "figures.json"
    run = bench(work, "--work", "tree-50ms", "--files", "5", "--rounds", "1", "--only", "ftpy*", "--json", str(figures))
    _, said = run.communicate(timeout=100)
    assert run.returncode == 0, said
    (document,) = json.loads(figures.read_text())["runs"]
    # A connection, a hello and a file: nobody does that in less than three round trips.
    assert min(sample["seconds"] for sample in document["samples"]) > 3 * document["line"]["rtt"]
    assert list(work.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_bench_stops_its_servers_and_removes_its_files_when_interrupted(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    work = tmp_path / "work"
    chosen = ["--work", "big", "--only", "ftpy-md5,ftpy-tls-md5"]
    run = bench(work, *chosen, "--size", "4MiB", "--rounds", "1000")
    assert run.stderr is not None
    while "round 1:" not in (line := run.stderr.readline()):
        assert line, "it ended before its first round"
    assert processes_of(str(work)), "its servers are not seen, so that they were stopped would prove nothing"
    run.send_signal(number)
    run.communicate(timeout=60)
    assert run.returncode == code
    assert list(work.iterdir()) == []
    assert processes_of(str(work)) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--only", "ftp"], "'ftp' is none of ftpy-md5, "),
        (["--work", "bigger"], "'bigger' is none of big, tree, "),
        (["--rivals", "ftpy-md5"], "'ftpy-md5' is none of rsync-md5, "),
        (["--size", "1 furlong"], "is no size"),
        (["--draw", "figures.json"], "--draw needs --chart"),
    ],
)
def test_bench_refuses_what_it_does_not_know(tmp_path: Path, arguments: list[str], reason: str) -> None:
    run = bench(tmp_path / "work", *arguments)
    _, said = run.communicate(timeout=20)
    assert run.returncode == 2
    assert reason in said


def test_a_group_means_its_works(modules: Any) -> None:
    assert modules.works.find_works("long") == ["tree-10ms", "tree-50ms", "tree-100ms", "big-100ms"]
    assert modules.works.find_works("tree") == ["tree"]
    assert modules.works.find_works("all") == list(modules.works.WORKS)


def test_every_work_names_contenders_that_exist_and_holds_against_those_that_take_part(modules: Any) -> None:
    for work in modules.works.WORKS.values():
        assert set(work.contenders) | set(work.on_disk) <= set(modules.contenders.CONTENDERS)
        assert {name for aim in work.aims for name in (aim.contender, *aim.rivals)} <= set(work.contenders)
        assert {aim.measure for aim in work.aims} <= set(modules.results.MEASURES)
        assert work.shape in modules.sources.SHAPES


def test_a_contender_is_left_out_when_its_program_lacks_an_option(modules: Any, tmp_path: Path) -> None:
    ftpy = tmp_path / "ftpy"
    ftpy.write_text("#!/bin/sh\necho '  -d, --digest [md5|blake3]  What verifies'\n")
    ftpy.chmod(0o755)
    programs = {"ftpy": str(ftpy), "ftpy-server": str(ftpy)}
    contenders = modules.contenders.CONTENDERS
    assert contenders["ftpy-md5"].unfit(["put"], programs) is None
    assert contenders["ftpy-md5-one"].unfit(["put"], programs) == "this ftpy has no --streams"
    assert contenders["scp"].unfit(["put"], programs) == "not installed: sshd, ssh-keygen, scp"
    assert contenders["aria2"].unfit(["put"], {"nginx": "nginx", "aria2c": "aria2c"}) == "can only get"


@pytest.mark.parametrize("arrived", [b"", b"12345678", b"1234567x9", b"1234567890"])
def test_what_arrived_is_refused_when_it_differs(modules: Any, tmp_path: Path, arrived: bytes) -> None:
    (tmp_path / "source").write_bytes(b"123456789")
    (tmp_path / "arrived").write_bytes(b"123456789")
    modules.sources.check_same(tmp_path / "source", tmp_path / "arrived")
    (tmp_path / "arrived").write_bytes(arrived)
    with pytest.raises(modules.sites.Failed):
        modules.sources.check_same(tmp_path / "source", tmp_path / "arrived")


@pytest.mark.parametrize(
    "harm",
    [
        lambda tree: (tree / "a" / "1").unlink(),
        lambda tree: (tree / "a" / "1").write_bytes(b"other"),
        lambda tree: (tree / "a" / "3").write_bytes(b"more"),
        shutil.rmtree,
    ],
)
def test_a_tree_that_arrived_is_refused_when_it_differs(
    modules: Any, tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    for name in ("source", "arrived"):
        (tmp_path / name / "a").mkdir(parents=True)
        (tmp_path / name / "a" / "1").write_bytes(b"first")
        (tmp_path / name / "2").write_bytes(b"second")
    modules.sources.check_same(tmp_path / "source", tmp_path / "arrived")
    harm(tmp_path / "arrived")
    with pytest.raises(modules.sites.Failed):
        modules.sources.check_same(tmp_path / "source", tmp_path / "arrived")


@pytest.mark.parametrize(("shape", "files", "size"), [("tree", 300, 4_500_000), ("equal", 50, 50 * 4_096)])
def test_a_tree_has_as_many_files_and_bytes_as_it_says(
    modules: Any, tmp_path: Path, shape: str, files: int, size: int
) -> None:
    modules.sources.make_source(tmp_path / "tree", shape, files, size)
    every = list(modules.sources.every_file(tmp_path / "tree"))
    assert len(every) == files
    assert sum((tmp_path / "tree" / path).stat().st_size for path in every) == size
    modules.sources.sample_tree(tmp_path / "tree", tmp_path / "sample", 7)
    sampled = list(modules.sources.every_file(tmp_path / "sample"))
    assert len(sampled) == 7
    assert set(sampled) <= set(every)


def test_a_client_is_stopped_when_it_takes_longer_than_its_limit(modules: Any, tmp_path: Path) -> None:
    site = modules.sites.Site(tmp_path, 0, {})
    begin = time.monotonic()
    with pytest.raises(modules.sites.Failed, match="took more than"):
        modules.measuring.run_client(["sh", "-c", "sleep 30 & sleep 30"], site, 0.2)
    assert time.monotonic() - begin < 10


def test_a_client_that_fails_is_reported_with_its_last_words(modules: Any, tmp_path: Path) -> None:
    site = modules.sites.Site(tmp_path, 0, {})
    with pytest.raises(modules.sites.Failed, match=r"sh ended with 3: no luck"):
        modules.measuring.run_client(["sh", "-c", "echo no luck >&2; exit 3"], site, 10)


def test_processor_time_of_what_a_client_forked_is_counted(modules: Any, tmp_path: Path) -> None:
    site = modules.sites.Site(tmp_path, 0, {})
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    _, used = modules.measuring.run_client(["sh", "-c", f"{sys.executable} -c '{busy}'; true"], site, 30)
    assert used >= 0.3


def samples_of(modules: Any, *figures: tuple[str, str, int, float]) -> list[Any]:
    """Samples of contenders, verbs, files and seconds."""
    return [modules.measuring.Sample(name, verb, 1, files, s, s / 2, 0.0, 0.0) for name, verb, files, s in figures]


def test_medians_and_ratios_are_taken_within_one_verb(modules: Any) -> None:
    figures = [("ftpy-md5", "put", 1, seconds) for seconds in (1.0, 9.0, 2.0)]
    figures += [("rsync", "put", 1, 4.0), ("ftpy-md5", "get", 1, 3.0)]
    work = modules.works.BIG.scaled(10**6, None)
    put, rival, get = modules.results.summarize(samples_of(modules, *figures), work)
    assert (put.contender, put.seconds, put.ratio) == ("ftpy-md5", 2.0, 0.5)
    assert (put.fastest_seconds, put.slowest_seconds, put.megabytes_per_second) == (1.0, 9.0, 0.5)
    assert (rival.contender, rival.ratio) == ("rsync", 1.0)
    assert (get.verb, get.ratio) == ("get", None)


def test_figures_of_a_sample_are_scaled_to_all_files(modules: Any) -> None:
    work = modules.works.TREE.scaled(None, 1000)
    whole, part = modules.results.summarize(
        samples_of(modules, ("rsync", "put", 1000, 2.0), ("scp", "put", 50, 3.0)), work
    )
    assert (whole.part, whole.seconds, whole.files_per_second) == (1.0, 2.0, 500.0)
    assert (part.part, part.seconds, part.client_processor_seconds, part.ratio) == (0.05, 60.0, 30.0, 30.0)


def test_an_aim_is_held_against_the_fastest_of_its_rivals_that_took_part(modules: Any) -> None:
    works = modules.works
    aims = [
        works.Aim("ftpy-md5", 0.5, ("nginx", "vsftpd", "scp")),
        works.Aim("ftpy-md5", 0.5, ("rsync",)),
        works.Aim("ftpy-md5", 1.0, measure="seconds"),
        works.Aim("ftpy-md5", 2.0, measure="files/s", verbs=("get",)),
        works.Aim("ftpy-md5", 0.1, measure="files/s"),
    ]
    figures = [("ftpy-md5", "put", 1, 2.0), ("nginx", "put", 1, 5.0), ("vsftpd", "put", 1, 4.0)]
    rows = modules.results.summarize(samples_of(modules, *figures), works.BIG)
    told = [(one.rival, one.figure, one.reached) for one in modules.results.judge(rows, aims)]
    assert told == [("vsftpd", 0.5, True), (None, 2.0, False), (None, 0.5, True)]


def run_of(modules: Any, work: Any, *figures: tuple[str, str, int, float]) -> Any:
    """What a bench would have written of these samples."""
    bench = modules.measuring.Bench(Path(), work, ["put", "get"], 1.0, 0.0, False)
    bench.samples = samples_of(modules, *figures)
    return modules.results.as_document(bench, "nowhere", 1)


def test_a_chart_is_drawn_from_what_was_written(modules: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figures = [("ftpy-md5", "put", 8000, 1.0), ("rsync", "put", 8000, 2.0), ("rclone", "put", 160, 3.0)]
    modules.results.write_json(
        tmp_path / "figures.json", {"processor": "two"}, [run_of(modules, modules.works.TREE, *figures)]
    )
    arguments = ["--draw", str(tmp_path / "figures.json"), "--chart", str(tmp_path / "chart")]
    drawing = bench(tmp_path / "work", *arguments, "--where", "tmpfs")
    _, said = drawing.communicate(timeout=60)
    assert drawing.returncode == 0, said
    assert (tmp_path / "chart" / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (tmp_path / "chart" / "bench.svg").read_text()


def test_a_chart_puts_the_verbs_of_a_work_side_by_side_and_the_fastest_first(modules: Any) -> None:
    big, small = modules.works.BIG, modules.works.SMALL
    both = [("ftpy-md5", "put", 1, 3.0), ("rsync", "put", 1, 2.0), ("rsync", "get", 1, 2.0)]
    runs = [
        run_of(modules, small, ("rsync", "get", 1, 1.0)),
        run_of(modules, big, *both),
        run_of(modules, small, ("scp", "get", 1, 1.0)),
    ]
    lines = list(modules.chart.in_lines(modules.chart.panels_of(runs)))
    told = [[[row["contender"] for row in panel.rows] for panel in line] for line in lines]
    assert told == [[["rsync", "ftpy-md5"], ["rsync"]], [["rsync"], ["scp"]]]


def test_a_bar_far_longer_than_ours_is_cut(modules: Any) -> None:
    rows = [{"contender": name, "seconds": s} for name, s in (("ftpy-md5", 2.0), ("rsync", 1.0), ("scp", 900.0))]
    assert modules.chart.longest(rows) == 2.0 * modules.chart.LONGEST
    assert modules.chart.longest(rows[:2]) == 2.0


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@contextlib.contextmanager
def line_to(modules: Any, address: tuple[str, int], **options: Any) -> Iterator[tuple[Any, Clock]]:
    """A line of 100 s there and back, whose time passes when it is told."""
    clock = Clock()
    with contextlib.closing(modules.longline.LongLine(address, 100.0, clock=clock, **options)) as line:
        yield line, clock


def turn(line: Any, clock: Clock, now: float) -> None:
    """Let a line do at ``now`` all that it can do then."""
    clock.now = now
    for _ in range(10):
        line.step(0.005)


def waiting(end: socket.socket) -> bytes:
    """What has arrived and nobody took."""
    end.setblocking(False)
    try:
        return end.recv(MIB)
    except BlockingIOError:
        return b""


@pytest.fixture
def target() -> Iterator[socket.socket]:
    """A server's listening socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        yield listener


def test_a_byte_needs_half_a_round_trip_and_a_connection_a_whole_one_before(
    modules: Any, target: socket.socket
) -> None:
    with (
        line_to(modules, target.getsockname()) as (line, clock),
        socket.create_connection(line.address) as client,
    ):
        client.sendall(b"ping")
        turn(line, clock, 0.0)
        turn(line, clock, 149.0)
        target.setblocking(False)
        with pytest.raises(BlockingIOError):
            target.accept()
        turn(line, clock, 150.0)
        with target.accept()[0] as server:
            assert eventually(lambda: waiting(server)) == b"ping"
            server.sendall(b"pong")
            turn(line, clock, 150.0)
            turn(line, clock, 199.0)
            assert waiting(client) == b""
            turn(line, clock, 200.0)
            assert eventually(lambda: waiting(client)) == b"pong"


def test_a_window_bounds_what_is_not_acknowledged_yet(modules: Any, target: socket.socket) -> None:
    window = 1000
    with (
        line_to(modules, target.getsockname(), window=window) as (line, clock),
        socket.create_connection(line.address) as client,
    ):
        client.sendall(bytes(10 * window))
        turn(line, clock, 0.0)
        (connection,) = line.connections
        turn(line, clock, 150.0)
        with target.accept()[0] as server:
            # The first window is delivered now, and acknowledged half a round trip later.
            assert eventually(lambda: waiting(server)) == bytes(window)
            turn(line, clock, 199.0)
            assert (connection.up.under_way, len(connection.up.queue)) == (window, 0)
            turn(line, clock, 200.0)
            assert (connection.up.under_way, len(connection.up.queue)) == (window, 1)
            assert waiting(server) == b""
            turn(line, clock, 250.0)
            assert eventually(lambda: waiting(server)) == bytes(window)


def test_connections_divide_the_rate_of_a_line(modules: Any, target: socket.socket) -> None:
    with (
        line_to(modules, target.getsockname(), rate=10.0) as (line, clock),
        socket.create_connection(line.address) as first,
        socket.create_connection(line.address) as second,
    ):
        turn(line, clock, 0.0)
        for client in (first, second):
            client.sendall(bytes(1000))  # 100 s of the line
            turn(line, clock, 100.0)
        dues = sorted(connection.up.queue[0].due for connection in line.connections)
        assert dues == [100.0 + 100.0 + 50.0, 100.0 + 200.0 + 50.0]


@pytest.mark.parametrize("window", [None, 300_000])
def test_a_line_loses_nothing_and_keeps_the_order_and_the_half_close(
    modules: Any, target: socket.socket, window: int | None
) -> None:
    sent = os.urandom(4 * MIB)

    def echo_in_the_end() -> None:
        with target.accept()[0] as server:
            server.sendall(b"".join(iter(lambda: server.recv(MIB), b"")))

    echoing = threading.Thread(target=echo_in_the_end)
    echoing.start()
    line = modules.works.Line(0.002, window)
    with (
        modules.servers.LineProcess(line, target.getsockname()[1]) as process,
        socket.create_connection(("127.0.0.1", process.port), 10) as client,
    ):
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        assert b"".join(iter(lambda: client.recv(MIB), b"")) == sent
    echoing.join(10)
    assert processes_of(f"--to 127.0.0.1:{target.getsockname()[1]}") == []


def abort(end: socket.socket) -> None:
    """Close with a reset."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    end.close()


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_arrives_as_a_reset_half_a_round_trip_later(modules: Any, target: socket.socket, who: str) -> None:
    with (
        line_to(modules, target.getsockname()) as (line, clock),
        socket.create_connection(line.address) as client,
    ):
        turn(line, clock, 0.0)
        turn(line, clock, 150.0)
        with target.accept()[0] as server:
            here, there = (client, server) if who == "client" else (server, client)
            abort(here)
            turn(line, clock, 150.0)
            turn(line, clock, 199.0)
            assert waiting(there) == b""
            turn(line, clock, 200.0)
            there.settimeout(10)
            with pytest.raises(ConnectionResetError):
                there.recv(1)
        assert line.connections == []


def test_a_connection_is_reset_when_the_target_refuses_it(modules: Any) -> None:
    with socket.socket() as deaf, contextlib.ExitStack() as stack:
        deaf.bind(("127.0.0.1", 0))  # it does not listen, and nobody else is given its port
        line, clock = stack.enter_context(line_to(modules, deaf.getsockname()))
        client = stack.enter_context(socket.create_connection(line.address, 10))
        for now in (0.0, 150.0, 200.0):
            turn(line, clock, now)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert line.connections == []
