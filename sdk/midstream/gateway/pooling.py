"""A gateway's pool: its name, and the secret from which the name of the shared subscription follows."""

from __future__ import annotations

import os

from midstream.communication.topics import MIN_SECRET_CHARACTERS, check_id
from midstream.errors import InputError, WireError

SECRET_VARIABLE = "MIDSTREAM_POOL_SECRET"  # noqa: S105  where it is, not what
# A broker without accounts keeps nothing from anybody, so there is nothing to keep secret.
_OPEN_SECRET = "midstream without accounts"  # noqa: S105


def checked_pool(pool: str) -> str:
    """The name of a pool, as it is; raises InputError where it cannot be one."""
    try:
        return check_id(pool)
    except WireError as error:
        raise InputError(f"a pool cannot be called so: {error}") from None


def secret_of_pool(given: str | None, has_account: bool) -> str:
    """The secret as it was given, or as the environment has it; raises InputError where one is needed and is none."""
    secret = given or os.environ.get(SECRET_VARIABLE) or ""
    if not secret and not has_account:
        return _OPEN_SECRET
    if len(secret) < MIN_SECRET_CHARACTERS:
        raise InputError(
            f"the secret of a pool has {len(secret)} characters; put {MIN_SECRET_CHARACTERS} random ones or more, the "
            f"same for all of its gateways, into {SECRET_VARIABLE}"
        )
    return secret
