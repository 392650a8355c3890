"""Where a gateway has the secret of its pool from."""

from __future__ import annotations

from pathlib import Path

import pytest

from midstream.communication.address import parse_broker_url
from midstream.errors import InputError
from midstream.gateway.pooling import SECRET_VARIABLE, checked_pool, secret_of_pool

OPEN = parse_broker_url("mqtt://127.0.0.1:1883")
ACCOUNT = parse_broker_url("mqtts://gateway:word@127.0.0.1:8883")
LONG = "0123456789abcdef"


@pytest.fixture(autouse=True)
def no_secret_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)


def test_without_accounts_nothing_is_kept_from_anybody() -> None:
    assert secret_of_pool("attic", None, OPEN) == secret_of_pool("attic", None, OPEN)
    assert secret_of_pool("attic", LONG, OPEN) == LONG


def test_with_accounts_a_secret_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"nothing says what the secret of pool 'attic' is; .* roles\.toml"):
        secret_of_pool("attic", None, ACCOUNT)
    with pytest.raises(InputError, match="has 5 characters; put 16") as error:
        secret_of_pool("attic", "short", ACCOUNT)
    assert "short" not in str(error.value)
    monkeypatch.setenv(SECRET_VARIABLE, LONG)
    assert secret_of_pool("attic", None, ACCOUNT) == LONG
    assert secret_of_pool("attic", 2 * LONG, ACCOUNT) == 2 * LONG


def test_the_folder_with_the_credentials_has_it(tmp_path: Path) -> None:
    (tmp_path / "client.toml").write_text('username = "gateway"\npassword = "word"\n')
    address = parse_broker_url("mqtts://127.0.0.1:8883", credentials=tmp_path)
    with pytest.raises(InputError, match="nothing says"):
        secret_of_pool("attic", None, address)
    (tmp_path / "pool-attic.secret").write_text(f"{LONG}\n")
    assert secret_of_pool("attic", None, address) == LONG
    with pytest.raises(InputError, match="nothing says"):
        secret_of_pool("cellar", None, address)
    (tmp_path / "pool-attic.secret").write_bytes(bytes(5000))
    with pytest.raises(InputError, match=r"pool-attic\.secret cannot be read"):
        secret_of_pool("attic", None, address)


def test_a_pool_is_part_of_a_topic() -> None:
    assert checked_pool("attic") == "attic"
    with pytest.raises(InputError, match="a pool cannot be called so"):
        checked_pool("attic/+")
