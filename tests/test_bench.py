"""scripts/bench: it measures what it says, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
FTPY = ["ftpy-md5", "ftpy-blake3", "ftpy-tls-md5", "ftpy-tls-blake3"]

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="scripts/bench reads processor time from /proc")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The parts of scripts/bench, importable as the script imports them."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import benchmark.measuring
    import benchmark.results

    yield benchmark
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmark"]:
        del sys.modules[name]


def bench(work: Path, *arguments: str) -> subprocess.Popen[str]:
    """scripts/bench on a small file, with the ftpy that is being tested on its path."""
    work.mkdir()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    argv = [sys.executable, str(SCRIPTS / "bench"), "--dir", str(work), *arguments]
    return subprocess.Popen(
        argv, env=os.environ | {"PATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def processes_of(work: Path) -> list[str]:
    """Command lines that name the folder: servers and clients of a bench in it."""
    lines = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # it ended meanwhile
                continue
            if str(work) in line:
                lines.append(line)
    return lines


@pytest.mark.slow
def test_bench_measures_put_and_get_of_every_contender_that_was_chosen(tmp_path: Path) -> None:
    work, figures = tmp_path / "work", tmp_path / "figures.json"
    run = bench(work, "--size", "4MiB", "--rounds", "1", "--only", "ftpy*", "--json", str(figures))
    table, said = run.communicate(timeout=100)
    assert run.returncode == 0, said
    document = json.loads(figures.read_text())
    measured = [(sample["contender"], sample["verb"]) for sample in document["samples"]]
    assert sorted(measured) == sorted((name, verb) for name in FTPY for verb in ("put", "get"))
    assert all(sample["seconds"] > 0 and sample["client_processor_seconds"] > 0 for sample in document["samples"])
    assert document["failed"] == document["left_out"] == {}
    assert all(name in table for name in FTPY)
    assert list(work.iterdir()) == []
    assert processes_of(work) == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_bench_says_the_ratio_to_the_rival_when_both_ran(tmp_path: Path) -> None:
    run = bench(tmp_path / "work", "--size", "2MiB", "--rounds", "1", "--only", "*-md5", "--verbs", "put",
                "--json", str(tmp_path / "figures.json"))  # fmt: skip
    _, said = run.communicate(timeout=100)
    assert run.returncode == 0, said
    rows = {row["contender"]: row for row in json.loads((tmp_path / "figures.json").read_text())["summary"]}
    ours, rival = rows["ftpy-md5"], rows["rsync-md5"]
    assert ours["rival"] == "rsync-md5"
    assert ours["ratio"] == pytest.approx(ours["seconds"] / rival["seconds"])
    assert ours["reached"] is (ours["ratio"] <= ours["aim"])


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_bench_stops_its_servers_and_removes_its_files_when_interrupted(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    work = tmp_path / "work"
    run = bench(work, "--size", "4MiB", "--rounds", "1000", "--only", "ftpy-md5,ftpy-tls-md5")
    assert run.stderr is not None
    while "round 1:" not in (line := run.stderr.readline()):
        assert line, "it ended before its first round"
    assert processes_of(work), "its servers are not seen, so that they were stopped would prove nothing"
    run.send_signal(number)
    run.communicate(timeout=60)
    assert run.returncode == code
    assert list(work.iterdir()) == []
    assert processes_of(work) == []


def test_bench_refuses_a_contender_that_it_does_not_know(tmp_path: Path) -> None:
    run = bench(tmp_path / "work", "--only", "ftp")
    _, said = run.communicate(timeout=20)
    assert run.returncode == 2
    assert "'ftp' is none of ftpy-md5, " in said


@pytest.mark.parametrize("arrived", [b"", b"12345678", b"1234567x9", b"1234567890"])
def test_what_arrived_is_refused_when_it_differs(modules: Any, tmp_path: Path, arrived: bytes) -> None:
    (tmp_path / "source").write_bytes(b"123456789")
    (tmp_path / "arrived").write_bytes(b"123456789")
    modules.measuring.check_same(tmp_path / "source", tmp_path / "arrived")
    (tmp_path / "arrived").write_bytes(arrived)
    with pytest.raises(modules.measuring.Failed):
        modules.measuring.check_same(tmp_path / "source", tmp_path / "arrived")


def test_a_client_is_stopped_when_it_takes_longer_than_its_limit(modules: Any, tmp_path: Path) -> None:
    site = modules.sites.Site(tmp_path, 0, {})
    begin = time.monotonic()
    with pytest.raises(modules.measuring.Failed, match="took more than"):
        modules.measuring.run_client(["sh", "-c", "sleep 30 & sleep 30"], site, 0.2)
    assert time.monotonic() - begin < 10


def test_a_client_that_fails_is_reported_with_its_last_words(modules: Any, tmp_path: Path) -> None:
    site = modules.sites.Site(tmp_path, 0, {})
    with pytest.raises(modules.measuring.Failed, match=r"sh ended with 3: no luck"):
        modules.measuring.run_client(["sh", "-c", "echo no luck >&2; exit 3"], site, 10)


def test_processor_time_of_what_a_client_forked_is_counted(modules: Any, tmp_path: Path) -> None:
    site = modules.sites.Site(tmp_path, 0, {})
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    _, used = modules.measuring.run_client(["sh", "-c", f"{sys.executable} -c '{busy}'; true"], site, 30)
    assert used >= 0.3


def test_medians_and_ratios_are_taken_within_one_verb(modules: Any) -> None:
    def sample(contender: str, verb: str, seconds: float) -> Any:
        return modules.measuring.Sample(contender, verb, 1, seconds, 0.0, 0.0, 0.0)

    samples = [sample("ftpy-md5", "put", seconds) for seconds in (1.0, 9.0, 2.0)]
    samples += [sample("rsync-md5", "put", 4.0), sample("ftpy-md5", "get", 3.0)]
    put, rival, get = modules.results.summarize(samples, 10**6)
    assert (put.contender, put.seconds, put.ratio, put.reached) == ("ftpy-md5", 2.0, 0.5, True)
    assert (put.fastest_seconds, put.slowest_seconds, put.megabytes_per_second) == (1.0, 9.0, 0.5)
    assert (rival.ratio, rival.aim) == (None, None)
    assert (get.verb, get.ratio, get.reached) == ("get", None, None)
