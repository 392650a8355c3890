"""roles.toml: the operator's file that says which client has which role. Who is not in it is shut out."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from midstream.communication.presence import MAX_POOLS
from midstream.communication.roles import ROLES, Rights, Role, pool_member, rights
from midstream.communication.topics import check_id
from midstream.errors import InputError, WireError

ROLES_FILE: Final = "roles.toml"
MAX_ROLES_BYTES: Final = 1 << 20
REMOVED: Final = "removed"

HEAD: Final = """\
# midstream: the clients of this broker. Restart it after a change.
#
# [device.NAME] and [gateway.NAME] give the client with the certificate of this name what its role needs; a name that
# has neither is shut out. `midstream broker --secure` adds names (--device, --gateway) and takes them out (--remove).
# The gateways of a pool have pools = ["NAME"].
# A client may have further topics, outside midstream's own: publish = ["home/faces"], subscribe = ["home/+/wish"].
"""

_EXTRA: Final = ("publish", "subscribe")
_POOLS: Final = "pools"


@dataclass(frozen=True, slots=True)
class Member:
    """A client, its role, what it may do beyond that, and the pools that it belongs to."""

    name: str
    role: Role
    extra: Rights
    pools: tuple[str, ...] = ()

    def rights(self, secret_of: Callable[[str], str]) -> Rights:
        """All that it may do, where ``secret_of`` gives the secret of a pool."""
        found = rights(self.role, self.name) | self.extra
        for pool in self.pools:
            found |= pool_member(pool, secret_of(pool))
        return found


@dataclass(frozen=True, slots=True)
class Members:
    """The clients by their names, and the names that are never given again."""

    members: Mapping[str, Member]
    removed: frozenset[str]


def parse_members(text: str) -> Members:
    """Read roles.toml; raises InputError that says what is wrong in it."""
    try:
        body = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"it is not TOML: {error}") from None
    for kind in body:
        if kind not in (*ROLES, REMOVED):
            raise InputError(f"it has [{kind[:80]}]; needed [device.NAME], [gateway.NAME] or [{REMOVED}.NAME]")
        if not isinstance(body[kind], dict):
            raise InputError(f"{kind!r} is not a table; needed [{kind}.NAME]")
    members: dict[str, Member] = {}
    for role in ROLES:
        for name, table in body.get(role, {}).items():
            if name in members:
                raise InputError(f"{name!r} is a {members[name].role} and a {role}; needed one name for each client")
            members[name] = Member(check_name(name), role, *_extra(name, role, table))
    removed = frozenset(body.get(REMOVED, {}))
    if both := sorted(removed & set(members)):
        raise InputError(f"{both[0]!r} is removed and has a role; take one of them out")
    return Members(members, removed)


def check_name(name: str) -> str:
    """A client's name, as it is; raises InputError unless it can be part of a topic."""
    try:
        return check_id(name)
    except WireError as error:
        raise InputError(str(error)) from None


def with_member(text: str, role: Role, name: str) -> str:
    """roles.toml with a client more."""
    return f"{text.rstrip()}\n\n[{role}.{name}]\n"


def without_member(text: str, name: str) -> str:
    """roles.toml with this client's table as one of a removed name; raises InputError where it is not found."""
    header = re.compile(rf"^[ \t]*\[\s*(?:{'|'.join(ROLES)})\s*\.\s*[\"']?{re.escape(name)}[\"']?\s*\]", re.MULTILINE)
    changed, count = header.subn(f"[{REMOVED}.{name}]", text)
    if count != 1:
        raise InputError(f"it has no line [device.{name}] or [gateway.{name}]; take the name out by hand")
    return changed


def _extra(name: str, role: Role, table: Any) -> tuple[Rights, tuple[str, ...]]:
    known = (*_EXTRA, _POOLS) if role == "gateway" else _EXTRA
    if not isinstance(table, dict) or any(key not in known for key in table):
        raise InputError(f"{name!r} has other keys than {', '.join(known[:-1])} and {known[-1]}")
    further = dict(table)
    pools = further.pop(_POOLS, [])
    if not isinstance(pools, list) or not all(isinstance(pool, str) for pool in pools) or len(pools) > MAX_POOLS:
        raise InputError(f"{_POOLS!r} of {name!r} is not a list of at most {MAX_POOLS} names")
    for key, filters in further.items():
        if not isinstance(filters, list) or not all(_is_foreign(topic_filter) for topic_filter in filters):
            raise InputError(
                f"{key!r} of {name!r} is not a list of topics outside midstream's own: "
                "their first level is neither a wildcard, nor midstream, nor begins with $"
            )
    return Rights(*(tuple(further.get(key, ())) for key in _EXTRA)), tuple(map(check_name, pools))


def _is_foreign(topic_filter: Any) -> bool:
    """Whether it is a filter that can match none of midstream's own topics, and none of the broker's."""
    if not isinstance(topic_filter, str) or not 0 < len(topic_filter.encode()) <= 0xFFFF or "\0" in topic_filter:
        return False
    first = topic_filter.split("/", 1)[0]
    return first not in ("+", "#", "midstream") and not first.startswith("$")
