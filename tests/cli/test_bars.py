"""Progress as a person at a terminal sees it: ``ftpy`` in a pseudo-terminal, and silent where there is none."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ftpy.cli.bars import Bar
from ftpy.client.results import Progress
from tests.rig import Fault, Host, Proxy, eventually

pty = pytest.importorskip("pty", reason="pseudo-terminals are POSIX")

MIB = 1024 * 1024


@pytest.fixture
def config(tmp_path: Path, host: Host) -> Path:
    return tmp_path / "config.toml"


def pair(config: Path, host: Host, address: str | None = None) -> None:
    from ftpy.config.client import save_profile

    save_profile(config, "home", host.profile(address=address))


class Terminal:
    """``ftpy`` whose standard error (and input, where asked for) is a pseudo-terminal of 100 columns."""

    def __init__(self, config: Path, *arguments: str, typing: bool = False, stdin: int | None = None) -> None:
        from tests.rig import ENVIRONMENT

        self.screen = ""
        self._master, slave = pty.openpty()
        self._columns(slave)
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from ftpy.cli.main import main; main()", *arguments],
            stdin=slave if typing else subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.PIPE,
            stderr=slave,
            cwd=config.parent,
            env=ENVIRONMENT | {"FTPY_CONFIG": str(config), "TERM": "xterm"},
            start_new_session=True,
        )
        os.close(slave)

    @staticmethod
    def _columns(descriptor: int) -> None:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))

    def read(self) -> bool:
        """Take what is on the screen; False at its end."""
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has the terminal open any more
            return False
        self.screen += data.decode()
        return bool(data)

    def read_until(self, text: str) -> None:
        while text not in self.screen:
            assert self.read(), self.screen

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> tuple[int, str]:
        """The exit code and standard output; ``screen`` has the rest."""
        while self.read():
            pass
        out, _ = self.process.communicate(timeout=20)
        os.close(self._master)
        return self.process.returncode, out.decode()


def bars(screen: str) -> list[str]:
    """What the bar's line showed, one after the other."""
    return [line for line in re.split(r"[\r\n]+", screen) if "|" in line]


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["put", "get"])
def test_a_bar_shows_name_bytes_rate_time_left_and_phase(config: Path, host: Host, verb: str) -> None:
    data = os.urandom(MIB) * 24
    line = Fault(slice_bytes=256 * 1024, pause_seconds=0.015)
    name = f"{verb} me.bin"
    (config.parent / name if verb == "put" else host.root / name).write_bytes(data)
    with Proxy(host.address, (line, Fault()) if verb == "put" else (Fault(), line)) as proxy:
        pair(config, host, proxy.address)
        terminal = Terminal(config, verb, name)
        code, out = terminal.end()
    assert code == 0 and re.fullmatch(rf"{name}: 24\.0 MiB, verified md5 [0-9a-f]{{32}}, durable\n", out)
    shown = bars(terminal.screen)
    phase = "sending" if verb == "put" else "receiving"
    pattern = rf"{name} +\d+%\|.*\| [\d.]+M?/24\.0M [\d.]+[KMG]?B/s \d\d:\d\d, {phase}"
    assert any(re.search(pattern, line) for line in shown), shown[:5]
    assert any("verifying" in line or "committing" in line for line in shown)
    counts = [float(count) for count in re.findall(rf"\| ([\d.]+)M/[^|]*{phase}", "\n".join(shown))]
    assert counts == sorted(counts) and len(counts) >= 3
    assert terminal.screen.rstrip(" ").endswith("\r")  # nothing of the bar is left on the line


def test_no_bar_is_shown_when_quiet_or_when_stderr_is_no_terminal(config: Path, host: Host) -> None:
    (config.parent / "f").write_bytes(bytes(3 * MIB))
    pair(config, host)
    terminal = Terminal(config, "put", "-q", "f")
    assert (terminal.end(), terminal.screen) == ((0, ""), "")
    with contextlib.redirect_stderr(io.StringIO()) as stderr, Bar("f", quiet=False) as bar:
        bar(Progress("sending", 1, 2))
        bar.say("ftpy: something")
    assert stderr.getvalue() == "ftpy: something\n"


