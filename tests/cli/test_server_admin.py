"""``ftpy-server`` as an administrator meets it: what is made, what is said where, what is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

import ftpy
from ftpy.cli.server import cli
from ftpy.config.server import ServerConfig, load_server_config
from ftpy.errors import ConfigError
from ftpy.server.accounts import RIGHTS, Accounts
from ftpy.server.identity import certificate_sha256, make_identity
from ftpy.toml import to_toml
from ftpy.wire.auth import verifier
from ftpy.wire.spelling import b64decode
from ftpy.wire.token import PairingToken

posix = pytest.mark.skipif(os.name != "posix", reason="modes of files mean nothing on Windows")
as_user = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere, whatever the mode says"
)


def invoke(*arguments: object):
    """Run in this process: the result; a refusal is its ``exception``."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, ConfigError | SystemExit):
        raise result.exception
    return result


def refused(*arguments: object) -> str:
    """Run what must be refused: the error's line."""
    result = invoke(*arguments)
    assert isinstance(result.exception, ConfigError), result.output
    assert result.stdout == ""
    message = str(result.exception)
    assert message.isprintable()
    return message


def run(*arguments: object, cwd=None, **env: str) -> tuple[int, str, str]:
    """Run as a process: exit code, standard output, standard error."""
    process = subprocess.run(
        [sys.executable, "-c", "from ftpy.cli.server import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if not name.startswith("FTPY_")} | env,
        timeout=60,
        check=False,
    )
    return process.returncode, process.stdout, process.stderr


def token_of(stdout: str) -> PairingToken:
    """The token, which must be all there is."""
    assert stdout.count("\n") == 1
    return PairingToken.from_text(stdout)


@pytest.fixture
def made(tmp_path):
    """A server's folder with the user alice: the path of its settings."""
    result = invoke("init", tmp_path / "srv", "--user", "alice", "--listen", "127.0.0.1:7421")
    assert result.exit_code == 0
    return tmp_path / "srv" / "server.toml"


@pytest.fixture
def edited(made):
    """Changes the settings: a function from what is replaced to what replaces it."""

    def edit(old: str, new: str):
        text = made.read_text()
        assert old in text
        made.write_text(text.replace(old, new))
        return made

    return edit


# ------------------------------------------------------------------ init


def test_init_makes_all_that_a_server_needs_and_prints_the_token_alone(tmp_path):
    code, out, err = run("init", "srv", "--user", "alice", "--listen", "127.0.0.1:7421", cwd=tmp_path)
    folder = tmp_path / "srv"
    assert code == 0
    assert sorted(entry.name for entry in folder.iterdir() if not entry.name.endswith(".lock")) == [
        *["certificate.pem", "files", "private_key.pem", "server.toml", "state", "users.json"]
    ]
    token = token_of(out)
    assert token.user == "alice"
    assert token.addresses == ["127.0.0.1:7421"]
    assert token.certificate_sha256 == certificate_sha256(str(folder / "certificate.pem")).hex()
    assert Accounts(folder / "users.json").lookup("alice")[0] == verifier(b64decode(token.key), "alice")
    for said in (folder / "server.toml", folder / "files", "alice", "127.0.0.1:7421", f"run -c {folder}"):
        assert str(said) in err
    assert token.key not in err
    assert out.strip() not in err


def test_init_writes_every_setting_with_a_comment_and_nothing_secret(made):
    config = load_server_config(made)
    assert config.listen == ["127.0.0.1:7421"]
    text = made.read_text()
    settings = re.findall(r"^(.*)\n(\w+) = ", text, re.MULTILINE)
    assert all(comment.startswith("# ") for comment, _ in settings)
    plain = to_toml(ServerConfig(root="files", listen=config.listen), comments=False)
    assert {key for _, key in settings} == set(re.findall(r"^(\w+) = ", plain, re.MULTILINE))
    stored = json.loads((made.parent / "users.json").read_text())["users"][0]
    assert stored["stored_key"] not in text


@posix
def test_init_makes_folders_and_files_for_the_owner_alone(made):
    for name, mode in {".": 0o700, "state": 0o700, "private_key.pem": 0o600, "users.json": 0o600}.items():
        assert (made.parent / name).stat().st_mode & 0o777 == mode, name


def test_init_says_where_when_no_folder_is_named(tmp_path):
    code, out, err = run("init", "--listen", "127.0.0.1:1", cwd=tmp_path)
    assert code == 0
    assert (tmp_path / "ftpy-server" / "server.toml").exists()
    assert str(tmp_path / "ftpy-server" / "server.toml") in err
    token_of(out)


def test_init_folder_can_be_moved(made, tmp_path):
    made.parent.rename(tmp_path / "elsewhere")
    assert invoke("check-config", "-c", tmp_path / "elsewhere" / "server.toml").stdout.startswith("ok\n")


def test_init_takes_a_root_from_where_it_was_called(tmp_path):
    code, _, _ = run("init", "srv", "--root", "data", "--listen", "127.0.0.1:1", cwd=tmp_path)
    assert code == 0
    assert load_server_config(tmp_path / "srv" / "server.toml").root == str(tmp_path / "data")
    assert (tmp_path / "data").is_dir()


@pytest.mark.parametrize("name", ["server.toml", "users.json", "certificate.pem", "private_key.pem"])
def test_init_changes_nothing_when_a_file_is_there_already(tmp_path, name):
    folder = tmp_path / "srv"
    folder.mkdir()
    (folder / name).write_text("mine")
    code, out, err = run("init", folder, "--listen", "127.0.0.1:1")
    assert (code, out) == (2, "")
    assert err == f"ftpy-server: {folder / name}: exists already; nothing was changed\n"
    assert [entry.name for entry in folder.iterdir()] == [name]
    assert (folder / name).read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--listen", "127.0.0.1:0"], "port 0"),
        (["--listen", "127.0.0.1:1", "--advertise", "a:0"], "could not know the port"),
        (["--listen", "::1"], "IPv6 is written in brackets"),
        (["--listen", "127.0.0.1:1", "--advertise", "a b:1"], "not an address"),
        (["--listen", "0.0.0.0:1", "--plaintext"], "allow_plaintext"),
        (["--user", "Alice Smith"], "a user's name"),
        (["--root", "/"], "lies below `root`"),
    ],
)
def test_init_makes_nothing_when_it_cannot_work(tmp_path, options, said):
    message = refused("init", tmp_path / "srv", *options)
    assert said in message
    assert "server.toml:" not in message
    assert list(tmp_path.iterdir()) == []


