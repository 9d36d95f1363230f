"""``ftpy cat`` and ``tail`` as users meet them: real processes against a real server."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.desk import Desk
from tests.rig import Fault, Host, Proxy, eventually

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    made = Host(tmp_path_factory.mktemp("reading") / "host")
    made.add_user("lister", rights=("list",))
    made.add_user("reader", rights=("read",))
    made.start()
    yield made
    made.stop()


LINES = "".join(f"line {number}\n" for number in range(1, 31))


# ---------------------------------------------------------------- cat


def test_cat_writes_files_one_after_the_other_byte_for_byte(desk: Desk, root: Path) -> None:
    first, second = os.urandom(70_000), bytes(range(256))
    (root / "a").write_bytes(first)
    (root / "b").write_bytes(second)
    (root / "empty").write_bytes(b"")
    ended = desk("cat", "/a", "empty", "b")
    assert (ended.code, ended.raw, ended.err) == (0, first + second, "")
    ended = desk("cat", "--json", "[ab]")
    assert (ended.code, ended.raw) == (0, first + second)
    assert '"path": "a", "size": 70000' in ended.err and '"path": "b", "size": 256' in ended.err


def test_cat_writes_a_range(desk: Desk, root: Path) -> None:
    (root / "a").write_bytes(b"0123456789")
    for options, data in (
        (("--offset", "3"), b"3456789"),
        (("--count", "3"), b"012"),
        (("--offset", "8", "--count", "1K"), b"89"),
        (("--offset", "10"), b""),
        (("--count", "0"), b""),
    ):
        assert desk("cat", *options, "a").raw == data, options
    desk("cat", "--offset", "11", "a").failed(1, "a: the file ends at 10")
    desk("cat", "--offset", "-1", "a").failed(2, "not a number of bytes")


def test_cat_says_what_failed_and_writes_the_others(desk: Desk, root: Path) -> None:
    (root / "a").write_bytes(b"a")
    (root / "d").mkdir()
    ended = desk("cat", "gone", "d", "a")
    assert (ended.code, ended.out) == (1, "a")
    assert ended.err.splitlines() == [
        "ftpy: gone: there is no such file or directory",
        "ftpy: d: that is a directory",
    ]
    desk("cat").failed(2, "Missing argument")
    desk.pair("lister", user="lister")
    desk("cat", "-s", "lister", "a").failed(1, "user lister has no right to read")


@pytest.mark.slow
def test_cat_goes_on_where_a_connection_was_lost(desk: Desk, host: Host, root: Path) -> None:
    data = os.urandom(20 * MIB)
    (root / "big").write_bytes(data)
    with Proxy(host.address, (Fault(), Fault("cut", after=11 * MIB)), (Fault(), Fault())) as proxy:
        desk.pair("cut", addresses=[proxy.address])
        ended = desk("cat", "-s", "cut", "big")
        assert (ended.code, ended.raw == data) == (0, True), ended.err
        assert proxy.connections == 2


def test_cat_ends_quietly_when_its_reader_leaves(desk: Desk, root: Path) -> None:
    (root / "big").write_bytes(bytes(20 * MIB))
    running = desk.start("cat", "big")
    assert running.stdout is not None and running.stderr is not None
    running.stdout.read(1)
    running.stdout.close()
    assert (running.wait(60), running.stderr.read()) == (141, "")
    running.stderr.close()


# ---------------------------------------------------------------- tail


@pytest.mark.parametrize(
    ("content", "options", "shown"),
    [
        (LINES, (), LINES[LINES.index("line 21") :]),
        (LINES, ("-n", "2"), "line 29\nline 30\n"),
        (LINES[:-1], ("-n", "2"), "line 29\nline 30"),
        (LINES, ("-n", "0"), ""),
        (LINES, ("-n", "100"), LINES),
        (LINES, ("-c", "5"), "e 30\n"),
        (LINES, ("-c", "1M"), LINES),
        (LINES, ("-c", "0"), ""),
        ("", (), ""),
        ("\n\n\n", ("-n", "2"), "\n\n"),
        ("x" * 200_000 + "\ny", ("-n", "2"), "x" * 200_000 + "\ny"),
        ("a\n" + "x" * 200_000 + "\ny\n", ("-n", "2"), "x" * 200_000 + "\ny\n"),
    ],
)
def test_tail_shows_the_end(desk: Desk, root: Path, content: str, options: tuple[str, ...], shown: str) -> None:
    (root / "log").write_text(content)
    ended = desk("tail", *options, "log")
    assert (ended.code, ended.out, ended.err) == (0, shown, "")


def test_tail_refuses_wrong_use(desk: Desk, root: Path) -> None:
    (root / "log").write_text(LINES)
    (root / "log2").write_text(LINES)
    desk("tail", "-n", "1", "-c", "1", "log").failed(2, "exclude each other")
    desk("tail", "-n", "-1", "log").failed(2, "-1")
    desk("tail", "lo*").failed(2, "matches 2 files")
    desk("tail", "gone").failed(1, "gone: there is no such file")
    desk("tail", "-f", "gone").failed(1, "gone: there is no such file")
    desk.pair("lister", user="lister")
    desk("tail", "-s", "lister", "log").failed(1, "user lister has no right to read")
    desk.pair("reader", user="reader")
    assert desk("tail", "-s", "reader", "-n", "1", "log").out == "line 30\n"


class Following:
    """``ftpy tail -f`` at work; what it writes is kept in a file."""

    def __init__(self, desk: Desk, *arguments: str) -> None:
        self._file = desk.folder / "followed"
        self._said = desk.folder / "said"
        with self._file.open("wb") as out, self._said.open("wb") as err:
            self.process = subprocess.Popen(
                [*desk_command(), "tail", "-f", "--interval", "0.05", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=desk.environment(),
            )

    def shows(self, text: str) -> None:
        eventually(lambda: self._file.read_text() == text, 60)

    def says(self, text: str) -> None:
        eventually(lambda: text in self._said.read_text(), 60)

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def __enter__(self) -> Following:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def desk_command() -> list[str]:
    from tests.cli.desk import COMMAND

    return COMMAND


def test_tail_f_follows_what_grows_is_replaced_goes_and_comes_back(desk: Desk, host: Host, root: Path) -> None:
    log = root / "log"
    log.write_text(LINES)
    with Following(desk, "-n", "1", "log") as following:
        following.shows(shown := "line 30\n")
        with log.open("a") as file:
            file.write("more\n")
        following.shows(shown := shown + "more\n")
        with host.client() as client, open(__file__, "rb") as file:
            client.put(file, "log")
        following.shows(shown := shown + Path(__file__).read_text())
        following.says("log: another file took its place")
        log.write_text("short\n")
        following.shows(shown := shown + "short\n")
        log.unlink()
        following.says("log: it is not there any more; waiting for it")
        log.write_text("back\n")
        following.shows(shown + "back\n")
        following.says("log: it is there again")
        assert following.interrupt() == 130


def test_tail_f_survives_lost_connections(desk: Desk, host: Host, root: Path) -> None:
    log = root / "log"
    log.write_text(LINES)
    with Proxy(host.address, (Fault(), Fault("cut", after=12_000)), (Fault(), Fault())) as proxy:
        desk.pair("cut", addresses=[proxy.address])
        with Following(desk, "-s", "cut", "-n", "1", "log") as following:
            following.shows("line 30\n")
            eventually(lambda: proxy.connections == 2, 60)
            with log.open("a") as file:
                file.write("after\n")
            following.shows("line 30\nafter\n")
            assert following.interrupt() == 130


def test_tail_f_ends_when_its_reader_leaves(desk: Desk, root: Path) -> None:
    (root / "log").write_text(LINES)
    running = desk.start("tail", "-f", "--interval", "0.05", "log")
    assert running.stdout is not None and running.stderr is not None
    running.stdout.readline()
    running.stdout.close()
    assert (running.wait(60), running.stderr.read()) == (141, "")
    running.stderr.close()


def test_tail_reads_the_end_of_a_log_that_grows_all_the_time(desk: Desk, root: Path) -> None:
    log = root / "log"
    log.write_text(LINES)
    writer = subprocess.Popen(
        ["sh", "-c", f"while :; do echo growing; done >> {log}"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        eventually(lambda: "growing" in log.read_text())
        ended = desk("tail", "-n", "3", "log")
        assert ended.code == 0, ended
        assert all("trying again" in line for line in ended.err.splitlines())  # it grew in an answer
        assert "growing" in ended.out
    finally:
        writer.kill()
        writer.wait()
