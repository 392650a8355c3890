"""Where a broker is, and what to say when it cannot be reached."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from midstream.communication.credentials import Credentials, read_credentials
from midstream.errors import InputError

USERNAME_VARIABLE: Final = "MIDSTREAM_MQTT_USERNAME"
PASSWORD_VARIABLE: Final = "MIDSTREAM_MQTT_PASSWORD"  # noqa: S105 - its name, not its value
CREDENTIALS_VARIABLE: Final = "MIDSTREAM_MQTT_CREDENTIALS"

_DEFAULT_PORTS: Final = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
_TLS_SCHEMES: Final = ("mqtts", "wss")

# MQTT 5 reason codes (section 2.4 of the standard).
_UNSUPPORTED_VERSION, _BAD_CLIENT_ID, _BAD_CREDENTIALS, _NOT_AUTHORISED, _BANNED = 0x84, 0x85, 0x86, 0x87, 0x8A
_TAKEN_OVER = 0x8E

# What a broker says to a certificate: descriptions of TLS alerts (RFC 8446, section 6.2) in OpenSSL's reasons.
_REFUSED_CERTIFICATE = {
    "CERTIFICATE_REQUIRED": "it wants a client certificate",
    "CERTIFICATE_EXPIRED": "the client certificate has expired, or the broker's clock is wrong",
    "CERTIFICATE_REVOKED": "the client certificate was revoked",
    "UNKNOWN_CA": "another authority has signed the client certificate",
    "CERTIFICATE_UNKNOWN": "it does not know the client certificate",
    "UNSUPPORTED_CERTIFICATE": "it is not made for clients",
    "BAD_CERTIFICATE": "the client certificate is damaged",
    "HANDSHAKE_FAILURE": "it wants a client certificate, or other ciphers",
}
# X509_V_ERR_… of OpenSSL.
_NOT_YET_VALID, _EXPIRED, _WRONG_NAMES = 9, 10, (62, 64)


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker is and how to speak to it. Neither its text nor its repr shows the credentials."""

    scheme: str
    host: str
    port: int
    path: str = ""
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    credentials: Credentials | None = None

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme in _TLS_SCHEMES

    @property
    def websocket(self) -> bool:
        """Whether MQTT goes over a WebSocket."""
        return self.scheme in ("ws", "wss")

    @property
    def has_account(self) -> bool:
        """Whether the broker is told who the client is."""
        certified = self.credentials is not None and self.credentials.certificate is not None
        return certified or self.username is not None

    def client_name(self, role: str, asked: str | None) -> str | None:
        """What a client in this role has to be called: as its credentials say, else as ``asked``.

        Raises InputError where they are those of another role or name.
        """
        own = self.credentials
        if own is None or own.name is None:
            return asked
        if own.role not in (None, role):
            raise InputError(
                f"{own.folder} holds the credentials of {own.role} {own.name}, and this is a {role}; "
                "give it a folder of its own"
            )
        if asked not in (None, own.name):
            raise InputError(
                f"{own.folder} holds the credentials of {own.name!r}, and the id asked for is {asked!r}: the broker "
                f"lets each speak for itself only; leave the id out, or make credentials for it"
            )
        return own.name

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no connection. Where ``permanent``, trying again would give the same answer."""

    message: str
    permanent: bool = False


def parse_broker_url(
    url: str, environ: Mapping[str, str] | None = None, credentials: str | Path | None = None
) -> BrokerAddress:
    """Read ``mqtt://[user:password@]host[:port]``, or ``mqtts``, ``ws``, ``wss``.

    ``credentials`` is the client's folder (`credentials`); where it is None, the environment's
    MIDSTREAM_MQTT_CREDENTIALS is taken. User and password may be percent-encoded; where the URL has none, those of
    the folder are taken, and where that has none, the environment's MIDSTREAM_MQTT_USERNAME and
    MIDSTREAM_MQTT_PASSWORD. Empty variables count as none.

    Raises InputError, whose message shows no credentials; also for a folder with a URL that is not encrypted.
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
    folder = credentials or variables.get(CREDENTIALS_VARIABLE) or None
    if folder is not None and parts.scheme not in _TLS_SCHEMES:
        raise InputError(
            f"broker URL {shown!r} is not encrypted, but there are credentials, {folder}; "
            f"use {'wss' if websocket else 'mqtts'}://, or leave out --credentials and {CREDENTIALS_VARIABLE}"
        )
    own = None if folder is None else read_credentials(Path(folder))
    if parts.username is not None:
        username: str | None = unquote(parts.username)
        password = None if parts.password is None else unquote(parts.password)
    elif own is not None and own.username is not None:
        username, password = own.username, own.password
    else:
        username, password = variables.get(USERNAME_VARIABLE) or None, variables.get(PASSWORD_VARIABLE) or None
    path = (parts.path or "/mqtt") if websocket else ""
    return BrokerAddress(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme], path, username, password, own)


def unreachable(address: BrokerAddress, error: Exception) -> Refusal:
    """What a failed attempt to connect means.

    None is permanent: anyone on the way can show a wrong certificate once.
    """
    match error:
        case InputError():
            message = str(error)
        case ssl.SSLCertVerificationError():
            message = _unverified(address, error)
        case ssl.SSLError() if (why := _refusal_of_certificate(error)) is not None:
            message = f"the broker at {address} refuses this client's certificate: {why}; {_which_certificate(address)}"
        case ssl.SSLError():
            message = (
                f"no TLS with the broker at {address} ({_reason(error) or error}); "
                f"if it speaks plain MQTT, use {address.scheme.removesuffix('s')}:// instead of {address.scheme}://"
            )
        case ConnectionRefusedError():
            message = f"no broker answers at {address} (connection refused); start one there: midstream broker"
        case ConnectionError() if address.websocket:
            other = "" if address.tls else ", or wss:// where it wants TLS"
            message = (
                f"no WebSocket with the broker at {address} ({error}); check that this port is for WebSockets, and the "
                f"path {address.path!r}{other}"
            )
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


