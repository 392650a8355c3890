"""The folder of a secure broker: made, used again, completed, damaged, expired."""

from __future__ import annotations

import datetime
import os
import tomllib
from pathlib import Path

import pytest

from midstream.errors import InputError, MissingExtraError
from midstream.securing import SecureFolder, certificates
from midstream.securing.folder import LOOPBACK_HOSTS, check_host, listen_address

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.fixture
def made(tmp_path: Path) -> SecureFolder:
    return SecureFolder.open(tmp_path / "folder", devices=["a"], gateways=["g"], now=NOW)


def test_a_first_run_makes_all_that_is_needed(made: SecureFolder) -> None:
    client = {"ca.pem", "cert.pem", "key.pem", "client.toml"}
    assert set(contents(made.path)) == {
        "roles.toml",
        "authority/cert.pem",
        "authority/key.pem",
        "broker/ca.pem",
        "broker/cert.pem",
        "broker/key.pem",
        *(f"clients/{name}/{file}" for name in "ag" for file in client),
    }
    assert made.hosts == LOOPBACK_HOSTS
    assert made.notes == ()
    assert [(member.name, member.role) for member in made.members] == [("a", "device"), ("g", "gateway")]
    assert tomllib.loads((made.client("a") / "client.toml").read_text()) == {"name": "a", "role": "device"}


def test_keys_and_folders_are_their_owners_alone(made: SecureFolder) -> None:
    assert made.path.stat().st_mode & 0o777 == 0o700
    keys = list(made.path.rglob("key.pem"))
    assert len(keys) == 4
    for path in (*keys, made.client("a") / "client.toml", made.path / "roles.toml"):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_later_run_changes_nothing(made: SecureFolder) -> None:
    before = contents(made.path)
    again = SecureFolder.open(made.path, devices=["a"], gateways=["g"], now=NOW + DAY)
    assert contents(made.path) == before
    assert again == made


def test_a_later_run_adds_what_is_new(made: SecureFolder) -> None:
    before = contents(made.path)
    again = SecureFolder.open(made.path, devices=["b"], hosts=["broker.home", "10.0.0.1"], now=NOW + DAY)
    after = contents(made.path)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"roles.toml", "broker/cert.pem"}
    assert set(after) - set(before) == {f"clients/b/{n}" for n in ("ca.pem", "cert.pem", "key.pem", "client.toml")}
    assert again.hosts == (*LOOPBACK_HOSTS, "broker.home", "10.0.0.1")
    assert certificates.hosts(after["broker/cert.pem"]) == list(again.hosts)


def test_a_run_that_was_cut_off_is_finished(made: SecureFolder) -> None:
    before = contents(made.path)
    for name in ("clients/a/cert.pem", "clients/a/client.toml", "clients/a/ca.pem", "broker/cert.pem"):
        (made.path / name).unlink()
    SecureFolder.open(made.path, now=NOW)
    after = contents(made.path)
    assert set(after) == set(before)
    assert {name for name in before if before[name] != after[name]} <= {"clients/a/cert.pem", "broker/cert.pem"}


def test_the_gateways_of_a_pool_get_its_secret_and_nobody_else(made: SecureFolder) -> None:
    roles = made.path / "roles.toml"
    roles.write_text(roles.read_text().replace("[gateway.g]", '[gateway.g]\npools = ["p", "q"]'))
    first = SecureFolder.open(made.path, gateways=["h"], now=NOW)
    secrets = {pool: (made.client("g") / f"pool-{pool}.secret").read_text().strip() for pool in "pq"}
    assert secrets == first.secrets
    assert secrets["p"] != secrets["q"]
    assert all(len(secret) == 64 for secret in secrets.values())
    assert (made.client("g") / "pool-p.secret").stat().st_mode & 0o777 == 0o600
    assert not list(made.client("h").glob("pool*"))
    assert secrets["p"] not in repr(first)
    assert SecureFolder.open(made.path, now=NOW + DAY).secrets == secrets


