"""Receipts: given for what is durable, verified without a connection; whatever is changed in one is told."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftpy.cli.main import ftpy
from ftpy.client import receipts
from ftpy.client.receipts import verify
from ftpy.config.client import save_profile
from ftpy.errors import Changed, NotFound, PermissionDenied, ReceiptInvalid, Unsupported
from ftpy.server.identity import certificate_sha256, make_identity
from ftpy.storage import syscalls
from ftpy.wire.receipts import Receipt
from tests.rig import Daemon, Host, running


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Receipt, str]:
    """A good receipt, and the pin of its server."""
    folder = tmp_path_factory.mktemp("receipts")
    (folder / "source").write_bytes(b"content")
    with running(folder / "host") as host, host.client() as client:
        stored = client.put(folder / "source", "café/a")
        return client.receipt("café/a", etag=stored.etag), host.profile().certificate_sha256 or ""


def test_a_receipt_states_what_was_stored(made: tuple[Receipt, str]) -> None:
    statement = verify(*made)
    assert (str(statement.remote_path()), statement.size, statement.user) == ("café/a", 7, "alice")
    assert statement.digest() == ("md5", "9a0364b9e99bb480dd25e1f0284c8555")
    assert Receipt.from_file(made[0].to_file()) == made[0]


def test_a_receipt_of_another_server_is_refused(made: tuple[Receipt, str], tmp_path: Path) -> None:
    make_identity(str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem"))
    with pytest.raises(ReceiptInvalid, match="another server"):
        verify(made[0], certificate_sha256(str(tmp_path / "certificate.pem")).hex())


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_change_of_a_receipt_is_told(made: tuple[Receipt, str], data: st.DataObject) -> None:
    good = made[0].to_file()
    at = data.draw(st.integers(0, len(good) - 1))
    bad = data.draw(
        st.one_of(
            st.integers(1, 255).map(lambda flip: good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :]),
            st.just(good[:at]),
            st.just(good[:at] + good[at + 1 :]),
            st.binary(min_size=1, max_size=4).map(lambda more: good[:at] + more + good[at:]),
            st.binary(min_size=1, max_size=4).map(lambda more: good + more),
        ).filter(lambda bad: bad != good)
    )
    with pytest.raises(ReceiptInvalid):
        verify(Receipt.from_file(bad), made[1])


OTHERS: dict[str, Any] = {
    "size": 8,
    "time_ns": 1,
    "path": "other",
    "server": "other",
    "user": "mallory",
    "md5": "0" * 32,
    "blake3": "0" * 64,
}


@pytest.mark.parametrize("field", OTHERS)
def test_every_field_of_a_statement_is_signed(made: tuple[Receipt, str], field: str) -> None:
    statement = msgspec.structs.replace(verify(*made), **{field: OTHERS[field]})
    with pytest.raises(ReceiptInvalid, match="signature is wrong"):
        verify(msgspec.structs.replace(made[0], statement=statement.text()), made[1])


@pytest.mark.parametrize("spelling", [lambda text: text.replace(":", ": "), lambda text: json.dumps(json.loads(text))])
def test_a_statement_is_spelt_in_one_way_only(made: tuple[Receipt, str], spelling: Any) -> None:
    with pytest.raises(ReceiptInvalid, match="not spelt"):
        verify(msgspec.structs.replace(made[0], statement=spelling(made[0].statement)), made[1])


def test_a_statement_about_no_legal_path_is_refused(made: tuple[Receipt, str]) -> None:
    statement = msgspec.structs.replace(verify(*made), path="../a")
    with pytest.raises(ReceiptInvalid, match="damaged"):
        verify(msgspec.structs.replace(made[0], statement=statement.text()), made[1])


# ------------------------------------------------------------------ what is given


def test_a_receipt_is_for_the_version_that_was_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    with running(tmp_path / "host") as host, host.client() as client:
        stored = client.put(tmp_path / "a", "a")
        (tmp_path / "a").write_bytes(b"2")
        client.put(tmp_path / "a", "a")
        with pytest.raises(Changed):
            client.receipt("a", etag=stored.etag)
        assert client.receipt("a", digest="blake3").parts()[0].blake3 is not None
        with pytest.raises(NotFound):
            client.receipt("nothing")


def test_who_may_only_put_has_receipts_for_its_own(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    with running(tmp_path / "host") as host:
        host.add_user("dropper", rights=("write",))
        with host.client("dropper") as client:
            stored = client.put(tmp_path / "a", "a")
            assert client.receipt("a", etag=stored.etag).parts()[0].user == "dropper"
            with pytest.raises(PermissionDenied):
                client.receipt("a")
        (host.root / "hosts").write_bytes(b"not put by anybody")
        host.add_user("lister", rights=("write", "list"))
        with host.client("lister") as client:
            for name in ("a", "hosts"):  # of a the server remembers the digest
                known = client.stat(name)
                assert known.md5 is None
                with pytest.raises(PermissionDenied):
                    client.receipt(name, etag=known.etag)


def test_nothing_is_stated_of_what_cannot_be_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"1")
    with running(tmp_path / "host") as host, host.client() as client:
        stored = client.put(tmp_path / "a", "a")

        def failing(fd: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(syscalls, "fsync", failing)
        with pytest.raises(Exception, match=r"disk|Input"):
            client.receipt("a", etag=stored.etag)


def test_a_server_without_tls_has_nothing_to_sign_with(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    with running(tmp_path / "host", tls=False) as host, host.client() as client:
        client.put(tmp_path / "a", "a")
        with pytest.raises(Unsupported):
            client.receipt("a")


# ------------------------------------------------------------------ as a user types it


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder, a paired server, and a.receipt for a."""
    with running(tmp_path / "host") as host:
        save_profile(tmp_path / "client.toml", "home", host.profile())
        monkeypatch.setenv("FTPY_CONFIG", str(tmp_path / "client.toml"))
        monkeypatch.chdir(tmp_path)
        (tmp_path / "a").write_bytes(b"content")
        assert say("put", "-q", "--receipt", "a.receipt", "a") == (0, "")
        yield tmp_path


