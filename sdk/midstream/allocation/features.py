"""What the recurrent forecaster is shown of an interval: numbers in a fixed order, bounded and finite whatever comes.

Amounts are on the scale log(1 + amount / unit), of which `BASES` names those that a forecast starts from: simple
forecasts of the next interval, made here by formula. The network chooses among these and adds to them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from midstream.allocation.intervals import Interval
from midstream.allocation.periods import Periods

Values = NDArray[np.float64]
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

_numbers_in = attrgetter("start_s", *_NUMBERS)
_BEYOND = 1e9
_LIMIT = math.log1p(_BEYOND)
_MOST = np.array([1e12, *(_BEYOND * UNITS.get(name, 1.0) for name in _NUMBERS), *(_BEYOND for _ in NAMED)])
_LEAST = np.array([0.0, *(0.0 for _ in _NUMBERS), *(-_BEYOND for _ in NAMED)])
_DAY_S = 86_400.0
_FAST, _EVEN, _SLOW = 0.5, 0.2, 0.03
_TREND = 0.2
_HALF_MS = 500.0
# How far around the same place one period ago it is looked, in intervals; the next one's is among the bases.
_AROUND = {ahead: f"period_{ahead:+d}" for ahead in (-3, -2, -1, 0, 2, 3, 4, 6, 8)}
_SEEN = {"score": 100.0, **NAMED}


def numbers_of(intervals: Sequence[Interval]) -> Values:
    """Intervals × `COLUMNS`, all finite, and but for the named features at least 0."""
    rows = [(*_numbers_in(each), *(each.features.get(name, 0.0) for name in NAMED)) for each in intervals]
    numbers = np.array(rows, np.float64).reshape(len(intervals), len(COLUMNS))
    return bounded(numbers)


def bounded(numbers: Values) -> Values:
    """Rows of `COLUMNS`, made finite: what is no number counts as 0, what is beyond all measure as 10⁹ units."""
    return np.clip(np.nan_to_num(numbers, nan=0.0, posinf=np.inf, neginf=-np.inf), _LEAST, _MOST)


def amounts(scaled: NDArray[np.floating], target: Target) -> Values:
    """Amounts of their logarithms, log(1 + amount / unit); at least 0."""
    return UNITS[target] * _unscaled(scaled)


def all_amounts(scaled: NDArray[np.floating]) -> Values:
    """The same of … × targets × quantiles."""
    return _ALL_UNITS * _unscaled(scaled)


_ALL_UNITS = np.array([[UNITS[target]] for target in TARGETS])


def _unscaled(scaled: NDArray[np.floating]) -> Values:
    found: Values = np.expm1(np.minimum(np.maximum(scaled.astype(np.float64), 0.0), _LIMIT))
    return found


_ARRIVALS = (
    "arrivals_last",
    "arrivals_fast",
    "arrivals_even",
    "arrivals_slow",
    "arrivals_holt",
    "arrivals_period",
    "arrivals_aligned",
)
_CPU = ("cpu_last", "cpu_fast", "cpu_even", "cpu_slow", "cpu_by_arrivals", "cpu_by_period")
_MEMORY = ("memory_last", "memory_even")
_WAIT = ("wait_last", "wait_fast", "wait_even", "wait_slow", "queue_report", "wait_fluid", "wait_by_period")
BASES: Mapping[Target, tuple[str, ...]] = {
    "arrivals": _ARRIVALS, "cpu_ms": _CPU, "memory_bytes": _MEMORY, "wait_ms": _WAIT,
}  # fmt: skip
"""The features that are forecasts of each target by formula, on its scale."""

FEATURES: tuple[str, ...] = (
    *_ARRIVALS, *_CPU, *_MEMORY, *_WAIT,
    *_AROUND.values(), "period_strength", "period_lag", "period_phase_sin", "period_phase_cos",
    "service", "service_cv2", "cpu_each", "dispersion", "silence", "trend", "served", "refused", "backlog",
    "busy", "utilisation", "utilisation_by_period", "capacity", "total_arrivals", "total_fast", "total_queue", "share",
    *_SEEN, *(f"{name}_risen" for name in _SEEN), "day_sin", "day_cos",
)  # fmt: skip
"""The columns of `Steps.step`."""


_UNIT_OF = {name: UNITS[target] for target, names in BASES.items() for name in names}
_IN_UNITS = [name for name, unit in _UNIT_OF.items() if unit != 1.0]
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
    **{name: (name, _SLOW) for name in _SEEN},
}
_PLACE = {name: place for place, name in enumerate(_SMOOTHED)}
_SQUARE = _PLACE["square_even"]
_SHARES = np.array([[share] for _, share in _SMOOTHED.values()])
# Whether there is anything to a mean is said by: nothing, who was let in, what ran, who came.
_SAID_BY = np.array(
    [
        1 if column == "wait_ms" else 2 if column == "service_ms" else 3 if column in _SEEN else 0
        for column, _ in _SMOOTHED.values()
    ]
)


class Steps:
    """What rows of partitions are shown, one interval after another. Pure; its memory is bounded by the rows.

    Each row goes on from what it has seen, until `reset`.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._periods = Periods(rows)
        self._new = np.ones(rows, bool)
        self._means = np.zeros((len(_SMOOTHED), rows))
        self._kept = {name: np.zeros(rows) for name in ("level", "trend", "silent", "backlog", "wait", *_SEEN)}
        self._workers = np.zeros(rows)
        self._load = self._load_by_period = np.zeros(rows)

    def grow(self, rows: int) -> None:
        """Have so many rows; the new ones have seen nothing."""
        more = rows - self.rows
        self.rows = rows
        self._periods.grow(rows)
        self._new = np.pad(self._new, (0, more), constant_values=True)
        self._workers = np.pad(self._workers, (0, more))
        self._means = np.pad(self._means, ((0, 0), (0, more)))
        self._kept = {name: np.pad(values, (0, more)) for name, values in self._kept.items()}

    def reset(self, row: int) -> None:
        """Begin anew with this row, as with one that has seen nothing."""
        self._periods.reset(row)
        self._new[row] = True
        self._means[:, row] = 0.0
        for values in self._kept.values():
            values[row] = 0.0

    def step(self, numbers: Values, gateways: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
        """Rows × `FEATURES` after one more interval, of rows × `COLUMNS` (`numbers_of`).

        ``gateways`` says which gateway each row belongs to, 0, 1, …; all to one where it is not given.
        """
        given = dict(zip(COLUMNS, bounded(numbers).T, strict=True))
        group = np.zeros(self.rows, np.intp) if gateways is None else gateways
        self._periods.add(given["arrivals"])
        self._smooth(given)
        level = self._holt(given["arrivals"])
        self._keep(given)
        columns = self._amounts(given, group, level)
        for name in _IN_UNITS:
            columns[name] = columns[name] / _UNIT_OF[name]
        scaled = np.minimum(np.log1p(np.maximum(np.array(list(columns.values())), 0.0)), _LIMIT)
        columns = dict(zip(columns, scaled, strict=True)) | self._shares(given, level, group)
        self._new[:] = False
        return np.stack([columns[name] for name in FEATURES], axis=1).astype(np.float32)

    def _amounts(self, given: Mapping[str, Values], group: NDArray[np.intp], level: Values) -> dict[str, Values]:
        """What is shown on a logarithmic scale."""
        means, kept = dict(zip(_SMOOTHED, self._means, strict=True)), self._kept
        ago, aligned = self._periods.ago(1, *_AROUND), self._periods.aligned()
        period, aligned = (np.where(np.isfinite(each), each, means["arrivals_even"]) for each in (ago[:, 0], aligned))
        around = dict(zip(_AROUND.values(), np.nan_to_num(ago[:, 1:]).T, strict=True))
        cpu_each = means["cpu_slow"] / np.maximum(means["served_slow"], 0.05)
        workers = self._capacity(given, group)
        self._load = self._utilisation(level, workers, given["busy"], group)
        self._load_by_period = self._utilisation(aligned, workers, given["busy"], group)
        return {
            "arrivals_last": given["arrivals"],
            "arrivals_fast": means["arrivals_fast"],
            "arrivals_even": means["arrivals_even"],
            "arrivals_slow": means["arrivals_slow"],
            "arrivals_holt": level,
            "arrivals_period": period,
            "arrivals_aligned": aligned,
            "cpu_last": given["cpu_ms"],
            "cpu_fast": means["cpu_fast"],
            "cpu_even": means["cpu_even"],
            "cpu_slow": means["cpu_slow"],
            "cpu_by_arrivals": cpu_each * means["arrivals_fast"],
            "cpu_by_period": cpu_each * aligned,
            "memory_last": given["memory_bytes"],
            "memory_even": means["memory_even"],
            "wait_last": kept["wait"],
            "wait_fast": means["wait_fast"],
            "wait_even": means["wait_even"],
            "wait_slow": means["wait_slow"],
            "queue_report": given["queue_ms"],
            "wait_fluid": given["queue_ms"] + _HALF_MS * (self._load - 1.0),
            "wait_by_period": given["queue_ms"] + _HALF_MS * (self._load_by_period - 1.0),
            **around,
            "service": means["service_even"],
            "cpu_each": cpu_each,
            "served": given["served"],
            "refused": given["refused"],
            "backlog": kept["backlog"],
            "capacity": workers,
            "total_arrivals": _total(given["arrivals"], group),
            "total_fast": _total(means["arrivals_fast"], group),
            "total_queue": _largest(given["queue_ms"], group),
            "silence": kept["silent"],
        }

    def _shares(self, given: Mapping[str, Values], level: Values, group: NDArray[np.intp]) -> dict[str, Values]:
        """What is shown as it is."""
        means, lag = dict(zip(_SMOOTHED, self._means, strict=True)), self._periods.lag
        phase = 2.0 * np.pi * (self._periods.steps % np.maximum(lag, 1)) / np.maximum(lag, 1)
        day = 2.0 * np.pi * (given["time_s"] % _DAY_S) / _DAY_S
        scatter = means["square_even"] / np.maximum(means["arrivals_even"], 0.05)
        seen = {name: (self._kept[name] / scale, means[name] / scale) for name, scale in _SEEN.items()}
        return {
            "period_strength": self._periods.strength,
            "period_lag": np.log1p(lag) / 7.0,
            "period_phase_sin": np.sin(phase),
            "period_phase_cos": np.cos(phase),
            "service_cv2": np.minimum(given["service_cv2"], 16.0),
            "dispersion": np.minimum(scatter, 64.0) ** 0.5,
            "trend": np.clip(self._kept["trend"] / np.sqrt(level + 0.25), -4.0, 4.0),
            "busy": np.minimum(given["busy"], 1.0),
            "utilisation": self._load,
            "utilisation_by_period": self._load_by_period,
            "share": means["arrivals_even"] / np.maximum(_total(means["arrivals_even"], group), 1e-3),
            **{name: np.clip(now, -4.0, 4.0) for name, (now, _) in seen.items()},
            **{f"{name}_risen": np.clip(4.0 * (now - usual), -4.0, 4.0) for name, (now, usual) in seen.items()},
            "day_sin": np.sin(day),
            "day_cos": np.cos(day),
        }

    def _keep(self, given: Mapping[str, Values]) -> None:
        """What is not a mean: how long nobody has come, who is still there, what was seen last."""
        kept, came = self._kept, given["arrivals"] > 0
        kept["silent"] = np.where(came, 0.0, kept["silent"] + 1.0)
        backlog = np.maximum(0.0, kept["backlog"] + given["arrivals"] - given["refused"] - given["served"])
        # Where no worker has run and nobody would wait, nothing is left.
        kept["backlog"] = np.where((given["busy"] <= 0) & (given["queue_ms"] <= 0), 0.0, backlog)
        kept["wait"] = np.where(given["arrivals"] > given["refused"], given["wait_ms"], kept["wait"])
        for name in _SEEN:
            kept[name] = np.where(came, given[name], kept[name])

    def _smooth(self, given: Mapping[str, Values]) -> None:
        """Move the means; one that is new starts at its first value, and a time of nobody leaves its mean alone."""
        values = np.stack([given[column] for column, _ in _SMOOTHED.values()])
        values[_SQUARE] = (values[_SQUARE] - self._mean("arrivals_even")) ** 2
        moved = self._means + np.where(self._new, 1.0, _SHARES) * (values - self._means)
        said = np.stack(
            [
                np.ones(self.rows, bool),
                given["arrivals"] > given["refused"],
                given["service_ms"] > 0,
                given["arrivals"] > 0,
            ]
        )[_SAID_BY]
        first = (self._means == 0) & (_SAID_BY > 1)[:, np.newaxis]
        self._means = np.where(said, np.where(first, values, moved), self._means)

    def _mean(self, name: str) -> Values:
        mean: Values = self._means[_PLACE[name]]
        return mean

    def _holt(self, arrivals: Values) -> Values:
        """Level and trend of Holt's linear method, one interval ahead."""
        kept = self._kept
        before = np.where(self._new, arrivals, kept["level"])
        ahead = before + kept["trend"]
        kept["level"] = ahead + _FAST * (arrivals - ahead)
        kept["trend"] = kept["trend"] + _TREND * (kept["level"] - before - kept["trend"])
        return np.maximum(0.0, kept["level"] + kept["trend"])

    def _capacity(self, given: Mapping[str, Values], group: NDArray[np.intp]) -> Values:
        """How many workers' worth of work each row's gateway does in a second when busy; 0 where it was never seen."""
        work_s = np.bincount(group, given["served"] * self._mean("service_even"), self.rows) / 1e3
        busy = np.zeros(self.rows)
        np.maximum.at(busy, group, np.minimum(given["busy"], 1.0))
        told = (busy > _BUSY) & (work_s > 0)
        now = np.minimum(work_s / np.maximum(busy, _BUSY), 1024.0)
        share = np.where(self._workers > 0, 0.1 * busy, 1.0)
        self._workers = np.where(told, self._workers + share * (now - self._workers), self._workers)
        return self._workers[group]

    def _utilisation(self, arrivals: Values, workers: Values, busy: Values, group: NDArray[np.intp]) -> Values:
        """How busy so many arrivals would keep each row's gateway; where nobody knows, how busy it is."""
        offered = _total(arrivals * self._mean("service_even"), group) / 1e3
        return np.where(workers > 0, np.minimum(offered / np.maximum(workers, 0.05), 8.0), np.minimum(busy, 1.0))


def _total(values: Values, group: NDArray[np.intp]) -> Values:
    """The sum over each row's gateway."""
    return np.bincount(group, values, len(values))[group].astype(np.float64)


def _largest(values: Values, group: NDArray[np.intp]) -> Values:
    """The largest of each row's gateway; none is below 0."""
    most: Values = np.zeros(len(values))
    np.maximum.at(most, group, values)
    return most[group]