def test_init_says_so_when_the_folder_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    assert "cannot be written" in refused("init", tmp_path / "file" / "srv", "--listen", "127.0.0.1:1")


def test_init_plaintext_makes_no_certificate_and_stays_on_this_machine(tmp_path):
    result = invoke("init", tmp_path / "srv", "--plaintext", "--user", "alice")
    config = load_server_config(tmp_path / "srv" / "server.toml")
    assert (config.tls, config.listen) == ("off", ["127.0.0.1:7421"])
    assert not (tmp_path / "srv" / "private_key.pem").exists()
    assert token_of(result.stdout).certificate_sha256 is None
    assert "plaintext" in result.stderr


def test_init_token_names_what_is_advertised_and_nothing_else(tmp_path):
    options = ("--listen", "0.0.0.0:1", "--advertise", "files.example.org:22", "--advertise", "[2001:db8::1]:22")
    result = invoke("init", tmp_path / "srv", *options)
    assert token_of(result.stdout).addresses == ["files.example.org:22", "[2001:db8::1]:22"]


# ------------------------------------------------------------------ check-config


def test_check_config_prints_ok_and_the_settings_in_force(made):
    code, out, err = run("check-config", "-c", made)
    assert (code, err) == (0, "")
    first, _, rest = out.partition("\n")
    assert first == "ok"
    config = load_server_config(made)
    assert rest == to_toml(config, comments=False)
    assert f'root = "{made.parent}/files"' in rest


