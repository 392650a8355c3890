"""Slices that code what crosses themselves: where they can, whether their codes are right, and what coding takes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
_ROUNDS, _QUICKER = 8, 0.25
_KEPT = 1 / 16


@dataclass(frozen=True, slots=True)
class Coded:
    """Head and tail of a cut that code what crosses themselves, by name, and what coding takes at either end.

    There is no head where slices of the format can decode but not encode.
    """

    slices: Mapping[str, Slice]
    costs: Mapping[str, CodingCost]


def may_code(source: Source, codec: str, halves: Halves) -> bool:
    """Whether what crosses this cut is of single precision, large enough, and made by its head."""
    cut = halves.cut
    names = {name for spec in cut.tensors for name in carrier_names(codec, spec.name)}
    return (
        not halves.wide
        and cut.payload_bytes >= LEAST_BYTES
        and all(spec.dtype == np.float32 and not spec.may_be_empty for spec in cut.tensors)
        and {spec.name for spec in cut.tensors} <= set(halves.head.record.outputs)
        and names.isdisjoint(source.graph.values)
    )


def carried(made: Tensors, codec: str, name: str) -> Stepped:
    """The codes that a head has made of a tensor."""
    return Stepped.of(*(made[key] for key in carrier_names(codec, name)))


def codes_of(crossing: Tensors) -> dict[str, Stepped] | None:
    """The codec's own codes; None where a tensor has none."""
    found = {name: quantise(_flat(values), 0.0) for name, values in crossing.items()}
    return {name: each for name, each in found.items() if each is not None} if None not in found.values() else None


def carriers(codec: str, codes: Mapping[str, Stepped], crossing: Tensors) -> Tensors:
    """What a tail that decodes takes."""
    found: Tensors = {}
    for name, stepped in codes.items():
        found |= zip(carrier_names(codec, name), stepped.carriers(crossing[name].shape), strict=True)
    return found


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


def encoding_cost(plain: Loaded, encoder: Loaded, codec: str, crossing: Tensors) -> CodingCost:
    """What encoding takes, by the programs of `Source.encoders`.

    In a head of many milliseconds a coding of some hundredths would not be seen.
    """
    sources = {f"{name}.before": tensor for name, tensor in crossing.items()}

    def within() -> None:
        made = encoder.run(sources)
        for name in crossing:
            stepped, values = carried(made, codec, name), _flat(made[name])
            if holds(stepped, values):
                keeps(stepped, values, _KEPT)

    def beside() -> None:
        made = plain.run(sources)
        for name in crossing:
            values = _flat(made[name])
            if (stepped := quantise(values, 0.0)) is not None:
                keeps(stepped, values, _KEPT)

    return _cost(lambda: plain.run(sources), within, beside)


def decoding_cost(plain: Loaded, decoder: Loaded, made: Tensors, codes: Mapping[str, Stepped]) -> CodingCost:
    """What decoding takes, by the first layers of a tail: those that read ``codes``, and with their decoding.

    ``made`` are the tensors before coding, and their carriers.
    """

    def beside() -> None:
        plain.run(made | {name: dequantise(each).reshape(made[name].shape) for name, each in codes.items()})

    return _cost(lambda: plain.run(made), lambda: decoder.run(made), beside)


def _cost(plain: Callable[[], object], within: Callable[[], object], beside: Callable[[], object]) -> CodingCost:
    """What two ways of coding take more than the same layers without it."""
    times = _times_ms([plain, within, beside])
    return CodingCost(*(max(0.0, each - times[0]) for each in times[1:]))


def _flat(tensor: Tensor) -> NDArray[np.float32]:
    return cast("NDArray[np.float32]", tensor.reshape(-1))


def _times_ms(works: Sequence[Callable[[], object]]) -> list[float]:
    """Milliseconds of this thread on the processor for each, of the quicker runs, taking turns.

    The first turn does not count; every other one goes the other way round.
    """
    times: list[list[float]] = [[] for _ in works]
    for turn in range(_ROUNDS + 1):
        order = list(zip(works, times, strict=True))
        for work, series in order[:: 1 if turn % 2 else -1]:
            start = time.thread_time()
            work()
            series.append((time.thread_time() - start) * 1e3)
    return [float(np.quantile(series[1:], _QUICKER)) for series in times]
