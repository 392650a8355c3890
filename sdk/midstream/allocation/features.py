"""What the recurrent forecaster is shown of an interval: numbers in a fixed order, bounded and finite whatever comes.

Amounts are on the scale log(1 + amount / unit), of which `BASES` names those that a forecast starts from: simple
forecasts of the next interval, made here by formula. The network chooses among these and adds to them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from midstream.allocation.intervals import Interval
from midstream.allocation.periods import Periods

Target = Literal["arrivals", "cpu_ms", "memory_bytes", "wait_ms"]
TARGETS: tuple[Target, ...] = get_args(Target)
UNITS: Mapping[str, float] = {"arrivals": 1.0, "cpu_ms": 1.0, "memory_bytes": float(1 << 20), "wait_ms": 1.0}
"""What an amount is counted in before its logarithm is taken."""

QUANTILES = (0.1, 0.5, 0.9)

NAMED: Mapping[str, float] = {"motion": 25.0, "edge_density": 0.25, "entropy": 8.0}
"""Input features that are shown, and what each is divided by; further than ± 4 of that it is cut off."""

_NUMBERS = (
    "arrivals", "served", "refused", "cpu_ms", "memory_bytes", "wait_ms", "service_ms", "service_cv2", "queue_ms",
    "busy", "score",
)  # fmt: skip
COLUMNS: tuple[str, ...] = ("time_s", *_NUMBERS, *NAMED)
"""The columns of `numbers_of`."""

_BEYOND = 1e9
_LIMIT = math.log1p(_BEYOND)
_MOST = np.array([1e12, *(_BEYOND * UNITS.get(name, 1.0) for name in _NUMBERS), *(_BEYOND for _ in NAMED)])
_LEAST = np.array([0.0, *(0.0 for _ in _NUMBERS), *(-_BEYOND for _ in NAMED)])
_DAY_S = 86_400.0
_FAST, _EVEN, _SLOW = 0.5, 0.2, 0.03
_TREND = 0.2
_AHEAD = (2, 3, 4)


def numbers_of(intervals: Sequence[Interval]) -> NDArray[np.float64]:
    """Intervals × `COLUMNS`, all finite, and but for the named features at least 0."""
    numbers = np.array(
        [
            (
                each.start_s,
                *(getattr(each, name) for name in _NUMBERS),
                *(each.features.get(name, 0.0) for name in NAMED),
            )
            for each in intervals
        ],
        np.float64,
    ).reshape(len(intervals), len(COLUMNS))
    return bounded(numbers)


def bounded(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of `COLUMNS`, made finite: what is no number counts as 0, what is beyond all measure as 10⁹ units."""
    return np.clip(np.nan_to_num(numbers, nan=0.0, posinf=np.inf, neginf=-np.inf), _LEAST, _MOST)


def logs(amounts: NDArray[np.float64], target: Target) -> NDArray[np.float64]:
    """log(1 + amount / unit), at most log(1 + 10⁹)."""
    return np.minimum(np.log1p(np.maximum(amounts, 0.0) / UNITS[target]), _LIMIT)


def amounts(scaled: NDArray[np.floating], target: Target) -> NDArray[np.float64]:
    """The way back from `logs`; at least 0."""
    return UNITS[target] * np.expm1(np.clip(scaled.astype(np.float64), 0.0, _LIMIT))


_ARRIVALS = ("arrivals_last", "arrivals_fast", "arrivals_even", "arrivals_slow", "arrivals_holt", "arrivals_period")
_CPU = ("cpu_last", "cpu_fast", "cpu_even", "cpu_slow", "cpu_by_arrivals", "cpu_by_period")
_MEMORY = ("memory_last", "memory_even")
_WAIT = ("wait_last", "wait_fast", "wait_even", "wait_slow", "queue_report", "wait_fluid")
BASES: Mapping[Target, tuple[str, ...]] = {
    "arrivals": _ARRIVALS, "cpu_ms": _CPU, "memory_bytes": _MEMORY, "wait_ms": _WAIT,
}  # fmt: skip
"""The features that are forecasts of each target by formula, on its scale."""

FEATURES: tuple[str, ...] = (
    *_ARRIVALS, *_CPU, *_MEMORY, *_WAIT,
    *(f"period_ahead_{ahead}" for ahead in _AHEAD), "period_strength", "period_lag", "period_phase_sin", "period_phase_cos",
    "service", "service_cv2", "cpu_each", "dispersion", "silence", "trend", "served", "refused", "backlog",
    "busy", "utilisation", "capacity", "total_arrivals", "total_fast", "total_even", "total_queue", "share",
    "score", *NAMED, "day_sin", "day_cos",
)  # fmt: skip
"""The columns of `Steps.step`."""