def test_check_config_says_when_there_are_no_users(made):
    invoke("user", "remove", "alice", "-c", made)
    result = invoke("check-config", "-c", made)
    assert result.stdout.startswith("ok\n")
    assert "no users yet" in result.stderr


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda folder: (folder / "users.json").unlink(), r"users\.json: No such file"),
        (lambda folder: (folder / "users.json").chmod(0o644), r"users\.json: .* others can read"),
        (lambda folder: (folder / "users.json").write_text("{}"), r"users\.json: "),
        (lambda folder: (folder / "certificate.pem").unlink(), r"certificate\.pem: No such file"),
        (lambda folder: (folder / "private_key.pem").unlink(), r"private_key\.pem: No such file"),
        (lambda folder: (folder / "private_key.pem").chmod(0o644), r"private_key\.pem: .* others can read"),
        (lambda folder: make_identity(str(folder / "x"), str(folder / "private_key.pem")), "do not belong together"),
        (lambda folder: (folder / "files").rmdir(), "files: not a folder"),
        (lambda folder: (folder / "server.toml").write_text("[limits]\nbaklog = 1"), "2: unknown key `baklog`"),
    ],
    ids=["no users", "users open", "users broken", "no cert", "no key", "key open", "other key", "no root", "bad key"],
)
def test_check_config_finds_what_run_would_stumble_over(made, broken, said):
    broken(made.parent)
    code, out, err = run("check-config", "-c", made)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert re.search(said, err)


@as_user
def test_check_config_finds_a_root_that_cannot_be_written(made):
    (made.parent / "files").chmod(0o500)
    assert "may not be read and written" in refused("check-config", "-c", made)


def test_check_config_finds_a_users_root_that_is_missing_or_holds_our_files(made):
    users = made.parent / "users.json"
    content = json.loads(users.read_text())
    for root, said in (("nowhere", "nowhere: not a folder"), (".", "lies below it")):
        content["users"][0]["root"] = root
        users.write_text(json.dumps(content))
        assert said in refused("check-config", "-c", made)


def test_run_is_refused_in_one_line_when_the_settings_are_wrong(edited):
    path = edited('level = "info"', 'level = "loud"')
    code, out, err = run("run", "-c", path)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"ftpy-server: .*server\.toml:\d+: `log\.level`: .*\n", err)


# ------------------------------------------------------------------ users


def test_user_add_prints_the_token_alone_and_the_user_may_come_in(made):
    code, out, err = run("user", "add", "bob", "-c", made)
    assert code == 0
    token = token_of(out)
    keys, account = Accounts(made.parent / "users.json").lookup("bob")
    assert keys == verifier(b64decode(token.key), "bob")
    assert (account.rights, account.root) == (frozenset(RIGHTS), None)
    assert (token.user, token.addresses) == ("bob", ["127.0.0.1:7421"])
    assert token.certificate_sha256 == certificate_sha256(str(made.parent / "certificate.pem")).hex()
    assert "bob" in err
    assert token.key not in err


def test_user_add_keeps_to_the_rights_and_the_root_that_are_given(made, tmp_path):
    (tmp_path / "bob").mkdir()
    invoke("user", "add", "bob", "--right", "get", "--right", "ls", "--root", tmp_path / "bob", "-c", made)
    account = Accounts(made.parent / "users.json").lookup("bob")[1]
    assert (account.rights, account.root) == (frozenset({"ls", "get"}), str(tmp_path / "bob"))


def test_user_add_reads_the_settings_from_the_environment(made):
    code, out, _ = run("user", "add", "bob", FTPY_SERVER_CONFIG=str(made))
    assert code == 0
    token_of(out)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["alice"], "already"),
        (["Bob"], "a user's name"),
        (["bob", "--root", "/nowhere/at/all"], "not a folder"),
        (["bob", "--root", "/"], "lies below it"),
    ],
)
def test_user_add_changes_nothing_when_it_is_refused(made, arguments, said):
    before = (made.parent / "users.json").read_bytes()
    assert said in refused("user", "add", *arguments, "-c", made)
    assert (made.parent / "users.json").read_bytes() == before