def turned_away(address: BrokerAddress, error: ssl.SSLError) -> Refusal | None:
    """What a TLS error means that a broker, its certificate verified, answers with; None where that is not clear."""
    if _refusal_of_certificate(error) is None:
        return None
    return Refusal(unreachable(address, error).message, not _reason(error).endswith("CERTIFICATE_EXPIRED"))


def refused(address: BrokerAddress, code: int, reason: str) -> Refusal:
    """What a broker's reason code in CONNACK or DISCONNECT means; ``reason`` is its name."""
    who = f"the broker at {address}"
    if code == _UNSUPPORTED_VERSION:
        return Refusal(f"{who} speaks only MQTT 3.1.1; midstream needs MQTT 5: update or replace the broker", True)
    if code == _NOT_AUTHORISED and address.credentials is not None and address.credentials.certificate is not None:
        return Refusal(
            f"{who} lets the client of {address.credentials.folder} not do what it asks for: its role was removed, or "
            "is another; look into the broker's roles.toml, or make credentials: midstream broker --secure DIR",
            True,
        )
    if code in (_BAD_CREDENTIALS, _NOT_AUTHORISED):
        has = "refuses these credentials" if address.username is not None else "wants credentials"
        remedy = f"put user and password in the URL or {USERNAME_VARIABLE}/{PASSWORD_VARIABLE}"
        return Refusal(f"{who} {has} ({reason.lower()}): {remedy}", True)
    if code == _TAKEN_OVER:
        return Refusal(f"{who} let another client take over this client id; every device and gateway needs its own")
    return Refusal(f"{who} refuses the connection: {reason.lower()}", code in (_BAD_CLIENT_ID, _BANNED))


def denied(address: BrokerAddress, topic_filter: str, code: int) -> str | None:
    """What it means that a broker, which has accepted the client, does not let it subscribe; None for other codes."""
    if code != _NOT_AUTHORISED:
        return None
    what = f"the broker at {address} does not let this client subscribe to {topic_filter}"
    if address.credentials is not None and address.credentials.certificate is not None:
        return (
            f"{what}: the role of {address.credentials.folder} was removed, or is another; look into the broker's "
            "roles.toml, and restart the broker"
        )
    return f"{what}: allow its account what docs/security.md lists"


def silent(address: BrokerAddress) -> Refusal:
    """What it means that a connection was closed without an answer to CONNECT that MQTT 5 knows."""
    if address.tls:
        return Refusal(
            f"the broker at {address} closed the connection without an MQTT 5 answer: it refuses this client's "
            "certificate, or that there is none, speaks only MQTT 3.1.1, or is no broker; "
            f"{_which_certificate(address)}"
        )
    wants_tls = f", or wants TLS on this port ({address.scheme}s://)"
    return Refusal(
        f"the broker at {address} closed the connection without an MQTT 5 answer: it speaks only MQTT 3.1.1"
        f"{wants_tls}, or is no broker; midstream needs MQTT 5"
    )


def _unverified(address: BrokerAddress, error: ssl.SSLCertVerificationError) -> str:
    """Why the broker's certificate is not trusted, and what to do."""
    who, code = f"the certificate of the broker at {address}", getattr(error, "verify_code", None)
    if code == _EXPIRED:
        return (
            f"{who} has expired, or this machine's clock is wrong; check the clock, and renew the certificate where "
            "the broker runs: midstream broker --secure DIR --renew"
        )
    if code == _NOT_YET_VALID:
        return f"{who} is not valid yet: this machine's clock is behind; set it, or wait for NTP"
    if code in _WRONG_NAMES:
        return (
            f"{who} is not made for {address.host!r}; connect by a name that it was made for, or add this one where "
            f"the broker runs: midstream broker --secure DIR --host {address.host}"
        )
    reason = getattr(error, "verify_message", None) or "it does not verify"
    own = address.credentials
    trusted = (
        f"{own.authority} is not the authority that signed it: copy the client's folder of this broker again"
        if own is not None and own.authority is not None
        else "give --credentials a folder with that authority's certificate as ca.pem, or point SSL_CERT_FILE at it"
    )
    return f"{who} is of an authority unknown here ({reason}); {trusted}"


def _refusal_of_certificate(error: ssl.SSLError) -> str | None:
    reason = _reason(error)
    return next((words for alert, words in _REFUSED_CERTIFICATE.items() if reason.endswith(f"ALERT_{alert}")), None)


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's name of what went wrong, where Python knows it."""
    return getattr(error, "reason", None) or ""


def _which_certificate(address: BrokerAddress) -> str:
    own = address.credentials
    if own is None or own.certificate is None:
        return (
            f"give the folder with this client's certificate by --credentials or {CREDENTIALS_VARIABLE}; "
            "midstream broker --secure DIR makes it: DIR/clients/NAME"
        )
    return (
        f"{own.certificate} was shown: copy the client's folder of this broker again, and where it has expired, renew "
        "it there first: midstream broker --secure DIR --renew"
    )


def _without_credentials(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
