"""Where a gateway shows its state, and the token that who looks at it from elsewhere needs."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from midstream.errors import InputError
from midstream.files import read_at_most

TOKEN_VARIABLE = "MIDSTREAM_HTTP_TOKEN"  # noqa: S105  where it is, not what
MIN_TOKEN_CHARACTERS = 16
_MAX_TOKEN_CHARACTERS = 1024
_MAX_TOKEN_FILE_BYTES = 4096
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """Where to listen: ``host`` as it was given, and what the system made of it."""

    host: str
    port: int
    family: socket.AddressFamily
    place: tuple[Any, ...]
    loopback: bool


def parse_http_address(given: int | str) -> HttpAddress:
    """The address that a port alone (on 127.0.0.1) or HOST:PORT means. Raises InputError where there is none such."""
    text = str(given).strip()
    if text.isascii() and text.isdigit():
        text = f"{_LOOPBACK}:{text}"
    wanted = "give a port, which is then on 127.0.0.1, or HOST:PORT, an IPv6 address in brackets: [::1]:9464"
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or port is None or parts.path or parts.query or parts.fragment or parts.username is not None:
        raise InputError(f"the gateway's state cannot be served at {text[:80]!r}: {wanted}")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"the gateway's state cannot be served at {text[:80]!r}: {host[:80]!r} is no address of this machine "
            f"({error}); {wanted}"
        ) from None
    # Of a name that has both, such as localhost, the older kind is what everyone tries.
    family, _, _, _, place = min(found, key=lambda each: each[0] != socket.AF_INET)
    return HttpAddress(host, port, family, tuple(place), is_loopback(str(place[0])))


def is_loopback(host: str) -> bool:
    """Whether an address, not a name, is reached from this machine alone."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def http_token(address: HttpAddress, given: str | None = None) -> str | None:
    """The token as it was given or the environment has it; None where there is none, and none is needed.

    Raises InputError, which shows nothing of it, where one is needed or where it cannot be one.
    """
    token = given or os.environ.get(TOKEN_VARIABLE) or None
    if token is None and not address.loopback:
        raise InputError(
            f"the gateway's state is to be served at {address.host}:{address.port}, beyond this machine, and there is "
            f"no token to keep others out; put {MIN_TOKEN_CHARACTERS} random characters or more into "
            f"{TOKEN_VARIABLE}, or into a file for --http-token-file, or give the port alone"
        )
    if token is not None and not (
        MIN_TOKEN_CHARACTERS <= len(token) <= _MAX_TOKEN_CHARACTERS and token.isascii() and token.isprintable()
    ):
        raise InputError(
            f"the token of the gateway's state has {len(token)} characters; it must have {MIN_TOKEN_CHARACTERS} to "
            f"{_MAX_TOKEN_CHARACTERS}, all of them printable ASCII: openssl rand -hex 16 makes one"
        )
    if token is not None and " " in token:
        raise InputError("the token of the gateway's state has a space in it; openssl rand -hex 16 makes one without")
    return token


def read_token(path: Path) -> str:
    """The token in a file, without the space around it. Raises InputError where it cannot be read, or is empty."""
    try:
        token = read_at_most(path, _MAX_TOKEN_FILE_BYTES).decode().strip()
    except OSError as error:
        raise InputError(f"token file {path} cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise InputError(f"token file {path} holds no text; openssl rand -hex 16 makes a token") from None
    if not token:
        raise InputError(f"token file {path} is empty; openssl rand -hex 16 makes a token")
    return token
