"""The client's settings: what is loaded, what is refused and with which words, what is written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from ftpy.config.client import (
    ClientConfig,
    Profile,
    Transfer,
    choose_profile,
    client_config_path,
    load_client_config,
    save_profile,
)
from ftpy.durable import replace_file
from ftpy.errors import ConfigError
from ftpy.toml import to_toml

EXAMPLES = Path(__file__).parents[2] / "config"
KEY = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I"
HOME = Profile(addresses=["files.example.org:7421"], user="alice", key=KEY, certificate_sha256="ab" * 32)
WORK = Profile(addresses=["[::1]:1"], user="bob", key=KEY[::-1])
posix = pytest.mark.skipif(os.name != "posix", reason="modes of files mean nothing on Windows")


@pytest.fixture
def client_toml(tmp_path):
    """Writes config.toml, mode 0600: a function from text to path."""

    def write(text: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)
        return path

    return write


def test_client_config_is_the_defaults_when_there_is_no_file(tmp_path):
    assert load_client_config(tmp_path / "config.toml") == ClientConfig()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('default = "home"', "1: no server is called home"),
        ("[servers]\nhome = 3", "2: `servers.home`: expected a table, got a whole number"),
        ("servers = 3", "1: `servers`: expected a table, got a whole number"),
        ('[servers.a]\naddresses = ["a:1"]\nuser = "a"\n', "1: `key` is missing"),
        (
            f'[servers.a]\naddresses = ["a:1"]\nuser = "a"\nkey = "{KEY}"\n[servers."b c"]\nuser = "b"',
            "5: `addresses` is missing",
        ),
        (
            f'[servers.a]\naddresses = ["a:1"]\nuser = "a"\nkey = "{KEY}"\n[servers.b]\nuser = "B"\naddresses = ["a"]',
            "6: `servers.b.user`: expected a string matching",
        ),
        (f'[servers.a]\naddresses = ["a:x"]\nuser = "a"\nkey = "{KEY}"', "2: a:x: a port is a number"),
        (f'[servers.a]\naddresses = ["a:1"]\nuser = "a"\nkey = "{KEY}A"', "4: `servers.a.key`: expected a string"),
        (f'[servers.a]\naddresses = ["a:1"]\nuser = "a"\nkye = "{KEY}"', "4: unknown key `kye` in [servers.a]; did yo"),
        ("[transfer]\nretires = 3", "2: unknown key `retires` in [transfer]; did you mean retries?"),
        ('[transfer]\nstreams = "many"', "2: `transfer.streams`: invalid enum value 'many', known are: auto"),
        ("[transfer]\nstreams = 33", "2: `transfer.streams`: expected a whole number <= 32"),
        ("[transfer]\nstreams = 1.5", "2: `transfer.streams`: expected a whole number or a string, got a number"),
    ],
)
def test_client_config_says_line_and_profile_but_no_key_when_it_is_wrong(client_toml, text, said):
    path = client_toml(text)
    with pytest.raises(ConfigError) as refused:
        load_client_config(path)
    assert str(refused.value).startswith(f"{path}:{said}")
    assert KEY not in str(refused.value)


@posix
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_client_config_is_refused_when_others_can_read_its_keys(client_toml, tmp_path, mode):
    save_profile(tmp_path / "config.toml", "home", HOME)
    (tmp_path / "config.toml").chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}"):
        load_client_config(tmp_path / "config.toml")
    without = client_toml("[transfer]\nretries = 3\n")
    without.chmod(mode)
    assert load_client_config(without).transfer.retries == 3


@pytest.mark.parametrize(
    ("default", "environment", "name", "chosen"),
    [
        (None, None, "work", "work"),
        ("home", "home", "work", "work"),
        ("home", "work", None, "work"),
        ("home", "", None, "home"),
        ("home", None, None, "home"),
    ],
)
def test_choose_profile_takes_the_name_then_the_environment_then_the_default(
    monkeypatch, default, environment, name, chosen
):
    if environment is None:
        monkeypatch.delenv("FTPY_SERVER", raising=False)
    else:
        monkeypatch.setenv("FTPY_SERVER", environment)
    config = ClientConfig(default=default, servers={"home": HOME, "work": WORK})
    assert choose_profile(config, name) == (chosen, config.servers[chosen])


def test_choose_profile_takes_the_only_one_when_nothing_is_said(monkeypatch):
    monkeypatch.delenv("FTPY_SERVER", raising=False)
    assert choose_profile(ClientConfig(servers={"work": WORK}), None) == ("work", WORK)


@pytest.mark.parametrize(
    ("servers", "name", "said"),
    [
        ({}, None, "ftpy pair NAME"),
        ({}, "home", "ftpy pair NAME"),
        ({"home": HOME, "work": WORK}, None, "one of: home, work"),
        ({"home": HOME, "work": WORK}, "hme", "no server is called hme; did you mean home?"),
        ({"home": HOME, "work": WORK}, "\x1b[1m", r"no server is called \x1b[1m; known are: home, work"),
    ],
)
def test_choose_profile_lists_the_names_when_it_cannot_choose(monkeypatch, servers, name, said):
    monkeypatch.delenv("FTPY_SERVER", raising=False)
    with pytest.raises(ConfigError) as refused:
        choose_profile(ClientConfig(servers=servers), name)
    assert said in str(refused.value)


@posix
@pytest.mark.parametrize(
    ("environment", "path"),
    [
        ({"FTPY_CONFIG": "/a/b.toml", "XDG_CONFIG_HOME": "/x"}, "/a/b.toml"),
        ({"XDG_CONFIG_HOME": "/x"}, "/x/ftpy/config.toml"),
        ({"XDG_CONFIG_HOME": "relative"}, "/home/u/.config/ftpy/config.toml"),
        ({}, "/home/u/.config/ftpy/config.toml"),
    ],
)
def test_client_config_path_is_where_the_environment_says(monkeypatch, environment, path):
    for name in ("FTPY_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"HOME": "/home/u"} | environment).items():
        monkeypatch.setenv(name, value)
    assert client_config_path() == path


def test_save_profile_writes_what_load_reads_for_the_owner_alone(tmp_path):
    path = tmp_path / "new" / "config.toml"
    save_profile(path, "home", HOME)
    save_profile(path, "work.x", WORK)
    assert load_client_config(path).servers == {"home": HOME, "work.x": WORK}
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {entry.name for entry in path.parent.iterdir()} == {"config.toml", ".config.toml.lock"}


def test_save_profile_keeps_comments_and_all_else_when_it_replaces(client_toml):
    before = (
        f'default = "home"  # mine\n\n[servers.home]\n# where\naddresses = ["old:1"]\nuser = "x"\nkey = "{KEY}"\n'
        f'certificate_sha256 = "{"0" * 64}"\n\n# how\n[transfer]\nretries = 3\n'
    )
    path = client_toml(before)
    save_profile(path, "home", WORK)
    config = load_client_config(path)
    assert config == ClientConfig(default="home", transfer=Transfer(retries=3), servers={"home": WORK})
    for kept in ('default = "home"  # mine', "# where", "# how\n[transfer]\nretries = 3"):
        assert kept in path.read_text()


@pytest.mark.parametrize("style", ["servers = {{ home = {} }}\n", "servers.home = {}\n", "[servers]\nhome = {}\n"])
def test_save_profile_adds_whichever_way_the_others_are_written(client_toml, style):
    inline = f'{{ addresses = ["files.example.org:7421"], user = "alice", key = "{KEY}" }}'
    path = client_toml(style.format(inline))
    save_profile(path, "work", WORK)
    save_profile(path, "home", HOME)
    assert load_client_config(path).servers == {"home": HOME, "work": WORK}


def test_save_profile_changes_nothing_when_the_file_is_broken(client_toml):
    path = client_toml("[transfer\n")
    with pytest.raises(ConfigError, match="not TOML"):
        save_profile(path, "home", HOME)
    assert path.read_text() == "[transfer\n"


@pytest.mark.parametrize(
    "wrong", [{"user": "A B"}, {"key": KEY[1:]}, {"addresses": ["a:x"]}, {"certificate_sha256": "AB" * 32}]
)
def test_save_profile_changes_nothing_when_the_profile_could_not_be_loaded(client_toml, wrong):
    path = client_toml("# mine\n")
    with pytest.raises(ConfigError) as refused:
        save_profile(path, "home", msgspec.structs.replace(HOME, **wrong))
    assert KEY[1:] not in str(refused.value)
    assert path.read_text() == "# mine\n"


def test_save_profile_says_so_when_it_cannot_write(tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        save_profile(blocked / "config.toml", "home", HOME)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_replace_file_leaves_no_temporary_file_when_it_cannot_replace(tmp_path):
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(OSError):
        replace_file(str(tmp_path / "folder"), b"new", 0o600)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_save_profile_leaves_a_link_a_link(tmp_path):
    (tmp_path / "dotfiles").mkdir()
    link = tmp_path / "config.toml"
    link.symlink_to("dotfiles/config.toml")
    save_profile(link, "home", HOME)
    assert link.is_symlink()
    assert load_client_config(tmp_path / "dotfiles" / "config.toml").servers == {"home": HOME}


@pytest.mark.parametrize("name", ["", "a b", "a/b", ".a", "ä", "a\n", "x" * 65])
def test_save_profile_refuses_a_name_that_is_awkward_to_type(tmp_path, name):
    with pytest.raises(ConfigError):
        save_profile(tmp_path / "config.toml", name, HOME)
    assert list(tmp_path.iterdir()) == []


def test_save_profile_loses_none_when_many_write_at_once(tmp_path):
    path = tmp_path / "config.toml"
    names = {f"server{number}" for number in range(8)}
    threads = [threading.Thread(target=save_profile, args=(path, name, HOME)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(load_client_config(path).servers) == names


def test_profile_never_shows_its_key():
    config = ClientConfig(servers={"home": HOME})
    assert KEY not in f"{HOME} {HOME!r} {config} {config!r}"
    assert "alice" in repr(HOME)


def test_example_of_the_client_has_every_key_with_its_default(client_toml):
    text = (EXAMPLES / "client.toml").read_text(encoding="utf-8")
    assert load_client_config(client_toml(text)) == ClientConfig()
    for kind in (ClientConfig, Transfer, Profile):
        for name in kind.__struct_fields__:
            found = re.search(rf"^(?:# .+\n)(?:# )?(?:{name} = |\[{name}[\].])", text, re.MULTILINE)
            assert found, f"{name} is not explained"
    assert to_toml(Transfer()) in text


def test_example_of_the_client_is_right_when_its_commented_lines_are_used(client_toml):
    text = (EXAMPLES / "client.toml").read_text(encoding="utf-8")
    used = re.sub(r"^# (\w+ = |\[)", r"\1", text, flags=re.MULTILINE)
    config = load_client_config(client_toml(used))
    assert config.default == "home"
    assert set(config.servers) == {"home"}
    assert config.servers["home"].certificate_sha256 is not None


def test_import_of_config_stays_light():
    code = "import sys; before = {*sys.modules}; import ftpy.config.client, ftpy.config.server; "
    code += "print(*sys.modules.keys() - before)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"ssl", "cryptography", "tomlkit", "tomllib", "difflib", "click", "socket"}.isdisjoint(loaded)
