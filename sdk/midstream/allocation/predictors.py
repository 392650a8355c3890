"""Predictors of a gateway's next interval: what each of its partitions will ask for and wait.

Each is a rule that gives single numbers, and `Calibrated` adds how far it has been off. All have bounded memory, and
take some microseconds a partition and interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, Protocol, TypeVar

from midstream.allocation.formulas import mean_wait_s, mmk_wait_s
from midstream.allocation.intervals import Forecast, Interval, Quantiles
from midstream.allocation.usage import Partition

# An amount is looked at as log(1 + amount / unit); memory is in MiB there.
UNITS = (1.0, 1.0, float(1 << 20), 1.0)
# Nothing is forecast to be more, in units.
MOST = 1e9
# How fast the quantiles of what a rule was off by follow, in shares of its mean error.
_QUANTILE_STEP = 0.1
_ERROR_WEIGHT = 0.03
_LOW, _HIGH = 0.1, 0.9
# How much the last interval counts in the mean wait of rules that know nothing better.
_WAIT_SHARE = 0.3
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
                *(each.around(said or 0.0, unit) for each, unit, said in zip(offsets, UNITS, amounts, strict=True))
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

    def around(self, amount: float, unit: float) -> Quantiles:
        amount = min(max(amount, 0.0), MOST * unit)
        log = math.log1p(amount / unit)
        low, high = _amount(log + self.low, unit), _amount(log + self.high, unit)
        return Quantiles(min(low, amount), amount, max(high, amount))


def _log(amount: float, unit: float) -> float:
    return math.log1p(min(max(amount / unit, 0.0), MOST))


def _amount(log: float, unit: float) -> float:
    return unit * math.expm1(min(max(log, 0.0), math.log1p(MOST)))


State = TypeVar("State")


class States(Generic[State]):
    """One state a partition; those that are no longer there are forgotten."""

    def __init__(self, new: Callable[[], State]) -> None:
        self._new = new
        self._states: dict[Partition, State] = {}

    def of(self, intervals: Mapping[Partition, Interval]) -> dict[Partition, State]:
        """Those of all that are in the interval that has closed."""
        self._states = {each: self._states.get(each) or self._new() for each in intervals}
        return self._states


class LastValue:
    """The next interval is as this one; who comes waits as those who came last did."""

    name = "last_value"

    def __init__(self) -> None:
        self._states = States[list[float]](lambda: [0.0])

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
        self._states = States[list[float]](list)

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
        self._states = States[tuple[list[float], list[float]]](lambda: ([], [0.0] * len(UNITS)))

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


class Rates:
    """A partition's mean arrivals an interval, processor time a request, and wait."""

    __slots__ = ("arrivals", "cpu_ms", "served", "wait_ms")

    def __init__(self) -> None:
        self.arrivals = self.cpu_ms = self.served = self.wait_ms = 0.0

    def add(self, interval: Interval, share: float) -> None:
        """One more interval, which counts for this share of the means, but for the wait's."""
        if not self.arrivals and not self.served:
            share = 1.0
        self.arrivals += share * (interval.arrivals - self.arrivals)
        self.cpu_ms += share * (interval.cpu_ms - self.cpu_ms)
        self.served += share * (interval.served - self.served)
        if interval.arrivals > interval.refused:
            self.wait_ms += _WAIT_SHARE * (interval.wait_ms - self.wait_ms)

    def amounts(self, arrivals: float, interval: Interval, wait_ms: float | None = None) -> Amounts:
        """What follows if so many come; they wait as in the mean, if nothing else is known."""
        each_ms = self.cpu_ms / self.served if self.served > 0 else 0.0
        return Amounts(
            arrivals, arrivals * each_ms, interval.memory_bytes, self.wait_ms if wait_ms is None else wait_ms
        )


class SteadyState:
    """M/M/k in the steady state, with the mean rates and service times of the last half minute or so."""

    name = "steady_state"

    def __init__(self, workers: int, share: float = 0.1) -> None:
        self.workers = workers
        self._share = share
        self._states = States(Rates)

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
            partition: state.amounts(state.arrivals, intervals[partition], wait_ms)
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
        self._states = States(Rates)

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
            made[partition] = states[partition].amounts(demand.get(partition, 0.0), interval, waits[interval.queue_ms])
        return made
