"""``ftpy shell`` as people type it, in a pseudo-terminal, and as scripts pipe it."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpy.cli.history import MOST_LINES, add_history, read_history
from ftpy.cli.lines import spelled, split, split_last
from ftpy.cli.working import Working, shown, working
from ftpy.config.commands import Command
from ftpy.config.server import Events
from ftpy.files import RemotePath
from tests.cli.desk import COMMAND, Desk
from tests.rig import Host, eventually, running
from tests.rigs.processes import HAS_PROC


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    commands = {"eat": Command(run=("cat",), users=("alice",), stdin=True)}
    with running(
        tmp_path_factory.mktemp("shell") / "host", audit=True, commands=commands, events=Events(days=1)
    ) as made:
        yield made


@pytest.fixture
def root(root: Path) -> Path:
    """The server's folder, with a few things in it."""
    (root / "a [1]" / "deep").mkdir(parents=True)
    (root / "a 1").mkdir()
    for name in ("top.txt", "a [1]/x.jpg", "a [1]/y.jpg", "a 1/x.jpg", "a 1/other.jpg"):
        (root / name).write_text(name)
    return root


def shell(desk: Desk, *lines: str, **env: str):
    """Commands from a pipe."""
    state = str(desk.folder.parent / "state")
    return desk("shell", input="".join(f"{line}\n" for line in lines), **({"XDG_STATE_HOME": state} | env))


# ------------------------------------------------------------------ from a pipe


def test_commands_from_a_pipe_work_from_the_remote_and_the_local_folder(desk: Desk, root: Path) -> None:
    (desk.folder / "here").mkdir()
    (desk.folder / "here" / "n.txt").write_text("new")
    ended = shell(
        desk, "# a comment", "", "cd 'a [1]'", "pwd", "lcd here", "ftpy put n.txt .", "get ../top.txt",
        "mkdir /made", "mv n.txt /made/", "cd /made", "ls", "cd", "pwd", "lpwd", "lls",
    )  # fmt: skip
    assert (ended.code, ended.err) == (0, "")
    folder = desk.folder / "here"
    assert ended.out.splitlines()[0] == "/a [1]"
    assert ended.out.splitlines()[-5:] == ["n.txt", "/", str(folder), "n.txt", "top.txt"]
    assert (root / "made" / "n.txt").read_text() == "new" and not (root / "a [1]" / "n.txt").exists()
    assert (folder / "top.txt").read_text() == "top.txt"


def test_patterns_mean_what_is_in_the_remote_folder_whatever_letters_its_own_name_has(desk: Desk, root: Path) -> None:
    ended = shell(desk, "cd 'a [1]'", "ls *.jpg", "find --name '*.jpg'", "rm *.jpg")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == ["x.jpg", "y.jpg"] * 2 + ["x.jpg: removed", "y.jpg: removed"]
    assert not list((root / "a [1]").glob("*.jpg")) and len(list((root / "a 1").glob("*.jpg"))) == 2


def test_events_and_undo_name_paths_from_the_folder_as_all_others_do(desk: Desk, root: Path) -> None:
    ended = shell(desk, "undo", "undo --json", "undo -q")
    assert (ended.out, ended.err) == ("", "there is nothing that could be undone\n")
    (desk.folder / "src").mkdir()
    desk.make("src/n.txt")
    shell(desk, "sync src 'a [1]/src'", "mv top.txt 'a 1/'")
    told = [line.split(maxsplit=2)[2] for line in shell(desk, "cd 'a [1]'", "events -q").out.splitlines()[-2:]]
    assert told == ["published  src/n.txt", "moved      /top.txt -> /a 1/top.txt"]
    (root / "a [1]" / "src" / "n.txt").write_text("changed since")
    operation = desk("undo", "--json").objects[0]["operation"]
    ended = shell(desk, "cd 'a [1]'", f"undo -q {operation}")
    assert ended.code == 1
    assert "ftpy: left alone: src/n.txt: it was changed since\n" in ended.err
    assert (
        desk("undo", "-q", operation).err.splitlines()[0] == "ftpy: left alone: a [1]/src/n.txt: it was changed since"
    )


