"""Users: who is known, what each may do, and that a running server hears of every change."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time

import pytest

from ftpy.errors import ConfigError
from ftpy.server import accounts as module
from ftpy.server.accounts import Account, Accounts, legal_user_name
from ftpy.server.rights import RIGHTS
from ftpy.wire.auth import verifier

posix = pytest.mark.skipif(os.name != "posix", reason="modes and owners of files mean nothing on Windows")
as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file to another user"
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "users.json"


@pytest.fixture
def accounts(path):
    return Accounts.create(path)


@pytest.fixture
def at_once(monkeypatch):
    """Open sessions look at the file at every question."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)


def edit(path, **changes):
    """Change users.json as an editor does; the first user's fields where they are named so."""
    content = json.loads(path.read_text())
    for key, value in changes.items():
        (content if key in content else content["users"][0])[key] = value
    path.write_text(json.dumps(content))


# ------------------------------------------------------------------ who is known


def test_lookup_gives_the_verifier_of_the_key_that_add_returned(accounts):
    key = accounts.add("alice", root="/srv/alice", rights=("read", "list"))
    keys, account = accounts.lookup("alice")
    assert keys == verifier(key, "alice")
    assert account is not None
    assert (account.name, account.root, account.rights) == ("alice", "/srv/alice", frozenset({"list", "read"}))


def test_add_gives_every_right_and_the_servers_root_when_nothing_is_said(accounts):
    accounts.add("alice")
    [account] = accounts.all()
    assert (account.root, account.rights) == (None, frozenset(RIGHTS))


def test_lookup_of_an_unknown_user_gives_a_verifier_that_stays_the_same(accounts, path):
    accounts.add("alice")
    keys, account = accounts.lookup("mallory")
    assert account is None
    assert keys == Accounts(path).lookup("mallory")[0]
    assert keys not in (accounts.lookup("alice")[0], accounts.lookup("mallorx")[0])


def test_lookup_of_an_unknown_user_differs_between_servers(accounts, tmp_path):
    other = Accounts.create(tmp_path / "other.json")
    assert accounts.lookup("mallory")[0] != other.lookup("mallory")[0]


def test_lookup_takes_as_long_for_a_known_user_as_for_an_unknown_one(accounts):
    accounts.add("alice")

    times: dict[str, list[float]] = {"alice": [], "mallo": []}
    for _ in range(300):
        for name, seen in times.items():  # in turn: the machine may be busy with other work for a while
            start = time.perf_counter()
            accounts.lookup(name)
            seen.append(time.perf_counter() - start)
    # A dictionary alone answers in a fifth of the time that the decoy's keys cost.
    assert 0.7 < min(times["alice"]) / min(times["mallo"]) < 1.4


# ------------------------------------------------------------------ changes


def test_changes_of_another_process_are_seen_when_somebody_comes_in(accounts, path):
    other = Accounts(path)
    key = other.add("alice")
    assert accounts.lookup("alice") == (verifier(key, "alice"), other.all()[0])
    fresh = other.rotate("alice")
    assert accounts.lookup("alice")[0] == verifier(fresh, "alice") != verifier(key, "alice")
    other.remove("alice")
    assert accounts.lookup("alice")[1] is None


@pytest.mark.parametrize(
    "change",
    [
        lambda other, path: other.rotate("alice"),
        lambda other, path: other.remove("alice"),
        lambda other, path: (other.remove("alice"), other.add("alice")),
        lambda other, path: edit(path, rights=["list"]),
        lambda other, path: edit(path, root="/elsewhere"),
    ],
    ids=["rotated", "removed", "removed and added again", "other rights", "other root"],
)
def test_is_current_is_false_when_the_account_changed(accounts, path, at_once, change):
    accounts.add("alice")
    account = accounts.lookup("alice")[1]
    change(Accounts(path), path)
    assert not accounts.is_current(account)


def test_is_current_stays_true_when_others_change(accounts, path, at_once):
    accounts.add("alice")
    account = accounts.lookup("alice")[1]
    other = Accounts(path)
    other.add("bob")
    other.rotate("bob")
    assert accounts.is_current(account)


def test_is_current_is_false_of_an_account_that_never_was(accounts):
    assert not accounts.is_current(Account("alice", None, frozenset(RIGHTS)))


