"""``ftpy-server user`` as an administrator meets it: who may what, how much of it, and how it is said."""

from __future__ import annotations

import json
import re

import pytest

from ftpy.server.accounts import Accounts
from ftpy.server.identity import certificate_sha256
from ftpy.server.rights import PRESETS, RIGHTS
from ftpy.wire.auth import verifier
from ftpy.wire.spelling import b64decode
from tests.cli.administering import invoke, refused, run, token_of


def account_of(settings, name):
    """What the file says of a user."""
    return Accounts(settings.parent / "users.json").lookup(name)[1]


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
    invoke("user", "add", "bob", "--right", "read", "--right", "list", "--root", tmp_path / "bob", "-c", made)
    account = Accounts(made.parent / "users.json").lookup("bob")[1]
    assert (account.rights, account.root) == (frozenset({"list", "read"}), str(tmp_path / "bob"))


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


@pytest.mark.parametrize("verb", ["remove", "rotate", "change"])
def test_user_change_names_the_nearest_when_the_user_is_unknown(made, verb):
    options = ["--preset", "all"] if verb == "change" else []
    code, out, err = run("user", verb, "alic", *options, "-c", made)
    assert (code, out, err) == (2, "", "ftpy-server: there is no user alic; did you mean alice?\n")


def test_user_list_shows_who_may_what_and_no_secret(made, tmp_path):
    (tmp_path / "bob").mkdir()
    limits = ("--rule", "in=write", "--rule", "no=", "--quota", "1.5G", "--quota-files", "7", "--rate", "2M")
    invoke("user", "add", "bob", "--right", "read", "--root", tmp_path / "bob", *limits, "-c", made)
    code, out, err = run("user", "list", "-c", made)
    assert (code, err) == (0, "")
    head, alice, bob = out.splitlines()
    assert head.split() == ["NAME", "RIGHTS", "LIMITS", "SINCE", "ROOT"]
    assert re.fullmatch(r"alice +list,read,write,replace,delete +- +\d{4}-\d\d-\d\d +\(the server's\)", alice)
    assert re.fullmatch(rf"bob +read in=write no= +1536M 7 files 2M/s +\d{{4}}-\d\d-\d\d +{tmp_path}/bob", bob)
    lines = [json.loads(line) for line in invoke("user", "list", "--json", "-c", made).stdout.splitlines()]
    assert all(line.pop("created_ns") > 0 for line in lines)
    unlimited = dict.fromkeys(["root", "quota_bytes", "quota_files", "rate", "connections"])
    assert lines == [
        {"name": "alice", "rights": list(RIGHTS), "rules": []} | unlimited,
        {
            "name": "bob",
            "rights": ["read"],
            "rules": [{"path": "in", "rights": ["write"]}, {"path": "no", "rights": []}],
            "root": f"{tmp_path}/bob",
            "quota_bytes": 1536 * 1024**2,
            "quota_files": 7,
            "rate": 2 * 1024**2,
            "connections": None,
        },
    ]


# ------------------------------------------------------------------ rights, rules, limits


@pytest.mark.parametrize("preset", PRESETS)
def test_user_add_takes_a_preset_for_several_rights(made, preset):
    invoke("user", "add", "bob", "--preset", preset, "-c", made)
    assert account_of(made, "bob").rights == frozenset(PRESETS[preset])


def test_user_add_adds_rights_to_a_preset(made):
    invoke("user", "add", "bob", "--preset", "drop-box", "--right", "list", "-c", made)
    assert account_of(made, "bob").rights == frozenset({"list", "write"})


