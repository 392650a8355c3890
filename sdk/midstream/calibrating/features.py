"""Features of inputs as a table, parted for cross-validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_FOLDS = 5


def table_of(features: Sequence[Mapping[str, float]]) -> tuple[list[str], NDArray[np.float64]] | None:
    """The names that all of them have, and a row of these for each; None where there are none, or one is not finite."""
    names = sorted(set.intersection(*(set(found) for found in features))) if features else []
    table = np.array([[found[name] for name in names] for found in features])
    return (names, table) if names and np.isfinite(table).all() else None


def folds(count: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Fifths of so many inputs, at random but always the same: what to fit to, and what to try that on."""
    order = np.random.default_rng(0).permutation(count)
    bounds = np.linspace(0, count, _FOLDS + 1).astype(int)
    for first, last in pairwise(bounds):
        yield np.concatenate([order[:first], order[last:]]), order[first:last]


def scaling(table: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation of each column, the latter 1 where it is none."""
    deviation = table.std(0)
    deviation[deviation == 0] = 1.0
    return table.mean(0), deviation
