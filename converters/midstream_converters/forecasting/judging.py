"""How well forecasts did: errors against those of simple formulas, and how often the quantiles held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from midstream.allocation.features import FEATURES, QUANTILES, TARGETS, Target, amounts
from midstream.forecaster import Network, forecast_amounts
from midstream_converters.forecasting.sequences import Sequences

_FORMULAS: Mapping[str, Mapping[Target, str]] = {
    "last value": {
        "arrivals": "arrivals_last", "cpu_ms": "cpu_last", "memory_bytes": "memory_last", "wait_ms": "wait_last",
    },
    "EWMA 0.5": {"arrivals": "arrivals_fast", "cpu_ms": "cpu_fast", "wait_ms": "wait_fast"},
    "EWMA 0.2": {
        "arrivals": "arrivals_even", "cpu_ms": "cpu_even", "memory_bytes": "memory_even", "wait_ms": "wait_even",
    },
    "Holt": {"arrivals": "arrivals_holt"},
    "one period ago": {"arrivals": "arrivals_period", "cpu_ms": "cpu_by_period"},
    "queue report": {"wait_ms": "queue_report"},
}  # fmt: skip
"""Which feature is which simple forecast."""


@dataclass(frozen=True)
class Figures:
    """Of held-out intervals: ``errors`` by forecast and target, ``coverage`` and counted ``intervals`` by target.

    An error is the mean over partitions of the mean absolute error by the partition's mean (`Sequences.scales`), of the
    intervals that count. ``coverage`` is the share of values that each quantile was not below; it should be .1, .5, .9.
    """

    errors: Mapping[str, Mapping[Target, float]]
    coverage: Mapping[Target, tuple[float, ...]]
    intervals: Mapping[Target, int]

    def error(self, name: str) -> float:
        """The mean over the targets that were counted."""
        return float(np.mean([value for value in self.errors[name].values() if np.isfinite(value)]))


def forecasts(network: Network, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Amounts, rows × steps × targets × 3, as the engine gives them step by step, from an empty state on."""
    state = np.zeros((len(features), network.units), np.float32)
    found = np.empty((*features.shape[:2], 3 * len(TARGETS)), np.float32)
    for at in range(features.shape[1]):
        found[:, at], state = network.step(np.ascontiguousarray(features[:, at]), state)
    return forecast_amounts(found)


def figures(held_out: Sequences, found: Mapping[str, NDArray[np.float64]], *, simple: bool = True) -> Figures:
    """Of forecasts by name, rows × steps × targets × 3, beside the ``simple`` ones; coverage is the first's."""
    errors: dict[str, dict[Target, float]] = {}
    for name, values in found.items():
        errors[name] = {target: _error(held_out, at, values[..., at, 1]) for at, target in enumerate(TARGETS)}
    for name, by_target in _FORMULAS.items() if simple else ():
        errors[name] = {
            target: _error(held_out, at, amounts(_feature(held_out, by_target[target]), target))
            for at, target in enumerate(TARGETS)
            if target in by_target
        }
    first = next(iter(found.values()))
    counted = held_out.counts > 0
    coverage: dict[Target, tuple[float, ...]] = {}
    for at, target in enumerate(TARGETS):
        known, came = counted[..., at], held_out.targets[..., at]
        # Of forecasts of 0 and 0s that came: as float32 rounds.
        coverage[target] = tuple(
            _mean(came[known] <= first[..., at, which][known] * (1 + 1e-6) + 1e-6) for which in range(len(QUANTILES))
        )
    return Figures(errors, coverage, {target: int(counted[..., at].sum()) for at, target in enumerate(TARGETS)})


def _feature(held_out: Sequences, name: str) -> NDArray[np.float32]:
    return held_out.features[..., FEATURES.index(name)]


def _error(held_out: Sequences, at: int, values: NDArray[np.float64]) -> float:
    """NaN where nothing counts."""
    counts = held_out.counts[..., at]
    off = np.abs(values - held_out.targets[..., at]) * counts
    known = counts.sum(axis=1)
    rows = known > 0
    return _mean(off.sum(axis=1)[rows] / known[rows] / held_out.scales[rows, at])


def _mean(values: NDArray[np.generic]) -> float:
    return float(values.mean()) if values.size else float("nan")
