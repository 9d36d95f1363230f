"""The server's settings: what is loaded, what is refused and with which words, what the example says."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
import pytest

from ftpy.cli.server import settings_text
from ftpy.config.commands import Command
from ftpy.config.server import Beacon, Events, Limits, Log, ServerConfig, Uploads, is_exposed, load_server_config
from ftpy.errors import ConfigError

EXAMPLES = Path(__file__).parents[2] / "config"
GOOD = 'root = "files"\nlisten = ["127.0.0.1:7421"]\n'


@pytest.fixture
def server_toml(tmp_path):
    """Writes server.toml: a function from text to path."""

    def write(text: str) -> Path:
        path = tmp_path / "server.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_server_config_makes_paths_absolute_from_the_folder_of_the_file(server_toml, tmp_path, monkeypatch):
    path = server_toml('root = "/srv/files"\nlisten = ["unix:ftpy.sock", "[::1]:1"]\nusers = "private/users.json"\n')
    monkeypatch.chdir(tmp_path.parent)
    config = load_server_config(os.path.relpath(path))
    assert (config.root, config.users) == ("/srv/files", f"{tmp_path}/private/users.json")
    assert config.state == f"{tmp_path}/state"
    assert config.private_key == f"{tmp_path}/private_key.pem"
    assert config.certificate == f"{tmp_path}/certificate.pem"
    assert config.listen == [f"unix:{tmp_path}/ftpy.sock", "[::1]:1"]


def test_server_config_accepts_whole_numbers_for_seconds_and_a_byte_order_mark(server_toml):
    config = load_server_config(server_toml("\ufeff" + GOOD + "[limits]\nidle_seconds = 5\n"))
    assert config.limits.idle_seconds == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "`root` is missing"),
        ('root = "f"', "`listen` is missing"),
        ('rot = "f"\n' + GOOD, "1: unknown key `rot`; did you mean root?"),
        (GOOD + '"x\\u001b[1m" = 1', "unknown key `x\\x1b[1m`; known are: root, listen,"),
        (GOOD + "\n# x\n[limits]\nconections = 4", "6: unknown key `conections` in [limits]; did you mean connections"),
        (GOOD + "[log]\nroot = 1", "4: unknown key `root` in [log]; known are: format, level"),
        (GOOD + "[limits] # hm\nconnections = 0", "4: `limits.connections`: expected a whole number >= 1"),
        (GOOD + "limits.backlog = true", "3: `limits.backlog`: expected a whole number, got true or false"),
        (GOOD + 'limits = { idle_seconds = "5" }', "3: `limits.idle_seconds`: expected a number, got a string"),
        (GOOD + "[limits]\ndrain_seconds = nan", "4: `limits.drain_seconds`: expected a number > 0.0"),
        (GOOD + "[limits]\ndrain_seconds = inf", "4: `limits.drain_seconds`: expected a number <= "),
        (GOOD + "limits = 3", "3: `limits`: expected a table, got a whole number"),
        (GOOD + '["log"]\nlevel = "loud"', "4: `log.level`: invalid enum value 'loud', known are: debug, info,"),
        (GOOD + 'workers = "many"', "3: `workers`: invalid enum value 'many', known are: a whole number, auto"),
        (GOOD + "workers = 1.5", "3: `workers`: expected a whole number or a string, got a number"),
        (GOOD + "workers = 0", "3: `workers`: expected a whole number >= 1"),
        (GOOD + 'tls = "maybe"', "3: `tls`: invalid enum value 'maybe', known are: on, off"),
        ('root = "f"\nlisten = []', "2: `listen`: expected a list of length >= 1"),
        ('root = "f"\nlisten = [\n  "a:1",\n  "a:b",\n]', "2: a:b: a port is a number from 0 to 65535"),
        (GOOD + 'advertise = ["a b"]', "3: a b: not an address"),
        ('root = ""\nlisten = ["a:1"]', "1: `root`: expected a string of length >= 1"),
        (GOOD + 'root = "again"', "3: not TOML: "),
        (GOOD + "[limits", "not TOML: "),
        (GOOD + 'x = "\x01"', "3: not TOML: "),
    ],
)
def test_server_config_says_file_line_and_what_is_wrong(server_toml, text, said):
    path = server_toml(text)
    with pytest.raises(ConfigError) as refused:
        load_server_config(path)
    message = str(refused.value)
    assert message.startswith(f"{path}:")
    assert said in message
    assert re.match(r"\d+: ", said) is None or message.startswith(f"{path}:{said}")
    assert message.isprintable()


def test_server_config_says_the_line_that_is_not_utf_8(tmp_path):
    (tmp_path / "server.toml").write_bytes(b"# fine\n# \xff\n")
    with pytest.raises(ConfigError, match=r"server\.toml:2: not UTF-8"):
        load_server_config(tmp_path / "server.toml")


def test_server_config_says_so_when_the_file_is_absent(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml: No such file"):
        load_server_config(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "[::]:1", "files.example.org:1"])
def test_server_config_refuses_plaintext_when_others_could_listen(server_toml, listen):
    text = f'root = "f"\nlisten = ["127.0.0.1:1", "{listen}"]\ntls = "off"\n'
    with pytest.raises(ConfigError, match=r"server\.toml:3: .*allow_plaintext"):
        load_server_config(server_toml(text))
    assert load_server_config(server_toml(text + "allow_plaintext = true")).tls == "off"


def test_server_config_allows_plaintext_when_only_this_machine_can_listen(server_toml):
    text = 'root = "f"\nlisten = ["127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/run/x"]\ntls = "off"\n'
    assert load_server_config(server_toml(text)).tls == "off"


@pytest.mark.parametrize("root", [".", "files/..", "link", "/"])
def test_server_config_refuses_a_root_when_our_own_files_lie_below_it(server_toml, tmp_path, root):
    (tmp_path / "files").mkdir()
    (tmp_path / "link").symlink_to(".")
    with pytest.raises(ConfigError, match=r"server\.toml:1: `\w+` lies below `root`"):
        load_server_config(server_toml(f'root = "{root}"\nlisten = ["a:1"]'))


def test_server_config_refuses_a_root_that_holds_it_though_all_else_lies_elsewhere(server_toml, tmp_path):
    keys = ("certificate", "private_key", "users", "state")
    elsewhere = "".join(f'{key} = "../elsewhere/{key}"\n' for key in keys)
    with pytest.raises(ConfigError, match=r"server\.toml:1: `server\.toml` lies below `root`"):
        load_server_config(server_toml(f'root = "."\nlisten = ["a:1"]\n{elsewhere}'))


@pytest.mark.parametrize(
    ("users", "links"),
    [
        ("files/users.json", {"files/users.json": "../elsewhere/users.json"}),
        ("files/way/users.json", {"files/way": "../elsewhere"}),
        ("outside/users.json", {"outside": "files/way", "files/way": "{}/elsewhere"}),
        ("outside", {"outside": "files/sub/../way/users.json", "files/way": "../elsewhere"}),
        ("way/users.json", {"way": "files"}),
    ],
)
def test_server_config_refuses_users_when_a_link_below_root_leads_to_them(server_toml, tmp_path, users, links):
    (tmp_path / "files" / "sub").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for link, target in links.items():
        (tmp_path / link).symlink_to(target.format(tmp_path))
    with pytest.raises(ConfigError, match=r"server\.toml:1: `users` lies below `root`"):
        load_server_config(server_toml(f'root = "files"\nlisten = ["a:1"]\nusers = "{users}"\n'))


def test_server_config_refuses_a_root_when_a_link_below_it_led_to_the_settings(server_toml, tmp_path):
    (tmp_path / "files").mkdir()
    keys = ("certificate", "private_key", "users", "state")
    elsewhere = "".join(f'{key} = "../elsewhere/{key}"\n' for key in keys)
    path = server_toml(f'root = "{tmp_path}/files"\nlisten = ["a:1"]\n{elsewhere}')
    assert load_server_config(path).root == f"{tmp_path}/files"
    (tmp_path / "files" / "link.toml").symlink_to(path)
    with pytest.raises(ConfigError, match=r"link\.toml:1: `link\.toml` lies below `root`"):
        load_server_config(tmp_path / "files" / "link.toml")


def test_server_config_allows_links_that_no_user_can_replace(server_toml, tmp_path):
    (tmp_path / "files" / "sub").mkdir(parents=True)
    (tmp_path / "files" / ".ftpy-way").symlink_to("../elsewhere")
    (tmp_path / "endless").symlink_to("endless")
    (tmp_path / "way").symlink_to("elsewhere")
    text = 'root = "files"\nlisten = ["a:1"]\nusers = "way/users.json"\nstate = "files/.ftpy-way/state"\n'
    more = 'certificate = "endless"\nprivate_key = "files/sub/../../key"\n'
    assert load_server_config(server_toml(text + more)).users == f"{tmp_path}/way/users.json"


def test_server_config_allows_state_below_root_when_its_name_is_reserved(server_toml):
    text = 'root = "files"\nlisten = ["a:1"]\nstate = "files/.ftpy-state"'
    assert load_server_config(server_toml(text)).state.endswith("files/.ftpy-state")


def test_example_of_the_server_is_what_init_writes_with_every_default():
    example = ServerConfig(root="files", listen=["0.0.0.0:7421", "[::]:7421"])
    assert (EXAMPLES / "server.toml").read_text(encoding="utf-8") == settings_text(example)


def test_example_of_a_command_has_every_key_and_is_right_without_its_marks(server_toml):
    text = (EXAMPLES / "server.toml").read_text(encoding="utf-8")
    head, mark, example = text.partition("# [commands.disk]\n")
    config = load_server_config(server_toml(head + (mark + example).replace("\n# ", "\n").removeprefix("# ")))
    assert config.commands["disk"].run == ("df", "-h")
    for field in msgspec.structs.fields(Command):
        assert re.search(rf"^# # .+\n# {field.name} = ", text, re.MULTILINE), f"{field.name} has no comment"


def test_example_of_the_server_has_every_key_with_its_default():
    config = load_server_config(EXAMPLES / "server.toml")
    text = (EXAMPLES / "server.toml").read_text(encoding="utf-8")
    for kind, found in (
        (Limits, config.limits),
        (Uploads, config.uploads),
        (Events, config.events),
        (Beacon, config.beacon),
        (Log, config.log),
    ):
        assert found == kind()
    for kind in (ServerConfig, Limits, Uploads, Events, Beacon, Log):
        for field in msgspec.structs.fields(kind):
            if field.name == "commands" and kind is ServerConfig:
                assert config.commands == {}
            elif isinstance(field.default, msgspec.Struct):
                assert f"\n[{field.name}]\n" in text
            else:
                assert re.search(rf"^# .+\n{field.name} = ", text, re.MULTILINE), f"{field.name} has no comment"
    assert (config.tls, config.allow_plaintext, config.advertise, config.portable_names) == ("on", False, [], True)
    defaults = {field.name: field.default for field in msgspec.structs.fields(ServerConfig)}
    for key in ("certificate", "private_key", "users", "state"):
        assert getattr(config, key) == str(EXAMPLES / defaults[key])


@pytest.mark.skipif(os.name != "posix", reason="a folder that somebody is in cannot be removed")
def test_what_is_exposed_is_known_where_the_current_folder_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert is_exposed(str(tmp_path), str(tmp_path / "key")) and not is_exposed(str(tmp_path / "root"), "/key")
