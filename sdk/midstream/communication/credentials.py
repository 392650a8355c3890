"""Credentials: a client's folder with its certificate and key, and the TLS that follows from it.

The folder, such as ``midstream broker --secure`` makes one for each client, may hold

==============  ==============================================================================================
``ca.pem``      the authority that signed the broker's certificate; without it, those that the system trusts
``cert.pem``    the client's certificate, with ``key.pem``, its private key in PEM without a password
``client.toml`` ``name`` and ``role`` ("device" or "gateway") of the client, ``username`` and ``password``
==============  ==============================================================================================

Checking a broker's certificate and its name cannot be switched off.
"""

from __future__ import annotations

import ssl
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from midstream.errors import InputError
from midstream.files import read_at_most

AUTHORITY_FILE: Final = "ca.pem"
CERTIFICATE_FILE: Final = "cert.pem"
KEY_FILE: Final = "key.pem"
CLIENT_FILE: Final = "client.toml"

_MAX_CLIENT_BYTES: Final = 4096
_CLIENT_KEYS: Final = ("name", "role", "username", "password")


def pool_file(pool: str) -> str:
    """The file with the secret of this pool in a gateway's folder."""
    return f"pool-{pool}.secret"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who a client is and how it proves it. Its repr shows no secret."""

    folder: Path
    name: str | None = None
    role: str | None = None
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


def read_credentials(folder: Path) -> Credentials:
    """The credentials in a folder; raises InputError, whose message shows no secret, where they are incomplete."""
    files = {
        name: path
        for name in (AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE, CLIENT_FILE)
        if (path := folder / name).exists()
    }
    if not files:
        raise InputError(
            f"{folder} holds no credentials; needed a folder with {AUTHORITY_FILE}, {CERTIFICATE_FILE} and {KEY_FILE}, "
            "as midstream broker --secure DIR makes one for each client: DIR/clients/NAME"
        )
    for one, other in ((CERTIFICATE_FILE, KEY_FILE), (KEY_FILE, CERTIFICATE_FILE)):
        if one in files and other not in files:
            raise InputError(f"{folder} holds {one} but no {other}; copy the whole folder again")
    client = _client(files[CLIENT_FILE]) if CLIENT_FILE in files else {}
    found = Credentials(
        folder,
        **client,
        authority=files.get(AUTHORITY_FILE),
        certificate=files.get(CERTIFICATE_FILE),
        key=files.get(KEY_FILE),
    )
    tls_context(found)
    return found


def tls_context(credentials: Credentials | None) -> ssl.SSLContext:
    """TLS 1.2 or later that checks the broker's certificate and its name. Files are read anew at each call.

    Raises InputError where a file cannot be used.
    """
    authority = None if credentials is None else credentials.authority
    try:
        context = ssl.create_default_context(cafile=authority)
    except (OSError, ValueError) as error:
        raise _unusable(authority, error, "a certificate in PEM") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if credentials is not None and credentials.certificate is not None:
        try:
            # Without an answer to it, OpenSSL would ask at the terminal for the password of a key that has one.
            context.load_cert_chain(credentials.certificate, credentials.key, password=lambda: "")
        except (OSError, ValueError) as error:
            wanted = "a certificate, and its own private key without a password, both in PEM"
            raise _unusable(credentials.certificate, error, wanted, credentials.key) from None
    return context


def _client(path: Path) -> dict[str, Any]:
    wanted = f"needed TOML with text for any of {', '.join(_CLIENT_KEYS)}"
    try:
        found = tomllib.loads(read_at_most(path, _MAX_CLIENT_BYTES).decode())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        # The parser's own message may quote the line with the password.
        raise InputError(f"{path} is not TOML; {wanted}") from None
    for key, value in found.items():
        if key not in _CLIENT_KEYS or not isinstance(value, str) or not value:
            raise InputError(f"{path} has a key {key[:80]!r} that is not known, or not text; {wanted}")
    if "password" in found and "username" not in found:
        raise InputError(f"{path} has a password and no username; {wanted}")
    return found


def _unusable(path: Path | None, error: Exception, wanted: str, second: Path | None = None) -> InputError:
    which = f"{path} and {second.name}" if second is not None else str(path)
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "damaged, or with a password").lower().replace("_", " ")
    else:
        reason = getattr(error, "strerror", None) or "damaged, or with a password"
    return InputError(f"{which} cannot be used ({reason}); needed {wanted}: copy the client's folder again")
