"""What chance gives: the same for every policy, so that they differ by their decisions alone."""

from __future__ import annotations

from array import array
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from midstream.simulating.scenario import Scenario

# The coefficient of variation of a static network's time (DESIGN: 3.7 % measured).
TIME_SPREAD = 0.037
# How alike the complexities of one input and the next are, as in a stream of frames.
_LIKENESS = 0.95
_MEAN_SCORE, _SCORE_SPREAD = 50.0, 20.0
# Streams of random numbers: of a device, and of what others send a gateway.
_DEVICE, _OTHERS = 0, 1


class Draws:
    """What one device meets: when its inputs come, and what is chance about each of them.

    ``device`` and ``gateway`` multiply times there, ``richness`` is a standard normal figure that payloads follow,
    ``exits`` are 0 to 1, ``scores`` 0 to 100; ``offset_s`` is where in the trace the device's link begins. Arrays, not
    lists: a fleet has millions of them.
    """

    def __init__(self, scenario: Scenario, device: int) -> None:
        random = np.random.default_rng((scenario.seed, _DEVICE, device))
        self.offset_s = 0.0 if device == 0 else float(random.uniform(0.0, scenario.trace.period_s))
        self.arrivals_s = _arrivals(scenario, random)
        count = len(self.arrivals_s)
        self.device = _factors(random, count)
        self.gateway = _factors(random, count)
        richness = _wandering(random, count)
        self.richness = _array(richness)
        self.exits = _array(random.uniform(size=count))
        self.scores = _array(np.clip(_MEAN_SCORE + _SCORE_SPREAD * richness, 0.0, 100.0))

    def __len__(self) -> int:
        return len(self.arrivals_s)


class Other(NamedTuple):
    """A job that somebody else sends a gateway."""

    arrives_s: float
    work_s: float


def others(scenario: Scenario, gateway: int) -> list[Other]:
    """What others send a gateway: at random times, of exponentially distributed work, until the last input has come."""
    if not scenario.gateway_load:
        return []
    random = np.random.default_rng((scenario.seed, _OTHERS, gateway))
    mean_s = scenario.other_job_s
    rate_hz = scenario.gateway_load * scenario.workers / mean_s
    count = int(random.poisson(rate_hz * scenario.seconds))
    times = np.sort(random.uniform(0.0, scenario.seconds, count))
    work = random.exponential(mean_s, count)
    return [Other(*each) for each in zip(times.tolist(), work.tolist(), strict=True)]


def _arrivals(scenario: Scenario, random: np.random.Generator) -> array[float]:
    if scenario.arrivals == "poisson":
        count = int(random.poisson(scenario.rate_hz * scenario.seconds))
        found = np.sort(random.uniform(0.0, scenario.seconds, count))
    else:
        found = np.arange(random.uniform(), scenario.rate_hz * scenario.seconds, 1.0) / scenario.rate_hz
    return _array(found)


def _factors(random: np.random.Generator, count: int) -> array[float]:
    return _array(random.lognormal(-(TIME_SPREAD**2) / 2, TIME_SPREAD, count))


def _array(values: NDArray[np.float64]) -> array[float]:
    return array("d", values.tobytes())


def _wandering(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Standard normal figures, each alike the one before: a first-order autoregression."""
    steps = random.normal(size=count)
    found, level = np.empty(count), 0.0
    for at, step in enumerate(steps.tolist()):
        level = step if at == 0 else _LIKENESS * level + (1 - _LIKENESS**2) ** 0.5 * step
        found[at] = level
    return found