_BUSY = 0.1
_SMOOTHED: Mapping[str, tuple[str, float]] = {
    # Before the mean that it is about has moved.
    "square_even": ("arrivals", _EVEN),
    "arrivals_fast": ("arrivals", _FAST),
    "arrivals_even": ("arrivals", _EVEN),
    "arrivals_slow": ("arrivals", _SLOW),
    "served_slow": ("served", _SLOW),
    "cpu_fast": ("cpu_ms", _FAST),
    "cpu_even": ("cpu_ms", _EVEN),
    "cpu_slow": ("cpu_ms", _SLOW),
    "memory_even": ("memory_bytes", _EVEN),
    "wait_fast": ("wait_ms", _FAST),
    "wait_even": ("wait_ms", _EVEN),
    "wait_slow": ("wait_ms", _SLOW),
    "service_even": ("service_ms", _EVEN),
}


class Steps:
    """What rows of partitions are shown, one interval after another. Pure; its memory is bounded by the rows.

    Each row goes on from what it has seen, until `reset`.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._periods = Periods(rows)
        self._new = np.ones(rows, bool)
        self._means = {name: np.zeros(rows) for name in _SMOOTHED}
        self._kept = {name: np.zeros(rows) for name in ("level", "trend", "silent", "backlog")}
        self._workers = np.zeros(rows)

    def grow(self, rows: int) -> None:
        """Have so many rows; the new ones have seen nothing."""
        more = rows - self.rows
        self.rows = rows
        self._periods.grow(rows)
        self._new = np.pad(self._new, (0, more), constant_values=True)
        self._workers = np.pad(self._workers, (0, more))
        self._means = {name: np.pad(values, (0, more)) for name, values in self._means.items()}
        self._kept = {name: np.pad(values, (0, more)) for name, values in self._kept.items()}

    def reset(self, row: int) -> None:
        """Begin anew with this row, as with one that has seen nothing."""
        self._periods.reset(row)
        self._new[row] = True
        for values in (*self._means.values(), *self._kept.values()):
            values[row] = 0.0

    def step(self, numbers: NDArray[np.float64], gateways: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
        """Rows × `FEATURES` after one more interval, of rows × `COLUMNS` (`numbers_of`).

        ``gateways`` says which gateway each row belongs to, 0, 1, …; all to one where it is not given.
        """
        given = dict(zip(COLUMNS, bounded(numbers).T, strict=True))
        group = np.zeros(self.rows, np.intp) if gateways is None else gateways
        arrivals, served = given["arrivals"], given["served"]
        self._periods.add(arrivals)
        self._smooth(given)
        means = self._means
        level = self._holt(arrivals)
        kept = self._kept
        kept["silent"] = np.where(arrivals > 0, 0.0, kept["silent"] + 1.0)
        backlog = np.maximum(0.0, kept["backlog"] + arrivals - given["refused"] - served)
        # Where no worker has run and nobody would wait, nothing is left.
        kept["backlog"] = np.where((given["busy"] <= 0) & (given["queue_ms"] <= 0), 0.0, backlog)
        period = self._periods.ago(1)
        recurs = np.isfinite(period)
        period = np.where(recurs, period, means["arrivals_even"])
        cpu_each = means["cpu_slow"] / np.maximum(means["served_slow"], 0.05)
        workers = self._capacity(given, group)
        offered = _total(level * means["service_even"], group) / 1e3
        load = np.where(
            workers > 0, np.minimum(offered / np.maximum(workers, 0.05), 8.0), np.minimum(given["busy"], 1.0)
        )
        total_even = _total(means["arrivals_even"], group)
        phase = self._phase()
        columns = {
            "arrivals_last": logs(arrivals, "arrivals"),
            "arrivals_fast": logs(means["arrivals_fast"], "arrivals"),
            "arrivals_even": logs(means["arrivals_even"], "arrivals"),
            "arrivals_slow": logs(means["arrivals_slow"], "arrivals"),
            "arrivals_holt": logs(level, "arrivals"),
            "arrivals_period": logs(period, "arrivals"),
            "cpu_last": logs(given["cpu_ms"], "cpu_ms"),
            "cpu_fast": logs(means["cpu_fast"], "cpu_ms"),
            "cpu_even": logs(means["cpu_even"], "cpu_ms"),
            "cpu_slow": logs(means["cpu_slow"], "cpu_ms"),
            "cpu_by_arrivals": logs(cpu_each * means["arrivals_fast"], "cpu_ms"),
            "cpu_by_period": logs(cpu_each * period, "cpu_ms"),
            "memory_last": logs(given["memory_bytes"], "memory_bytes"),
            "memory_even": logs(means["memory_even"], "memory_bytes"),
            "wait_last": logs(given["wait_ms"], "wait_ms"),
            "wait_fast": logs(means["wait_fast"], "wait_ms"),
            "wait_even": logs(means["wait_even"], "wait_ms"),
            "wait_slow": logs(means["wait_slow"], "wait_ms"),
            "queue_report": logs(given["queue_ms"], "wait_ms"),
            "wait_fluid": logs(given["queue_ms"] + 500.0 * (load - 1.0), "wait_ms"),
            **{
                f"period_ahead_{ahead}": np.where(
                    recurs, logs(np.nan_to_num(self._periods.ago(ahead)), "arrivals"), 0.0
                )
                for ahead in _AHEAD
            },
            "period_strength": self._periods.strength,
            "period_lag": np.log1p(self._periods.lag) / 7.0,
            "period_phase_sin": np.sin(phase),
            "period_phase_cos": np.cos(phase),
            "service": logs(means["service_even"], "cpu_ms"),
            "service_cv2": np.minimum(given["service_cv2"], 16.0),
            "cpu_each": logs(cpu_each, "cpu_ms"),
            "dispersion": np.minimum(means["square_even"] / np.maximum(means["arrivals_even"], 0.05), 64.0) ** 0.5,
            "silence": np.minimum(np.log1p(kept["silent"]), 8.0),
            "trend": np.clip(kept["trend"] / np.sqrt(level + 0.25), -4.0, 4.0),
            "served": np.log1p(served),
            "refused": np.log1p(given["refused"]),
            "backlog": np.minimum(np.log1p(kept["backlog"]), _LIMIT),
            "busy": np.minimum(given["busy"], 1.0),
            "utilisation": load,
            "capacity": np.log1p(np.minimum(workers, 1024.0)),
            "total_arrivals": np.log1p(_total(arrivals, group)),
            "total_fast": np.log1p(_total(means["arrivals_fast"], group)),
            "total_even": np.log1p(total_even),
            "total_queue": logs(_largest(given["queue_ms"], group), "wait_ms"),
            "share": means["arrivals_even"] / np.maximum(total_even, 1e-3),
            "score": np.minimum(given["score"], 100.0) / 100.0,
            **{name: np.clip(given[name] / scale, -4.0, 4.0) for name, scale in NAMED.items()},
            "day_sin": np.sin(2.0 * np.pi * (given["time_s"] % _DAY_S) / _DAY_S),
            "day_cos": np.cos(2.0 * np.pi * (given["time_s"] % _DAY_S) / _DAY_S),
        }
        self._new[:] = False
        return np.stack([columns[name] for name in FEATURES], axis=1).astype(np.float32)

    def _smooth(self, given: Mapping[str, NDArray[np.float64]]) -> None:
        """Move the means; one that is new starts at its first value, and a time of nobody leaves its mean alone."""
        came, ran = given["arrivals"] > given["refused"], given["service_ms"] > 0
        for name, (column, share) in _SMOOTHED.items():
            value, mean = given[column], self._means[name]
            if name == "square_even":
                value = (value - self._means["arrivals_even"]) ** 2
            moved = mean + np.where(self._new, 1.0, share) * (value - mean)
            if column == "wait_ms":
                moved = np.where(came, moved, mean)
            elif column == "service_ms":
                moved = np.where(ran, np.where(mean > 0, moved, value), mean)
            self._means[name] = moved

    def _holt(self, arrivals: NDArray[np.float64]) -> NDArray[np.float64]:
        """Level and trend of Holt's linear method, one interval ahead."""
        kept = self._kept
        before = np.where(self._new, arrivals, kept["level"])
        ahead = before + kept["trend"]
        kept["level"] = ahead + _FAST * (arrivals - ahead)
        kept["trend"] = kept["trend"] + _TREND * (kept["level"] - before - kept["trend"])
        return np.maximum(0.0, kept["level"] + kept["trend"])

    def _capacity(self, given: Mapping[str, NDArray[np.float64]], group: NDArray[np.intp]) -> NDArray[np.float64]:
        """How many workers' worth of work each row's gateway does in a second when busy; 0 where it was never seen."""
        work_s = np.bincount(group, given["served"] * self._means["service_even"], self.rows) / 1e3
        busy = np.zeros(self.rows)
        np.maximum.at(busy, group, np.minimum(given["busy"], 1.0))
        told = (busy > _BUSY) & (work_s > 0)
        now = np.minimum(work_s / np.maximum(busy, _BUSY), 1024.0)
        share = np.where(self._workers > 0, 0.1 * busy, 1.0)
        self._workers = np.where(told, self._workers + share * (now - self._workers), self._workers)
        return self._workers[group]

    def _phase(self) -> NDArray[np.float64]:
        lag = np.maximum(self._periods.lag, 1)
        return np.where(self._periods.lag > 0, 2.0 * np.pi * (self._periods.steps % lag) / lag, 0.0)


def _total(values: NDArray[np.float64], group: NDArray[np.intp]) -> NDArray[np.float64]:
    """The sum over each row's gateway."""
    return np.bincount(group, values, len(values))[group]


def _largest(values: NDArray[np.float64], group: NDArray[np.intp]) -> NDArray[np.float64]:
    """The largest of each row's gateway; none is below 0."""
    most = np.zeros(len(values))
    np.maximum.at(most, group, values)
    return most[group]
