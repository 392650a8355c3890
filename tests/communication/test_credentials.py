"""A client's folder, whole and damaged."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from midstream.communication.address import CREDENTIALS_VARIABLE, parse_broker_url
from midstream.communication.credentials import read_credentials, tls_context
from midstream.errors import InputError
from midstream.securing import SecureFolder, certificates


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> SecureFolder:
    return SecureFolder.open(tmp_path_factory.mktemp("secure") / "folder", devices=["pi"])


@pytest.fixture
def folder(secure: SecureFolder, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    copy = tmp_path / "pi"
    copy.mkdir()
    for file in secure.client("pi").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def test_a_folder_says_who_the_client_is(folder: Path) -> None:
    found = read_credentials(folder)
    assert (found.name, found.role, found.username, found.password) == ("pi", "device", None, None)
    assert (found.authority, found.certificate, found.key) == tuple(folder / f"{n}.pem" for n in ("ca", "cert", "key"))


def test_the_brokers_certificate_and_name_are_always_checked(folder: Path) -> None:
    for context in (tls_context(read_credentials(folder)), tls_context(None)):
        assert context.check_hostname
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_only_the_folders_own_authority_is_trusted(folder: Path) -> None:
    context = tls_context(read_credentials(folder))
    (authority,) = context.get_ca_certs()
    assert authority["subject"] == ((("commonName", "midstream broker's authority"),),)


def test_an_authority_or_an_account_alone_will_do(folder: Path) -> None:
    for name in ("cert.pem", "key.pem"):
        (folder / name).unlink()
    (folder / "client.toml").write_text('username = "pi"\npassword = "hunter2"\n')
    found = read_credentials(folder)
    assert (found.username, found.password, found.certificate) == ("pi", "hunter2", None)
    assert "hunter2" not in repr(found)
    (folder / "ca.pem").unlink()
    assert read_credentials(folder).authority is None


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("key.pem", None, r"holds cert\.pem but no key\.pem"),
        ("cert.pem", None, r"holds key\.pem but no cert\.pem"),
        ("key.pem", b"hunter2", r"cert\.pem and key\.pem cannot be used"),
        ("cert.pem", b"x", r"cert\.pem and key\.pem cannot be used"),
        ("key.pem", b"other", r"cert\.pem and key\.pem cannot be used \(key values mismatch\)"),
        ("key.pem", b"locked", r"cert\.pem and key\.pem cannot be used .*without a password"),
        ("ca.pem", b"x", r"ca\.pem cannot be used"),
        ("client.toml", b'password = "hunter2', r"client\.toml is not TOML"),
        ("client.toml", b'passwort = "hunter2"', r"client\.toml has a key 'passwort' that is not known"),
        ("client.toml", b'password = "hunter2"', r"client\.toml has a password and no username"),
        ("client.toml", b"name = 1", r"client\.toml has a key 'name' that is not known, or not text"),
        ("client.toml", b"#" * 5000, r"client\.toml cannot be read: it is larger"),
    ],
)
def test_damage_is_named_without_any_secret(folder: Path, file: str, content: bytes | None, complaint: str) -> None:
    key = (folder / "key.pem").read_bytes()
    if content is None:
        (folder / file).unlink()
    elif content == b"other":
        (folder / file).write_bytes(certificates.new_key())
    elif content == b"locked":
        lock = serialization.BestAvailableEncryption(b"hunter2")
        locked = serialization.load_pem_private_key(key, None).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock
        )
        (folder / file).write_bytes(locked)
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(InputError, match=complaint) as caught:
        read_credentials(folder)
    assert "hunter2" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_folder_without_any_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no credentials.*DIR/clients/NAME"):
        read_credentials(tmp_path)
    with pytest.raises(InputError, match="holds no credentials"):
        read_credentials(tmp_path / "nowhere")


def test_the_folder_comes_from_the_call_or_the_environment(folder: Path, tmp_path: Path) -> None:
    from_environment = parse_broker_url("mqtts://h", {CREDENTIALS_VARIABLE: str(folder)})
    from_call = parse_broker_url("wss://h", {CREDENTIALS_VARIABLE: str(tmp_path)}, folder)
    for address in (from_environment, from_call):
        assert address.credentials is not None
        assert address.credentials.folder == folder
        assert address.has_account
    assert parse_broker_url("mqtts://h", {CREDENTIALS_VARIABLE: ""}).credentials is None


def test_the_url_goes_before_the_folder_and_the_folder_before_the_environment(folder: Path) -> None:
    (folder / "client.toml").write_text('username = "of-folder"\npassword = "1"\n')
    environment = {"MIDSTREAM_MQTT_USERNAME": "of-environment", "MIDSTREAM_MQTT_PASSWORD": "2"}
    by_url = parse_broker_url("mqtts://of-url:3@h", environment, folder)
    by_folder = parse_broker_url("mqtts://h", environment, folder)
    assert (by_url.username, by_url.password) == ("of-url", "3")
    assert (by_folder.username, by_folder.password) == ("of-folder", "1")


@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_credentials_never_go_with_a_url_that_is_not_encrypted(folder: Path, scheme: str) -> None:
    with pytest.raises(
        InputError, match=f"'{scheme}://h' is not encrypted, but there are credentials.*{scheme}s://"
    ) as caught:
        parse_broker_url(f"{scheme}://kitchen:hunter2@h", {CREDENTIALS_VARIABLE: str(folder)})
    assert "hunter2" not in str(caught.value)


def test_the_folder_names_its_client(folder: Path) -> None:
    address = parse_broker_url("mqtts://h", {}, folder)
    assert address.client_name("device", None) == "pi"
    assert address.client_name("device", "pi") == "pi"
    with pytest.raises(InputError, match="credentials of device pi, and this is a gateway"):
        address.client_name("gateway", None)
    with pytest.raises(InputError, match="'pi', and the id asked for is 'attic'"):
        address.client_name("device", "attic")
    assert parse_broker_url("mqtts://h", {}).client_name("device", "attic") == "attic"
