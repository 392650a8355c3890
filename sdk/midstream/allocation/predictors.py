"""Predictors of a gateway's next interval: what each of its partitions will ask for and wait.

Each is a rule that gives single numbers, and `Calibrated` adds how far it has been off. All have bounded memory, and
take some microseconds a partition and interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from midstream.allocation.formulas import mean_wait_s, mmk_wait_s
from midstream.allocation.intervals import Forecast, Interval, Quantiles
from midstream.allocation.periods import found_period
from midstream.allocation.usage import Partition

# An amount is looked at as log(1 + amount / unit); memory is in MiB there.
UNITS = (1.0, 1.0, float(1 << 20), 1.0)
# Nothing is forecast to be more, in units.
MOST = 1e9
# How fast the quantiles of what a rule was off by follow, in shares of its mean error.
_QUANTILE_STEP = 0.1
_ERROR_WEIGHT = 0.03
_LOW, _HIGH = 0.1, 0.9
# Steady-state formulas go no nearer to full load than this.
_MOST_UTILISATION = 0.98


class Predictor(Protocol):
    """Forecasts all partitions of one gateway. Not thread-safe; pure but for what it has seen."""

    @property
    def name(self) -> str:
        """What it is called in metrics and logs."""

    def observe(self, intervals: Mapping[Partition, Interval]) -> None:
        """An interval has closed; a partition that is not in it is known no longer."""

    def forecast(self) -> Mapping[Partition, Forecast]:
        """The next interval of every partition in the last one."""


class Amounts(NamedTuple):
    """One number for each of a forecast's targets; the wait is None where nobody has come who waits."""

    arrivals: float
    cpu_ms: float
    memory_bytes: float
    wait_ms: float | None


def amounts_of(interval: Interval) -> Amounts:
    """What an interval was, as a forecast should have said it."""
    wait_ms = interval.wait_ms if interval.arrivals > interval.refused else None
    return Amounts(float(interval.arrivals), interval.cpu_ms, interval.memory_bytes, wait_ms)


class Rule(Protocol):
    """What a predictor makes of the interval that has closed: one number for each target of the next."""

    @property
    def name(self) -> str:
        """What the predictor is called."""

    def next(self, intervals: Mapping[Partition, Interval]) -> dict[Partition, Amounts]:
        """For all that are in the interval that has closed."""


class Calibrated:
    """A rule as a predictor: its number is the middle one, and what it was off by before gives the others."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._known: dict[Partition, tuple[Amounts, list[_Offsets]]] = {}
        self._forecasts: dict[Partition, Forecast] = {}

    @property
    def name(self) -> str:
        """The rule's."""
        return self._rule.name

    def observe(self, intervals: Mapping[Partition, Interval]) -> None:
        """As in `Predictor`."""
        made, known = self._rule.next(intervals), {}
        self._forecasts = {}
        for partition, amounts in made.items():
            before = self._known.get(partition)
            offsets = [_Offsets() for _ in UNITS] if before is None else before[1]
            if before is not None:
                for each, unit, was, said in zip(
                    offsets, UNITS, amounts_of(intervals[partition]), before[0], strict=True
                ):
                    if was is not None:
                        each.learn(math.log1p(was / unit) - _log(said or 0.0, unit))
            known[partition] = amounts, offsets
            self._forecasts[partition] = Forecast(
                *(
                    each.around(_log(said or 0.0, unit), unit)
                    for each, unit, said in zip(offsets, UNITS, amounts, strict=True)
                )
            )
        self._known = known

    def forecast(self) -> Mapping[Partition, Forecast]:
        """As in `Predictor`."""
        return self._forecasts


