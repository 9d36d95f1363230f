"""Completion as shells ask for it: by click's protocol, and in a bash where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.administering import run
from tests.cli.desk import COMMAND, Desk
from tests.rig import Host


@pytest.fixture(autouse=True)
def filled(root: Path) -> None:
    """Names that a shell has to quote, or does not show."""
    (root / "my photos").mkdir()
    for name in ("my photos/a,b [1].jpg", "my file", ".hidden", "e\u202evil", "-dash"):
        (root / name).write_text(name)


def asked(desk: Desk, *words: str) -> list[str]:
    """What bash is told that could be in place of the last word."""
    ended = desk(_FTPY_COMPLETE="bash_complete", COMP_WORDS="\n".join(["ftpy", *words]), COMP_CWORD=str(len(words)))
    assert (ended.code, ended.err) == (0, ""), ended
    return [line for line in ended.out.splitlines() if line]


def test_commands_options_and_servers_are_completed(desk: Desk) -> None:
    assert asked(desk, "sh") == ["plain,shell"]
    assert "plain,--recursive" in asked(desk, "get", "--rec")
    assert asked(desk, "ls", "-s", "h") == ["plain,home"]


def test_paths_on_the_server_are_completed_where_they_can_be_typed_and_shown(desk: Desk) -> None:
    desk.make("my local")
    assert asked(desk, "ls", "") == ["plain,my file", "folder,my photos/"]  # no hidden, forged or option-like name
    assert asked(desk, "get", "/my\\ photos/a") == ["plain,/my photos/a,b [1].jpg"]
    assert asked(desk, "get", ".h") == ["plain,.hidden"]
    assert asked(desk, "get", "my\\ file", "my") == ["plain,my file", "folder,my photos/", "plain,my local"]
    assert asked(desk, "put", "my") == ["file,my"]  # the shell's own business
    assert asked(desk, "put", "my\\ local", "my") == ["plain,my file", "folder,my photos/", "plain,my local"]


def test_a_name_that_bash_would_expand_is_not_offered_to_it(desk: Desk, root: Path) -> None:
    (root / "evil").mkdir()
    for name in ("a`id`", "a$(id)", "a$HOME", "a;id !x", "b`id`"):
        (root / "evil" / name).write_text(name)
    (root / "evil" / "folder`id`").mkdir()
    assert asked(desk, "ls", "evil/") == ["plain,evil/a;id !x"]
    assert asked(desk, "ls", "evil/b") == asked(desk, "get", "evil/f") == asked(desk, "ls", "evil/a\\$H") == []
    assert asked(desk, "put", "\\$HOME/") == ["file,$HOME/"]  # the shell's own business
    offered = desk(_FTPY_COMPLETE="zsh_complete", COMP_WORDS="ftpy\nls\nevil/b", COMP_CWORD="2").out.splitlines()
    assert "evil/b`id`" in offered  # it quotes all of it


def test_nothing_is_completed_or_said_where_no_server_answers(desk: Desk, tmp_path: Path, host: Host) -> None:
    lost = Desk(tmp_path / "lost", host)
    lost.pair(addresses=["127.0.0.1:1"])
    assert asked(lost, "ls", "") == asked(Desk(tmp_path / "unpaired", host), "ls", "") == []
    assert asked(desk, "ls", "no/such/folder/") == asked(desk, "ls", "a//b") == asked(desk, "ls", "-s", "x", "") == []


def test_completing_a_word_imports_neither_the_client_nor_tls(desk: Desk) -> None:
    code = "import sys, atexit; atexit.register(lambda: print(*sorted(sys.modules))); "
    done = subprocess.run(
        [sys.executable, "-c", code + "from ftpy.cli.main import main; main()"],
        env=desk.environment(_FTPY_COMPLETE="bash_complete", COMP_WORDS="ftpy\nls\n-s\nh", COMP_CWORD="3"),
        capture_output=True,
        text=True,
        check=True,
    )
    items, modules = done.stdout.splitlines()
    assert items == "plain,home"
    assert not {"ssl", "tqdm", "cryptography", "ftpy.client.client", "ftpy.storage.base"} & set(modules.split())


def test_server_commands_complete_users_and_files(made: Path) -> None:
    words = ["ftpy-server", "user", "remove", "-c", str(made), ""]
    env = {"_FTPY_SERVER_COMPLETE": "bash_complete", "COMP_CWORD": "5"}
    assert run(**env, COMP_WORDS="\n".join(words)) == (0, "plain,alice\n", "")
    env["COMP_CWORD"] = "3"
    assert run(**env, COMP_WORDS="ftpy-server\nrun\n-c\nser") == (0, "file,ser\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_printed_for_each_shell(desk: Desk, shell: str) -> None:
    ended = desk("completion", shell)
    assert ended.code == 0 and f"_FTPY_COMPLETE={shell}_complete" in ended.out and "_ftpy_completion" in ended.out
    if path := shutil.which(shell):
        subprocess.run([path, "-n"], input=ended.raw, check=True)
    if shell != "bash" or shutil.which("bash"):
        assert ended.err == ""


def test_an_unknown_shell_is_wrong_usage(desk: Desk) -> None:
    desk("completion", "tcsh").failed(2, "bash.*zsh.*fish")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_names_with_the_script(desk: Desk, tmp_path: Path) -> None:
    binary = tmp_path / "bin" / "ftpy"
    binary.parent.mkdir()
    binary.write_text("#!/bin/sh\nexec " + " ".join(f"'{word}'" for word in COMMAND) + ' "$@"\n')
    binary.chmod(0o755)
    script = """
        eval "$(ftpy completion bash)"
        compopt() { IFS=' '; echo "compopt $*"; IFS=$'\\n'; }
        complete -p ftpy
        COMP_WORDS=(ftpy get 'my\\ photos/a') COMP_CWORD=2
        _ftpy_completion ftpy
        printf '<%s>\\n' "${COMPREPLY[@]}"
        COMP_WORDS=(ftpy ls my) COMP_CWORD=2
        _ftpy_completion ftpy
        printf '<%s>\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env=desk.environment(PATH=f"{binary.parent}:{os.environ['PATH']}"),
        cwd=desk.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "complete -o nosort -F _ftpy_completion ftpy",
        "compopt -o filenames",
        "<my photos/a,b [1].jpg>",
        "compopt -o filenames",
        "compopt -o nospace -o filenames",
        "<my file>",
        "<my photos/>",
    ]
