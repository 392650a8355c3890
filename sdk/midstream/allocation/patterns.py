"""Rules that find a pattern in what has come: a rate that lasts, a period, moments like this one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from midstream.allocation.intervals import Interval
from midstream.allocation.periods import found_period
from midstream.allocation.predictors import MOST, Amounts, Rates, States
from midstream.allocation.usage import Partition

Floats = NDArray[np.float64]

# How much the last interval counts in the means of what goes along with demand.
_RATES_SHARE = 0.1
# A period whose autocorrelation is less is none.
_LEAST_STRENGTH = 0.15
# From this on what comes is as good as known.
_CLEAR_STRENGTH = 0.7


class _Known(Protocol):
    """What a rule knows of a partition."""

    rates: Rates

    def add(self, interval: Interval) -> None:
        """An interval has closed."""


Known = TypeVar("Known", bound=_Known)


def _amounts(
    states: States[Known], intervals: Mapping[Partition, Interval], arrivals: Callable[[Known, Interval], float]
) -> dict[Partition, Amounts]:
    """What each partition's next interval is forecast to be, by the arrivals that a rule makes of its state."""
    made = {}
    for partition, state in states.of(intervals).items():
        interval = intervals[partition]
        state.add(interval)
        made[partition] = state.rates.amounts(arrivals(state, interval), interval)
    return made


class _History:
    """The last intervals of a partition: the logarithms of what came, and what its inputs looked like."""

    REMEMBERED = 768
    _EVERY = 16

    def __init__(self) -> None:
        self.counts = np.zeros(2 * self.REMEMBERED)
        self.scenes = np.zeros(2 * self.REMEMBERED)
        self.end = 0
        self.lag, self.strength = 0, 0.0
        self.rates = Rates()
        self._steps = 0

    def add(self, interval: Interval) -> None:
        if self.end == len(self.counts):
            # Moved down once in a while, so that what is remembered always lies in one piece.
            for values in (self.counts, self.scenes):
                values[: self.REMEMBERED] = values[self.REMEMBERED :]
            self.end = self.REMEMBERED
        self.counts[self.end] = math.log1p(interval.arrivals)
        before = self.scenes[self.end - 1] if self.end else 0.0
        motion = interval.features.get("motion", interval.score)
        self.scenes[self.end] = math.log1p(min(max(motion, 0.0), MOST)) if interval.arrivals else before
        self.end += 1
        self._steps += 1
        self.rates.add(interval, _RATES_SHARE)
        if self._steps % self._EVERY == 0 and self._steps >= 2 * self._EVERY:
            self.lag, self.strength = found_period(self.seen(self.counts))

    @property
    def recurs_clearly(self) -> bool:
        return bool(self.lag) and self.strength >= _CLEAR_STRENGTH

    def seen(self, values: Floats) -> Floats:
        return values[max(0, self.end - self.REMEMBERED) : self.end]


class Analogue:
    """What came after the moments of the past that were most like this one (Lorenz's analogues, 1969).

    A moment is what came in the last intervals, how much moved in the pictures, and, where arrivals recur, what came
    one period before the next. The method of nearest neighbours in what is remembered; it needs no shape of a burst.
    """

    name = "analogue"
    _DEPTH = 4
    _NEIGHBOURS = 12
    _LEAST = 24

    def __init__(self) -> None:
        self._states = States(_History)

    def next(self, intervals: Mapping[Partition, Interval]) -> dict[Partition, Amounts]:
        """As in `Rule`."""
        return _amounts(self._states, intervals, lambda state, _: math.expm1(self._next_log(state)))

    def _next_log(self, state: _History) -> float:
        counts, scenes = state.seen(state.counts), state.seen(state.scenes)
        size, depth = len(counts), self._DEPTH
        if size < self._LEAST:
            return float(np.mean(counts[-5:]))
        # Row i is the moment after which counts[first + i] came; the last one is now.
        first = depth
        if state.lag and state.strength > _LEAST_STRENGTH and state.lag + depth + self._LEAST < size:
            first = state.lag + depth
        rows = np.arange(first, size + 1)
        parts = [(2.0 * 0.6**back) * counts[rows - 1 - back] for back in range(depth)]
        parts += [(2.0 * 0.6**back) * scenes[rows - 1 - back] for back in range(2)]
        if first > depth:
            weight = 1.5 * state.strength
            ahead = np.minimum(rows - state.lag + 1, size - 1)
            parts += [
                weight * counts[rows - state.lag],
                0.7 * weight * counts[rows - state.lag - 1],
                0.7 * weight * counts[ahead],
            ]
        moments = np.stack(parts)
        away = ((moments[:, :-1] - moments[:, -1:]) ** 2).sum(0)
        near = np.argpartition(away, min(self._NEIGHBOURS, away.size - 1))[: self._NEIGHBOURS]
        weights = 1 / (0.05 + away[near])
        return float(weights @ counts[first + near] / weights.sum())