class _Offsets:
    """Where nine, and one, in ten of the errors on the scale of logarithms lie below; followed by stochastic
    approximation of the quantile, in steps of the mean error (Robbins and Monro, 1951)."""

    __slots__ = ("high", "low", "size")

    def __init__(self) -> None:
        self.low = self.high = self.size = 0.0

    def learn(self, off: float) -> None:
        self.size += _ERROR_WEIGHT * (abs(off) - self.size) if self.size else abs(off)
        step = _QUANTILE_STEP * self.size
        self.low = min(0.0, self.low + step * (_LOW - (off < self.low)))
        self.high = max(0.0, self.high + step * (_HIGH - (off < self.high)))

    def around(self, middle: float, unit: float) -> Quantiles:
        return Quantiles(*(_amount(each, unit) for each in (middle + self.low, middle, middle + self.high)))


def _log(amount: float, unit: float) -> float:
    return math.log1p(min(max(amount / unit, 0.0), MOST))


def _amount(log: float, unit: float) -> float:
    return unit * math.expm1(min(max(log, 0.0), math.log1p(MOST)))


State = TypeVar("State")


class _States(Generic[State]):
    """One state a partition; those that are no longer there are forgotten."""

    def __init__(self, new: Callable[[], State]) -> None:
        self._new = new
        self._states: dict[Partition, State] = {}

    def of(self, intervals: Mapping[Partition, Interval]) -> dict[Partition, State]:
        self._states = {each: self._states.get(each) or self._new() for each in intervals}
        return self._states


class LastValue:
    """The next interval is as this one; who comes waits as those who came last did."""

    name = "last_value"

    def __init__(self) -> None:
        self._states = _States[list[float]](lambda: [0.0])

    def next(self, intervals: Mapping[Partition, Interval]) -> dict[Partition, Amounts]:
        """As in `Rule`."""
        made = {}
        for partition, wait in self._states.of(intervals).items():
            last = amounts_of(intervals[partition])
            if last.wait_ms is not None:
                wait[0] = last.wait_ms
            made[partition] = last._replace(wait_ms=wait[0])
        return made


class Ewma:
    """Exponentially weighted means, of which the last interval counts for ``share``."""

    def __init__(self, share: float = 0.3, name: str = "ewma") -> None:
        self.name = name
        self._share = share
        self._states = _States[list[float]](list)

    def next(self, intervals: Mapping[Partition, Interval]) -> dict[Partition, Amounts]:
        """As in `Rule`."""
        made = {}
        for partition, means in self._states.of(intervals).items():
            values = amounts_of(intervals[partition])
            if not means:
                means.extend(value or 0.0 for value in values)
            for place, value in enumerate(values):
                if value is not None:
                    means[place] += self._share * (value - means[place])
            made[partition] = Amounts(*means)
        return made


class Holt:
    """Holt's linear method with a damped trend (Gardner and McKenzie, Management Science 31, 1985)."""

    def __init__(self, share: float = 0.4, trend_share: float = 0.15, damping: float = 0.8, name: str = "holt") -> None:
        self.name = name
        self._share, self._trend_share, self._damping = share, trend_share, damping
        self._states = _States[tuple[list[float], list[float]]](lambda: ([], [0.0] * len(UNITS)))

    def next(self, intervals: Mapping[Partition, Interval]) -> dict[Partition, Amounts]:
        """As in `Rule`."""
        made = {}
        for partition, (levels, trends) in self._states.of(intervals).items():
            values = amounts_of(intervals[partition])
            if not levels:
                levels.extend(value or 0.0 for value in values)
            for place, value in enumerate(values):
                if value is not None:
                    before, trend = levels[place], self._damping * trends[place]
                    levels[place] = before + trend + self._share * (value - before - trend)
                    trends[place] = trend + self._trend_share * (levels[place] - before - trend)
            made[partition] = Amounts(
                *(max(0.0, level + self._damping * trend) for level, trend in zip(levels, trends, strict=True))
            )
        return made


class QueueReport:
    """Who comes waits as the gateway itself reports now; all else is as it was."""

    name = "queue_report"

    def next(self, intervals: Mapping[Partition, Interval]) -> dict[Partition, Amounts]:
        """As in `Rule`."""
        return {
            partition: amounts_of(interval)._replace(wait_ms=interval.queue_ms)
            for partition, interval in intervals.items()
        }


