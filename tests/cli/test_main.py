"""``ftpy`` as users meet it: real processes against a real server; what is said where, and the exit code."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftpy.storage.unfinished import unfinished
from ftpy.wire.spelling import b64encode
from tests.cli.desk import COMMAND, MIB, Desk, content, md5
from tests.rig import Fault, Host, Proxy, eventually, held_port, running

# ------------------------------------------------------------------ pair


def test_pair_reads_the_token_from_standard_input_and_stores_a_private_profile(fresh: Desk) -> None:
    ended = fresh("pair", "home", input=fresh.token() + "\n")
    assert (ended.code, ended.out) == (0, "")
    assert re.fullmatch(r"paired with home \(ftpy [\d.]+\) as alice: delete, list, read, replace, write\n", ended.err)
    assert fresh.config.stat().st_mode & 0o777 == 0o600
    assert fresh.config.parent.stat().st_mode & 0o777 == 0o700
    assert fresh("ls").code == 0


def test_pair_uses_the_address_that_is_given_instead_of_the_tokens(fresh: Desk, host: Host) -> None:
    token = fresh.token(addresses=["127.0.0.1:1"])
    assert fresh("pair", "home", "--address", host.address, input=token).code == 0
    assert host.address in fresh.config.read_text() and '127.0.0.1:1"' not in fresh.config.read_text()
    fresh("pair", "other", "--address", "1:2:3", input=token).failed(2, "IPv6 is written in brackets")


def test_pair_keeps_a_profile_unless_it_is_forced(fresh: Desk, host: Host) -> None:
    assert fresh("pair", "home", input=fresh.token()).code == 0
    before = fresh.config.read_bytes()
    fresh("pair", "home", input=fresh.token()).failed(2, "there is a server named 'home' already; --force")
    assert fresh.config.read_bytes() == before
    assert fresh("pair", "home", "--force", input=fresh.token()).code == 0


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda token: "", "not a pairing token"),
        (lambda token: "hello", "not a pairing token"),
        (lambda token: token[:-1], "damaged"),
        (lambda token: token[:40] + ("A" if token[40] != "A" else "B") + token[41:], "damaged"),
        (lambda token: token.replace("ftpy1", "ftpy2"), "not a pairing token"),
        (lambda token: f"\udcff{token}", "not a pairing token"),
    ],
    ids=["empty", "other", "cut", "letter", "version", "bytes"],
)
def test_pair_refuses_what_is_no_token_without_quoting_it(fresh: Desk, spoil: Callable[[str], str], said: str) -> None:
    text = spoil(fresh.token())
    ended = fresh("pair", "home", input=os.fsencode(text), PYTHONIOENCODING="utf-8:strict")
    ended.failed(2, said)
    assert text[10:30] not in ended.err or not text[10:30]
    assert not fresh.config.exists()


def test_pair_stores_nothing_when_the_server_refuses_or_is_another_or_is_not_there(fresh: Desk) -> None:
    wrong_key, port = b64encode(bytes(32)), held_port(fresh)
    for changes, code, said in [
        ({"key": wrong_key}, 4, "refused user 'alice'"),
        ({"certificate_sha256": "0" * 64}, 4, "another certificate"),
        ({"addresses": [f"127.0.0.1:{port}"]}, 3, "no connection: .*refused"),
    ]:
        ended = fresh("pair", "home", input=fresh.token(**changes))
        ended.failed(code, said)
        assert wrong_key not in ended.err and not fresh.config.exists()


def test_pair_refuses_a_name_that_is_none_before_it_connects(fresh: Desk) -> None:
    fresh("pair", "a/b", input=fresh.token()).failed(2, "called by letters")
    fresh("pair", "", input=fresh.token()).failed(2, "called by letters")


def test_a_token_is_no_argument(fresh: Desk) -> None:
    token = fresh.token()
    ended = fresh("pair", "home", token)
    ended.failed(2, "ftpy pair --help")
    assert "--token" not in fresh("pair", "--help").out


# ------------------------------------------------------------------ put


def test_put_keeps_the_name_of_one_source_and_says_what_is_true(desk: Desk, root: Path) -> None:
    data = desk.make("report.pdf", 300_000)
    ended = desk("put", "report.pdf")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"report.pdf: 293.0 KiB, verified md5 {md5(data)}, durable\n"
    assert content(root) == {"report.pdf": data}


@pytest.mark.parametrize(
    ("arguments", "stored"),
    [
        (["a", "b"], ["b"]),
        (["a", "/b"], ["b"]),
        (["a", "new/folder/b"], ["new/folder/b"]),
        (["a", "new/"], ["new/a"]),
        (["a", "old"], ["old/a"]),
        (["a", "."], ["a"]),
        (["a", "/"], ["a"]),
        (["./a"], ["a"]),
        (["a", "c", "new"], ["new/a", "new/c"]),
        (["a", "c", "."], ["a", "c"]),
        (["a", "sub/a2", "old/"], ["old/a", "old/a2"]),
    ],
    ids=" ".join,
)
def test_put_goes_where_cp_would_put_it(desk: Desk, root: Path, arguments: list[str], stored: list[str]) -> None:
    (root / "old").mkdir()
    (desk.folder / "sub").mkdir()
    for name in ("a", "c", "sub/a2"):
        desk.make(name)
    ended = desk("put", *arguments)
    assert ended.code == 0, ended
    assert sorted(content(root)) == stored
    assert sorted(line.partition(":")[0] for line in ended.out.splitlines()) == stored


def test_put_goes_on_after_a_file_that_fails_and_ends_with_1(desk: Desk, root: Path) -> None:
    (desk.folder / "folder").mkdir()
    (desk.folder / "a\nb").write_text("x")
    for name in ("first", "last"):
        desk.make(name)
    ended = desk("put", "first", "missing", "folder", "a\nb", "last", "to/")
    assert ended.code == 1 and set(content(root)) == {"to/first", "to/last"}
    assert ended.out.count("\n") == 2
    missing, folder, control = ended.err.splitlines()
    assert missing == "ftpy: missing: No such file or directory"
    assert folder == "ftpy: folder: a directory"
    assert control.startswith("ftpy: ") and r"a\nb: control characters are not allowed" in control


SAME = "ftpy: {1}/same: this command has just put {0}/same at {2}\n"


def test_put_replaces_nothing_that_it_has_just_put(desk: Desk, root: Path) -> None:
    for folder in ("one", "two"):
        (desk.folder / folder).mkdir()
        desk.make(f"{folder}/same", seed=ord(folder[1]))
    other = desk.make("other")
    ended = desk("put", "one/same", "two/same", "other", "to/")
    assert (ended.code, ended.err) == (1, SAME.format("one", "two", "to/same"))
    assert content(root) == {"to/same": (desk.folder / "one/same").read_bytes(), "to/other": other}
    assert desk("put", "other", "other", "to/").code == 0  # the same again is no other
    assert desk("put", "none/same", "two/same", "to/").err.count("\n") == 1  # what failed is not there
    assert (root / "to/same").read_bytes() == (desk.folder / "two/same").read_bytes()
    desk("put", "--if-absent", "-q", "one/same", "two/same", "new/").failed(1, "already there")


@pytest.mark.parametrize("options", [("-r",), ("-r", "--atomic")])
def test_put_r_puts_no_two_folders_in_one_place(desk: Desk, root: Path, options: tuple[str, ...]) -> None:
    for folder in ("one", "two"):
        (desk.folder / folder / "same").mkdir(parents=True)
        (desk.folder / folder / "same/name").write_text(folder)
    ended = desk("put", *options, "one/same", "two/same", "to/")
    assert (ended.code, ended.err) == (1, SAME.format("one", "two", "to/same"))
    assert content(root) == {"to/same/name": b"one"}


def test_get_replaces_nothing_that_it_has_just_fetched(desk: Desk, root: Path) -> None:
    for folder in ("one", "two"):
        (root / folder).mkdir()
        (root / folder / "same").write_text(folder)
    (desk.folder / "to").mkdir()
    ended = desk("get", "--force", "*/same", "to")
    assert (ended.code, ended.err) == (1, SAME.format("one", "two", os.path.join("to", "same")))
    assert content(desk.folder) == {"to/same": b"one"}
    assert desk("get", "--if-changed", "two/same", "one/same", "to").code == 1
    assert content(desk.folder) == {"to/same": b"two"}
    (root / "one/same").write_text("two")
    assert desk("get", "one/same", "two/same", "to").code == 0  # where nothing is replaced, two may be the same


def test_put_reads_standard_input(desk: Desk, root: Path) -> None:
    for size in (0, 5, 3 * MIB):
        data = desk.make("x", size)
        ended = desk("put", "-", "from/stdin", input=data)
        assert ended.code == 0 and f"verified md5 {md5(data)}" in ended.out
        assert (root / "from/stdin").read_bytes() == data
    for arguments in (["-"], ["-", "folder/"], ["-", "x", "folder"]):
        desk("put", *arguments, input=b"x").failed(2, "standard input needs a destination")
    (root / "folder").mkdir()
    desk("put", "-", "folder", input=b"x").failed(2, "standard input needs a destination")
    assert list((root / "folder").iterdir()) == []


def test_put_replaces_and_if_absent_does_not(desk: Desk, root: Path) -> None:
    new = desk.make("a", 100)
    (root / "a").write_bytes(b"old")
    desk("put", "--if-absent", "a").failed(1, "a: .*already")
    assert (root / "a").read_bytes() == b"old"
    assert desk("put", "a").code == 0 and (root / "a").read_bytes() == new
    assert desk("put", "--if-absent", "a", "b").code == 0


def test_put_verifies_with_the_digest_that_is_asked_for(desk: Desk, root: Path) -> None:
    from blake3 import blake3

    data = desk.make("a", 2 * MIB)
    assert f"verified blake3 {blake3(data).hexdigest()}" in desk("put", "-d", "blake3", "a").out
    desk("put", "-d", "sha1", "a").failed(2, "Invalid value")


def test_quiet_says_nothing_but_errors(desk: Desk, root: Path) -> None:
    desk.make("a")
    ended = desk("put", "-q", "a")
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    ended = desk("get", "-q", "a", "b")
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    desk("get", "-q", "nothing").failed(1, "nothing")


def test_json_is_one_object_a_line(desk: Desk, root: Path) -> None:
    data = desk.make("a", 100)
    (desk.folder / "b\x1b[2J").write_text("x")
    stored, refused = desk("put", "--json", "a", "missing", "to/").objects
    assert stored == {
        "source": "a",
        "ok": True,
        "path": "to/a",
        "size": 100,
        "md5": md5(data),
        "durable": True,
        "resumed": 0,
    }
    assert refused["source"] == "missing" and refused["ok"] is False and refused["error"] == "LocalFileError"
    fetched, again, refused = [
        *desk("get", "--json", "to/a", "here").objects,
        *desk("get", "--json", "to/a", "here").objects,
        *desk("get", "--json", "to/nothing").objects,
    ]
    assert fetched["target"] == "here" and not fetched["identical"] and fetched["md5"] == md5(data)
    assert again["identical"] and refused["error"] == "NotFound"
    (line,) = desk("ls", "--json", "to").objects
    assert line["path"] == "to/a" and line["size"] == 100 and line["type"] == "file"
    assert desk("stat", "--json", "to/a").objects == [line]
    assert desk("digest", "--json", "to/a").objects == [{"path": "to/a", "md5": md5(data)}]
    ended = desk("get", "--json", "to/a", "-")
    assert ended.raw == data and json.loads(ended.err)["ok"] is True  # standard output is the file's


# ------------------------------------------------------------------ get


@pytest.mark.parametrize(
    ("arguments", "made"),
    [
        (["d/a"], ["a"]),
        (["/d/a"], ["a"]),
        (["d/a", "b"], ["b"]),
        (["d/a", "there"], ["there/a"]),
        (["d/a", "there/"], ["there/a"]),
        (["d/a", "."], ["a"]),
        (["d/a", "d/c", "there"], ["there/a", "there/c"]),
        (["d/a", "d/c", "."], ["a", "c"]),
    ],
    ids=" ".join,
)
def test_get_goes_where_cp_would_put_it(desk: Desk, root: Path, arguments: list[str], made: list[str]) -> None:
    (root / "d").mkdir()
    (desk.folder / "there").mkdir()
    for name in "ac":
        (root / "d" / name).write_text(name)
    ended = desk("get", *arguments)
    assert (ended.code, ended.err) == (0, "")
    there = content(desk.folder)
    assert sorted(there) == made and all(data == name[-1:].replace("b", "a").encode() for name, data in there.items())
    assert ended.out.count(", durable\n") == len(made)


def test_get_into_a_folder_that_is_missing_is_refused(desk: Desk, root: Path) -> None:
    for name in "ab":
        (root / name).write_text(name)
    desk("get", "a", "missing/").failed(1, "missing.*No such file or directory")
    desk("get", "a", "missing/b").failed(1, "missing.*No such file or directory")
    desk("get", "a", "b", "missing").failed(2, "missing is not a folder")
    assert list(desk.folder.iterdir()) == []


def test_get_of_what_is_no_file_is_refused(desk: Desk, root: Path) -> None:
    (root / "d").mkdir()
    for source in ("d", ".", "/"):
        desk("get", source).failed(1, "directory")
    desk("get", "../x").failed(1, r"\.\. is not a name")
    assert list(desk.folder.iterdir()) == []


def test_get_writes_to_standard_output_and_nothing_else_there(desk: Desk, root: Path) -> None:
    data = bytes(range(256)) * 20_000
    (root / "a").write_bytes(data)
    ended = desk("get", "a", "-")
    assert ended.code == 0 and ended.raw == data
    assert ended.err == f"a: 4.9 MiB, verified md5 {md5(data)}\n"
    assert content(desk.folder) == {}


def test_json_of_a_get_to_standard_output_goes_to_standard_error_when_it_fails(desk: Desk, root: Path) -> None:
    (root / "a").write_bytes(b"content")
    ended = desk("get", "--json", "a", "nothing", "-")
    said, line, failure = ended.err.splitlines()
    assert ended.code == 1 and ended.raw == b"content"
    assert json.loads(said)["ok"] is True and line.startswith("ftpy: nothing: ")
    assert json.loads(failure) == {
        "source": "nothing",
        "ok": False,
        "error": "NotFound",
        "message": line.removeprefix("ftpy: "),
    }


def test_get_keeps_a_different_file_unless_forced_and_knows_the_same(desk: Desk, root: Path) -> None:
    (root / "a").write_bytes(b"theirs")
    (desk.folder / "a").write_bytes(b"mine")
    desk("get", "a").failed(1, "a: .*--force replaces it")
    (desk.folder / "a").write_bytes(b"Theirs")
    desk("get", "a").failed(1, "--force replaces it")
    assert (desk.folder / "a").read_bytes() == b"Theirs"
    assert desk("get", "--force", "a").code == 0 and (desk.folder / "a").read_bytes() == b"theirs"
    assert desk("get", "a").out == f"a: 6 B, identical already, verified md5 {md5(b'theirs')}\n"


def test_get_goes_on_after_a_file_that_fails(desk: Desk, root: Path) -> None:
    for name in "ac":
        (root / name).write_text(name)
    ended = desk("get", "a", "b", "c", ".")
    assert ended.code == 1 and set(content(desk.folder)) == {"a", "c"}
    assert re.fullmatch("ftpy: b: there is no such file.*\n", ended.err)


# ------------------------------------------------------------------ ls, stat, digest


@pytest.mark.slow
def test_ls_lists_in_every_form(desk: Desk, root: Path) -> None:
    assert desk("ls").out == ""
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "f").write_bytes(b"content")
    (root / "d" / "f").chmod(0o640)
    (root / "d" / "s").symlink_to("f")
    assert desk("ls").out == desk("ls", "/").out == desk("ls", ".").out == "d/\n"
    assert desk("ls", "d").out == desk("ls", "/d/").out == "e/\nf\ns\n"
    assert desk("ls", "d/f").out == "f\n"
    assert desk("ls", "-R").out == "d/\nd/e/\nd/f\nd/s\n"
    folder, file, link = desk("ls", "-l", "d", TZ="UTC").out.splitlines()
    assert folder.startswith("d") and folder.endswith("  e/")
    assert re.fullmatch(r"-rw-r----- +7  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  f", file)
    assert link.startswith("l") and link.endswith("  s")
    assert f"{md5(b'content')}  f" in desk("ls", "--digest", "d").out
    assert [info["path"] for info in desk("ls", "-R", "--json").objects] == ["d", "d/e", "d/f", "d/s"]
    desk("ls", "nothing").failed(1, "nothing: there is no such file")


def test_stat_and_digest_say_what_is_known(desk: Desk, root: Path) -> None:
    (root / "f").write_bytes(b"content")
    ended = desk("stat", "f")
    fields = dict(line.split(maxsplit=1) for line in ended.out.splitlines())
    assert (fields["path"], fields["type"], fields["size"]) == ("f", "file", "7") and "etag" in fields
    assert "directory" in desk("stat", "/").out
    desk("stat", "nothing").failed(1, "nothing: there is no such file")
    from blake3 import blake3

    (root / "g").write_bytes(b"")
    assert desk("digest", "f", "g").out == f"{md5(b'content')}  f\n{md5(b'')}  g\n"
    assert desk("digest", "-d", "blake3", "f").out == f"{blake3(b'content').hexdigest()}  f\n"
    ended = desk("digest", "f", "nothing", "g")
    assert ended.code == 1 and ended.out == f"{md5(b'content')}  f\n{md5(b'')}  g\n"
    assert re.fullmatch("ftpy: nothing: there is no such file.*\n", ended.err)


def test_names_that_would_change_a_terminal_are_escaped(desk: Desk, root: Path) -> None:
    names = {"gnp\u202e.exe": r"gnp\u202e.exe", "wide\u2028line": r"wide\u2028line", "ok 中文": "ok 中文"}
    for name in names:
        (root / name).write_text("x")
    os.close(os.open(os.fsencode(root) + b"/raw\xff", os.O_CREAT))
    listed = desk("ls", "-l").out + desk("ls").out + desk("ls", "--digest").out
    assert not set("\u202e\u2028\x1b") & set(listed)
    for escaped in [*names.values(), r"raw\udcff"]:
        assert escaped in listed
    ended = desk("get", *names, "no\u202ething", ".")
    assert ended.code == 1 and not set("\u202e\u2028") & set(ended.out + ended.err)
    assert set(names) <= set(content(desk.folder))
    desk("stat", "evil\x1b[2J").failed(1, r"evil\\x1b\[2J")
    desk("put", "evil\x1b]0;title\x07").failed(1, r"evil\\x1b")


def test_a_name_that_is_not_utf_8_is_fetched_and_shown_escaped(desk: Desk, root: Path) -> None:
    os.close(os.open(os.fsencode(root) + b"/raw\xff", os.O_CREAT))
    ended = desk("get", os.fsdecode(b"raw\xff"))
    assert ended.code == 0 and ended.out.startswith(r"raw\udcff: 0 B")
    assert os.listdir(os.fsencode(desk.folder)) == [b"raw\xff"]
    assert desk("ls", "--json").code == 0


# ------------------------------------------------------------------ which server


def test_the_server_is_chosen_by_option_environment_default_or_because_it_is_alone(desk: Desk, root: Path) -> None:
    assert desk("ls").code == 0
    desk.pair("dead", addresses=[f"127.0.0.1:{held_port(desk)}"])
    desk("ls").failed(2, "which server.*home, dead")
    assert desk("ls", "-s", "home").code == 0
    assert desk("ls", FTPY_SERVER="home").code == 0
    desk("ls", FTPY_SERVER="dead").failed(3, "no connection")
    assert desk("ls", "--server", "home", FTPY_SERVER="dead").code == 0
    desk("ls", "-s", "hom").failed(2, "hom; did you mean home")
    text = desk.config.read_text()
    desk.config.write_text('default = "home"\n' + text)
    assert desk("ls").code == 0
    desk("ls", FTPY_SERVER="dead").failed(3, "no connection")


def test_what_is_wrong_with_the_settings_is_said_in_one_line(fresh: Desk) -> None:
    fresh("ls").failed(2, "no server is paired yet")
    fresh.pair()
    fresh.config.chmod(0o644)
    fresh("ls").failed(2, "config.toml: .*others can read")
    fresh.config.chmod(0o600)
    fresh.config.write_text("[transfer]\nretires = 1\n")
    fresh("ls").failed(2, "config.toml:2: .*retires.*retries")


def test_xdg_config_home_is_where_profiles_are_kept(fresh: Desk, tmp_path: Path) -> None:
    env = {"FTPY_CONFIG": "", "XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    assert fresh("pair", "home", input=fresh.token(), **env).code == 0
    assert (tmp_path / "xdg/ftpy/config.toml").stat().st_mode & 0o777 == 0o600
    assert fresh("ls", **env).code == 0


# ------------------------------------------------------------------ exit codes


@pytest.mark.slow
def test_exit_codes_say_what_went_wrong(desk: Desk, root: Path, host: Host) -> None:
    (root / "f").write_bytes(b"content")
    assert desk("get", "f").code == 0
    desk("get", "nothing").failed(1, "no such file")
    desk("get").failed(2, "Missing argument")
    desk("frobnicate").failed(2, "No such command")
    desk.pair("dead", addresses=[f"127.0.0.1:{held_port(desk)}"])
    desk("get", "-s", "dead", "f").failed(3, "no connection")
    desk.pair("wrong", key=b64encode(bytes(32)))
    for verb in (["get", "f"], ["put", "f"], ["ls"], ["stat", "f"], ["digest", "f"]):
        desk(verb[0], "-s", "wrong", *verb[1:]).failed(4, "refused user 'alice'")
    desk.pair("other", certificate_sha256="0" * 64)
    desk("ls", "-s", "other").failed(4, "another certificate")


def test_exit_code_is_5_when_what_arrives_is_not_what_was_sent(tmp_path: Path) -> None:
    import sqlite3

    with running(tmp_path / "host", tls=False) as host:
        desk = Desk(tmp_path / "desk", host)
        desk.pair()
        desk.make("f", 100)
        assert desk("put", "f").code == 0
        eventually(lambda: host.service is not None and not host.service.admission.connections)
        host.stop()
        with sqlite3.connect(host.folder / "state" / "digests.sqlite") as database:
            database.execute("update digests set md5 = ?", ("0" * 32,))
        database.close()
        host.start()
        desk("get", "f", "g").failed(5, "not the bytes")
        assert not (desk.folder / "g").exists()
        (desk.folder / "there").mkdir()
        ended = desk("get", "--json", "f", "nothing", "there")
        assert ended.code == 5 and [line["error"] for line in ended.objects] == ["DigestMismatch", "NotFound"]


@pytest.mark.slow
def test_users_of_one_right_can_use_it(desk: Desk, root: Path, host: Host) -> None:
    for name, rights in {"put": ("write", "replace"), "get": ("read",), "ls": ("list",)}.items():
        if name not in host.keys:
            host.add_user(name, rights=rights)
        desk.pair(name, user=name)
    data = desk.make("f", 100)
    large = desk.make("large", 3 * MIB)
    for name in ("f", "large"):
        assert desk("put", "-s", "put", name).code == 0
        assert desk("put", "-s", "put", name, f"new {name}").code == 0
        assert desk("put", "-s", "put", name, "to/").code == 0
    assert (root / "new f").read_bytes() == data and (root / "to/large").read_bytes() == large
    desk("get", "-s", "put", "f", "g").failed(1, "no right to read")
    desk("ls", "-s", "put").failed(1, "no right to list")
    assert desk("get", "-s", "get", "f", "g").code == 0
    assert "identical" in desk("get", "-s", "get", "f", "g").out
    (desk.folder / "g").write_bytes(b"mine")
    desk("get", "-s", "get", "f", "g").failed(1, "--force replaces it")
    desk("put", "-s", "get", "f").failed(1, "no right to write")
    assert desk("ls", "-s", "ls").out == "f\nlarge\nnew f\nnew large\nto/\n"
    desk("get", "-s", "ls", "f", "h").failed(1, "no right to read")


# ------------------------------------------------------------------ interrupted


def slow(host: Host, up: bool) -> Proxy:
    line = Fault(slice_bytes=256 * 1024, pause_seconds=0.02)
    return Proxy(host.address, (line, Fault()) if up else (Fault(), line))


@pytest.mark.slow
def test_interrupt_in_the_middle_of_a_put_ends_with_130_and_the_next_put_resumes(desk: Desk, root: Path) -> None:
    data = desk.make("large", 40 * MIB)
    with slow(desk.host, up=True) as proxy:
        desk.pair("slow", addresses=[proxy.address])
        process = desk.start("put", "-s", "slow", "large")
        eventually(lambda: sum(upload.stored for upload in unfinished(str(root))) >= 8 * MIB)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (130, "", "ftpy: interrupted\n")
    assert content(root) == {}
    ended = desk("put", "-s", "home", "--json", "large")
    assert ended.objects[0]["resumed"] >= 8 * MIB
    assert (root / "large").read_bytes() == data and desk.host.uploads == []


@pytest.mark.slow
def test_interrupt_in_the_middle_of_a_get_ends_with_130_and_the_next_get_resumes(desk: Desk, root: Path) -> None:
    data = desk.make("source", 40 * MIB)
    (desk.folder / "source").rename(root / "large")
    with slow(desk.host, up=False) as proxy:
        desk.pair("slow", addresses=[proxy.address])
        process = desk.start("get", "-s", "slow", "large")
        eventually(lambda: proxy.passed[1] > 20 * MIB)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (130, "", "ftpy: interrupted\n")
    assert not (desk.folder / "large").exists()
    ended = desk("get", "-s", "home", "large")
    assert ended.code == 0 and "resumed at" in ended.out
    assert (desk.folder / "large").read_bytes() == data
    assert [path.name for path in desk.folder.iterdir()] == ["large"]


def test_a_lost_connection_is_said_and_the_put_goes_on(desk: Desk, root: Path) -> None:
    data = desk.make("large", 20 * MIB)
    with Proxy(desk.host.address, (Fault("cut", 12 * MIB), Fault()), (Fault(), Fault())) as proxy:
        desk.pair("cut", addresses=[proxy.address])
        ended = desk("put", "-s", "cut", "large")
    assert ended.code == 0 and (root / "large").read_bytes() == data
    # Once more where the server has not noticed yet, and takes the part that was cut off for one on its way.
    assert re.fullmatch(r"(ftpy: .*; trying again in \d\.\d s \(\d of 8\)\n){1,2}", ended.err)


def test_a_reader_that_goes_away_ends_it_quietly(desk: Desk, root: Path) -> None:
    (root / "big").write_bytes(bytes(20 * MIB))
    for arguments in (["get", "big", "-"], ["ls", "-R", "--json"]):
        if arguments[0] == "ls":
            (root / "many").mkdir()
            for number in range(3000):
                (root / "many" / f"{number}").touch()
        process = desk.start(*arguments, stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(1)
        process.stdout.close()
        err = process.stderr.read()
        assert (process.wait(20), err) == (141, "")
        process.stderr.close()


CLOSED = {
    "put - x": (0, 1, "standard input: Bad file descriptor"),
    "pair other": (0, 1, "standard input: Bad file descriptor"),
    "shell": (0, 1, "standard input: Bad file descriptor"),
    "put a x": (0, 0, None),
    "get -q there here": (1, 0, None),
    "get there here": (1, 1, "standard output: Bad file descriptor"),
    "get there -": (1, 1, "there: the output cannot be written: Bad file descriptor"),
    "cat there": (1, 1, "standard output: Bad file descriptor"),
    "ls": (1, 1, "standard output: Bad file descriptor"),
    "ls --json": (1, 1, "standard output: Bad file descriptor"),
    "put a y": (2, 0, None),
    "get nothing here": (2, 1, None),
}
"""Commands, which standard stream is closed for them, and how they end then, having said what."""


@pytest.mark.skipif(os.name != "posix", reason="a shell that closes a stream")
@pytest.mark.parametrize("command", CLOSED)
def test_a_closed_standard_stream_is_no_file_of_ours_and_fails_who_needs_it(
    desk: Desk, host: Host, command: str
) -> None:
    stream, code, said = CLOSED[command]
    data = desk.make("a")
    (host.root / "there").write_bytes(data)
    closing = ["/bin/sh", "-c", f'exec "$@" {stream}>&-', "sh", *COMMAND, *command.split()]
    done = subprocess.run(
        closing, cwd=desk.folder, env=desk.environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (code, f"ftpy: {said}\n" if said else "")
    if command.startswith("get") and "nothing" not in command and command[-1] != "-":
        assert (desk.folder / "here").read_bytes() == data
    if command.startswith("put a"):
        assert (host.root / command[-1]).read_bytes() == data


@pytest.mark.parametrize(
    "command", ["tail -f --interval nan a", "ping --seconds nan", "discover --wait nan", "time --wait nan"]
)
def test_what_is_no_number_is_no_number_of_seconds(desk: Desk, command: str) -> None:
    desk(*command.split()).failed(2, "'nan' is not a number of seconds")


@pytest.mark.skipif(os.name != "posix", reason="a pipe that nobody waits at")
def test_output_that_would_have_to_wait_where_it_may_not_is_one_line(desk: Desk, host: Host) -> None:
    (host.root / "large").write_bytes(bytes(MIB))
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    with desk.start("cat", "large", stdout=writes) as cat:
        os.close(writes)
        assert cat.stderr is not None
        assert cat.stderr.read() == "ftpy: standard output: Resource temporarily unavailable\n"
        assert cat.wait(20) == 1
    os.close(reads)


def test_the_servers_root_comes_down_into_the_folder_that_one_is_in(desk: Desk, host: Host) -> None:
    (host.root / "sub").mkdir()
    (host.root / "sub" / "file").write_bytes(b"x")
    assert desk("get", "-r", "/").code == 0
    assert (desk.folder / "sub" / "file").read_bytes() == b"x"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_output_that_cannot_be_written_is_a_local_failure(desk: Desk, root: Path) -> None:
    (root / "f").write_bytes(bytes(100_000))
    with open("/dev/full", "w") as full:
        process = desk.start("get", "f", "-", stdout=full)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (1, "ftpy: f: the output cannot be written: No space left on device\n")


def test_a_raw_output_that_takes_less_at_a_time_gets_all_of_it(host: Host, root: Path) -> None:
    class Sipping(io.RawIOBase):
        def __init__(self) -> None:
            self.taken = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.taken += data[:70_000]
            return min(len(data), 70_000)

    data = bytes(range(256)) * 10_000
    (root / "f").write_bytes(data)
    output = Sipping()
    with host.client() as client:
        client.get("f", output)
    assert output.taken == data


# ------------------------------------------------------------------ secrets, help


def test_no_secret_is_in_any_output_or_argument(desk: Desk, root: Path) -> None:
    key, token = desk.host.profile().key, desk.token()
    desk.make("f")
    seen = "".join(
        ended.out + ended.err
        for ended in (
            desk("put", "f", FTPY_DEBUG="1"),
            desk("ls", "-l", "--json"),
            desk("pair", "again", input=token),
            desk("get", "-s", "again", "nothing"),
        )
    )
    assert key not in seen and token not in seen and token[20:60] not in seen
    desk.config.write_text(desk.config.read_text().replace(f'key = "{key}"', f'key = "{key}x"'))
    ended = desk("ls")
    ended.failed(2, "key")
    assert key not in ended.err


@pytest.mark.parametrize("verb", ["", "pair", "put", "get", "ls", "stat", "digest", "rm", "mv", "run"])
def test_help_shows_examples_and_exit_codes(fresh: Desk, verb: str) -> None:
    ended = fresh(*verb.split(), "--help")
    assert ended.code == 0 and ended.out == fresh(*verb.split(), "-h").out
    assert "Exit codes:" in ended.out
    for line in ended.out.partition("Examples:\n")[2].partition("\n\n")[0].splitlines():
        assert re.search(rf"\bftpy {verb}\b", line), line


def test_version_is_the_packages(fresh: Desk) -> None:
    import ftpy

    assert fresh("--version").out == f"ftpy, version {ftpy.__version__}\n"