class Recurring:
    """What came one period ago, as near as that is shifted to what has come since; where nothing recurs, the mean."""

    name = "recurring"
    _SHIFTS = (-2, -1, 0, 1, 2)
    _ALIGNED = 6

    def __init__(self) -> None:
        self._states = States(_History)
        self._returning: dict[Partition, Amounts] = {}

    def next(self, intervals: Mapping[Partition, Interval]) -> dict[Partition, Amounts]:
        """As in `Rule`."""
        made = _amounts(self._states, intervals, lambda state, _: self._next(state))
        self._returning = {}
        for partition, state in self._states.of(intervals).items():
            if state.recurs_clearly:
                after = state.rates.amounts(self._next(state, 1), intervals[partition])
                self._returning[partition] = max(made[partition], after, key=lambda each: each.arrivals)
        return made

    def returning(self) -> Mapping[Partition, Amounts]:
        """What comes back in one of the next two intervals, of the partitions whose periods are clearly alike.

        What begins with an interval has to be ready before it.
        """
        return self._returning

    def _next(self, state: _History, later: int = 0) -> float:
        """What comes in the next interval, or so many later."""
        counts, lag = state.seen(state.counts), state.lag
        size = len(counts)
        if not lag or state.strength < _LEAST_STRENGTH:
            return state.rates.arrivals
        # The more alike the periods are, the less is one early or late.
        late = 0.2 / (1.05 - min(state.strength, 1.0))
        total = weights = 0.0
        for periods in (1, 2, 3):
            for shift in self._SHIFTS:
                at = size - periods * lag + shift
                if not self._ALIGNED <= at < size - later:
                    continue
                off = counts[at - self._ALIGNED : at] - counts[size - self._ALIGNED :]
                weight = math.exp(-float(off @ off) - late * abs(shift)) / periods
                total += weight * counts[at + later]
                weights += weight
        if weights < 1e-12:
            return state.rates.arrivals
        return math.expm1(total / weights)


class _Runs:
    """How long the present rate may have lasted: by run, its probability, and what came in it."""

    __slots__ = ("came", "length", "mean", "probability", "rates")

    def __init__(self) -> None:
        self.length, self.came = np.zeros(0), np.zeros(0)
        self.probability = np.zeros(0)
        self.mean = 0.0
        self.rates = Rates()

    def add(self, interval: Interval) -> None:
        self.rates.add(interval, _RATES_SHARE)


class ChangePoint:
    """Counts at a rate that changes suddenly: Bayesian online changepoint detection (Adams and MacKay, 2007).

    Within a run counts are Poisson's, the rate's conjugate prior is a Gamma distribution around the long mean, and each
    interval begins a run with the same small probability. The 32 likeliest runs are kept. Half of the probability lies
    below the forecast.
    """

    name = "change_point"
    _HAZARD = 1 / 60
    _KEPT = 32
    _SHAPE = 0.7

    def __init__(self) -> None:
        self._states = States(_Runs)

    def next(self, intervals: Mapping[Partition, Interval]) -> dict[Partition, Amounts]:
        """As in `Rule`."""
        return _amounts(self._states, intervals, lambda state, interval: self._next(state, interval.arrivals))

    def _next(self, state: _Runs, count: int) -> float:
        state.mean = state.mean + 0.02 * (count - state.mean) if state.mean else float(count)
        shape, rate = self._SHAPE, self._SHAPE / max(state.mean, 0.1)
        if state.probability.size:
            shapes, rates = shape + np.append(state.came, 0.0), rate + np.append(state.length, 0.0)
            both = zip(shapes.tolist(), rates.tolist(), strict=True)
            fits = np.array([_log_negative_binomial(count, *each) for each in both])
            before = np.append((1 - self._HAZARD) * state.probability, self._HAZARD)
            state.probability = before * np.exp(np.maximum(fits - fits.max(), -600))
            state.length, state.came = np.append(state.length, 0.0) + 1, np.append(state.came, 0.0) + count
            if state.probability.size > self._KEPT:
                worst = int(np.argmin(state.probability[:-1]))
                state.probability, state.length, state.came = (
                    np.delete(each, worst) for each in (state.probability, state.length, state.came)
                )
        else:
            state.probability, state.length, state.came = np.ones(1), np.ones(1), np.array([float(count)])
        state.probability = state.probability / state.probability.sum()
        means = (shape + state.came) / (rate + state.length)
        order = np.argsort(means)
        summed = np.cumsum(state.probability[order])
        return float(np.interp(0.5, summed - state.probability[order] / 2, means[order]))


def _log_negative_binomial(count: int, shape: float, rate: float) -> float:
    """How likely a Poisson count is whose mean is Gamma distributed, but for the count's factorial."""
    return math.lgamma(shape + count) - math.lgamma(shape) - shape * math.log1p(1 / rate) - count * math.log1p(rate)
