"""What payloads will take before they are encoded."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from midstream.ladder import Ladder
from midstream.tensors import Tensors

Key = tuple[str | None, str]
"""Cut (None: the whole input) and codec."""

# The n-th error weighs at least this much.
_SMOOTHING = 0.2
_CONSTANT, _FEATURES, _PREVIOUS = range(3)


def size_features(features: Mapping[str, float], inputs: Tensors) -> Mapping[str, float]:
    """What sizes are predicted from: the features of an input, and how long it is, where that varies.

    ``input_octaves`` is the binary logarithm of its elements.
    """
    return {**features, "input_octaves": math.log2(max(1, sum(tensor.size for tensor in inputs.values())))}


class Seen(NamedTuple):
    """The last payload of a cut and codec, and the errors of the three predictors there, infinite where unknown."""

    key: Key
    payload_bytes: float
    errors: tuple[float, ...]


class SizeEstimates:
    """Sizes by three predictors: the calibrated mean, the input's features, and the payload before this one.

    For each cut and codec the one counts that has erred least lately, in shares of the size. The calibrated errors are
    where the first two begin; the last, good for streams and bad for anything else, has to show itself first. Not
    thread-safe.
    """

    def __init__(self, ladder: Ladder | None) -> None:
        self._reply = None if ladder is None else ladder.reply
        rungs = [] if ladder is None else [(place.cut, rung) for place in ladder.places for rung in place.rungs]
        # Without features an input is expected to be as the one before it, until something was learned.
        self._kept: tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]] | None = None
        self._index: dict[Key, int] = {(cut, rung.codec): at for at, (cut, rung) in enumerate(rungs)}
        models = [rung.size for _, rung in rungs]
        self._names = sorted({name for model in models if model is not None for name in model.weights})
        self._fitted = np.array([model is not None for model in models], bool)
        self._intercepts = np.array([0.0 if model is None else model.intercept for model in models])
        self._weights = np.array(
            [[0.0 if model is None else model.weights.get(name, 0.0) for name in self._names] for model in models]
        ).reshape(len(models), len(self._names))
        self._bounds = np.log(
            np.array([(1.0, 1.0) if model is None else model.bounds for model in models]).reshape(-1, 2)
        )
        self._sizes = np.zeros((len(models), 3))
        self._errors = np.full((len(models), 3), math.inf)
        for at, (_, rung) in enumerate(rungs):
            self._sizes[at, _CONSTANT] = rung.payload_bytes
            self._errors[at, _CONSTANT] = rung.spread
            if rung.size is not None:
                self._errors[at, _FEATURES] = rung.size.error

    def fresh(self) -> SizeEstimates:
        """Estimates of the same ladder for another device, of which nothing was seen; what does not change is shared.

        To be asked of one that has seen nothing itself.
        """
        other = copy.copy(self)
        other._kept, other._sizes, other._errors = None, self._sizes.copy(), self._errors.copy()
        return other

    def predict(self, features: Mapping[str, float] | None) -> dict[Key, tuple[float, float]]:
        """Bytes, and the share by which they are expected to be wrong, of all cuts and codecs that are known."""
        sizes, errors = self._now(features)
        best = errors.argmin(1)
        rows = np.arange(len(best))
        chosen = zip(self._index, sizes[rows, best].tolist(), errors[rows, best].tolist(), strict=True)
        return {key: (size, error) for key, size, error in chosen}

    def __len__(self) -> int:
        return len(self._index)

    def places(self, keys: Sequence[Key]) -> NDArray[np.intp]:
        """Where `sizes_of` finds what is known of these; -1 where nothing is. Holds until ``len()`` changes."""
        return np.array([self._index.get(key, -1) for key in keys], np.intp)

    def sizes_of(
        self, places: NDArray[np.intp], otherwise: NDArray[np.float64], features: Mapping[str, float] | None
    ) -> NDArray[np.float64]:
        """Bytes at these places, rounded up, and ``otherwise`` where nothing is known."""
        if not len(self._index):
            return otherwise
        kept = self._kept
        if features is None and kept is not None and kept[0] is places and kept[1] is otherwise:
            return kept[2]
        sizes, errors = self._now(features)
        best = sizes[np.arange(len(sizes)), errors.argmin(1)]
        found = np.where(places >= 0, np.ceil(best)[places], otherwise)
        if features is None:
            found.flags.writeable = False
            self._kept = places, otherwise, found
        return found

    def reply_bytes(self, features: Mapping[str, float] | None) -> float | None:
        """Bytes of the model's outputs that this input is expected to have; None where nobody has calibrated."""
        if self._reply is None:
            return None
        model = self._reply.size
        if model is None or features is None or any(name not in features for name in model.weights):
            return self._reply.mean_bytes
        exponent = model.intercept + sum(weight * features[name] for name, weight in model.weights.items())
        low, high = model.bounds
        return (
            self._reply.mean_bytes
            if math.isnan(exponent)
            else math.exp(min(max(exponent, math.log(low)), math.log(high)))
        )

    def observe(self, key: Key, features: Mapping[str, float] | None, size: int) -> None:
        """What a payload took, after `predict` was asked with the same features."""
        if size <= 0:
            return
        self._kept = None
        at = self._index.get(key)
        if at is None:
            at = self._added(key)
        sizes, _ = self._now(features)
        for predictor in range(3):
            predicted = sizes[at, predictor]
            if predicted > 0:
                error, known = abs(predicted - size) / size, self._errors[at, predictor]
                self._errors[at, predictor] = error if math.isinf(known) else known + _SMOOTHING * (error - known)
        self._sizes[at, _PREVIOUS] = size
        if math.isinf(self._errors[at].min()):
            # Seen once and never calibrated: then this is what is known.
            self._errors[at, _PREVIOUS] = 1.0

    def learned(self) -> tuple[Seen, ...]:
        """What was seen of each cut and codec of which a payload was sent."""
        return tuple(
            Seen(key, float(self._sizes[at, _PREVIOUS]), tuple(self._errors[at].tolist()))
            for key, at in self._index.items()
            if self._sizes[at, _PREVIOUS] > 0
        )

    def restore(self, seen: Iterable[Seen]) -> None:
        """Go on from what `learned` gave; what is not calibrated any more keeps its own errors."""
        self._kept = None
        for each in seen:
            at = self._index.get(each.key)
            if at is None:
                at = self._added(each.key)
            self._sizes[at, _PREVIOUS] = each.payload_bytes
            kept = np.isinf(self._errors[at])
            kept[_PREVIOUS] = False
            self._errors[at] = np.where(kept, self._errors[at], each.errors)

    def _now(self, features: Mapping[str, float] | None) -> tuple[np.ndarray, np.ndarray]:
        sizes, errors = self._sizes.copy(), self._errors.copy()
        if features is None or any(name not in features for name in self._names):
            errors[:, _FEATURES] = math.inf
        elif self._names:
            vector = np.array([features[name] for name in self._names])
            with np.errstate(all="ignore"):
                logarithms = np.clip(self._intercepts + self._weights @ vector, self._bounds[:, 0], self._bounds[:, 1])
            # Nothing is predicted by a model that is not there, or from a feature that is no number.
            known = self._fitted & ~np.isnan(logarithms)
            errors[~known, _FEATURES] = math.inf
            sizes[known, _FEATURES] = np.exp(logarithms[known])
        return sizes, errors

    def _added(self, key: Key) -> int:
        """A cut and codec that were not calibrated: only the payload before is known of them."""
        at = len(self._index)
        self._index = {**self._index, key: at}
        self._fitted = np.append(self._fitted, False)
        self._intercepts = np.append(self._intercepts, 0.0)
        self._weights = np.vstack([self._weights, np.zeros((1, len(self._names)))])
        self._bounds = np.vstack([self._bounds, np.zeros((1, 2))])
        self._sizes = np.vstack([self._sizes, np.zeros((1, 3))])
        self._errors = np.vstack([self._errors, np.full((1, 3), math.inf)])
        return at
