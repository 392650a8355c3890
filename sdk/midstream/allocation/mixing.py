"""The learned mix of predictors, its correction by what came, and the choice of what allocates.

All amounts are mixed on the scale log(1 + amount / unit), and judged by the absolute error of the amounts themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from midstream.allocation.intervals import Forecast, Interval, Quantiles
from midstream.allocation.predictors import MOST, UNITS, Amounts, Demand, Predictor, amounts_of
from midstream.allocation.usage import Partition

Floats = NDArray[np.float64]

TARGETS = ("arrivals", "cpu_ms", "memory_bytes", "wait_ms")
WEIGHTED, STACKED = "weighted", "stacked"
"""The two mixes, beside the predictors that they are made of."""

_MIXES = (WEIGHTED, STACKED)
_LIMIT = math.log1p(MOST)
# How much the last error counts in what is known of errors.
_ERROR_WEIGHT = 0.01
# A predictor that errs a tenth more than the best weighs e^-(a tenth of this).
_SHARPNESS = 30.0
_MOST_WORSE = 20.0
# What is stacked: its ridge, how much of what it has learned stays, and after how many intervals it is believed.
_RIDGE, _KEPT, _WARM = 30.0, 0.9995, 20
_CONSTANT = 0.3
# Another one takes over once it has erred less by so much.
_HYSTERESIS = 0.02
_LEVELS = np.array([[0.1], [0.5], [0.9]])
# How fast these quantiles of the errors are followed, in shares of the mean error.
_QUANTILE_STEPS = np.array([[0.06], [0.02], [0.06]])


@dataclass(frozen=True, slots=True)
class Choice:
    """Who forecasts one target of a partition.

    ``errors`` are mean absolute errors by name, in the target's own unit, in which the last hundred intervals count
    for most; ``error`` is that of the one that was chosen.
    """

    name: str
    errors: Mapping[str, float]

    @property
    def error(self) -> float:
        """Of the one that was chosen."""
        return self.errors[self.name]


class Chooser:
    """A predictor of predictors: runs them side by side, mixes them, and forecasts by whichever has erred least lately.

    For each partition and target on its own. ``following`` makes further predictors, which are told what demand is
    forecast. A predictor that says nothing of a partition, or no number, is taken to say what half of the others do.
    ``returning`` tells what recurs clearly, which has not to prove itself first to be made ready for.
    """

    name = "chosen"

    def __init__(
        self,
        predictors: Sequence[Predictor],
        following: Callable[[Demand], Sequence[Predictor]] | None = None,
        returning: Callable[[], Mapping[Partition, Amounts]] = dict,
    ) -> None:
        self.returning = returning
        self._first = tuple(predictors)
        self._following = tuple(following(lambda: self._demand)) if following else ()
        self._mixes: dict[Partition, tuple[_Mix, ...]] = {}
        self._demand: dict[Partition, float] = {}
        self._forecasts: dict[Partition, Forecast] = {}

    def observe(self, intervals: Mapping[Partition, Interval]) -> None:
        """As in `Predictor`."""
        self._mixes = {each: self._mixes.get(each) or self._new_mixes() for each in intervals}
        for partition, interval in intervals.items():
            for mix, came in zip(self._mixes[partition], amounts_of(interval), strict=True):
                if came is not None:
                    mix.learn(came)
        made = [_observed(each, intervals) for each in self._first]
        arrivals = {partition: self._mixed(partition, 0, made) for partition in intervals}
        self._demand = {partition: quantiles.middle for partition, quantiles in arrivals.items()}
        made += [_observed(each, intervals) for each in self._following]
        self._forecasts = {
            partition: Forecast(first, *(self._mixed(partition, target, made) for target in range(1, len(TARGETS))))
            for partition, first in arrivals.items()
        }

    def forecast(self) -> Mapping[Partition, Forecast]:
        """As in `Predictor`."""
        return self._forecasts

    def choices(self) -> Mapping[Partition, Mapping[str, Choice]]:
        """Who forecasts what, by partition and target."""
        return {
            partition: {target: mix.choice() for target, mix in zip(TARGETS, mixes, strict=True)}
            for partition, mixes in self._mixes.items()
        }

    def middles(self) -> Mapping[Partition, Mapping[str, Mapping[str, float]]]:
        """What each predictor and each mix forecasts, in the middle: by partition, target and name."""
        return {
            partition: {target: mix.middles() for target, mix in zip(TARGETS, mixes, strict=True)}
            for partition, mixes in self._mixes.items()
        }

    def _new_mixes(self) -> tuple[_Mix, ...]:
        first = [each.name for each in self._first]
        names = [*first, *(each.name for each in self._following)]
        return tuple(_Mix(names if target else first, unit) for target, unit in enumerate(UNITS))

    def _mixed(self, partition: Partition, target: int, made: Sequence[Mapping[Partition, Forecast]]) -> Quantiles:
        middles = []
        for forecasts in made:
            forecast = forecasts.get(partition)
            middles.append(getattr(forecast, TARGETS[target]).middle if forecast else math.nan)
        return self._mixes[partition][target].next(np.array(middles))


def _observed(predictor: Predictor, intervals: Mapping[Partition, Interval]) -> Mapping[Partition, Forecast]:
    predictor.observe(intervals)
    return predictor.forecast()


class _Mix:
    """One target of one partition: what ``names`` say of it, two mixes of that, and which of all these is chosen.

    Arrays have a place for each predictor, and then one for each mix.
    """

    def __init__(self, names: Sequence[str], unit: float) -> None:
        self._names = (*names, *_MIXES)
        self._unit = unit
        count = len(names)
        self._errors = np.zeros(len(self._names))
        self._seen = 0
        self._chosen = count
        # What is stacked: recursive least squares on how far each is from the weighted mix, and a constant.
        self._inverse = np.eye(count + 1) / _RIDGE
        self._factors = np.zeros(count + 1)
        self._apart = np.zeros(count + 1)
        # Of how far what came was from what was said: quantiles, and mean size.
        self._offsets = np.zeros((len(_LEVELS), len(self._names)))
        self._sizes = np.zeros(len(self._names))
        # What was said, before and after the mixes were corrected.
        self._raw = self._logs = np.zeros(0)

    def learn(self, amount: float) -> None:
        """So much came where `next` was asked last."""
        if not self._logs.size:
            return
        came = min(max(amount / self._unit, 0.0), MOST)
        self._seen += 1
        share = max(_ERROR_WEIGHT, 1 / self._seen)
        self._errors += share * (np.abs(np.expm1(self._logs) - came) - self._errors)
        off = math.log1p(came) - self._raw
        self._sizes += share * (np.abs(off) - self._sizes)
        self._offsets += _QUANTILE_STEPS * self._sizes * (_LEVELS - (off < self._offsets))
        self._learn_stacked(off.item(-len(_MIXES)))
        best = int(np.argmin(self._errors))
        if self._errors[best] < (1 - _HYSTERESIS) * self._errors[self._chosen]:
            self._chosen = best

    def _learn_stacked(self, off: float) -> None:
        """One step of recursive least squares with forgetting (Haykin, Adaptive Filter Theory, chapter 10)."""
        x = self._apart
        gain = self._inverse @ x
        gain /= _KEPT + x @ gain
        self._factors += gain * (off - float(self._factors @ x))
        self._inverse = (self._inverse - np.outer(gain, x @ self._inverse)) / _KEPT
        # Where nothing is learned for long, forgetting must not open it to the first surprise.
        if np.trace(self._inverse) > len(x) / _RIDGE:
            self._inverse *= _KEPT

    def next(self, amounts: Floats) -> Quantiles:
        """Low, middle and high of what is chosen, from every predictor's middle."""
        logs = np.log1p(np.clip(amounts / self._unit, 0.0, MOST))
        known = np.isfinite(logs)
        if not known.all():
            logs[~known] = np.median(logs[known]) if known.any() else 0.0
        errors = self._errors[: len(logs)]
        worse = errors / max(float(errors.min()), 1e-9) - 1
        weights = np.exp(-_SHARPNESS * np.minimum(worse, _MOST_WORSE))
        weighted = float(weights @ logs / weights.sum())
        self._apart[:-1] = logs - weighted
        self._apart[-1] = _CONSTANT
        stacked = weighted
        if self._seen > _WARM:
            # It goes hardly further than the farthest predictor.
            reach = float(np.abs(self._apart).max()) + _CONSTANT
            stacked += min(max(float(self._factors @ self._apart), -reach), reach)
        self._raw = np.append(logs, [weighted, min(max(stacked, 0.0), _LIMIT)])
        self._logs = self._raw.copy()
        # Mixes are corrected; predictors are judged by what they say.
        mixes = slice(len(logs), None)
        self._logs[mixes] = np.clip(self._raw[mixes] + self._offsets[1, mixes], 0.0, _LIMIT)
        middle = self._logs.item(self._chosen)
        low, _, high = (self._raw[self._chosen] + self._offsets[:, self._chosen]).tolist()
        return Quantiles(*(self._amount(each) for each in (min(low, middle), middle, max(high, middle))))

    def _amount(self, log: float) -> float:
        return self._unit * math.expm1(min(max(log, 0.0), _LIMIT))

    def middles(self) -> dict[str, float]:
        return dict(zip(self._names, map(self._amount, self._logs.tolist()), strict=False))

    def choice(self) -> Choice:
        errors = dict(zip(self._names, (self._unit * self._errors).tolist(), strict=True))
        return Choice(self._names[self._chosen], errors)
