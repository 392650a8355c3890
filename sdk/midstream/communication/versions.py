"""Which wire version two ends talk in, and what a gateway says to a message of a version that it does not speak.

The notice of versions has the same bytes in every wire version, travels without chunks, and is the only such message.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from midstream.communication.checksum import CRC_BYTES, Buffer, is_sealed, sealed
from midstream.communication.framing import MAGIC, REQUEST_ID_BYTES, VERSIONS, WIRE_VERSIONS, check_length
from midstream.errors import WireError

MAX_VERSIONS = 16

_HEADER = struct.Struct("<2sBBBB16s")


@dataclass(frozen=True, slots=True)
class VersionNotice:
    """The wire versions that a gateway speaks, ascending, in answer to what came with this id of 16 bytes."""

    request_id: bytes
    versions: tuple[int, ...] = WIRE_VERSIONS


@lru_cache(maxsize=256)
def common_version(there: tuple[int, ...], here: tuple[int, ...] = WIRE_VERSIONS) -> int | None:
    """The highest wire version that both ends speak; None where there is none."""
    return max(set(here).intersection(there), default=None)


def disagreement(gateway_id: str, there: Collection[int], here: Collection[int] = WIRE_VERSIONS) -> str:
    """Why a device and a gateway without a common version cannot talk, and which of the two to update."""
    older = "the gateway" if max(there, default=-1) < max(here, default=-1) else "this device"
    return (
        f"gateway {gateway_id} speaks wire version {_listed(there)}, this device {_listed(here)}: update midstream on "
        f"{older}"
    )


def encode_notice(notice: VersionNotice) -> bytes:
    """The notice as an MQTT payload. Raises WireError where it names no versions, or more than 16."""
    check_length(notice.request_id, "request id", REQUEST_ID_BYTES)
    _check_versions(notice.versions)
    header = _HEADER.pack(MAGIC, notice.versions[-1], VERSIONS, 0, len(notice.versions), notice.request_id)
    return sealed(header, bytes(notice.versions))


def is_notice(payload: Buffer) -> bool:
    """Whether a payload says that it is a notice of versions; whether it is one, `decode_notice` finds out."""
    return bytes(payload[:2]) == MAGIC and len(payload) > 3 and payload[3] == VERSIONS


def decode_notice(payload: Buffer) -> VersionNotice:
    """The notice in an MQTT payload. Raises WireError on anything that `encode_notice` does not write."""
    view = memoryview(payload)
    if not _HEADER.size + 1 + CRC_BYTES <= len(view) <= _HEADER.size + MAX_VERSIONS + CRC_BYTES or not is_notice(view):
        raise WireError(f"payload of {len(view)} bytes is not a notice of versions")
    if not is_sealed(view):
        raise WireError(f"notice of versions of {len(view)} bytes is damaged: its CRC-32C does not match")
    _, highest, _, flags, count, request_id = _HEADER.unpack_from(view)
    versions = tuple(view[_HEADER.size : -CRC_BYTES])
    if flags or count != len(versions) or versions[-1] != highest:
        raise WireError("notice of versions contradicts itself: flags, number of versions or the highest one")
    _check_versions(versions)
    return VersionNotice(request_id, versions)


def _check_versions(versions: tuple[int, ...]) -> None:
    ascending = all(before < after for before, after in pairwise(versions))
    if not 1 <= len(versions) <= MAX_VERSIONS or not ascending or not all(0 <= version <= 255 for version in versions):
        raise WireError(f"{list(versions)[:MAX_VERSIONS]} are not 1 to {MAX_VERSIONS} versions of 0…255, ascending")


def _listed(versions: Collection[int]) -> str:
    return ", ".join(map(str, sorted(versions))) or "none"
