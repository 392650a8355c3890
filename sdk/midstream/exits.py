"""The early exit of one bundle: a light head that answers easy inputs after a cut's head, without the tail.

It takes what crosses the cut, pools it over positions, and gives the model's scores by one matrix. `midstream exits`
learns it from the model's own answers, no labels needed, and ``exits.json`` holds it beside the bundle's other files;
it is no part of the bundle's identity, and only the device needs it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from midstream.tensors import Tensor, Tensors, TensorSpec

EXITS_FILE = "exits.json"

Scores = Literal["shares", "logits", "share"]
"""What the model's output is: shares that add up to 1, scores of any size, or one share of 0 to 1."""
SCORES: tuple[Scores, ...] = get_args(Scores)

LEAST_SHARE = 1e-12
"""Shares are taken as no nearer to 0 and 1 than this, or than half a step of a quantised output."""


@dataclass(frozen=True, slots=True)
class Pooling:
    """How one crossing tensor becomes numbers.

    ``axis`` is that of the channels, 1 or -1; then each channel's mean in ``grid`` parts of every axis of positions,
    and its maximum over all positions, are taken. Without an axis, all elements are. The first axis, a batch of one, is
    no position.
    """

    axis: int | None
    grid: int = 1

    def numbers(self, tensor: Tensor, spec: TensorSpec) -> NDArray[np.float32]:
        """The numbers of one tensor, dequantised where its specification says how."""
        values = real(tensor, spec)
        if self.axis is None:
            return values.reshape(-1)
        rows = np.moveaxis(values, self.axis, -1)[0]
        cells = rows
        for axis in range(rows.ndim - 1):
            length = rows.shape[axis]
            starts = np.arange(self.grid) * length // self.grid
            counts = np.maximum(np.diff(np.append(starts, length)), 1)
            sums = np.add.reduceat(cells, starts, axis=axis)
            cells = sums / counts.reshape(-1, *[1] * (sums.ndim - 1 - axis)).astype(np.float32)
        return np.concatenate([cells.reshape(-1), rows.max(axis=tuple(range(rows.ndim - 1)))])

    def count(self, shape: Sequence[int | None]) -> int | None:
        """How many numbers a tensor of this shape gives; None where that depends on a dynamic size."""
        sizes = list(shape)
        if self.axis is None:
            known = [size for size in sizes if size is not None]
            return math.prod(known) if len(known) == len(sizes) else None
        channels = sizes[self.axis]
        return None if channels is None else channels * (self.grid ** (len(sizes) - 2) + 1)


@dataclass(frozen=True, slots=True)
class Chance:
    """How likely an input is answered, from its features: the logistic function of intercept + Σ weight · feature.

    ``error`` is the Brier score, the mean squared difference to what happened, on inputs that it was not fitted to;
    ``constant_error`` that of always saying the mean.
    """

    intercept: float
    weights: Mapping[str, float]
    error: float
    constant_error: float

    def of(self, features: Mapping[str, float]) -> float | None:
        """0 to 1; None where a feature is missing or no number."""
        total = self.intercept
        for name, weight in self.weights.items():
            total += weight * features.get(name, math.nan)
        if math.isnan(total):
            return None
        return 0.5 * (1.0 + math.tanh(0.5 * total))