@pytest.mark.parametrize("change", [("add", "bob"), ("rotate", "alice")])
def test_no_key_is_made_when_its_token_could_not_be(made, edited, change):
    before = (made.parent / "users.json").read_bytes()
    edited('listen = ["127.0.0.1:7421"]', 'listen = ["127.0.0.1:0"]')
    assert "could not know the port" in refused("user", *change, "-c", made)
    edited('listen = ["127.0.0.1:0"]', 'listen = ["127.0.0.1:1"]')
    (made.parent / "certificate.pem").unlink()
    assert "certificate.pem" in refused("user", *change, "-c", made)
    assert (made.parent / "users.json").read_bytes() == before


def test_user_rotate_prints_a_token_alone_and_the_old_key_is_worth_nothing(made):
    old = token_of(invoke("user", "add", "bob", "-c", made).stdout)
    code, out, _ = run("user", "rotate", "bob", "-c", made)
    assert code == 0
    keys = Accounts(made.parent / "users.json").lookup("bob")[0]
    assert keys == verifier(b64decode(token_of(out).key), "bob") != verifier(b64decode(old.key), "bob")


def test_user_remove_ends_the_user_and_keeps_the_files(made):
    (made.parent / "files" / "a").touch()
    code, out, err = run("user", "remove", "alice", "-c", made)
    assert (code, out, err) == (0, "", "removed the user alice\n")
    assert Accounts(made.parent / "users.json").all() == []
    assert (made.parent / "files" / "a").exists()


@pytest.mark.parametrize("verb", ["remove", "rotate"])
def test_user_change_names_the_nearest_when_the_user_is_unknown(made, verb):
    code, out, err = run("user", verb, "alic", "-c", made)
    assert (code, out, err) == (2, "", "ftpy-server: there is no user alic; did you mean alice?\n")


def test_user_list_shows_who_may_what_and_no_secret(made, tmp_path):
    (tmp_path / "bob").mkdir()
    invoke("user", "add", "bob", "--right", "get", "--root", tmp_path / "bob", "-c", made)
    code, out, err = run("user", "list", "-c", made)
    assert (code, err) == (0, "")
    head, alice, bob = out.splitlines()
    assert head.split() == ["NAME", "RIGHTS", "SINCE", "ROOT"]
    assert re.fullmatch(r"alice +ls,get,put +\d{4}-\d\d-\d\d +\(the server's\)", alice)
    assert re.fullmatch(rf"bob +get +\d{{4}}-\d\d-\d\d +{tmp_path}/bob", bob)
    lines = [json.loads(line) for line in invoke("user", "list", "--json", "-c", made).stdout.splitlines()]
    assert [(line["name"], line["rights"], line["root"]) for line in lines] == [
        ("alice", ["ls", "get", "put"], None),
        ("bob", ["get"], f"{tmp_path}/bob"),
    ]
    assert all(set(line) == {"name", "rights", "root", "created_ns"} for line in lines)


# ------------------------------------------------------------------ usage


def test_version_is_the_packages():
    assert run("--version") == (0, f"ftpy-server, version {ftpy.__version__}\n", "")


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["init"],
        ["run"],
        ["check-config"],
        ["user"],
        *(["user", verb] for verb in ("add", "list", "remove", "rotate")),
    ],
    ids=" ".join,
)
def test_help_of_every_command_has_an_example_that_begins_with_it(command):
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    assert invoke(*command, "-h").stdout == result.stdout
    example = result.stdout.partition("Example:\n")[2].strip().splitlines()[0]
    assert example.startswith(" ".join(["ftpy-server", *command]))


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["run"],
        ["user", "add", "-c", "x"],
        ["user", "add", "bob", "--right", "rule", "-c", "x"],
        ["init", "--nonsense"],
        ["init", "a", "b"],
    ],
)
def test_wrong_usage_ends_with_2_and_one_line(tmp_path, arguments):
    code, out, err = run(*arguments, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith("ftpy-server: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["user"]])
def test_a_command_without_its_verb_shows_its_help_and_ends_with_2(arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Commands:" in err
