"""The learned mix of predictors, its correction by what came, and the choice of what allocates.

All amounts are mixed on the scale log(1 + amount / unit), and judged by the absolute error of the amounts themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from midstream.allocation.intervals import Forecast, Interval, Quantiles
from midstream.allocation.predictors import MOST, UNITS, Predictor, amounts_of
from midstream.allocation.usage import Partition

Floats = NDArray[np.float64]

TARGETS = ("arrivals", "cpu_ms", "memory_bytes", "wait_ms")
WEIGHTED, STACKED = "weighted", "stacked"
"""The two mixes, beside the predictors that they are made of."""

_LIMIT = float(np.log1p(MOST))
# How much the last error counts in what is known of errors.
_ERROR_WEIGHT = 0.01
# A predictor that errs a tenth more than the best weighs e^-(a tenth of this).
_SHARPNESS = 20.0
# The ridge, forgetting and caution of what is stacked.
_RIDGE, _KEPT, _WARM = 4.0, 0.997, 20
# Another one takes over once it has erred less by so much.
_HYSTERESIS = 0.03
_QUANTILE_STEP = 0.06


@dataclass(frozen=True, slots=True)
class Choice:
    """Who forecasts one target of a partition, and how much each has erred of late: mean absolute errors, in the
    target's own unit, of the last minute or so."""

    name: str
    errors: Mapping[str, float]

    @property
    def error(self) -> float:
        """Of the one that was chosen."""
        return self.errors[self.name]


class Chooser:
    """A predictor of predictors: runs them side by side, mixes them, and forecasts by whichever has erred least lately.

    For each partition and target on its own. ``following`` makes predictors that need to know what demand is forecast.
    Nothing is forecast of a partition before it has been seen once.
    """

    name = "chosen"

    def __init__(
        self,
        predictors: Sequence[Predictor],
        following: Callable[[Callable[[], Mapping[Partition, float]]], Sequence[Predictor]] | None = None,
    ) -> None:
        self._first = tuple(predictors)
        self._following = tuple(following(lambda: self._demand) if following else ())
        self._names = tuple(each.name for each in (*self._first, *self._following))
        self._mixes: dict[Partition, tuple[_Mix, ...]] = {}
        self._demand: dict[Partition, float] = {}
        self._forecasts: dict[Partition, Forecast] = {}
        self._made: dict[str, dict[Partition, Forecast]] = {}

    @property
    def predictors(self) -> tuple[Predictor, ...]:
        """What it chooses among, but for the mixes."""
        return (*self._first, *self._following)

    def observe(self, intervals: Mapping[Partition, Interval]) -> None:
        """As in `Predictor`."""
        sizes = [len(self._first), *([len(self._names)] * (len(TARGETS) - 1))]
        self._mixes = {
            each: self._mixes.get(each) or tuple(_Mix(self._names[:size]) for size in sizes) for each in intervals
        }
        for partition, interval in intervals.items():
            for mix, unit, came in zip(self._mixes[partition], UNITS, amounts_of(interval), strict=True):
                if came is not None:
                    mix.learn(came / unit)
        for each in self._first:
            each.observe(intervals)
        made = [each.forecast() for each in self._first]
        arrivals = {partition: self._mixed(partition, 0, made) for partition in intervals}
        self._demand = {partition: quantiles.middle for partition, quantiles in arrivals.items()}
        for each in self._following:
            each.observe(intervals)
        made += [each.forecast() for each in self._following]
        self._forecasts = {
            partition: Forecast(
                arrivals[partition], *(self._mixed(partition, target, made) for target in range(1, len(TARGETS)))
            )
            for partition in intervals
        }

    def forecast(self) -> Mapping[Partition, Forecast]:
        """As in `Predictor`."""
        return self._forecasts

    def choices(self) -> Mapping[Partition, Mapping[str, Choice]]:
        """By partition and target."""
        return {
            partition: {target: mix.choice() for target, mix in zip(TARGETS, mixes, strict=True)}
            for partition, mixes in self._mixes.items()
        }

    def middles(self) -> Mapping[Partition, Mapping[str, Mapping[str, float]]]:
        """What each, and each mix, forecasts in the middle: by partition, target and name."""
        return {
            partition: {target: mix.middles(unit) for target, mix, unit in zip(TARGETS, mixes, UNITS, strict=True)}
            for partition, mixes in self._mixes.items()
        }

    def _mixed(self, partition: Partition, target: int, made: Sequence[Mapping[Partition, Forecast]]) -> Quantiles:
        middles = [getattr(each[partition], TARGETS[target]).middle for each in made]
        return self._mixes[partition][target].next(np.array(middles) / UNITS[target], UNITS[target])


