"""How what a device has learned of its costs is written down: canonical JSON under a SHA-256 of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from midstream.partitioning.correction import MAX_GATEWAYS, Correction, Corrections, Track
from midstream.partitioning.sizes import Seen
from midstream.seal import any_number, count, guard, number, seal, text, unseal

LEARNED_VERSION = 1
MAX_LEARNED_BYTES = 1 << 20
_REMEDY = "delete the file"
_MAX_ENTRIES = 4096
_MAX_NAME = 64
# What no payload, no error and no spread reaches: with numbers as large, sums and products of them stay finite.
_MOST = float(1 << 40)
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Learned:
    """What outlasts a run. Neither the link nor the waits do: they say nothing of tomorrow."""

    corrections: Corrections
    sizes: tuple[Seen, ...]


def learned_to_bytes(learned: Learned, digest: bytes) -> bytes:
    """Canonical JSON of what was learned of the bundle with this digest."""
    corrections = learned.corrections
    return seal(
        {
            "format": LEARNED_VERSION,
            "bundle": digest.hex(),
            "device": _correction_to_json(corrections.device),
            # As a list, as they have an order.
            "gateways": [
                {"gateway": name, **_correction_to_json(known)} for name, known in corrections.gateways.items()
            ],
            "sizes": [
                {
                    "cut": seen.key[0],
                    "codec": seen.key[1],
                    "payload_bytes": seen.payload_bytes,
                    "errors": [None if math.isinf(error) else round(error, _DIGITS) for error in seen.errors],
                }
                for seen in learned.sizes
            ],
        }
    )


def learned_from_bytes(data: bytes, path: str, digest: bytes) -> Learned:
    """The reverse of `learned_to_bytes`; raises BundleError, also where it is of another bundle."""
    body = unseal(data, path, LEARNED_VERSION, _REMEDY)
    return guard(path, lambda: _from_json(body, digest), _REMEDY)


def _from_json(body: Mapping[str, Any], digest: bytes) -> Learned:
    if text(body["bundle"]) != digest.hex():
        raise ValueError("it is of another bundle")
    if len(body["gateways"]) > MAX_GATEWAYS or len(body["sizes"]) > _MAX_ENTRIES:
        raise ValueError("it has too many entries")
    gateways = {_name(value["gateway"]): _correction_from_json(value) for value in body["gateways"]}
    return Learned(
        Corrections(_correction_from_json(body["device"]), gateways), tuple(map(_seen_from_json, body["sizes"]))
    )


def _correction_to_json(correction: Correction) -> dict[str, Any]:
    machine, cuts = correction.tracks
    return {"machine": _track_to_json(machine), "cuts": {cut: _track_to_json(track) for cut, track in cuts.items()}}


def _correction_from_json(value: Mapping[str, Any]) -> Correction:
    if len(value["cuts"]) > _MAX_ENTRIES:
        raise ValueError("it has too many cuts")
    cuts = {_name(cut): _track_from_json(track) for cut, track in value["cuts"].items()}
    return Correction(_track_from_json(value["machine"]), cuts)


def _track_to_json(track: Track) -> dict[str, Any]:
    return {"log": round(track.level, _DIGITS), "spread": round(track.spread, _DIGITS), "samples": track.samples}


def _track_from_json(value: Mapping[str, Any]) -> Track:
    return Track.at(any_number(value["log"]), _bounded(value["spread"]), count(value["samples"]))


def _seen_from_json(value: Mapping[str, Any]) -> Seen:
    cut = None if value["cut"] is None else _name(value["cut"])
    errors = tuple(math.inf if error is None else _bounded(error) for error in value["errors"])
    if len(errors) != 3:
        raise ValueError(f"{len(errors)} errors of 3 predictors")
    return Seen((cut, _name(value["codec"])), _bounded(value["payload_bytes"]), errors)


def _name(value: Any) -> str:
    if len(text(value)) > _MAX_NAME:
        raise ValueError(f"a name of {len(value)} characters")
    return str(value)


def _bounded(value: Any) -> float:
    if number(value) > _MOST:
        raise ValueError(f"{value!r} is too large")
    return float(value)
