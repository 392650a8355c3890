"""Predicting from the features of an input whether an early exit will answer it: a penalised logistic regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from midstream.calibrating.features import folds, scaling, table_of
from midstream.exits import Chance

_FEWEST = 50
_PENALTY = 1.0
_STEPS = 25
# A model has to be this much better than the constant to be worth what it is.
_GAIN = 0.9


def fit_chance(features: Sequence[Mapping[str, float]], happened: NDArray[np.bool_]) -> Chance | None:
    """The regression, with its error on fifths that it was not fitted to; None where a constant is about as good."""
    known = table_of(features)
    if known is None or len(features) < _FEWEST or happened.all() or not happened.any():
        return None
    names, x = known
    y = happened.astype(np.float64)
    errors, constant = [], []
    for fitted, tried in folds(len(y)):
        intercept, weights = _logistic(x[fitted], y[fitted])
        errors += list((_share(intercept + x[tried] @ weights) - y[tried]) ** 2)
        constant += list((y[fitted].mean() - y[tried]) ** 2)
    error, constant_error = float(np.mean(errors)), float(np.mean(constant))
    if not error <= _GAIN * constant_error:
        return None
    intercept, weights = _logistic(x, y)
    chosen = {name: float(weight) for name, weight in zip(names, weights, strict=True)}
    return Chance(float(intercept), chosen, error, constant_error)


def _share(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logit)))


def _logistic(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Intercept and weights by Newton's method, of features scaled to one deviation while they are fitted."""
    mean, deviation = scaling(x)
    table = np.hstack([np.ones((len(x), 1)), (x - mean) / deviation])
    penalty = np.diag([1e-6, *[_PENALTY] * x.shape[1]])
    found = np.zeros(table.shape[1])
    for _ in range(_STEPS):
        share = _share(table @ found)
        slope = table.T @ (y - share) - penalty @ found
        curve = (table * (share * (1.0 - share))[:, np.newaxis]).T @ table + penalty
        step = np.linalg.solve(curve, slope)
        found = found + step
        if np.abs(step).max() < 1e-8:
            break
    weights = found[1:] / deviation
    return float(found[0] - mean @ weights), weights