def test_patterns_of_this_side_mean_its_files_and_none_is_an_error(desk: Desk, root: Path) -> None:
    for name in ("1.c", "2.c", "3.h"):
        desk.make(name)
    assert shell(desk, "mkdir src", "put *.c src/").code == 0
    assert sorted(os.listdir(root / "src")) == ["1.c", "2.c"]
    shell(desk, "put *.o src/").failed(1, r"\*\.o: nothing here matches")


def test_the_first_error_ends_a_pipe_with_its_exit_code(desk: Desk, root: Path) -> None:
    ended = shell(desk, "pwd", "get nothing", "rm top.txt")
    assert (ended.code, ended.out) == (1, "/\n") and ended.err.count("\n") == 1 and (root / "top.txt").exists()
    shell(desk, "frobnicate").failed(2, r"No such command 'frobnicate'.*\(ftpy --help\)")
    shell(desk, "ls 'x").failed(2, "a quote is not closed")
    for line in ("get a x\0b", "lcd a\0b", "lls a\0b", "sync a\0b q", "verify a\0", "put --receipt r\0 a", "#\0\n\0"):
        shell(desk, line).failed(2, "a NUL is in the line")
    shell(desk, "ls --nothing").failed(2, r"\(ls --help\)")
    shell(desk, "cd top.txt").failed(1, "top.txt: That is not a directory")
    shell(desk, "lcd nothing").failed(1, "nothing: No such file or directory")
    shell(desk, "x" * 200_000).failed(2, "more than")
    assert shell(desk, "exit 7", "pwd").code == 7


def test_commands_for_which_a_shell_is_no_place_say_so(desk: Desk) -> None:
    for name in ("pair", "shell", "completion"):
        shell(desk, f"{name} x").failed(2, f"`{name}` is not for a shell")
    shell(desk, "put - x").failed(2, "standard input is the shell's own")
    ended = shell(desk, "help")
    assert ended.code == 0 and re.search(r"^put +Store files", ended.out, re.M)
    assert not re.search(r"^(pair|shell|completion) ", ended.out, re.M)
    assert "Usage: get " in shell(desk, "help get").out


def test_all_commands_take_one_connection(desk: Desk, host: Host) -> None:
    before = len(host.audited("login"))
    ended = shell(desk, *["ls", "stat top.txt", "get --force top.txt", "ls *", "du", "tree"] * 3)
    assert ended.code == 0
    assert len(host.audited("login")) - before == 1


def test_a_command_on_the_host_does_not_eat_what_follows(desk: Desk) -> None:
    ended = shell(desk, "run eat", "pwd")
    assert (ended.code, ended.out, ended.err) == (0, "/\n", "")


def test_a_server_that_is_not_there_is_said_at_once(desk: Desk, tmp_path: Path, host: Host) -> None:
    lost = Desk(tmp_path / "lost", host)
    lost.pair(addresses=["127.0.0.1:1"])
    shell(lost, "pwd").failed(3, "no connection")
    shell(Desk(tmp_path / "unpaired", host), "pwd").failed(2, "no server is paired")


# ------------------------------------------------------------------ in a terminal


