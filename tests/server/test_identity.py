"""The server's certificate: what it is, and that it is what the protocol binds to."""

from __future__ import annotations

import datetime
import hashlib
import os
import socket
import ssl
import subprocess
import sys
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ftpy.errors import ConfigError
from ftpy.server.identity import certificate_sha256, check_identity, make_identity

posix = pytest.mark.skipif(os.name != "posix", reason="modes of files mean nothing on Windows")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("identity")
    cert, key = str(folder / "certificate.pem"), str(folder / "private_key.pem")
    make_identity(cert, key)
    return cert, key


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    cert, key = str(folder / "certificate.pem"), str(folder / "private_key.pem")
    make_identity(cert, key)
    return cert, key


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def test_certificate_is_p256_self_signed_for_ftpy_and_lasts_a_century(made):
    certificate = x509.load_pem_x509_certificate(read(made[0]))
    assert isinstance(certificate.public_key().curve, ec.SECP256R1)
    certificate.verify_directly_issued_by(certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["ftpy"]
    now = datetime.datetime.now(datetime.UTC)
    assert certificate.not_valid_before_utc < now
    assert certificate.not_valid_after_utc > now + datetime.timedelta(days=99 * 365)


@posix
def test_key_is_for_its_owner_alone_and_certificate_for_all(made):
    assert os.stat(made[1]).st_mode & 0o777 == 0o600
    assert os.stat(made[0]).st_mode & 0o777 == 0o644
    assert sorted(os.listdir(os.path.dirname(made[0]))) == ["certificate.pem", "private_key.pem"]


def test_two_servers_have_different_identities(made, other):
    assert certificate_sha256(made[0]) != certificate_sha256(other[0])
    assert read(made[1]) != read(other[1])


def test_certificate_sha256_is_what_a_client_sees_in_the_handshake(made):
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(*made)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with server.wrap_socket(theirs, server_side=True) as stream:
            stream.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    with client.wrap_socket(ours) as stream:
        seen = stream.getpeercert(binary_form=True)
        assert stream.version() == "TLSv1.3"
        stream.send(b"x")
    thread.join(10)
    assert hashlib.sha256(seen).digest() == certificate_sha256(made[0])


def test_certificate_sha256_is_of_the_leaf_when_a_chain_follows(made, other, tmp_path):
    chain = tmp_path / "chain.pem"
    chain.write_bytes(b"a comment\n" + read(made[0]) + read(other[0]))
    assert certificate_sha256(str(chain)) == certificate_sha256(made[0])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no certificate"),
        (b"\xff\x00", "no certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA", "no certificate"),
        (b"-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----", "no certificate"),
        (b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----", "damaged"),
    ],
)
def test_certificate_sha256_is_refused_when_the_file_holds_none(tmp_path, content, said):
    (tmp_path / "c.pem").write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        certificate_sha256(str(tmp_path / "c.pem"))


def test_check_identity_accepts_what_make_identity_made(made):
    check_identity(*made)


def test_check_identity_is_refused_when_the_key_is_of_another_certificate(made, other):
    with pytest.raises(ConfigError, match="do not belong together"):
        check_identity(made[0], other[1])


@posix
def test_check_identity_is_refused_when_others_can_read_the_key(made, tmp_path):
    key = tmp_path / "key.pem"
    key.write_bytes(read(made[1]))
    key.chmod(0o640)
    with pytest.raises(ConfigError, match="mode 0640"):
        check_identity(made[0], str(key))


@pytest.mark.parametrize("kind", ["encrypted", "garbage", "cut"])
def test_check_identity_is_refused_without_asking_when_the_key_cannot_be_used(made, tmp_path, kind):
    secret = read(made[1])
    encrypted = serialization.load_pem_private_key(secret, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    key = tmp_path / "key.pem"
    key.write_bytes({"encrypted": encrypted, "garbage": b"no key", "cut": secret[:100]}[kind])
    key.chmod(0o600)
    with pytest.raises(ConfigError, match="cannot be used") as refused:
        check_identity(made[0], str(key))
    assert secret.splitlines()[1].decode() not in str(refused.value)


@pytest.mark.parametrize("absent", [0, 1])
def test_check_identity_is_refused_when_a_file_is_absent(made, tmp_path, absent):
    paths = list(made)
    paths[absent] = str(tmp_path / "nowhere.pem")
    with pytest.raises(ConfigError, match=r"nowhere\.pem: No such file"):
        check_identity(*paths)


def test_make_identity_says_so_when_it_cannot_write(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written"):
        make_identity(str(tmp_path / "c.pem"), str(tmp_path / "nowhere" / "k.pem"))
    assert list(tmp_path.iterdir()) == []


def test_import_of_identity_and_accounts_needs_neither_cryptography_nor_ssl():
    code = "import sys, ftpy.server.identity, ftpy.server.accounts; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"ssl", "cryptography", "tomlkit"}.isdisjoint(loaded)
