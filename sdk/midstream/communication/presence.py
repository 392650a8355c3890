"""Presence: what a gateway publishes, retained, about itself, so that devices can plan before they ever ask it.

Flat JSON of at most 64 KiB. An empty payload, which is also the gateway's will, says that it is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from midstream.communication.announcements import Announcement, dumped, microseconds
from midstream.communication.framing import WIRE_VERSIONS
from midstream.communication.topics import check_id
from midstream.communication.versions import common_version
from midstream.errors import WireError

MAX_PRESENCE_BYTES = 64 << 10
MAX_WIRE_VERSIONS = 16
MAX_KNOWN = 16
MAX_POOLS = 16


@dataclass(frozen=True, slots=True)
class Presence:
    """A gateway and what it serves; how busy it is, its load report says.

    ``bundles`` are the 32-byte digests of what it serves, ``pools`` the pools that it belongs to. ``tail_ms`` maps a
    bundle's digest in hexadecimal to the milliseconds that each of its tails takes there alone, by cut id, and "whole"
    for the whole model; it is sent to the microsecond. ``speed_factor`` estimates what was not measured: how many times
    as fast as the bundle's own costs the gateway is. ``knows`` names the optional libraries that it decodes with
    (`codecs.optional_libraries`, `fec.FEC_LIBRARY`), ``bases`` maps a bundle's digest in hexadecimal to its
    `Ladder.bases_id`.
    """

    gateway_id: str
    bundles: tuple[bytes, ...] = ()
    speed_factor: float = 1.0
    wire_versions: tuple[int, ...] = WIRE_VERSIONS
    tail_ms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    knows: tuple[str, ...] = ()
    bases: Mapping[str, str] = field(default_factory=dict)
    pools: tuple[str, ...] = ()


def encode_presence(presence: Presence) -> bytes:
    """The JSON to publish. Raises WireError where a value is out of range or the whole exceeds 64 KiB."""
    payload = _encode(presence)
    if len(payload) > MAX_PRESENCE_BYTES:
        raise WireError(
            f"presence of gateway {presence.gateway_id!r} has {len(payload)} bytes; {MAX_PRESENCE_BYTES} are "
            "allowed. Serve fewer bundles, or announce the tail times of fewer cuts"
        )
    decode_presence(payload)
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
            decode_presence(payload)
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
    found = Announcement(payload, "presence", MAX_PRESENCE_BYTES)
    gateway_id = check_id(found.text("gateway"))
    versions = tuple(
        found.whole_number(value, "wire_versions", 255) for value in found.items("wire_versions", MAX_WIRE_VERSIONS)
    )
    if common_version(versions) is None:
        # The other keys may mean something else to a gateway that this end cannot talk to anyway.
        return Presence(gateway_id, wire_versions=versions)
    return Presence(
        gateway_id,
        bundles=found.digests("bundles"),
        speed_factor=found.number("speed_factor", positive=True),
        wire_versions=versions,
        tail_ms=found.times_of_cuts("tail_ms"),
        knows=found.names("knows", MAX_KNOWN),
        bases=found.names_of_bundles("bases"),
        pools=tuple(check_id(pool) for pool in found.texts("pools", MAX_POOLS)),
    )


def _encode(presence: Presence) -> bytes:
    return dumped(
        {
            "gateway": presence.gateway_id,
            "bundles": [digest.hex() for digest in presence.bundles],
            "speed_factor": presence.speed_factor,
            "wire_versions": list(presence.wire_versions),
            "tail_ms": {
                digest: {cut: microseconds(ms) for cut, ms in tails.items()}
                for digest, tails in presence.tail_ms.items()
            },
            "knows": list(presence.knows),
            "bases": dict(presence.bases),
            "pools": list(presence.pools),
        }
    )