def say(*arguments: str) -> tuple[int, str]:
    """The exit code, or the error's, and what was said."""
    result = CliRunner().invoke(ftpy, list(arguments), standalone_mode=False)
    if result.exception is not None:
        return getattr(result.exception, "exit_code", 1), str(result.exception)
    return result.return_value or 0, result.output


def test_verify_tells_same_changed_and_gone(desk: Path) -> None:
    code, said = say("verify", "a.receipt", "a")
    assert code == 0 and said.splitlines()[1:] == ["a: the same", "home: still there, the same"]
    (desk / "b").write_bytes(b"something else")
    assert say("put", "-q", "b", "a")[0] == 0
    assert say("verify", "a.receipt")[0] == 1 and "changed since" in say("verify", "a.receipt")[1]
    assert say("rm", "-q", "a")[0] == 0
    code, said = say("verify", "--json", "a.receipt")
    assert code == 1 and json.loads(said)["found"] == "gone"
    assert say("verify", "a.receipt", "a", "--offline", "-q") == (0, "")


def test_verify_offline_makes_no_connection(desk: Path) -> None:
    text = (desk / "client.toml").read_text()
    (desk / "client.toml").write_text(re.sub(r'"127.0.0.1:[0-9]+"', '"127.0.0.1:1"', text))
    code, said = say("verify", "--offline", "--json", "a.receipt")
    assert code == 0 and "found" not in json.loads(said)
    assert say("verify", "a.receipt")[0] == 3


def test_verify_refuses_what_the_receipt_is_not_for(desk: Path) -> None:
    (desk / "b").write_bytes(b"contenT")
    assert say("verify", "a.receipt", "b", "--offline") == (5, "b: this is not what the receipt was given for")
    bad = (desk / "a.receipt").read_bytes()
    (desk / "a.receipt").write_bytes(bad.replace(b'size\\":7', b'size\\":8'))
    assert say("verify", "a.receipt", "--offline")[0] == 5
    assert say("verify", "nothing.receipt")[0] == 1


def test_a_receipt_is_for_one_file(desk: Path) -> None:
    assert say("put", "--receipt", "x", "a", "a.receipt", "d/")[0] == 2
    assert say("put", "-r", "--receipt", "x", "a")[0] == 2
    assert not (desk / "x").exists()


@pytest.mark.slow
def test_a_sandboxed_server_signs_although_it_imports_what_it_needs_only_then(tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("Landlock")
    host = Host(tmp_path / "host")
    (tmp_path / "a").write_bytes(b"1")
    with Daemon(host), host.client() as client:
        stored = client.put(tmp_path / "a", "a")
        assert client.receipt("a", etag=stored.etag).parts()[0].size == 1


def test_a_receipt_takes_the_place_of_nothing_but_a_receipt(desk: Path) -> None:
    (desk / "b").write_bytes(b"precious")
    code, said = say("put", "-q", "--receipt", "b", "a")
    assert code == 1 and said.startswith("b: there is something else than a receipt here")
    assert (desk / "b").read_bytes() == b"precious"
    assert say("put", "-q", "--receipt", "nowhere/r", "b")[1].startswith("nowhere/r: there is no such folder")
    assert say("stat", "b")[0] != 0  # neither was put
    assert say("put", "-q", "--receipt", "a.receipt", "b") == (0, "")
    assert say("verify", "-q", "a.receipt", "b") == (0, "")


def test_a_receipt_has_a_name_and_is_not_what_is_sent(desk: Path) -> None:
    receipt = (desk / "a.receipt").read_bytes()
    os.link(desk / "a.receipt", desk / "link")
    for name in ("a.receipt", "link", "./link"):
        assert say("put", "--receipt", name, "a.receipt", "new")[1].endswith("would take the place of what it is for")
    for name in ("", "./"):
        assert "there is no such folder" in say("put", "--receipt", name, "a", "new")[1]
    assert (desk / "a.receipt").read_bytes() == receipt and say("stat", "new")[0] != 0


def test_what_came_while_a_put_went_on_stays_where_its_receipt_was_to_be(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = receipts.receipt_of

    def meanwhile(*about: Any) -> Any:
        (desk / "r").write_bytes(b"precious")
        return asked(*about)

    monkeypatch.setattr(receipts, "receipt_of", meanwhile)
    code, said = say("put", "-q", "--receipt", "r", "a", "new")
    assert code == 1 and "r: there is something else than a receipt here" in said
    assert (desk / "r").read_bytes() == b"precious" and say("stat", "new")[0] == 0


def test_a_receipt_is_compared_by_the_user_that_it_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTPY_CONFIG", str(tmp_path / "client.toml"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_bytes(b"content")
    with running(tmp_path / "host") as host:
        (host.root / "bobs").mkdir()
        host.add_user("bob", root=str(host.root / "bobs"))
        save_profile(tmp_path / "client.toml", "first", host.profile())
        save_profile(tmp_path / "client.toml", "second", host.profile("bob"))
        assert say("put", "-q", "-s", "second", "--receipt", "r", "a") == (0, "")
        assert say("verify", "r")[1].endswith("second: still there, the same\n")
        assert say("verify", "-s", "first", "--offline", "-q", "r") == (0, "")
        code, said = say("verify", "-s", "first", "r")
        assert code == 2 and "the receipt is for the user bob, and this client is paired as alice" in said
