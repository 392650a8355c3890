"""A gateway's pool: its name, and the secret from which the name of the shared subscription follows."""

from __future__ import annotations

import os

from midstream.communication.address import BrokerAddress
from midstream.communication.credentials import pool_file
from midstream.communication.topics import MIN_SECRET_CHARACTERS, check_id
from midstream.errors import InputError, WireError
from midstream.files import read_at_most

SECRET_VARIABLE = "MIDSTREAM_POOL_SECRET"  # noqa: S105  where it is, not what
_MAX_SECRET_BYTES = 4096
# A broker without accounts keeps nothing from anybody, so there is nothing to keep secret.
_OPEN_SECRET = "midstream without accounts"  # noqa: S105


def checked_pool(pool: str) -> str:
    """The name of a pool, as it is; raises InputError where it cannot be one."""
    try:
        return check_id(pool)
    except WireError as error:
        raise InputError(f"a pool cannot be called so: {error}") from None


def secret_of_pool(pool: str, given: str | None, address: BrokerAddress) -> str:
    """The secret as it was given, or as the environment or the folder with the credentials has it.

    Raises InputError where one is needed, and there is none that can be one.
    """
    secret = given or os.environ.get(SECRET_VARIABLE) or _from_folder(pool, address)
    if not secret and not address.has_account:
        return _OPEN_SECRET
    if not secret:
        raise InputError(
            f"nothing says what the secret of pool {pool!r} is; write pools = [{pool!r}] under this gateway into "
            f"roles.toml, run midstream broker --secure, and copy the gateway's folder again; or set {SECRET_VARIABLE}"
        )
    if len(secret) < MIN_SECRET_CHARACTERS:
        raise InputError(
            f"the secret of pool {pool!r} has {len(secret)} characters; put {MIN_SECRET_CHARACTERS} random ones or "
            f"more, the same for all of its gateways, into {SECRET_VARIABLE}"
        )
    return secret


def _from_folder(pool: str, address: BrokerAddress) -> str:
    path = None if address.credentials is None else address.credentials.folder / pool_file(pool)
    if path is None or not path.exists():
        return ""
    try:
        return read_at_most(path, _MAX_SECRET_BYTES).decode().strip()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}; copy the gateway's folder again") from None
