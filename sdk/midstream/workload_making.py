"""Made workloads of a gateway, of kinds such as ``camera-motion``: when requests come, with what, how long they run.

What each kind is, with its formulas: `docs/allocation.md`. A kind and a seed give the same workload on any machine, as
made links do (`trace_making`): only uniform numbers are drawn, and what comes of them is rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from midstream.allocation.usage import Partition
from midstream.errors import InputError, printable

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

MAX_SEED = 2**32 - 1
MAX_SECONDS = 7 * 24 * 3600
MIXED = "mixed"
"""Each partition of another kind."""
_MAX_PARTITIONS = 64
_SHOWN_LETTERS = 40
# Rates and features change in steps of so long.
_STEP_S = 0.1
# What one partition's requests take and may take, drawn evenly in the logarithm.
_SERVICE_MS = (6.0, 40.0)
_SLACK_S = (0.2, 1.5)
_SERVICE_CV = (0.04, 0.3)
_SLICE_BYTES = (2e6, 60e6)
# How much longer a request of score 100 runs than one of score 50.
_SCORE_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class Workload:
    """What comes to one partition, request by request; all arrays have the shape (requests,), in order of arrival.

    ``arrivals_s`` are seconds since the workload's start, in whole microseconds. ``service_ms`` is how long a worker
    runs for each, ``scores`` the complexity score, ``features`` single features by name. Each has ``slack_s`` from its
    arrival to its deadline. A worker that runs it holds ``slice_bytes`` for it. ``expected``, shape (seconds,), is how
    many requests each second would bring in the mean, were it lived through again: what nobody can know better.
    """

    partition: Partition
    kind: str
    arrivals_s: Floats
    service_ms: Floats
    scores: Floats
    features: Mapping[str, Floats]
    slack_s: float
    slice_bytes: float
    expected: Floats


@dataclass(frozen=True, slots=True)
class _Path:
    """How a partition fares over time, on the grid: relative rate, how much is to be seen (0–1), and regularity.

    Distances between requests, in units of the mean one, are 1 for regularity 1, and exponential for 0.
    """

    rate: Floats
    scene: Floats
    regularity: float = 0.0


Draw = Callable[[int], np.random.Generator]
"""The stream of uniform numbers of a process, by its number: from 100 on they are common to all partitions."""


def _steady(steps: int, pace: float, draw: Draw) -> _Path:
    del pace, draw
    return _Path(np.ones(steps), np.full(steps, 0.3))


def _diurnal(steps: int, pace: float, draw: Draw) -> _Path:
    """A day in ten minutes: a wave, its first overtone, and something slow that is never twice the same."""
    stream, times_s = draw(0), _times_s(steps)
    day_s = 600 * pace
    phase, second, depth = stream.random(), stream.random(), 0.55 + 0.35 * stream.random()
    wave = np.sin(2 * math.pi * (times_s / day_s + phase)) + 0.3 * np.sin(4 * math.pi * (times_s / day_s + second))
    own = _autoregressive(0.15, 60 * pace, draw(1), steps)
    return _Path(np.maximum(1 + depth * wave, 0.03) * np.exp(own), 0.3 + 0.1 * wave)


def _bursty(steps: int, pace: float, draw: Draw) -> _Path:
    """Some sources that are on or off for times of a heavy tail (Pareto, 1.5), over a low base."""
    stream = draw(0)
    sources = 2 + int(4 * stream.random())
    rate = np.full(steps, 0.15 * sources)
    for _ in range(sources):
        on_s, off_s = pace * (2 + 4 * stream.random()), pace * (10 + 20 * stream.random())
        rate += _on_off(on_s, off_s, stream, steps)
    return _Path(rate, np.full(steps, 0.3))


def _camera_motion(steps: int, pace: float, draw: Draw) -> _Path:
    """Cameras that send one frame in ten, and all while something moves; it is to be seen a second or two before."""
    stream = draw(0)
    cameras = 1 + int(3 * stream.random())
    rate, scene = np.zeros(steps), np.zeros(steps)
    for _ in range(cameras):
        moves = _on_off(pace * (6 + 8 * stream.random()), pace * (20 + 25 * stream.random()), stream, steps, tail=3.0)
        lead_s = 1 + 1.5 * stream.random()
        seen = _risen(moves > 0, lead_s)
        rate += 0.1 + 0.9 * moves
        scene += seen / cameras
    return _Path(rate, scene, regularity=0.8)


def _recurring(steps: int, pace: float, draw: Draw) -> _Path:
    """Bursts that come again after a period, a little early or late."""
    stream, times_s = draw(0), _times_s(steps)
    period_s, width_s = pace * (20 + 70 * stream.random()), pace * (2 + 4 * stream.random())
    height = 4 + 6 * stream.random()
    rate = np.ones(steps)
    start_s = period_s * stream.random()
    while start_s < times_s[-1]:
        late_s = 0.03 * period_s * (2 * stream.random() - 1)
        strength = height * (0.8 + 0.4 * stream.random())
        rate[(times_s >= start_s + late_s) & (times_s < start_s + late_s + width_s)] += strength
        start_s += period_s
    return _Path(rate, np.full(steps, 0.3))


def _regime(steps: int, pace: float, draw: Draw) -> _Path:
    """Levels that last for a minute or some; all partitions change at once, each to another level and other inputs."""
    common, own = draw(100), draw(0)
    rate, scene = np.empty(steps), np.empty(steps)
    at = 0
    while at < steps:
        lasts = max(1, round(pace * (30 - 90 * math.log(1 - common.random())) / _STEP_S))
        rate[at : at + lasts] = 0.3 * math.exp(math.log(8) * own.random())
        scene[at : at + lasts] = own.random()
        at += lasts
    return _Path(rate, scene)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a kind of workload is like."""

    about: str
    path: Callable[[int, float, Draw], _Path]


