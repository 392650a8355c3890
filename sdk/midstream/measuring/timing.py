"""How long things take on a machine that does others too: runs that take turns, their median, how far they spread."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

# A clock can time this; shorter runs are repeated until together they take so long.
_SAMPLE_S = 0.002
_SLOW_MS = 200.0
_MAX_ROUNDS, _MAX_BATCH = 100, 10_000

Run = Callable[[], object]
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Timing:
    """Median milliseconds of one run; ``spread`` is the width of the middle half, ``drift`` last third − first third.

    Both are shares of the median: 0.1 is a tenth of it.
    """

    ms: float
    spread: float
    drift: float
    rounds: int


def measure(runs: Mapping[str, Run], budget_s: float, clock: Clock = time.perf_counter) -> dict[str, Timing]:
    """Time every run in turns until ``budget_s`` is spent, after runs that do not count; at least once each."""
    end = clock() + budget_s
    batches = {name: _batch(run, clock) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(_MAX_ROUNDS):
        for name, run in runs.items():
            times[name].append(_ms(run, batches[name], clock))
        if clock() >= end:
            break
    return {name: _timing(series) for name, series in times.items()}


def _batch(run: Run, clock: Clock) -> int:
    """How many runs make up one sample; these are the warm-up too: a runtime's first run plans its memory."""
    if _ms(run, 1, clock) > _SLOW_MS:
        return 1
    once = _ms(run, 1, clock) / 1e3
    if once > _SAMPLE_S:
        return 1
    again = _ms(run, _repeats(once), clock) / 1e3
    return _repeats(again)


def _repeats(seconds: float) -> int:
    return min(_MAX_BATCH, math.ceil(_SAMPLE_S / max(seconds, 1e-9)))


def _ms(run: Run, times: int, clock: Clock) -> float:
    start = clock()
    for _ in range(times):
        run()
    return (clock() - start) * 1e3 / times


def _timing(series: Sequence[float]) -> Timing:
    middle = median(series)
    low, _, high = quantiles(series, n=4) if len(series) > 1 else (middle, middle, middle)
    third = max(1, len(series) // 3)
    drift = median(series[-third:]) - median(series[:third])
    return Timing(middle, (high - low) / middle if middle else 0.0, drift / middle if middle else 0.0, len(series))