@pytest.mark.parametrize(
    ("rule", "path", "rights"),
    [
        ("in=write", "in", {"write"}),
        ("/a/b/=read,list", "a/b", {"list", "read"}),
        ("a=", "a", set()),
        ("a=read-only,write", "a", {"list", "read", "write"}),
        ("a=b=all", "a=b", set(RIGHTS)),
    ],
)
def test_user_add_keeps_a_rule(made, rule, path, rights):
    invoke("user", "add", "bob", "--rule", rule, "-c", made)
    (kept,) = account_of(made, "bob").rules
    assert (str(kept.path), kept.rights) == (path, rights)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rule", "in"], "not like inbox=write"),
        (["--rule", "=write"], "not like inbox=write"),
        (["--rule", "../x=write"], ".. is not a name"),
        (["--rule", "in=wirte"], "'wirte' is no right"),
        (["--right", "ls"], "'ls' is not one of"),
        (["--preset", "everything"], "'everything' is not one of"),
        (["--quota", "10X"], "not a number of bytes"),
        (["--quota", "-1"], "not a number of bytes"),
        (["--quota", "9000000T"], "is not between"),
        (["--quota-files", "1.5"], "not a valid integer"),
        (["--rate", "1"], "is not between 1024"),
        (["--connections", "0"], "not in the range"),
    ],
)
def test_user_add_is_wrong_usage_in_one_line_and_changes_nothing(made, options, said):
    before = (made.parent / "users.json").read_bytes()
    code, out, err = run("user", "add", "bob", *options, "-c", made)
    assert (code, out) == (2, "")
    assert said in err and err.count("\n") == 1
    assert (made.parent / "users.json").read_bytes() == before


def test_user_add_is_refused_when_two_rules_are_for_one_path_in_other_letters(made):
    before = (made.parent / "users.json").read_bytes()
    said = refused("user", "add", "bob", "--rule", "In=write", "--rule", "in=read", "-c", made)
    assert "In and in are for one path" in said
    assert (made.parent / "users.json").read_bytes() == before


@pytest.mark.parametrize(
    ("option", "value", "field", "kept"),
    [
        ("--quota", "10G", "quota_bytes", 10 * 1024**3),
        ("--quota", "0", "quota_bytes", 0),
        ("--quota", "1.5KiB", "quota_bytes", 1536),
        ("--quota-files", "12", "quota_files", 12),
        ("--rate", "20M", "rate", 20 * 1024**2),
        ("--connections", "3", "connections", 3),
    ],
)
def test_user_change_sets_a_limit_and_none_takes_it_away(made, option, value, field, kept):
    before = account_of(made, "alice")
    assert getattr(before, field) is None
    code, out, err = run("user", "change", "alice", option, value, "-c", made)
    assert (code, out, err) == (0, "", "changed the user alice\n")
    assert getattr(account_of(made, "alice"), field) == kept
    invoke("user", "change", "alice", option, "none", "-c", made)
    assert account_of(made, "alice") == before


def test_user_change_keeps_the_key_and_all_that_is_not_named(made, tmp_path):
    (tmp_path / "bob").mkdir()
    token = token_of(invoke("user", "add", "bob", "--root", tmp_path / "bob", "--rule", "a=", "-c", made).stdout)
    invoke("user", "change", "bob", "--preset", "read-only", "-c", made)
    keys, account = Accounts(made.parent / "users.json").lookup("bob")
    assert keys == verifier(b64decode(token.key), "bob")
    assert account.rights == frozenset({"list", "read"})
    assert account.root == str(tmp_path / "bob")
    assert [str(rule.path) for rule in account.rules] == ["a"]


def test_user_change_replaces_the_rules_or_drops_them(made):
    invoke("user", "change", "alice", "--rule", "a=", "--rule", "b=", "-c", made)
    invoke("user", "change", "alice", "--rule", "c=read", "-c", made)
    assert [str(rule.path) for rule in account_of(made, "alice").rules] == ["c"]
    invoke("user", "change", "alice", "--no-rules", "-c", made)
    assert account_of(made, "alice").rules == ()


def test_user_change_gives_the_servers_root_back(made, tmp_path):
    (tmp_path / "bob").mkdir()
    invoke("user", "add", "bob", "--root", tmp_path / "bob", "-c", made)
    invoke("user", "change", "bob", "--root", "", "-c", made)
    assert account_of(made, "bob").root is None


@pytest.mark.parametrize("options", [[], ["--rule", "a=", "--no-rules"]])
def test_user_change_is_wrong_usage_when_it_says_nothing_or_contradicts_itself(made, options):
    before = (made.parent / "users.json").read_bytes()
    assert run("user", "change", "alice", *options, "-c", made)[0] == 2
    assert (made.parent / "users.json").read_bytes() == before