KINDS = {
    "steady": Kind("requests come by chance, at one rate", _steady),
    "diurnal": Kind("a day in ten minutes", _diurnal),
    "bursty": Kind("sources that are on or off for times of a heavy tail", _bursty),
    "camera-motion": Kind("frames while something moves, which the few frames before already show", _camera_motion),
    "recurring": Kind("bursts that come again after a period", _recurring),
    "regime": Kind("sudden lasting changes of rates and inputs", _regime),
}


def make_workloads(
    kind: str,
    seconds: float,
    seed: int = 0,
    *,
    partitions: int = 3,
    workers: int = 2,
    load: float = 0.5,
    pace: float = 1.0,
    service_scale: float = 1.0,
) -> tuple[Workload, ...]:
    """Workloads of this kind ("mixed": one of `KINDS` for each), one a partition.

    Together they keep ``workers`` busy for the share ``load`` of the time, in the mean. ``pace`` stretches the times
    in which rates change, ``service_scale`` the service times (and so lowers the rates). Raises InputError for a kind
    that is none of `KINDS`, and for figures out of bounds.
    """
    if kind != MIXED and kind not in KINDS:
        nearest = get_close_matches(kind.lower(), [*KINDS, MIXED], n=1, cutoff=0.0)[0]
        raise InputError(
            f"there is no kind of workload {printable(kind, _SHOWN_LETTERS)!r}; the nearest is {nearest}, all are "
            f"{', '.join([*KINDS, MIXED])}"
        )
    for name, value, (least, most) in (
        ("seconds", seconds, (1, MAX_SECONDS)),
        ("seed", seed, (0, MAX_SEED)),
        ("partitions", partitions, (1, _MAX_PARTITIONS)),
        ("workers", workers, (1, 1024)),
        ("load", load, (0.01, 10)),
        ("pace", pace, (0.05, 100)),
        ("service_scale", service_scale, (0.01, 1000)),
    ):
        if not least <= value <= most:
            raise InputError(f"a made workload's {name} is {value:.15g}; it takes {least:g} to {most:.15g}")
    stream = _stream(seed, _MAX_PARTITIONS, 0)
    names = list(KINDS)
    shares = [0.5 + stream.random() for _ in range(partitions)]
    kinds = [names[int(len(names) * stream.random())] if kind == MIXED else kind for _ in range(partitions)]
    return tuple(
        _workload(each, seconds, seed, number, load * workers * share / math.fsum(shares), pace, service_scale)
        for number, (each, share) in enumerate(zip(kinds, shares, strict=True))
    )