def test_is_current_notices_within_its_second(accounts, path):
    accounts.add("alice")
    account = accounts.lookup("alice")[1]
    Accounts(path).remove("alice")
    until = time.monotonic() + module.LOOK_SECONDS + 0.5
    is_late = False
    while accounts.is_current(account):
        assert not is_late
        time.sleep(0.02)
        is_late = time.monotonic() >= until  # before it is asked


def test_is_current_does_not_touch_the_file_before_the_time_is_up(accounts, path, monkeypatch):
    accounts.add("alice")
    account = accounts.lookup("alice")[1]
    monkeypatch.setattr(module, "LOOK_SECONDS", 1000.0)
    path.unlink()
    assert accounts.is_current(account)
    assert accounts._stamp != (0, 0, 0, 0)


def test_a_broken_file_keeps_the_old_users_and_is_reported_once(accounts, path, caplog):
    key = accounts.add("alice")
    good = path.read_bytes()
    path.write_text('{"users": [')
    with caplog.at_level(logging.INFO, logger="ftpy"):
        for _ in range(3):
            assert accounts.lookup("alice")[0] == verifier(key, "alice")
        assert [record.event for record in caplog.records] == ["users-broken"]
        path.write_bytes(good)
        accounts.lookup("alice")
    assert [record.event for record in caplog.records] == ["users-broken", "users-read"]


def test_a_file_that_is_gone_keeps_the_old_users_until_it_is_back(accounts, path, caplog):
    accounts.add("alice")
    good = path.read_bytes()
    path.unlink()
    for _ in range(3):
        assert accounts.lookup("alice")[1] is not None
    assert [record.event for record in caplog.records] == ["users-broken"]
    path.write_bytes(good)
    path.chmod(0o600)
    Accounts(path).add("bob")
    assert accounts.lookup("bob")[1] is not None


@posix
def test_a_file_that_others_can_read_is_not_taken_until_that_is_mended(accounts, path):
    Accounts(path).add("alice")
    path.chmod(0o640)
    assert accounts.lookup("alice")[1] is None
    path.chmod(0o600)
    assert accounts.lookup("alice")[1] is not None


def test_users_added_at_once_by_threads_all_count(accounts, path):
    threads = [threading.Thread(target=accounts.add, args=(f"u{number}",)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Accounts(path).all()) == 12


def test_users_added_at_once_by_processes_all_count(accounts, path):
    code = "import sys; from ftpy.server.accounts import Accounts; a = Accounts(sys.argv[1]); input()\n"
    code += "for n in range(10): a.add(f'{sys.argv[2]}{n}')"
    racers = [
        subprocess.Popen([sys.executable, "-c", code, str(path), name], stdin=subprocess.PIPE) for name in ("a", "b")
    ]
    for racer in racers:
        racer.stdin.write(b"go\n")
        racer.stdin.flush()
    for racer in racers:
        racer.communicate(timeout=30)
        assert racer.returncode == 0
    assert len(accounts.all()) == 20


# ------------------------------------------------------------------ the file


@posix
def test_the_file_is_for_its_owner_alone_and_nothing_is_left_beside_it(accounts, path):
    accounts.add("alice")
    assert path.stat().st_mode & 0o777 == 0o600
    assert {entry.name for entry in path.parent.iterdir()} == {"users.json", ".users.json.lock"}


def test_the_file_holds_verifiers_and_no_key(accounts, path):
    key = accounts.add("alice")
    from ftpy.wire.spelling import b64encode

    text = path.read_text()
    assert b64encode(verifier(key, "alice").stored_key) in text
    assert b64encode(key) not in text
    assert key not in path.read_bytes()


def test_a_relative_root_is_relative_to_the_folder_of_the_file(accounts, path):
    accounts.add("alice")
    edit(path, root="alice")
    assert accounts.all()[0].root == str(path.parent / "alice")


@posix
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_open_is_refused_when_others_can_reach_the_file(accounts, path, mode):
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}"):
        Accounts(path)


@as_root
def test_open_is_refused_when_the_file_belongs_to_another_user(accounts, path):
    os.chown(path, 12345, 12345)
    with pytest.raises(ConfigError, match="uid 12345"):
        Accounts(path)