@dataclass(frozen=True, slots=True)
class Exit:
    """The exit after one cut's head.

    ``poolings`` are by crossing tensor; ``weights`` has F × C float32, ``bias`` C. The model's one ``output``, of the
    kind ``scores``, is answered where the confidence reaches ``threshold``: the distance between the two largest scores
    before the softmax, or for one share that of its logit from 0.

    ``answered_share`` of the held-out inputs are; of these, ``agreement`` have the whole model's answer, ``target`` was
    asked. ``head_ms``, ``exit_ms`` and ``whole_ms`` are medians on the machine that learned it, one thread. ``chance``
    tells from an input's features whether it will be answered, where that is better known than ``answered_share``.
    """

    bundle: str
    cut: str
    output: str
    scores: Scores
    poolings: Mapping[str, Pooling]
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    threshold: float
    target: float
    answered_share: float
    agreement: float
    samples: int
    held_out: int
    head_ms: float
    exit_ms: float
    whole_ms: float
    chance: Chance | None = None

    @property
    def assured(self) -> float:
        """The agreement that can be counted on: what was asked for, or what was found where that is less.

        The threshold was chosen to show no more than ``target``; a few held-out answers without a mistake show less.
        """
        return min(self.target, self.agreement)

    def share_of(self, features: Mapping[str, float] | None) -> float:
        """How likely an input with these features is answered, 0 to 1."""
        known = None if self.chance is None or features is None else self.chance.of(features)
        return self.answered_share if known is None else known

    def answer(self, crossing: Tensors, specs: Sequence[TensorSpec], output: TensorSpec) -> Tensors | None:
        """The model's output from what crosses the cut, or None where this exit is not sure enough.

        ``specs`` are those of the crossing tensors, ``output`` that of the model's output. Several inputs at once, a
        batch, are never answered.
        """
        pooled_over = [crossing[name] for name, pooling in self.poolings.items() if pooling.axis is not None]
        if any(len(tensor) != 1 or not tensor.size for tensor in pooled_over):
            return None
        found = self.scores_of(pooled(self.poolings, crossing, specs)[np.newaxis])
        # Not finite is not sure.
        if not np.isfinite(found).all() or confidence(found)[0] < self.threshold:
            return None
        return {self.output: as_output(found[0], self.scores, output)}

    def scores_of(self, numbers: NDArray[np.float32]) -> NDArray[np.float32]:
        """N × C numbers as `logits` gives them, from N × F of `pooled`; not finite where those are too large."""
        with np.errstate(all="ignore"):
            return numbers @ self.weights + self.bias


def pooled(poolings: Mapping[str, Pooling], crossing: Tensors, specs: Sequence[TensorSpec]) -> NDArray[np.float32]:
    """The numbers of all crossing tensors, in the order of ``specs``; not finite where they are too large."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.concatenate([poolings[spec.name].numbers(crossing[spec.name], spec) for spec in specs])


def real(tensor: Tensor, spec: TensorSpec) -> NDArray[np.float32]:
    """The values that a tensor stands for."""
    values = np.asarray(tensor, np.float32)
    if spec.scale is None:
        return values
    return (values - np.float32(spec.zero_point or 0)) * np.float32(spec.scale)


def logits(answer: Tensor, spec: TensorSpec, scores: Scores) -> NDArray[np.float64]:
    """The model's answer as an exit learns it: C numbers, the logarithms of shares, or scores as they are."""
    values = real(answer, spec).reshape(-1).astype(np.float64)
    if scores == "logits":
        return values
    half = float(np.finfo(np.float16).tiny) if spec.dtype == np.float16 else 0.0
    least = max(LEAST_SHARE, 0.5 * (spec.scale or 0.0), half)
    shares = np.clip(values, least, 1.0 - least)
    found = np.log(shares)
    # What a softmax takes away is the same for all classes, and follows from no linear function.
    return found - found.mean() if scores == "shares" else found - np.log1p(-shares)


def confidence(found: NDArray[np.floating]) -> NDArray[np.float64]:
    """Of N × C numbers as `logits` gives them, by how much each answer stands out."""
    if found.shape[1] == 1:
        return np.abs(found[:, 0].astype(np.float64))
    top = np.partition(found, -2, axis=1)[:, -2:].astype(np.float64)
    return np.asarray(top[:, 1] - top[:, 0])


def choices(found: NDArray[np.floating]) -> NDArray[np.int64]:
    """Of N × C numbers, which class each stands for; of one share, whether it is more than a half."""
    return (found[:, 0] > 0).astype(np.int64) if found.shape[1] == 1 else found.argmax(1).astype(np.int64)


def told(found: NDArray[np.floating], scores: Scores, spec: TensorSpec) -> NDArray[np.int64]:
    """The `choices` of N × C numbers once each is the model's output, where quantising makes some equal."""
    return choices(np.array([logits(as_output(row, scores, spec), spec, scores) for row in found]))


def as_output(found: NDArray[np.floating], scores: Scores, spec: TensorSpec) -> Tensor:
    """C numbers as the model's output, of its dtype and shape, quantised where the model's is."""
    values = found.astype(np.float64)
    if scores == "shares":
        values = np.exp(values - values.max())
        values /= values.sum()
    elif scores == "share":
        values = 0.5 * (1.0 + np.tanh(0.5 * values))
    if spec.scale is not None:
        limits = np.iinfo(spec.dtype.name)
        values = np.clip(np.rint(values / spec.scale) + (spec.zero_point or 0), limits.min, limits.max)
    # A vector along whichever axis, such as [1, C, 1, 1]; the last where the specification leaves that open.
    shape = [1 if size is None else size for size in spec.shape]
    if math.prod(shape) != len(values):
        shape[-1] = -1
    return values.astype(spec.dtype).reshape(shape)