class Terminal:
    """The shell in a pseudo-terminal that controls it, 200 columns wide."""

    def __init__(self, desk: Desk, *arguments: str, **env: str) -> None:
        pty = pytest.importorskip("pty", reason="pseudo-terminals are POSIX")
        import fcntl
        import struct
        import termios

        self.screen = ""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
        self.state = desk.folder.parent / "state"
        settings = {"TERM": "xterm", "NO_COLOR": "1", "XDG_STATE_HOME": str(self.state), "INPUTRC": os.devnull}
        self.process = subprocess.Popen(
            [*COMMAND, "shell", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=desk.folder,
            env=desk.environment(**(settings | env)),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)

    def until(self, pattern: str) -> re.Match[str]:
        """What has come since the last time, up to a pattern."""
        while (match := re.search(pattern, self.screen)) is None:
            assert select.select([self._master], [], [], 60)[0], (pattern, self.screen)
            try:
                data = os.read(self._master, 65536)
            except OSError:  # EIO: nobody has the terminal open any more
                data = b""
            assert data, (pattern, self.screen)
            self.screen += data.decode()
        self.screen = self.screen[match.end() :]
        return match

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C, once the shell sleeps: readline takes no notice of one between what it has read and its next wait."""
        if HAS_PROC:
            status = Path(f"/proc/{self.process.pid}/stat")
            eventually(lambda: status.read_text().rpartition(") ")[2].startswith("S"))
        self.type("\x03")

    def end(self) -> int:
        """The exit code."""
        with contextlib.suppress(OSError):
            while data := os.read(self._master, 65536):
                self.screen += data.decode()
        os.close(self._master)
        return self.process.wait(timeout=60)


def test_a_terminal_has_a_prompt_and_goes_on_after_errors(desk: Desk) -> None:
    terminal = Terminal(desk)
    terminal.until("home:/> ")
    terminal.type("cd 'a [1]'\n")
    terminal.until(r"home:/a \[1\]> ")
    terminal.type("get nothing\n")
    terminal.until("ftpy: .*nothing: there is no such file")
    terminal.until(r"home:/a \[1\]> ")
    terminal.type("\x04")
    assert terminal.end() == 0
    assert "Traceback" not in terminal.screen


def test_ctrl_c_ends_the_command_and_not_the_shell(desk: Desk) -> None:
    terminal = Terminal(desk)
    terminal.until("home:/> ")
    terminal.type("half a line")
    terminal.until("half a line")
    terminal.interrupt()
    terminal.until("home:/> ")
    terminal.type("tail -f --interval 0.05 top.txt\n")
    terminal.until("top.txt\r\n(?s:.*)top.txt")
    terminal.interrupt()
    terminal.until("ftpy: interrupted")
    terminal.until("home:/> ")
    terminal.type("stat top.txt\n")
    terminal.until("size +7")
    terminal.until("home:/> ")
    terminal.type("exit\n")
    assert terminal.end() == 0
    assert "Traceback" not in terminal.screen


def test_tab_completes_commands_and_names_of_both_sides(desk: Desk) -> None:
    pytest.importorskip("readline")
    desk.make("local file.bin")
    terminal = Terminal(desk)
    terminal.until("home:/> ")
    terminal.type("dig\t")
    terminal.until("digest ")
    terminal.type("to\t")
    terminal.until(r"top\.txt ")
    terminal.type("\n")
    terminal.until("[0-9a-f]{32}  top.txt")
    terminal.until("home:/> ")
    terminal.type("cd a\\ [\t")
    terminal.until(r"\\ \[1\]/")
    terminal.type("\n")
    terminal.until(r"home:/a \[1\]> ")
    terminal.type("stat x\t")
    terminal.until(r"x\.jpg ")
    terminal.type("\n")
    terminal.until("size +11")
    terminal.until("> ")
    terminal.type('put "loc\t')
    terminal.until('"local file.bin" ')
    terminal.type("\n")
    terminal.until("verified")
    terminal.type("exit\n")
    assert terminal.end() == 0
    assert (desk.host.root / "a [1]" / "local file.bin").exists()


def test_history_is_kept_for_the_next_shell_and_private(desk: Desk) -> None:
    pytest.importorskip("readline")
    terminal = Terminal(desk)
    terminal.until("home:/> ")
    terminal.type("stat top.txt\n")
    terminal.until("home:/> ")
    terminal.type("\x04")
    assert terminal.end() == 0
    history = terminal.state / "ftpy" / "history"
    assert history.read_text() == "stat top.txt\n" and history.stat().st_mode & 0o777 == 0o600
    terminal = Terminal(desk)
    terminal.until("home:/> ")
    terminal.type("\x1b[A\n")
    terminal.until("size +7")
    terminal.until("home:/> ")
    terminal.type("exit\n")
    assert terminal.end() == 0
    assert shell(desk, "pwd").code == 0
    assert history.read_text() == "stat top.txt\nstat top.txt\nexit\n"  # and nothing from the pipe


def test_colours_are_shown_unless_no_color_says_otherwise(desk: Desk) -> None:
    terminal = Terminal(desk, NO_COLOR="")
    terminal.until(r"\x1b\[1;32mhome\x1b\[0m:\x1b\[1;34m/\x1b\[0m> ")
    terminal.type("ls\n")
    terminal.until(r"\x1b\[34m\x1b\[1ma \[1\]/")
    terminal.type("exit\n")
    assert terminal.end() == 0
    terminal = Terminal(desk)
    terminal.until("home:/> ")
    terminal.type("ls\n")
    terminal.until(r"\na \[1\]/")
    terminal.type("exit\n")
    assert terminal.end() == 0


def test_names_cannot_reach_the_terminal(desk: Desk, root: Path) -> None:
    (root / "e\u202evil").mkdir()
    terminal = Terminal(desk)
    terminal.until("home:/> ")
    terminal.type("cd e*\n")
    terminal.until(r"home:/e\\u202evil> ")
    terminal.type("cd ..\n")
    terminal.until("home:/> ")
    terminal.type("exit\n")
    assert terminal.end() == 0


def test_a_server_that_ended_the_connection_meanwhile_is_no_error(desk: Desk, tmp_path: Path) -> None:
    with running(tmp_path / "own") as host:
        from ftpy.config.client import save_profile

        save_profile(desk.config, "own", host.profile())
        terminal = Terminal(desk, "-s", "own")
        terminal.until("own:/> ")
        host.stop()
        host.start()
        terminal.type("df\n")
        terminal.until("disk +\\d")
        terminal.until("own:/> ")
        terminal.type("exit\n")
        assert terminal.end() == 0
    assert "trying again" not in terminal.screen


# ------------------------------------------------------------------ the parts


def test_words_are_read_as_a_shell_reads_them() -> None:
    assert split("get 'a b' c\\ d \"e\\\"f\" '' #g") == ["get", "a b", "c d", 'e"f', "", "#g"]
    with pytest.raises(ValueError, match="quot"):
        split("get 'a")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", ([], "", "", "")),
        ("ge", ([], "ge", "ge", "")),
        ("get ", (["get"], "", "", "")),
        ("get a\\ b", (["get"], "a\\ b", "a b", "")),
        ("get 'a b' c", (["get", "a b"], "c", "c", "")),
        ("get 'a b", (["get"], "'a b", "a b", "'")),
        ('get "a \\" b', (["get"], '"a \\" b', 'a " b', '"')),
        ("get x\\", (["get"], "x\\", "x", "")),
    ],
)
def test_the_last_word_is_found_where_somebody_is_typing(line: str, expected: tuple[object, ...]) -> None:
    assert split_last(line) == expected


@pytest.mark.parametrize("quote", ["", "'", '"'])
@pytest.mark.parametrize("text", ["a b", "it's", 'say "x"', "back\\slash", "$HOME `x` [1]*;|&"])
def test_what_completion_adds_means_the_name(text: str, quote: str) -> None:
    assert split(f"get {quote}x{spelled(text, quote)}{quote} y") == ["get", f"x{text}", "y"]


def test_paths_start_in_the_folder_unless_a_slash_is_before_them() -> None:
    here = Working("home")
    here.folder = RemotePath(("a", "b"))
    for typed, meant in [
        ("c", "a/b/c"),
        ("/c/", "c"),
        ("..", "a"),
        ("../../../x", "x"),
        ("./c/.", "a/b/c"),
        ("", "a/b"),
    ]:
        assert here.resolve(typed) == meant
    with working(here):
        assert [shown(RemotePath.parse(path)) for path in ("a/b/c", "a/b", "a/c")] == ["c", ".", "/a/c"]
    assert shown(RemotePath(("a", "c"))) == "a/c"


def test_history_is_bounded_and_of_all_shells(tmp_path: Path) -> None:
    path = str(tmp_path / "state" / "ftpy" / "history")
    assert read_history(path) == []
    add_history(path, [f"one {number}" for number in range(MOST_LINES)])
    add_history(path, ["two", "three"])
    assert read_history(path) == [f"one {number}" for number in range(2, MOST_LINES)] + ["two", "three"]
    assert os.stat(path).st_mode & 0o777 == 0o600 and os.stat(os.path.dirname(path)).st_mode & 0o077 == 0
