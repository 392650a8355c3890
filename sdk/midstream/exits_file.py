"""How an early exit is written down: ``exits.json``, canonical JSON under a SHA-256 of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from midstream.exits import SCORES, Chance, Exit, Pooling
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
    unpacked,
    unseal,
    whole_milliseconds,
)

EXITS_VERSION = 1
MAX_EXITS_BYTES = 64 << 20
MAX_GRID = 16
_REMEDY = "run `midstream exits` again, or delete the file"
_AXES = (None, 1, -1)


def exit_to_bytes(early_exit: Exit) -> bytes:
    """Canonical JSON: the same exit always gives the same bytes."""
    chance = early_exit.chance
    return seal(
        {
            "format": EXITS_VERSION,
            "bundle": early_exit.bundle,
            "cut": early_exit.cut,
            "output": early_exit.output,
            "scores": early_exit.scores,
            "poolings": {name: {"axis": each.axis, "grid": each.grid} for name, each in early_exit.poolings.items()},
            "weights": packed(early_exit.weights),
            "bias": packed(early_exit.bias),
            "threshold": early_exit.threshold,
            "target": early_exit.target,
            "answered_share": early_exit.answered_share,
            "agreement": early_exit.agreement,
            "samples": early_exit.samples,
            "held_out": early_exit.held_out,
            "head_ms": early_exit.head_ms,
            "exit_ms": early_exit.exit_ms,
            "whole_ms": early_exit.whole_ms,
            "chance": None
            if chance is None
            else {
                "intercept": chance.intercept,
                "weights": dict(chance.weights),
                "error": chance.error,
                "constant_error": chance.constant_error,
            },
        }
    )


def exit_from_bytes(data: bytes, path: str) -> Exit:
    """The reverse of `exit_to_bytes`; raises BundleError."""
    body = unseal(data, path, EXITS_VERSION, _REMEDY)
    return guard(path, lambda: _from_json(body), _REMEDY)


def _from_json(body: Mapping[str, Any]) -> Exit:
    bias, weights = unpacked(body["bias"]), unpacked(body["weights"])
    if not len(bias) or not len(weights) or len(weights) % len(bias):
        raise ValueError(f"{len(weights)} weights for {len(bias)} scores")
    scores = one_of(body["scores"], SCORES)
    if (scores == "share") != (len(bias) == 1):
        raise ValueError(f"{len(bias)} scores of the kind {scores}")
    return Exit(
        bundle=text(body["bundle"]),
        cut=text(body["cut"]),
        output=text(body["output"]),
        scores=scores,
        poolings={text(name): _pooling(value) for name, value in body["poolings"].items()},
        weights=weights.reshape(-1, len(bias)),
        bias=bias,
        threshold=number(body["threshold"]),
        target=share(body["target"]),
        answered_share=share(body["answered_share"]),
        agreement=share(body["agreement"]),
        samples=count(body["samples"]),
        held_out=count(body["held_out"]),
        head_ms=milliseconds(body["head_ms"]),
        exit_ms=milliseconds(body["exit_ms"]),
        whole_ms=whole_milliseconds(body["whole_ms"]),
        chance=None if body["chance"] is None else _chance(body["chance"]),
    )


def _pooling(value: Mapping[str, Any]) -> Pooling:
    axis, grid = value["axis"], count(value["grid"])
    if (axis is not None and type(axis) is not int) or axis not in _AXES or not 1 <= grid <= MAX_GRID:
        raise ValueError(f"a pooling over {grid} parts with channels along axis {axis!r}")
    return Pooling(axis, grid)


def _chance(value: Mapping[str, Any]) -> Chance:
    weights = {text(name): any_number(weight) for name, weight in value["weights"].items()}
    return Chance(any_number(value["intercept"]), weights, number(value["error"]), number(value["constant_error"]))