class _Mix:
    """One target of one partition. Amounts are in units; ``names`` are the predictors'."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = (*names, WEIGHTED, STACKED)
        count = len(names)
        self._errors = np.zeros(count + 2)
        self._seen = 0
        self._chosen = count
        # Of what is stacked: recursive least squares on how far each is from the weighted mix, and a constant.
        self._inverse = np.eye(count + 1) / _RIDGE
        self._factors = np.zeros(count + 1)
        self._apart = np.zeros(count + 1)
        # How far the truth was from each middle: low, middle and high quantile of that, and its mean size.
        self._offsets = np.zeros((3, count + 2))
        self._sizes = np.zeros(count + 2)
        self._raw = np.zeros(count + 2)
        self._logs: Floats | None = None

    def learn(self, came: float) -> None:
        """So much came where `next` was asked last."""
        if self._logs is None:
            return
        log = min(float(np.log1p(max(came, 0.0))), _LIMIT)
        self._seen += 1
        share = max(_ERROR_WEIGHT, 1 / self._seen)
        self._errors += share * (np.abs(np.expm1(self._logs) - min(came, MOST)) - self._errors)
        off = log - self._raw
        self._sizes += max(_ERROR_WEIGHT, 1 / self._seen) * (np.abs(off) - self._sizes)
        step = _QUANTILE_STEP * self._sizes
        self._offsets += step * (_QUANTILES - (off < self._offsets))
        self._learn_stacked(log - float(self._raw[-2]))
        best = int(np.argmin(self._errors))
        if self._errors[best] < (1 - _HYSTERESIS) * self._errors[self._chosen]:
            self._chosen = best

    def _learn_stacked(self, off: float) -> None:
        x = self._apart
        gain = self._inverse @ x
        gain /= _KEPT + x @ gain
        self._factors += gain * (off - float(self._factors @ x))
        self._inverse = (self._inverse - np.outer(gain, x @ self._inverse)) / _KEPT
        # Forgetting must not make it forget the ridge.
        if np.trace(self._inverse) > self._inverse.shape[0] * 4 / _RIDGE:
            self._inverse *= 0.9

    def next(self, amounts: Floats, unit: float) -> Quantiles:
        """Low, middle and high of what is chosen, from every predictor's middle."""
        logs = np.log1p(np.clip(amounts, 0.0, MOST))
        errors = self._errors[:-2]
        least = max(float(errors.min()), 1e-9)
        weights = np.exp(-_SHARPNESS * np.minimum(errors / least - 1, 30))
        weighted = float(weights @ logs / weights.sum())
        self._apart[:-1] = logs - weighted
        self._apart[-1] = 0.3
        reach = float(np.abs(self._apart[:-1]).max()) + 0.3
        stacked = weighted
        if self._seen > _WARM:
            stacked += min(max(float(self._factors @ self._apart), -reach), reach)
        self._raw = np.array([*logs, weighted, max(stacked, 0.0)])
        self._logs = self._raw.copy()
        # Mixes are corrected; what was handed in is judged as it is.
        self._logs[-2:] = np.maximum(self._raw[-2:] + self._offsets[1, -2:], 0.0)
        at = self._chosen
        middle = self._logs[at]
        low, high = np.expm1(
            np.clip(
                [min(self._raw[at] + self._offsets[0, at], middle), max(self._raw[at] + self._offsets[2, at], middle)],
                0.0,
                _LIMIT,
            )
        ).tolist()
        return Quantiles(unit * low, unit * float(np.expm1(middle)), unit * high)

    def middles(self, unit: float) -> dict[str, float]:
        assert self._logs is not None
        return dict(zip(self._names, (unit * np.expm1(self._logs)).tolist(), strict=True))

    def choice(self) -> Choice:
        return Choice(self._names[self._chosen], dict(zip(self._names, self._errors.tolist(), strict=True)))


_QUANTILES = np.array([[0.1], [0.5], [0.9]])
