"""Predicting an encoded size from the features of the input: ridge regression of its logarithm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from midstream.calibrating.features import folds, scaling, table_of
from midstream.ladder import SizeModel

_FEWEST = 15
_RIDGE = 1.0
# A model has to be this much better than the constant to be worth what it is.
_GAIN = 0.9


def spread(sizes: Sequence[int]) -> float:
    """The mean absolute share by which these sizes differ from their mean; those of 0 count as those of one byte."""
    found = np.asarray(sizes, np.float64)
    return float(np.mean(np.abs(found - found.mean()) / np.maximum(found, 1.0)))


def fit_size(features: Sequence[Mapping[str, float]], sizes: Sequence[int]) -> SizeModel | None:
    """The model, with its error on parts that it was not fitted to; None where a constant is about as good.

    Both are judged alike: fitted to four fifths of the inputs, and tried on the last.
    """
    known = table_of(features)
    if known is None or len(sizes) < _FEWEST or min(sizes) <= 0:
        return None
    names, x = known
    y = np.log(np.asarray(sizes, np.float64))
    errors, constant = [], []
    for fitted, tried in folds(len(y)):
        intercept, weights = _ridge(x[fitted], y[fitted])
        errors += list(np.abs(np.expm1(intercept + x[tried] @ weights - y[tried])))
        constant += list(np.abs(np.expm1(np.log(np.exp(y[fitted]).mean()) - y[tried])))
    if np.mean(errors) > _GAIN * np.mean(constant):
        return None
    intercept, weights = _ridge(x, y)
    chosen = {name: float(weight) for name, weight in zip(names, weights, strict=True)}
    return SizeModel(float(intercept), chosen, float(min(sizes)), float(max(sizes)), float(np.mean(errors)))


def _ridge(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Intercept and weights, of features scaled to one deviation while they are fitted."""
    mean, deviation = scaling(x)
    scaled = (x - mean) / deviation
    weights = np.linalg.solve(scaled.T @ scaled + _RIDGE * np.eye(x.shape[1]), scaled.T @ (y - y.mean())) / deviation
    return float(y.mean() - mean @ weights), weights
