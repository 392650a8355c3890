"""How a codec ladder is written down: ``codecs.json``, canonical JSON under a SHA-256 of its own."""

from __future__ import annotations

from typing import Any

from midstream.ladder import ENTROPIES, Basis, Ladder, MeasuredRung, Place, ReplySize, SizeModel
from midstream.seal import (
    any_number,
    count,
    guard,
    milliseconds,
    number,
    one_of,
    packed,
    seal,
    share,
    text,
    texts,
    truth,
    unpacked,
    unseal,
    whole_milliseconds,
)

LADDER_VERSION = 2
MAX_LADDER_BYTES = 64 << 20
_REMEDY = "calibrate the bundle again"
_MAX_CHANNELS = 4096
_AXES = (1, -1)
# What no payload reaches: with numbers as large, sums and products of them stay finite.
_MAX_BYTES = float(1 << 40)


def ladder_to_bytes(ladder: Ladder) -> bytes:
    """Canonical JSON: the same ladder always gives the same bytes."""
    return seal(
        {
            "format": LADDER_VERSION,
            "bundle": ladder.bundle,
            "machine": ladder.machine,
            "whole_ms": ladder.whole_ms,
            "metric": ladder.metric,
            "samples": ladder.samples,
            "held_out": ladder.held_out,
            "min_agreement": ladder.min_agreement,
            "places": [_place_to_json(place) for place in ladder.places],
            "reply": None if ladder.reply is None else _reply_to_json(ladder.reply),
        }
    )


def ladder_from_bytes(data: bytes, path: str) -> Ladder:
    """The reverse of `ladder_to_bytes`; raises BundleError."""
    body = unseal(data, path, LADDER_VERSION, _REMEDY)
    return guard(path, lambda: _ladder_from_json(body), _REMEDY)


def _place_to_json(place: Place) -> dict[str, Any]:
    return {
        "cut": place.cut,
        "raw_bytes": place.raw_bytes,
        "last_first": sorted(place.last_first),
        "bases": {
            name: {"axis": basis.axis, "mean": packed(basis.mean), "vectors": packed(basis.vectors)}
            for name, basis in place.bases.items()
        },
        "rungs": [_rung_to_json(rung) for rung in place.rungs],
    }


def _rung_to_json(rung: MeasuredRung) -> dict[str, Any]:
    return {
        "codec": rung.codec,
        "lossless": rung.lossless,
        "entropy": rung.entropy,
        "agreement": rung.agreement,
        "payload_bytes": rung.payload_bytes,
        "spread": rung.spread,
        "encode_ms": rung.encode_ms,
        "decode_ms": rung.decode_ms,
        "kept": dict(rung.kept),
        "size": _size_to_json(rung.size),
    }


def _size_to_json(size: SizeModel | None) -> dict[str, Any] | None:
    if size is None:
        return None
    return {
        "intercept": size.intercept,
        "weights": dict(size.weights),
        "low": size.low,
        "high": size.high,
        "error": size.error,
    }


def _reply_to_json(reply: ReplySize) -> dict[str, Any]:
    return {
        "mean_bytes": reply.mean_bytes,
        "spread": reply.spread,
        "size": _size_to_json(reply.size),
        "packed_bytes": reply.packed_bytes,
    }


def _reply_from_json(value: dict[str, Any]) -> ReplySize:
    # Not in the first files of this version.
    packed = value.get("packed_bytes")
    size = _size_from_json(value["size"])
    return ReplySize(
        _bytes(value["mean_bytes"]), number(value["spread"]), size, None if packed is None else _bytes(packed)
    )


def _ladder_from_json(body: dict[str, Any]) -> Ladder:
    places = tuple(map(_place_from_json, body["places"]))
    if len({place.cut for place in places}) != len(places):
        raise ValueError("a place occurs twice")
    return Ladder(
        text(body["bundle"]),
        text(body["machine"]),
        whole_milliseconds(body["whole_ms"]),
        text(body["metric"]),
        count(body["samples"]),
        truth(body["held_out"]),
        share(body["min_agreement"]),
        places,
        None if body["reply"] is None else _reply_from_json(body["reply"]),
    )


def _place_from_json(value: dict[str, Any]) -> Place:
    rungs = tuple(map(_rung_from_json, value["rungs"]))
    if len({rung.codec for rung in rungs}) != len(rungs):
        raise ValueError("a codec occurs twice")
    return Place(
        None if value["cut"] is None else text(value["cut"]),
        _bytes(value["raw_bytes"]),
        rungs,
        {text(name): _basis_from_json(basis) for name, basis in value["bases"].items()},
        frozenset(texts(value["last_first"])),
    )


def _basis_from_json(value: dict[str, Any]) -> Basis:
    mean, vectors = unpacked(value["mean"]), unpacked(value["vectors"])
    channels = len(mean)
    if type(value["axis"]) is not int or value["axis"] not in _AXES or not 0 < channels <= _MAX_CHANNELS:
        raise ValueError(f"a basis has {channels} channels along axis {value['axis']}")
    if not len(vectors) or len(vectors) % channels or len(vectors) > channels**2:
        raise ValueError(f"a basis has vectors of {len(vectors)} numbers for {channels} channels")
    return Basis(value["axis"], mean, vectors.reshape(-1, channels))


def _rung_from_json(value: dict[str, Any]) -> MeasuredRung:
    return MeasuredRung(
        text(value["codec"]),
        truth(value["lossless"]),
        one_of(value["entropy"], ENTROPIES),
        share(value["agreement"]),
        _bytes(value["payload_bytes"]),
        number(value["spread"]),
        milliseconds(value["encode_ms"]),
        milliseconds(value["decode_ms"]),
        {text(name): share(kept) for name, kept in value["kept"].items()},
        _size_from_json(value["size"]),
    )


def _size_from_json(value: dict[str, Any] | None) -> SizeModel | None:
    if value is None:
        return None
    weights = {text(name): any_number(weight) for name, weight in value["weights"].items()}
    model = SizeModel(
        any_number(value["intercept"]), weights, _bytes(value["low"]), _bytes(value["high"]), number(value["error"])
    )
    if not 0 < model.low <= model.high:
        raise ValueError(f"sizes from {model.low} to {model.high}")
    return model


def _bytes(value: Any) -> float:
    if number(value) > _MAX_BYTES:
        raise ValueError(f"{value!r} is no number of bytes")
    return float(value)