def test_a_bar_of_unknown_length_counts(config: Path, host: Host) -> None:
    pair(config, host)
    read, write = os.pipe()
    terminal = Terminal(config, "put", "-", "stream", stdin=read)
    os.close(read)
    with os.fdopen(write, "wb") as source:
        source.write(bytes(20 * MIB))
        source.flush()
        terminal.read_until("sending")
        source.write(bytes(20 * MIB))
    code, out = terminal.end()
    assert code == 0 and out.startswith("stream: 40.0 MiB, verified")
    assert re.search(r"- +[\d.]+M [\d.]+[KMG]?B/s, sending", terminal.screen), terminal.screen
    assert "%" not in terminal.screen


def test_a_lost_connection_is_said_on_a_line_of_its_own(config: Path, host: Host) -> None:
    (config.parent / "large").write_bytes(bytes(20 * MIB))
    with Proxy(host.address, (Fault("cut", 10 * MIB), Fault()), (Fault(), Fault())) as proxy:
        pair(config, host, proxy.address)
        terminal = Terminal(config, "put", "large")
        assert terminal.end()[0] == 0
    said = [line for line in re.split(r"[\r\n]+", terminal.screen) if "trying again" in line]
    assert 1 <= len(said) <= 2  # once more where the server has not noticed yet
    assert all(re.match(r"(\x1b\[\w)?ftpy: ", line) and "|" not in line for line in said)


def test_names_cannot_reach_the_terminal(config: Path, host: Host) -> None:
    name = "evil\u202e\x1b[31m"
    pair(config, host)
    (host.root / "evil\u202e").write_bytes(bytes(9 * MIB))
    terminal = Terminal(config, "get", "evil\u202e")
    assert terminal.end()[0] == 0
    assert "\u202e" not in terminal.screen
    (config.parent / name).write_bytes(b"x")
    terminal = Terminal(config, "put", name, "plain")
    assert terminal.end()[0] == 0
    assert "\u202e" not in terminal.screen and "\x1b[31m" not in terminal.screen


def test_pair_asks_for_the_token_without_an_echo(config: Path, host: Host) -> None:
    from ftpy.wire.token import PairingToken

    profile = host.profile()
    token = PairingToken(
        addresses=profile.addresses,
        user="alice",
        key=profile.key,
        certificate_sha256=profile.certificate_sha256,
    ).to_text()
    for text, code, said in [(token, 0, "paired with home"), (token[:-3], 2, "damaged")]:
        terminal = Terminal(config, "pair", "--force", "home", typing=True)
        terminal.read_until("Pairing token: ")
        eventually(lambda terminal=terminal: not _echoes(terminal))
        terminal.type(text + "\n")
        assert terminal.end() == (code, "")
        assert said in terminal.screen and text[:20] not in terminal.screen


def _echoes(terminal: Terminal) -> bool:
    import termios

    return bool(termios.tcgetattr(terminal._master)[3] & termios.ECHO)


@pytest.mark.parametrize(("interrupt", "code"), [("\x04", 130), ("SIGINT", 130)], ids=["ctrl-d", "ctrl-c"])
def test_leaving_the_prompt_ends_with_130(config: Path, host: Host, interrupt: str, code: int) -> None:
    import signal

    terminal = Terminal(config, "pair", "home", typing=True)
    terminal.read_until("Pairing token: ")
    eventually(lambda: not _echoes(terminal))
    if interrupt == "SIGINT":
        terminal.process.send_signal(signal.SIGINT)
    else:
        terminal.type(interrupt)
    assert terminal.end() == (code, "")
    assert "interrupted" in terminal.screen and "Traceback" not in terminal.screen and not config.exists()


class Screen(io.StringIO):
    """A terminal that remembers."""

    def isatty(self) -> bool:
        return True


def drawn(monkeypatch: pytest.MonkeyPatch, *steps: Progress) -> str:
    """What a bar draws."""
    terminal = Screen()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Bar("large", quiet=False) as bar:
        for step in steps:
            bar(step)
    return terminal.getvalue()


def test_a_resumed_transfer_begins_where_it_stood(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [Progress("sending", 600, 1000), Progress("verifying", 0, 1000), Progress("committing", 1000, 1000)]
    first, *rest, last = bars(drawn(monkeypatch, *steps))
    assert not any("-" in line for line in rest)  # no negative rate or time
    assert " 60%" in first and "600/" in first and first.endswith(", sending")
    assert "100%" in last and last.rstrip().endswith(", committing")


def test_an_empty_file_has_a_bar_too(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = bars(drawn(monkeypatch, Progress("sending", 0, 0), Progress("committing", 0, 0)))
    assert shown and "large" in shown[0]
