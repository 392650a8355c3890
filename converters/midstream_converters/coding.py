"""Slices that code what crosses themselves: where they can, whether their codes are right, and what coding takes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import cast

import numpy as np
from numpy.typing import NDArray

from midstream.communication.codecs.steps import Stepped, dequantise, holds, keeps, quantise
from midstream.manifest import CodingCost, carrier_names
from midstream.tensors import Tensor, Tensors
from midstream_converters.graph import Slice, Source
from midstream_converters.loaded import Loaded
from midstream_converters.slicing import Halves

# Below this a slice's own coding saves less than a run differs from the next.
LEAST_BYTES = 64 << 10
# A half is as near as codes can be; the rest is what two ways to divide differ by.
_NEAREST = 0.501
_ROUNDS = 9
_KEPT = 1 / 16


@dataclass(frozen=True, slots=True)
class Coded:
    """Head and tail of a cut that code what crosses themselves, and what coding takes at either end."""

    head: Slice
    tail: Slice
    encoding: CodingCost
    decoding: CodingCost


def may_code(source: Source, codec: str, halves: Halves) -> bool:
    """Whether slices of this cut can carry out the codec, and whether what crosses is large enough for it."""
    cut = halves.cut
    names = {name for spec in cut.tensors for name in carrier_names(codec, spec.name)}
    return (
        codec in source.codecs
        and not halves.wide
        and cut.payload_bytes >= LEAST_BYTES
        and all(spec.dtype == np.float32 and not spec.may_be_empty for spec in cut.tensors)
        and {spec.name for spec in cut.tensors} <= set(halves.head.record.outputs)
        and names.isdisjoint(source.graph.values)
    )


def carried(made: Tensors, codec: str, name: str) -> Stepped:
    """The codes that a head has made of a tensor."""
    return Stepped.of(*(made[key] for key in carrier_names(codec, name)))


def right(theirs: Stepped, values: Tensor) -> bool:
    """Whether codes are those of the codec to one unit, and stand for the values to half a step."""
    flat = _flat(values)
    ours = quantise(flat, 0.0)
    if ours is None or not holds(theirs, flat):
        return False
    apart = np.abs(theirs.codes.astype(np.int16) - ours.codes)
    error = np.abs(dequantise(theirs) - flat)
    return bool(apart.max() <= 1 and error.max() <= _NEAREST * theirs.step)


def digest(tensors: Mapping[str, Tensor]) -> bytes:
    """By which what crosses is known again."""
    content = hashlib.blake2b(digest_size=16)
    for tensor in tensors.values():
        content.update(np.ascontiguousarray(tensor).data)
    return content.digest()


def coding_costs(
    encoder: Loaded, decoder: Loaded, codec: str, crossing: Tensors, made: Tensors
) -> tuple[CodingCost, CodingCost]:
    """What encoding and decoding take within slices and beside them, here.

    Within slices: by the operators that do it, alone in a program. In a head of many milliseconds they would not be
    seen, and what the call of a program takes stands against them.
    """
    flat = {name: _flat(tensor) for name, tensor in crossing.items()}
    codes = {name: carried(made, codec, name) for name in crossing}

    def encode_within() -> None:
        coded = encoder.run(crossing)
        for name, values in flat.items():
            stepped = carried(coded, codec, name)
            if holds(stepped, values):
                keeps(stepped, values, _KEPT)

    def encode_beside() -> None:
        for values in flat.values():
            if (stepped := quantise(values, 0.0)) is not None:
                keeps(stepped, values, _KEPT)

    def decode_beside() -> None:
        for stepped in codes.values():
            dequantise(stepped)

    times = _medians_ms([encode_within, encode_beside, lambda: decoder.run(made), decode_beside])
    return CodingCost(*times[:2]), CodingCost(*times[2:])


def _flat(tensor: Tensor) -> NDArray[np.float32]:
    return cast("NDArray[np.float32]", tensor.reshape(-1))


def _medians_ms(works: list[Callable[[], object]]) -> list[float]:
    """Milliseconds of each, taking turns; the first turn does not count."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(_ROUNDS + 1):
        for work, series in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            series.append((time.perf_counter() - start) * 1e3)
    return [median(series[1:]) for series in times]
