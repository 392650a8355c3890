"""The linear model on all features: what the networks start from, and have to beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_RIDGE = 1.0
_LIMIT = 4.0


def symlog(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """sign(x) log(1 + |x|)."""
    return np.sign(values) * np.log1p(np.abs(values))


@dataclass(frozen=True)
class Linear:
    """Features, on a logarithmic scale, are brought to mean 0 and deviation 1, and clipped to ±4, then weighted."""

    mean: NDArray[np.floating]
    deviation: NDArray[np.floating]
    weights: NDArray[np.floating]
    intercept: float

    @staticmethod
    def fit(features: NDArray[np.floating], targets: NDArray[np.floating]) -> Linear:
        """Ridge regression."""
        logs = symlog(features)
        mean, deviation = logs.mean(0), np.maximum(logs.std(0), 1e-3)
        x = np.clip((logs - mean) / deviation, -_LIMIT, _LIMIT)
        centre = x.mean(0)
        moved = x - centre
        weights = np.linalg.solve(moved.T @ moved + _RIDGE * np.eye(x.shape[1]), moved.T @ (targets - targets.mean()))
        return Linear(mean, deviation, weights, float(targets.mean() - centre @ weights))

    def __call__(self, features: NDArray[np.floating]) -> NDArray[np.floating]:
        """Of inputs × features."""
        x = np.clip((symlog(features) - self.mean) / self.deviation, -_LIMIT, _LIMIT)
        return x @ self.weights + self.intercept
