"""Certificates by themselves: a handshake as strict as Python knows, and what does not belong together."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest

from midstream.securing import certificates
from midstream.securing.certificates import CertificateError, Pair

NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture(scope="module")
def authority() -> Pair:
    key = certificates.new_key()
    return Pair(certificates.authority_certificate(key, "authority", NOW), key)


@pytest.fixture(scope="module")
def server(authority: Pair) -> Pair:
    key = certificates.new_key()
    return Pair(certificates.server_certificate(authority, key, ["broker.home", "10.0.0.1"], NOW), key)


@pytest.fixture(scope="module")
def client(authority: Pair) -> Pair:
    key = certificates.new_key()
    return Pair(certificates.client_certificate(authority, key, "pi", NOW), key)


def context(side: int, own: Pair, authority: Pair, folder: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(side)
    (folder / "cert.pem").write_bytes(own.certificate)
    (folder / "key.pem").write_bytes(own.key)
    made.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    made.load_verify_locations(cadata=authority.certificate.decode())
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    return made


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> dict[str, object] | None:
    """Both ends' handshake in memory; gives the client's certificate as the server sees it."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(down, up, server_hostname=name)
    far = server.wrap_bio(up, down, server_side=True)
    waiting = [near, far]
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
    assert not waiting
    return far.getpeercert()


@pytest.mark.parametrize("name", ["broker.home", "10.0.0.1"])
def test_a_strict_handshake_tells_the_server_who_the_client_is(
    authority: Pair, server: Pair, client: Pair, tmp_path: Path, name: str
) -> None:
    far = context(ssl.PROTOCOL_TLS_SERVER, server, authority, tmp_path)
    near = context(ssl.PROTOCOL_TLS_CLIENT, client, authority, tmp_path)
    shown = shake_hands(far, near, name)
    assert shown is not None
    assert shown["subject"] == ((("commonName", "pi"),),)


def test_another_name_or_the_wrong_purpose_does_not_verify(
    authority: Pair, server: Pair, client: Pair, tmp_path: Path
) -> None:
    far = context(ssl.PROTOCOL_TLS_SERVER, server, authority, tmp_path)
    near = context(ssl.PROTOCOL_TLS_CLIENT, client, authority, tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(far, near, "other.home")
    as_server = context(ssl.PROTOCOL_TLS_SERVER, client, authority, tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        shake_hands(as_server, near, "broker.home")
    as_client = context(ssl.PROTOCOL_TLS_CLIENT, server, authority, tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        shake_hands(far, as_client, "broker.home")


def test_what_is_in_them_is_read_again(authority: Pair, server: Pair, client: Pair) -> None:
    certificates.check(authority, authority.certificate)
    certificates.check(server, authority.certificate)
    assert certificates.hosts(server.certificate) == ["broker.home", "10.0.0.1"]
    assert certificates.hosts(client.certificate) == []
    assert certificates.common_name(client.certificate) == "pi"
    end = (NOW + datetime.timedelta(days=certificates.LEAF_DAYS)).replace(microsecond=0)
    assert certificates.expires(client.certificate) == end


def test_what_does_not_belong_together_is_refused(authority: Pair, server: Pair, client: Pair) -> None:
    with pytest.raises(CertificateError, match="not that of the certificate"):
        certificates.check(Pair(server.certificate, client.key))
    key = certificates.new_key()
    same_name = certificates.authority_certificate(key, "authority", NOW)
    with pytest.raises(CertificateError, match="another authority"):
        certificates.check(client, same_name)
    with pytest.raises(CertificateError, match="not a private key"):
        certificates.check(Pair(client.certificate, b"hunter2"))


def test_a_client_does_not_outlive_its_authority() -> None:
    key = certificates.new_key()
    short = Pair(certificates.authority_certificate(key, "authority", NOW, days=10), key)
    assert certificates.expires(certificates.client_certificate(short, key, "pi", NOW)) == certificates.expires(
        short.certificate
    )