class _Rates:
    """A partition's mean arrivals an interval, and processor time a request."""

    __slots__ = ("arrivals", "cpu_ms", "served")

    def __init__(self) -> None:
        self.arrivals = self.cpu_ms = self.served = 0.0

    def add(self, interval: Interval, share: float) -> None:
        first = not self.arrivals and not self.served
        share = 1.0 if first else share
        self.arrivals += share * (interval.arrivals - self.arrivals)
        self.cpu_ms += share * (interval.cpu_ms - self.cpu_ms)
        self.served += share * (interval.served - self.served)

    @property
    def cpu_each_ms(self) -> float:
        return self.cpu_ms / self.served if self.served > 0 else 0.0


class SteadyState:
    """M/M/k in the steady state, with the mean rates and service times of the last half minute or so."""

    name = "steady_state"

    def __init__(self, workers: int, share: float = 0.1) -> None:
        self.workers = workers
        self._share = share
        self._states = _States(_Rates)

    def next(self, intervals: Mapping[Partition, Interval]) -> dict[Partition, Amounts]:
        """As in `Rule`."""
        states = self._states.of(intervals)
        rate_hz = offered = 0.0
        for partition, interval in intervals.items():
            states[partition].add(interval, self._share)
            hz = states[partition].arrivals / interval.length_s
            rate_hz += hz
            offered += hz * interval.service_ms / 1e3
        wait_ms = 0.0
        if offered > 0:
            most = _MOST_UTILISATION * self.workers
            wait_ms = 1e3 * mmk_wait_s(self.workers, rate_hz * min(1.0, most / offered), offered / rate_hz)
        return {
            partition: Amounts(
                state.arrivals, state.arrivals * state.cpu_each_ms, intervals[partition].memory_bytes, wait_ms
            )
            for partition, state in states.items()
        }


Demand = Callable[[], Mapping[Partition, float]]
"""How many requests of each partition are forecast to come in the next interval."""


