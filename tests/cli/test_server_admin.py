"""``ftpy-server`` as an administrator meets it: what is made, what is said where, what is refused."""

from __future__ import annotations

import json
import os
import re

import pytest

import ftpy
from ftpy.config.server import ServerConfig, load_server_config
from ftpy.server.accounts import Accounts
from ftpy.server.identity import certificate_sha256, make_identity
from ftpy.server.sandbox import is_root
from ftpy.toml import to_toml
from ftpy.wire.auth import verifier
from ftpy.wire.spelling import b64decode
from tests.cli.administering import invoke, refused, run, token_of

posix = pytest.mark.skipif(os.name != "posix", reason="modes of files mean nothing on Windows")
as_user = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere, whatever the mode says"
)


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


def test_init_allows_root_where_that_is_said_and_as_root_warns_where_it_is_not(tmp_path):
    for allowed in (True, False):
        folder = tmp_path / f"srv{allowed}"
        result = invoke("init", folder, "--listen", "127.0.0.1:1", *(["--allow-root"] if allowed else []))
        assert load_server_config(folder / "server.toml").allow_root == allowed
        assert ("this is root" in result.stderr) == (is_root() and not allowed)


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
        *(["user", verb] for verb in ("add", "change", "list", "remove", "rotate")),
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