def _workload(
    kind: str, seconds: float, seed: int, number: int, work: float, pace: float, service_scale: float
) -> Workload:
    """``work`` is how many workers it keeps busy."""

    def draw(process: int) -> np.random.Generator:
        return _stream(seed, _MAX_PARTITIONS if process >= 100 else number, process)

    path = KINDS[kind].path(math.ceil(seconds / _STEP_S) + 1, pace, draw)
    own = draw(10)
    service_ms = service_scale * _between(_SERVICE_MS, own)
    slack_s = max(_between(_SLACK_S, own), 4 * service_ms / 1e3)
    cv, slice_bytes = _between(_SERVICE_CV, own), round(_between(_SLICE_BYTES, own))
    summed = _summed(path.rate, seconds, work / (service_ms / 1e3))
    arrivals_s = _arrivals_s(summed, path.regularity, seconds, draw(11))
    ends = np.interp(np.arange(math.ceil(seconds) + 1), _times_s(summed.size), summed)
    count = arrivals_s.size
    scene = path.scene[(arrivals_s / _STEP_S).astype(np.intp)]
    scores = _rounded(25 + 45 * scene + 6 * _normals(draw(12), count), 1, 100)
    features = {
        "motion": _rounded(1 + 24 * scene + (0.5 + 4 * scene) * _normals(draw(13), count), 2, 255),
        "edge_density": _rounded(0.06 + 0.08 * scene + 0.015 * _normals(draw(14), count), 4, 1),
        "entropy": _rounded(5.5 + 1.2 * scene + 0.3 * _normals(draw(15), count), 3, 8),
    }
    sigma = math.sqrt(math.log(1 + cv * cv))
    varied = np.exp(sigma * _normals(draw(16), count) - sigma * sigma / 2)
    service = 0.001 + _rounded(service_ms * (1 + _SCORE_SHARE * (scores - 50) / 50) * varied, 3, math.inf)
    # A digest as bundles have, and a cut.
    partition = Partition(f"{number:064x}", f"c{number}")
    return Workload(
        partition, kind, arrivals_s, service, scores, features, round(slack_s, 3), slice_bytes, np.diff(ends)
    )


def _summed(rate: Floats, seconds: float, rate_hz: float) -> Floats:
    """How many requests are expected by each step, where it is to be ``rate_hz`` a second in the mean."""
    summed = np.concatenate(([0.0], np.cumsum(rate[:-1])))
    return summed * (rate_hz * seconds / float(np.interp(seconds, _times_s(summed.size), summed)))


def _arrivals_s(summed: Floats, regularity: float, seconds: float, stream: np.random.Generator) -> Floats:
    """A renewal process of unit rate, mapped by the inverse of the summed rate.

    For regularity 0 an inhomogeneous Poisson process, by time rescaling (Cinlar, Introduction to Stochastic Processes,
    1975, 4.7).
    """
    expected = float(summed[-1])
    most = math.ceil(expected + 8 * math.sqrt(expected) + 20)
    distances = -np.log(1 - stream.random(most))
    points = np.cumsum(regularity + (1 - regularity) * distances) - regularity * stream.random()
    arrivals = _rounded(np.interp(points[points < expected], summed, _times_s(summed.size)), 6, math.inf)
    return arrivals[arrivals < seconds]


def _on_off(on_s: float, off_s: float, stream: np.random.Generator, steps: int, tail: float = 1.5) -> Floats:
    """1 where a source is on, for times of this mean whose tail is Pareto's (Lomax), and 0 where it is off."""
    level, at, on = np.zeros(steps), 0, stream.random() < on_s / (on_s + off_s)
    while at < steps:
        mean_s = on_s if on else off_s
        lasts_s = mean_s * (tail - 1) * ((1 - stream.random()) ** (-1 / tail) - 1)
        lasts = max(1, round(min(lasts_s, 20 * mean_s) / _STEP_S))
        if on:
            level[at : at + lasts] = 1
        at, on = at + lasts, not on
    return level


def _risen(on: Flags, lead_s: float) -> Floats:
    """1 where it is on, and before that a rise from 0 in so many seconds."""
    steps = np.arange(on.size)
    # The distance to the next step in which it is on.
    following = np.minimum.accumulate(np.where(on, steps, 2 * on.size)[::-1])[::-1]
    return np.clip(1 - (following - steps) * _STEP_S / lead_s, 0, 1)


def _autoregressive(sigma: float, constant_s: float, stream: np.random.Generator, steps: int) -> Floats:
    """As in `trace_making`, drawn each second and interpolated between."""
    kept = math.exp(-1 / constant_s)
    seconds = math.ceil(steps * _STEP_S) + 1
    noise = sigma * _normals(stream, seconds)
    values = [noise.item(0)]
    for fresh in noise[1:].tolist():
        values.append(kept * values[-1] + math.sqrt(1 - kept * kept) * fresh)
    return np.asarray(np.interp(_times_s(steps), np.arange(seconds), np.array(values)), np.float64)


def _rounded(values: Floats, digits: int, most: float) -> Floats:
    """From 0 to ``most``."""
    return np.asarray(np.round(np.clip(values, 0.0, most), digits), np.float64)


def _between(ends: tuple[float, float], stream: np.random.Generator) -> float:
    low, high = ends
    return float(low * (high / low) ** stream.random())


def _times_s(steps: int) -> Floats:
    return np.asarray(np.arange(steps) * _STEP_S, np.float64)


def _normals(stream: np.random.Generator, count: int) -> Floats:
    """Nearly normal numbers, the sums of 12 uniform ones less 6: mean 0, variance 1, within ±6."""
    total = np.full(count, -6.0)
    for _ in range(12):
        total += stream.random(count)
    return total


def _stream(seed: int, number: int, process: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, number, process]))
