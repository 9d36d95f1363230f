"""``[commands.NAME]``: what may be run is said exactly, and what is wrong is named with its line."""

from __future__ import annotations

import sys

import msgspec
import pytest

from ftpy.config.commands import Command
from ftpy.config.server import ServerConfig, load_server_config
from ftpy.errors import ConfigError
from ftpy.toml import to_toml

GOOD = 'root = "files"\nlisten = ["127.0.0.1:1"]\n'
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="remote commands need Linux")


@pytest.fixture
def loaded(tmp_path):
    """Settings from text."""

    def load(text: str) -> ServerConfig:
        (tmp_path / "server.toml").write_text(GOOD + text)
        return load_server_config(tmp_path / "server.toml")

    return load


def test_command_that_says_only_what_it_runs_is_nobodys_and_takes_nothing(loaded):
    command = loaded('[commands.disk]\nrun = ["df", "-h"]').commands["disk"]
    assert command == Command(run=("df", "-h"))
    assert (command.users, command.args, command.stdin) == ((), (), False)
    assert (command.timeout_seconds, command.folder) == (60.0, "/")
    assert not command.admits("alice")


@pytest.mark.parametrize(
    ("users", "admitted"), [('["alice"]', {"alice"}), ('["*"]', {"alice", "bob"}), ("[]", set()), ('["al"]', set())]
)
def test_command_admits_those_that_are_named_or_all(loaded, users, admitted):
    command = loaded(f'[commands.disk]\nrun = ["df"]\nusers = {users}').commands["disk"]
    assert {user for user in ("alice", "bob") if command.admits(user)} == admitted


def test_folder_is_relative_to_that_of_the_settings(loaded, tmp_path):
    assert loaded('[commands.a]\nrun = ["df"]\nfolder = "work"').commands["a"].folder == f"{tmp_path}/work"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[commands.disk]\nsummary = "x"', "3: `run` is missing"),
        ('[commands.disk]\nrun = "df -h"', "4: `commands.disk.run`: expected a list, got a string"),
        ("[commands.disk]\nrun = []", "4: `commands.disk.run`: expected a list of length >= 1"),
        ('[commands.disk]\nrun = [""]', "4: `commands.disk.run`"),
        ('[commands.disk]\nrun = ["./df"]', "./df: a program is named by its name or its whole path"),
        ('[commands.disk]\nrun = ["df"]\nargs = ["("]', "(: no regular expression"),
        ('[commands.disk]\nrun = ["df"]\nencoding = "utf-99"', "utf-99: no encoding of text"),
        ('[commands.disk]\nrun = ["df"]\nencoding = "base64"', "base64: no encoding of text"),
        ('[commands.disk]\nrun = ["df"]\nencoding = "punycode"', "punycode: no encoding of text"),
        ('[commands.disk]\nrun = ["df"]\nencoding = "../x"', "../x: no encoding of text"),
        ('[commands.disk]\nrun = ["df"]\ntimeout_seconds = 0', "5: `commands.disk.timeout_seconds`"),
        ('[commands.disk]\nrun = ["df"]\nusers = ["Alice"]', "5: `commands.disk.users`"),
        ('[commands.disk]\nrun = ["df"]\nenvironment = {"A=B" = "x"}', "A=B: no name of a variable"),
        ('[commands.disk]\nrun = ["df"]\nenvironment = {A = "\\u0000"}', "a NUL cannot be passed on"),
        ('[commands.disk]\nrun = ["df"]\ntimeout = 5', "unknown key `timeout` in [commands.disk]"),
        ('[commands.Disk]\nrun = ["df"]', "Disk: a command is called by a-z 0-9 _ -"),
        ('[commands."a b"]\nrun = ["df"]', "a b: a command is called by"),
        ("commands = 5", "`commands`: expected a table"),
        ("[commands]\ndisk = 5", "`commands.disk`: expected a table"),
        ('[commands.own]\nrun = ["files/x.sh"]', "a program is named by its name or its whole path"),
    ],
)
def test_wrong_command_is_named_with_what_is_wrong(loaded, text, said):
    with pytest.raises(ConfigError) as error:
        loaded(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_program_that_users_could_replace_is_refused(loaded, tmp_path):
    with pytest.raises(ConfigError, match=r"`commands\.own` lies below `root`"):
        loaded(f'[commands.own]\nrun = ["{tmp_path}/files/x.sh"]')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[log]\naudit = "audit.jsonl"\n[commands.disk]\nrun = ["df"]', r"`server\.toml` lies .* `log\.audit` one"),
        ('[commands.own]\nrun = ["{top}/state/x.sh"]', r"`commands\.own` lies .* `state` one"),
    ],
)
def test_what_the_runner_believes_lies_nowhere_that_the_server_may_write(loaded, tmp_path, text, said):
    with pytest.raises(ConfigError, match=said):
        loaded(text.replace("{top}", str(tmp_path)))


def test_an_audit_trail_in_a_folder_of_its_own_goes_with_commands(loaded):
    assert loaded('[log]\naudit = "trail/audit.jsonl"\n[commands.disk]\nrun = ["df"]').log.audit


def test_number_of_commands_is_bounded(loaded):
    with pytest.raises(ConfigError, match="256"):
        loaded("".join(f'[commands.c{number}]\nrun = ["df"]\n' for number in range(257)))


def test_commands_are_written_as_they_are_read(loaded, tmp_path):
    config = loaded(
        '[commands.a]\nrun = ["sh", "-c", "echo \\"$1\\"\\n"]\nargs = ["[^\\\\s]+"]\nenvironment = {A = "b c"}\n'
        '[commands.b]\nrun = ["true"]\nusers = ["*"]\nstdin = true\n'
    )
    (tmp_path / "again.toml").write_text(to_toml(config))
    assert msgspec.structs.asdict(load_server_config(tmp_path / "again.toml")) == msgspec.structs.asdict(config)


@pytest.mark.parametrize(
    ("args", "arguments", "refused"),
    [
        ([], [], None),
        ([], ["x"], 1),
        (["a|ab"], ["ab"], None),
        (["a"], ["ab"], 1),
        (["a"], ["a\n"], 1),
        (["a"], [], 1),
        (["a?"], [], None),
        (["a?", "b"], ["a"], 2),
        ([".", ".?"], ["x"], None),
        (["(?s).*"], ["a\0b"], 1),
        ([".", "."], ["x", "y", "z"], 3),
    ],
)
def test_arguments_are_taken_where_each_expression_matches_all_of_its_own(args, arguments, refused):
    assert Command(run=("x",), args=tuple(args)).takes(arguments) == refused