def test_renewing_keeps_the_keys(made: SecureFolder) -> None:
    before = contents(made.path)
    SecureFolder.open(made.path, renew=True, now=NOW + 700 * DAY)
    after = contents(made.path)
    renewed = {"broker/cert.pem", "clients/a/cert.pem", "clients/g/cert.pem"}
    assert {name for name in before if before[name] != after[name]} == renewed
    for name in renewed:
        assert certificates.expires(after[name]) == NOW + (700 + certificates.LEAF_DAYS) * DAY


def test_what_ends_soon_is_noted_and_what_has_ended_is_refused(made: SecureFolder) -> None:
    end = NOW + certificates.LEAF_DAYS * DAY
    notes = SecureFolder.open(made.path, now=end - 29 * DAY).notes
    assert [note.split(" expires on ")[0] for note in notes] == [
        "the certificate of device a",
        "the certificate of gateway g",
        "the broker's certificate",
    ]
    assert all(f"{end:%Y-%m-%d}: --renew" in note for note in notes)
    with pytest.raises(InputError, match=rf"broker's certificate in .*broker expired on {end:%Y-%m-%d}.*--renew"):
        SecureFolder.open(made.path, now=end)
    renewed = SecureFolder.open(made.path, renew=True, now=end)
    assert renewed.notes == ()


def test_an_expired_client_is_only_noted(made: SecureFolder) -> None:
    later = NOW + 400 * DAY
    SecureFolder.open(made.path, hosts=["broker.home"], now=later)
    end = NOW + certificates.LEAF_DAYS * DAY
    notes = SecureFolder.open(made.path, now=end).notes
    assert f"the certificate of device a expired on {end:%Y-%m-%d}" in notes[0]


def test_nothing_outlives_the_authority(made: SecureFolder) -> None:
    end = NOW + certificates.AUTHORITY_DAYS * DAY
    renewed = SecureFolder.open(made.path, renew=True, now=end - DAY)
    assert certificates.expires((renewed.client("a") / "cert.pem").read_bytes()) == end
    assert any("make a new folder" in note for note in renewed.notes)
    with pytest.raises(InputError, match=rf"authority in .* expired on {end:%Y-%m-%d}.*make a new folder"):
        SecureFolder.open(made.path, renew=True, now=end)


def test_a_removed_name_loses_its_role_and_is_never_given_again(made: SecureFolder) -> None:
    removed = SecureFolder.open(made.path, remove=["a"], now=NOW)
    assert [member.name for member in removed.members] == ["g"]
    assert SecureFolder.open(made.path, remove=["a"], now=NOW) == removed
    with pytest.raises(InputError, match=r"roles\.toml: 'a' was removed.*another name"):
        SecureFolder.open(made.path, devices=["a"], now=NOW)


def test_a_name_taken_out_by_hand_is_not_given_again_either(made: SecureFolder) -> None:
    roles = made.path / "roles.toml"
    roles.write_text(roles.read_text().replace("[device.a]", ""))
    assert [member.name for member in SecureFolder.open(made.path, now=NOW).members] == ["g"]
    with pytest.raises(InputError, match="'a' was removed"):
        SecureFolder.open(made.path, devices=["a"], now=NOW)


def test_one_name_has_one_role(made: SecureFolder) -> None:
    with pytest.raises(InputError, match="'a' is a device"):
        SecureFolder.open(made.path, gateways=["a"], now=NOW)
    with pytest.raises(InputError, match="'x' cannot be a device and a gateway"):
        SecureFolder.open(made.path, devices=["x"], gateways=["x"], now=NOW)


@pytest.mark.parametrize("name", ["", "a/b", "../a", "+", "#", "a b", "ä", "x" * 65])
def test_a_name_is_part_of_a_topic_and_of_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be part of a topic"):
        SecureFolder.open(tmp_path / "folder", devices=[name], now=NOW)
    assert not (tmp_path / "folder").exists()


