"""Where a broker is, and what to say when it cannot be reached."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from midstream.errors import InputError

USERNAME_VARIABLE: Final = "MIDSTREAM_MQTT_USERNAME"
PASSWORD_VARIABLE: Final = "MIDSTREAM_MQTT_PASSWORD"  # noqa: S105 - its name, not its value

_DEFAULT_PORTS: Final = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}

# MQTT 5 reason codes (section 2.4 of the standard).
_UNSUPPORTED_VERSION, _BAD_CLIENT_ID, _BAD_CREDENTIALS, _NOT_AUTHORISED, _BANNED = 0x84, 0x85, 0x86, 0x87, 0x8A
_TAKEN_OVER = 0x8E


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker is and how to speak to it. Neither its text nor its repr shows the credentials."""

    scheme: str
    host: str
    port: int
    path: str = ""
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme in ("mqtts", "wss")

    @property
    def websocket(self) -> bool:
        """Whether MQTT goes over a WebSocket."""
        return self.scheme in ("ws", "wss")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no connection. Where ``permanent``, trying again would give the same answer."""

    message: str
    permanent: bool = False


def parse_broker_url(url: str, environ: Mapping[str, str] | None = None) -> BrokerAddress:
    """Read ``mqtt://[user:password@]host[:port]``, or ``mqtts``, ``ws``, ``wss``.

    User and password may be percent-encoded; where the URL has none, the environment's MIDSTREAM_MQTT_USERNAME and
    MIDSTREAM_MQTT_PASSWORD are taken, if not empty. Raises InputError, whose message shows no credentials.
    """
    shown = _without_credentials(url)
    usage = "expected mqtt://host[:port], or mqtts://, ws://, wss://"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        # urllib's own message would quote the password where that holds an unescaped "/", "#" or "?".
        raise InputError(
            f"broker URL {shown!r} has a host or port that cannot be read; {usage}, port 1 to 65535, "
            "and user and password percent-encoded"
        ) from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise InputError(f"broker URL {shown!r} does not begin with mqtt://; {usage}")
    if not host:
        raise InputError(f"broker URL {shown!r} has no host; {usage}")
    if port == 0:
        raise InputError(f"broker URL {shown!r} has port 0; {usage}, port 1 to 65535")
    websocket = parts.scheme in ("ws", "wss")
    if parts.query or parts.fragment or (parts.path not in ("", "/") and not websocket) or "@" in parts.path:
        raise InputError(
            f"broker URL {shown!r} has something after the port; {usage}. "
            'In user and password, write "/", "?", "#" and "@" percent-encoded'
        )
    variables = os.environ if environ is None else environ
    if parts.username is not None:
        username: str | None = unquote(parts.username)
        password = None if parts.password is None else unquote(parts.password)
    else:
        username, password = variables.get(USERNAME_VARIABLE) or None, variables.get(PASSWORD_VARIABLE) or None
    path = (parts.path or "/mqtt") if websocket else ""
    return BrokerAddress(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme], path, username, password)


def unreachable(address: BrokerAddress, error: Exception) -> Refusal:
    """What a failed attempt to connect means."""
    match error:
        case ssl.SSLCertVerificationError():
            message = (
                f"the certificate of the broker at {address} does not verify: {error.verify_message}; connect by the "
                "name that it was made for, point SSL_CERT_FILE at the authority that signed it, and check this "
                "machine's clock"
            )
        case ssl.SSLError():
            message = (
                f"no TLS with the broker at {address} ({getattr(error, 'reason', None) or error}); "
                f"if it speaks plain MQTT, use {address.scheme.removesuffix('s')}:// instead of {address.scheme}://"
            )
        case ConnectionRefusedError():
            message = f"no broker answers at {address} (connection refused); start one there: midstream broker"
        case socket.gaierror():
            message = (
                f"the broker's host name {address.host!r} cannot be resolved ({error.strerror}); "
                "check the name in the URL and this machine's DNS"
            )
        case TimeoutError():
            message = f"the broker at {address} does not answer in time; check host, port, network and firewall"
        case _:
            message = f"the broker at {address} cannot be reached: {getattr(error, 'strerror', None) or error}"
    return Refusal(message)


def refused(address: BrokerAddress, code: int, reason: str) -> Refusal:
    """What a broker's reason code in CONNACK or DISCONNECT means; ``reason`` is its name."""
    who = f"the broker at {address}"
    if code == _UNSUPPORTED_VERSION:
        return Refusal(f"{who} speaks only MQTT 3.1.1; midstream needs MQTT 5: update or replace the broker", True)
    if code in (_BAD_CREDENTIALS, _NOT_AUTHORISED):
        has = "refuses these credentials" if address.username is not None else "wants credentials"
        remedy = f"put user and password in the URL or {USERNAME_VARIABLE}/{PASSWORD_VARIABLE}"
        return Refusal(f"{who} {has} ({reason.lower()}): {remedy}", True)
    if code == _TAKEN_OVER:
        return Refusal(f"{who} let another client take over this client id; every device and gateway needs its own")
    return Refusal(f"{who} refuses the connection: {reason.lower()}", code in (_BAD_CLIENT_ID, _BANNED))


def silent(address: BrokerAddress) -> Refusal:
    """What it means that a connection was closed without an answer to CONNECT that MQTT 5 knows."""
    wants_tls = "" if address.tls else f", or wants TLS on this port ({address.scheme}s://)"
    return Refusal(
        f"the broker at {address} closed the connection without an MQTT 5 answer: it speaks only MQTT 3.1.1"
        f"{wants_tls}, or is no broker; midstream needs MQTT 5"
    )


def _without_credentials(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