class Transient:
    """M/G/k from the queue as it is, with what is forecast to come and the service times as they were measured."""

    name = "transient"

    def __init__(self, workers: int, demand: Demand) -> None:
        self.workers = workers
        self._demand = demand
        self._states = _States(_Rates)

    def next(self, intervals: Mapping[Partition, Interval]) -> dict[Partition, Amounts]:
        """As in `Rule`."""
        demand, states = self._demand(), self._states.of(intervals)
        rate_hz = offered = second = 0.0
        for partition, interval in intervals.items():
            states[partition].add(interval, 0.1)
            hz, service_s = demand.get(partition, 0.0) / interval.length_s, interval.service_ms / 1e3
            rate_hz += hz
            offered += hz * service_s
            second += hz * service_s * service_s * (1 + interval.service_cv2)
        service_s = offered / rate_hz if rate_hz > 0 else 0.0
        cv2 = max(0.0, second / (rate_hz * service_s * service_s) - 1) if service_s > 0 else 0.0
        made, waits = {}, dict[float, float]()
        for partition, interval in intervals.items():
            if interval.queue_ms not in waits:
                waits[interval.queue_ms] = 1e3 * mean_wait_s(
                    interval.queue_ms / 1e3, interval.length_s, self.workers, rate_hz, service_s, cv2
                )
            arrivals = demand.get(partition, 0.0)
            made[partition] = Amounts(
                arrivals,
                arrivals * states[partition].cpu_each_ms,
                interval.memory_bytes,
                waits[interval.queue_ms],
            )
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
        self.rates = _Rates()
        self.waits_ms = 0.0
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
        self.scenes[self.end] = math.log1p(max(motion, 0.0)) if interval.arrivals else before
        self.end += 1
        self._steps += 1
        self.rates.add(interval, 0.1)
        if interval.arrivals > interval.refused:
            self.waits_ms += 0.3 * (interval.wait_ms - self.waits_ms)
        if self._steps % self._EVERY == 0 and self._steps >= 2 * self._EVERY:
            self.lag, self.strength = found_period(self.seen(self.counts))

    def seen(self, values: np.ndarray) -> np.ndarray:
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
        self._states = _States(_History)

    def next(self, intervals: Mapping[Partition, Interval]) -> dict[Partition, Amounts]:
        """As in `Rule`."""
        made = {}
        for partition, state in self._states.of(intervals).items():
            interval = intervals[partition]
            state.add(interval)
            arrivals = math.expm1(self._next_log(state))
            made[partition] = Amounts(
                arrivals, arrivals * state.rates.cpu_each_ms, interval.memory_bytes, state.waits_ms
            )
        return made

    def _next_log(self, state: _History) -> float:
        counts, scenes = state.seen(state.counts), state.seen(state.scenes)
        size, depth = len(counts), self._DEPTH
        if size < self._LEAST:
            return float(np.mean(counts[-5:]))
        # Row i is the moment after which counts[first + i] came; the last one is now.
        first = depth
        if state.lag and state.strength > 0.15 and state.lag + depth + self._LEAST < size:
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
        self._states = _States(_History)

    def next(self, intervals: Mapping[Partition, Interval]) -> dict[Partition, Amounts]:
        """As in `Rule`."""
        made = {}
        for partition, state in self._states.of(intervals).items():
            interval = intervals[partition]
            state.add(interval)
            arrivals = self._next(state)
            made[partition] = Amounts(
                arrivals, arrivals * state.rates.cpu_each_ms, interval.memory_bytes, state.waits_ms
            )
        return made

    def _next(self, state: _History) -> float:
        counts, lag = state.seen(state.counts), state.lag
        size = len(counts)
        if not lag or state.strength < 0.15:
            return state.rates.arrivals
        # The more alike the periods are, the less is one early or late.
        late = 0.2 / (1.05 - min(state.strength, 1.0))
        total = weights = 0.0
        for periods in (1, 2, 3):
            for shift in self._SHIFTS:
                at = size - periods * lag + shift
                if not self._ALIGNED <= at < size:
                    continue
                off = counts[at - self._ALIGNED : at] - counts[size - self._ALIGNED :]
                weight = math.exp(-float(off @ off) - late * abs(shift)) / periods
                total += weight * counts[at]
                weights += weight
        if weights < 1e-12:
            return state.rates.arrivals
        return math.expm1(total / weights)


class _Runs:
    """How long the present rate may have lasted: by run, its probability, and what came in it."""

    __slots__ = ("came", "length", "mean", "probability", "rates", "waits_ms")

    def __init__(self) -> None:
        self.length, self.came = np.zeros(0), np.zeros(0)
        self.probability = np.zeros(0)
        self.mean = 0.0
        self.rates = _Rates()
        self.waits_ms = 0.0


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
        self._states = _States(_Runs)

    def next(self, intervals: Mapping[Partition, Interval]) -> dict[Partition, Amounts]:
        """As in `Rule`."""
        made = {}
        for partition, state in self._states.of(intervals).items():
            interval = intervals[partition]
            state.rates.add(interval, 0.1)
            if interval.arrivals > interval.refused:
                state.waits_ms += 0.1 * (interval.wait_ms - state.waits_ms)
            arrivals = self._next(state, interval.arrivals)
            made[partition] = Amounts(
                arrivals, arrivals * state.rates.cpu_each_ms, interval.memory_bytes, state.waits_ms
            )
        return made

    def _next(self, state: _Runs, count: int) -> float:
        state.mean = state.mean + 0.02 * (count - state.mean) if state.mean else float(count)
        shape, rate = self._SHAPE, self._SHAPE / max(state.mean, 0.1)
        if state.probability.size:
            shapes, rates = shape + np.append(state.came, 0.0), rate + np.append(state.length, 0.0)
            fits = np.array([_log_negative_binomial(count, *each) for each in zip(shapes, rates, strict=True)])
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