def test_a_foreign_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=r"is not empty, and has no roles\.toml"):
        SecureFolder.open(tmp_path, now=NOW)
    assert contents(tmp_path) == {"holiday.jpg": b"x"}
    with pytest.raises(InputError, match="is not a folder"):
        SecureFolder.open(tmp_path / "holiday.jpg", now=NOW)


@pytest.mark.skipif(os.name != "posix", reason="modes")
def test_a_folder_that_others_can_look_into_is_refused(made: SecureFolder) -> None:
    made.path.chmod(0o750)
    with pytest.raises(InputError, match="chmod 700"):
        SecureFolder.open(made.path, now=NOW)


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("authority/key.pem", None, r"authority is damaged: cert\.pem is there without its key\.pem"),
        ("authority/key.pem", b"x", "authority is damaged: it is not a private key"),
        ("authority/cert.pem", b"x", "authority is damaged: it is not a certificate"),
        ("broker/key.pem", b"other", "broker is damaged: the key is not that of the certificate"),
        ("broker/cert.pem", b"", "broker is damaged: it is not a certificate"),
        ("clients/a/key.pem", b"other", "clients/a is damaged: the key is not that of the certificate"),
        ("clients/a/key.pem", None, r"clients/a is damaged: cert\.pem is there without its key\.pem"),
        ("roles.toml", b"[device", r"roles\.toml: it is not TOML"),
    ],
)
def test_damage_is_named_and_nothing_is_overwritten(
    made: SecureFolder, file: str, content: bytes | None, complaint: str
) -> None:
    target = made.path / file
    if content is None:
        target.unlink()
    else:
        target.write_bytes(certificates.new_key() if content == b"other" else content)
    before = contents(made.path)
    with pytest.raises(InputError, match=complaint):
        SecureFolder.open(made.path, now=NOW)
    assert contents(made.path) == before


def test_a_certificate_of_another_authority_or_client_is_damage(made: SecureFolder, tmp_path: Path) -> None:
    other = SecureFolder.open(tmp_path / "other", devices=["a"], now=NOW)
    for file in ("cert.pem", "key.pem"):
        (made.client("a") / file).write_bytes((other.client("a") / file).read_bytes())
    with pytest.raises(InputError, match="another authority has signed"):
        SecureFolder.open(made.path, now=NOW)
    for file in ("cert.pem", "key.pem"):
        (made.client("a") / file).write_bytes((made.client("g") / file).read_bytes())
    with pytest.raises(InputError, match="the certificate is another client's"):
        SecureFolder.open(made.path, now=NOW)


def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cryptography", None)
    with pytest.raises(MissingExtraError, match=r"midstream\[secure\]"):
        SecureFolder.open(tmp_path / "folder", now=NOW)


@pytest.mark.parametrize("host", ["broker.home", "pi-4", "10.0.0.1", "fd00::1"])
def test_a_host_is_a_name_or_an_address(host: str) -> None:
    assert check_host(host) == host


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "224.0.0.1", "a b", "-a", "*.home", "x" * 64, "a\n", "http://h"])
def test_anything_else_is_no_host(host: str) -> None:
    with pytest.raises(InputError, match="host"):
        check_host(host)


@pytest.mark.parametrize(
    ("hosts", "address"),
    [
        ([], "127.0.0.1"),
        (["localhost"], "127.0.0.1"),
        (["::1", "localhost"], "127.0.0.1"),
        (["10.0.0.1"], "10.0.0.1"),
        (["fd00::1"], "fd00::1"),
        (["broker.home"], None),
        (["10.0.0.1", "broker.home"], None),
    ],
)
def test_it_listens_beyond_loopback_only_where_it_is_told_to(hosts: list[str], address: str | None) -> None:
    assert listen_address(hosts) == address
