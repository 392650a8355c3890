"""Where a gateway's state is served, and the token that guards it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from midstream.errors import InputError
from midstream.gateway.web.address import http_token, is_loopback, parse_http_address, read_token

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    ("given", "place"),
    [
        (9464, ("127.0.0.1", 9464)),
        ("9464", ("127.0.0.1", 9464)),
        ("0", ("127.0.0.1", 0)),
        (" 127.0.0.1:80 ", ("127.0.0.1", 80)),
        ("127.9.9.9:80", ("127.9.9.9", 80)),
        ("localhost:80", ("127.0.0.1", 80)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_what_only_this_machine_reaches(
    given: int | str, place: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MIDSTREAM_HTTP_TOKEN", raising=False)
    address = parse_http_address(given)
    assert address.place[:2] == place
    assert address.loopback
    assert http_token(address) is None


@pytest.mark.parametrize("given", ["0.0.0.0:80", "[::]:80", "192.0.2.1:80", "[::ffff:192.0.2.1]:80"])
def test_what_others_reach_needs_a_token(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIDSTREAM_HTTP_TOKEN", raising=False)
    address = parse_http_address(given)
    assert not address.loopback
    with pytest.raises(InputError, match=r"beyond this machine, and there is no token.*MIDSTREAM_HTTP_TOKEN"):
        http_token(address)
    monkeypatch.setenv("MIDSTREAM_HTTP_TOKEN", TOKEN)
    assert http_token(address) == TOKEN
    assert http_token(address, "f" * 16) == "f" * 16


@pytest.mark.parametrize(
    "given",
    ["", "x", "-1", "65536", "127.0.0.1", "127.0.0.1:", ":80", "::1:80", "[::1", "127.0.0.1:80/metrics",
     "user@127.0.0.1:80", "127.0.0.1:80?x", "http://127.0.0.1:80", "no.such.name.invalid:80", "a" * 300 + ":80",
     "１２７.0.0.1:99999", "١٢٣٤"],
)  # fmt: skip
def test_what_is_no_address_is_one_error(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    # Whatever resolver this machine has, it is not asked.
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(
        InputError, match=r"the gateway's state cannot be served at .*: give a port|; give a port"
    ) as told:
        parse_http_address(given)
    assert len(str(told.value)) < 500


def test_addresses_that_only_look_local_are_not() -> None:
    assert is_loopback("::ffff:127.0.0.1")
    assert not any(map(is_loopback, ("localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0", "::", "", "127.1")))


@pytest.mark.parametrize("token", ["short", "f" * 1025, "f" * 20 + "\n", "f" * 20 + "ü", "f" * 20 + " f"])
def test_what_can_be_no_token_is_said_without_showing_it(token: str) -> None:
    with pytest.raises(InputError) as told:
        http_token(parse_http_address(0), token)
    assert token not in str(told.value)
    assert "openssl rand -hex 16" in str(told.value)


def test_a_token_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_token(file) == TOKEN
    for content, why in (
        (b"\xff\xfe", "holds no text"),
        (b" \n", "is empty"),
        (b"f" * 5000, "cannot be read: it is larg"),
    ):
        file.write_bytes(content)
        with pytest.raises(InputError, match=rf"token file .* {why}"):
            read_token(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_token(tmp_path / "none")
    with pytest.raises(InputError, match="cannot be read"):
        read_token(tmp_path)
