"""Presence: what a gateway publishes, retained, about itself, so that devices can plan before they ever ask it.

Flat JSON of at most 64 KiB. An empty payload, which is also the gateway's will, says that it is gone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NoReturn

from midstream.communication.framing import WIRE_VERSIONS
from midstream.communication.topics import check_id
from midstream.communication.versions import common_version
from midstream.communication.wire import MAX_CUT_BYTES
from midstream.errors import WireError

MAX_PRESENCE_BYTES = 64 << 10
MAX_BUNDLES = 64
MAX_CUTS = 256
MAX_WIRE_VERSIONS = 16
MAX_KNOWN = 16
MAX_NAME_CHARACTERS = 32

_DIGEST_HEX = re.compile(r"[0-9a-f]{64}")
_NOT_A_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"?|[^"\[\]{}]+', re.DOTALL)
_MAX_BRACKETS = 2 * (MAX_BUNDLES + 8)


@dataclass(frozen=True, slots=True)
class Presence:
    """A gateway, what it serves and how busy it is.

    ``bundles`` are the 32-byte digests of what it serves. ``tail_ms`` maps a bundle's digest in hexadecimal
    to the milliseconds that each of its tails takes there alone, by cut id, and "whole" for the whole
    model; it is sent to the microsecond. ``speed_factor`` estimates what was not measured: how many times
    as fast as the bundle's own costs the gateway is. ``queue_ms`` is what a request that came now would
    wait, ``load`` the share of its workers that is busy. ``knows`` names the optional libraries that it decodes with
    (`codecs.optional_libraries`, `fec.FEC_LIBRARY`), ``bases`` maps a bundle's digest in hexadecimal to its
    `Ladder.bases_id`.
    """

    gateway_id: str
    bundles: tuple[bytes, ...] = ()
    speed_factor: float = 1.0
    queue_ms: float = 0.0
    load: float = 0.0
    wire_versions: tuple[int, ...] = WIRE_VERSIONS
    tail_ms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    knows: tuple[str, ...] = ()
    bases: Mapping[str, str] = field(default_factory=dict)


def encode_presence(presence: Presence) -> bytes:
    """The JSON to publish. Raises WireError where a value is out of range or the whole exceeds 64 KiB."""
    payload = _encode(presence)
    if len(payload) > MAX_PRESENCE_BYTES:
        raise WireError(
            f"presence of gateway {presence.gateway_id!r} has {len(payload)} bytes; {MAX_PRESENCE_BYTES} are "
            "allowed. Serve fewer bundles, or announce the tail times of fewer cuts"
        )
    return payload


def encode_within(presence: Presence, limit_bytes: int) -> bytes:
    """The same in at most this many bytes, of each bundle with the times of as many cuts, from the first, as fit.

    Raises WireError where it does not fit without any.
    """
    limit_bytes = min(limit_bytes, MAX_PRESENCE_BYTES)
    most = max(map(len, presence.tail_ms.values()), default=0)
    while True:
        tails = {digest: dict(islice(times.items(), most)) for digest, times in presence.tail_ms.items()}
        payload = _encode(replace(presence, tail_ms=tails))
        if len(payload) <= limit_bytes:
            return payload
        if not most:
            raise WireError(
                f"presence of gateway {presence.gateway_id!r} has {len(payload)} bytes; {limit_bytes} are allowed. "
                "Serve fewer bundles"
            )
        most //= 2


def decode_presence(payload: bytes) -> Presence | None:
    """The presence in a payload, or None for the empty one. Unknown keys are ignored. Raises WireError.

    Of a gateway with which this end has no wire version in common, only ``gateway_id`` and ``wire_versions`` are read.
    """
    if not payload:
        return None
    if len(payload) > MAX_PRESENCE_BYTES:
        raise WireError(f"presence has {len(payload)} bytes; {MAX_PRESENCE_BYTES} are allowed")
    # Depth is bounded here, because the JSON parser descends on the C stack.
    if len(_NOT_A_BRACKET.sub(b"", payload)) > _MAX_BRACKETS:
        raise WireError(f"presence has more than {_MAX_BRACKETS // 2} lists and objects; it is not a presence")
    try:
        body = json.loads(str(payload, "utf-8"), parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise WireError(f"presence of {len(payload)} bytes is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise WireError(f"presence is a JSON {type(body).__name__}, needed an object")
    return _from_json(body)


def _encode(presence: Presence) -> bytes:
    body = {
        "gateway": presence.gateway_id,
        "bundles": [digest.hex() for digest in presence.bundles],
        "speed_factor": presence.speed_factor,
        "queue_ms": _microseconds(presence.queue_ms),
        "load": presence.load,
        "wire_versions": list(presence.wire_versions),
        "tail_ms": {
            digest: {cut: _microseconds(ms) for cut, ms in tails.items()} for digest, tails in presence.tail_ms.items()
        },
        "knows": list(presence.knows),
        "bases": dict(presence.bases),
    }
    _from_json(body)
    return json.dumps(body, separators=(",", ":"), ensure_ascii=True).encode()


def _from_json(body: dict[str, Any]) -> Presence:
    gateway_id = check_id(_field(body, "gateway", str, MAX_PRESENCE_BYTES))
    versions = tuple(_version(value) for value in _field(body, "wire_versions", list, MAX_WIRE_VERSIONS))
    if common_version(versions) is None:
        # The other keys may mean something else to a gateway that this end cannot talk to anyway.
        return Presence(gateway_id, wire_versions=versions)
    tails = _field(body, "tail_ms", dict, MAX_BUNDLES)
    bases = _field(body, "bases", dict, MAX_BUNDLES)
    return Presence(
        gateway_id=gateway_id,
        bundles=tuple(bytes.fromhex(_digest(value, "bundles")) for value in _field(body, "bundles", list, MAX_BUNDLES)),
        speed_factor=_number(body.get("speed_factor"), "speed_factor", positive=True),
        queue_ms=_number(body.get("queue_ms"), "queue_ms"),
        load=_number(body.get("load"), "load"),
        wire_versions=versions,
        tail_ms={_digest(key, "tail_ms"): _tails(tails, key) for key in tails},
        knows=tuple(_name(value, "knows") for value in _field(body, "knows", list, MAX_KNOWN)),
        bases={_digest(key, "bases"): _name(value, "bases") for key, value in bases.items()},
    )


def _tails(tables: dict[str, Any], digest: str) -> dict[str, float]:
    table = _field(tables, digest, dict, MAX_CUTS)
    for cut in table:
        if not 0 < len(cut) <= MAX_CUT_BYTES:
            raise WireError(f"presence names a cut of {len(cut)} characters; 1 to {MAX_CUT_BYTES} are allowed")
    return {cut: _number(ms, f"tail_ms of cut {cut!r}") for cut, ms in table.items()}


def _field(body: dict[str, Any], key: str, kind: type[Any], most: int) -> Any:
    value = body.get(key)
    if not isinstance(value, kind):
        raise WireError(f"presence has {key!r} of type {type(value).__name__}, needed {kind.__name__}")
    if len(value) > most:
        raise WireError(f"presence has {len(value)} entries in {key!r}; {most} are allowed")
    return value


def _name(value: object, key: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_CHARACTERS:
        raise WireError(f"presence has in {key!r} what is not a name of 1 to {MAX_NAME_CHARACTERS} characters")
    return value


def _digest(value: object, key: str) -> str:
    if not isinstance(value, str) or not _DIGEST_HEX.fullmatch(value):
        raise WireError(f"presence has in {key!r} what is not a digest of 64 hexadecimal digits")
    return value


def _version(value: object) -> int:
    if type(value) is not int or not 0 <= value <= 255:
        raise WireError("presence has in 'wire_versions' what is not a number of 0…255")
    return value


def _number(value: object, what: str, positive: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WireError(f"presence has {what} of type {type(value).__name__}, needed a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number < 0 or (positive and number == 0):
        raise WireError(f"presence has {what} = {number}, which is out of range")
    return number


def _microseconds(ms: float) -> float:
    return round(ms, 3)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found