@as_root
def test_a_change_by_root_leaves_the_file_to_its_owner(accounts, path):
    from ftpy.durable import replace_file

    os.chown(path, 12345, 23456)
    replace_file(str(path), b"{}", 0o600)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)


@posix
def test_a_change_leaves_a_link_a_link(accounts, path, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    path.rename(tmp_path / "elsewhere" / "users.json")
    path.symlink_to("elsewhere/users.json")
    Accounts(path).add("alice")
    assert path.is_symlink()
    assert len(Accounts(tmp_path / "elsewhere" / "users.json").all()) == 1


def test_create_is_refused_when_there_is_a_file_already(accounts, path):
    accounts.add("alice")
    with pytest.raises(ConfigError, match="exists already"):
        Accounts.create(path)
    assert len(Accounts(path).all()) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rights": ["list", "raed"]}, "user alice: unknown right raed; did you mean read?"),
        ({"name": "Alice"}, "users[0].name"),
        ({"stored_key": "short"}, "users[0].stored_key"),
        ({"stored_key": "_" * 43}, "not base64url"),
        ({"decoy_key": "_" * 43}, "not base64url"),
        ({"created_ns": None}, "users[0].created_ns"),
        ({"root": ""}, "users[0].root"),
        ({"users": [1]}, "users[0]"),
    ],
)
def test_open_is_refused_in_one_line_without_secrets_when_the_file_is_wrong(accounts, path, changes, said):
    accounts.add("alice")
    secret = json.loads(path.read_text())["users"][0]["server_key"]
    edit(path, **changes)
    with pytest.raises(ConfigError) as refused:
        Accounts(path)
    assert said in str(refused.value)
    assert str(refused.value).isprintable()
    assert secret not in str(refused.value)


def test_open_is_refused_when_a_user_is_there_twice(accounts, path):
    accounts.add("alice")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"users": content["users"] * 2}))
    with pytest.raises(ConfigError, match="alice is there twice"):
        Accounts(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'{"users":[],"decoy_key":"x","more":1}'])
def test_open_is_refused_when_it_is_another_file(path, content):
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"users\.json"):
        Accounts(path)


def test_open_is_refused_when_there_is_no_file(path):
    with pytest.raises(ConfigError, match="No such file"):
        Accounts(path)


# ------------------------------------------------------------------ what cannot be done


@pytest.mark.parametrize("name", ["", "Alice", "a b", "-a", ".a", "a/b", "ä", "a\n", "a" * 65])
def test_add_is_refused_when_the_name_is_not_legal(accounts, name):
    with pytest.raises(ConfigError) as refused:
        accounts.add(name)
    assert str(refused.value).isprintable()
    assert accounts.all() == []


def test_add_is_refused_and_keeps_the_key_when_the_user_exists(accounts):
    key = accounts.add("alice")
    with pytest.raises(ConfigError, match="already"):
        accounts.add("alice")
    assert accounts.lookup("alice")[0] == verifier(key, "alice")


@pytest.mark.parametrize("change", ["remove", "rotate"])
def test_change_of_an_unknown_user_names_the_nearest(accounts, change):
    accounts.add("alice")
    with pytest.raises(ConfigError, match="no user alic; did you mean alice"):
        getattr(accounts, change)("alic")


@pytest.mark.parametrize(
    ("login", "legal"),
    [
        ("alice", "alice"),
        ("Alice Smith", "alice-smith"),
        ("DOMAIN\\bob", "domain-bob"),
        ("_www", "www"),
        ("王", "user"),
        ("", "user"),
        ("x" * 80, "x" * 64),
    ],
)
def test_legal_user_name_makes_any_login_legal(accounts, login, legal):
    assert legal_user_name(login) == legal
    accounts.add(legal)


def test_nothing_secret_is_in_any_repr(accounts):
    accounts.add("alice")
    keys, account = accounts.lookup("alice")
    shown = f"{accounts!r} {account!r} {keys!r} {accounts._known!r} {accounts._read()!r}"
    for secret in (account.stored_key, keys.server_key, keys.stored_key, accounts._known.decoy_key):
        assert str(secret) not in shown
        assert repr(secret) not in shown
