"""The forecaster's weights by name, apart from any framework, and what its output is made up of.

The network, of rows × `FEATURES` and rows × units of state:

    x = clip((features - mean) × scale, ±4)
    state = GRU(x, state)                       Cho et al. 2014, the reset gate after the product, as cuDNN has it
    y = [state, x] · skip + relu([state, x] · dense + dense_bias) · out + out_bias

Of each target y has a weight for each of its bases (`midstream.allocation.features.BASES`), of which the softmax mixes
these, and three numbers more: what is added to that (± 3 at most), and how far the quantiles lie below and above it
(softplus). So they are in order whatever comes, and untrained it is the mean of simple forecasts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from midstream.allocation.features import BASES, FEATURES, TARGETS

UNITS = 32
_DENSE = 32
_FIRST_SPREAD = -1.0
CLIP = 4.0
MOST_ADDED = 3.0

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """Where a target's numbers lie: its bases among the features, and in y its mixture and the three after it."""

    bases: slice
    mixture: slice
    after: int


def parts() -> tuple[Part, ...]:
    """One for each of `TARGETS`, in their order."""
    found, at = [], 0
    for target in TARGETS:
        first, count = FEATURES.index(BASES[target][0]), len(BASES[target])
        if FEATURES[first : first + count] != BASES[target]:
            raise AssertionError(f"the bases of {target} do not lie together")
        found.append(Part(slice(first, first + count), slice(at, at + count), at + count))
        at += count + 3
    return tuple(found)


OUTPUTS = sum(len(names) + 3 for names in BASES.values())


@dataclass(frozen=True)
class Weights:
    """All float32; ``mean`` and ``scale`` are of the features trained on first, and stay."""

    mean: Floats
    scale: Floats
    kernel: Floats
    recurrent: Floats
    bias: Floats
    recurrent_bias: Floats
    dense: Floats
    dense_bias: Floats
    skip: Floats
    out: Floats
    out_bias: Floats

    @staticmethod
    def first(mean: NDArray[np.floating], scale: NDArray[np.floating], seed: int) -> Weights:
        """Untrained: Glorot's uniform numbers, an orthogonal recurrent part; what is put out is not theirs yet."""
        rng = np.random.default_rng(seed)
        count = len(FEATURES)
        out_bias = np.zeros(OUTPUTS)
        for part in parts():
            out_bias[part.after + 1 : part.after + 3] = _FIRST_SPREAD
        recurrent = [np.linalg.qr(rng.standard_normal((UNITS, UNITS)))[0] for _ in range(3)]
        arrays = {
            "mean": mean,
            "scale": scale,
            "kernel": _glorot(rng, count, 3 * UNITS),
            "recurrent": np.concatenate(recurrent, axis=1),
            "bias": np.zeros(3 * UNITS),
            "recurrent_bias": np.zeros(3 * UNITS),
            "dense": _glorot(rng, UNITS + count, _DENSE),
            "dense_bias": np.zeros(_DENSE),
            "skip": np.zeros((UNITS + count, OUTPUTS)),
            "out": np.zeros((_DENSE, OUTPUTS)),
            "out_bias": out_bias,
        }
        return Weights.of(arrays)

    @staticmethod
    def of(arrays: Mapping[str, NDArray[np.floating]]) -> Weights:
        """From arrays by name; raises KeyError where one is missing."""
        return Weights(**{field.name: np.asarray(arrays[field.name], np.float32) for field in fields(Weights)})

    def named(self) -> dict[str, Floats]:
        """All arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def fits(self) -> bool:
        """Whether every shape is as this release's features and outputs need it."""
        like = Weights.first(np.zeros(len(FEATURES)), np.ones(len(FEATURES)), 0).named()
        return all(value.shape == like[name].shape for name, value in self.named().items())


def _glorot(rng: np.random.Generator, inputs: int, outputs: int) -> NDArray[np.float64]:
    limit = np.sqrt(6.0 / (inputs + outputs))
    return rng.uniform(-limit, limit, (inputs, outputs))
