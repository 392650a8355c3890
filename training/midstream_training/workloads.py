"""The made workloads that the forecaster learns from, is looked at with, and is judged by: three that share nothing.

Seeds are apart, and so are the ranges of the pace at which rates change, of service times, and how many workers serve.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from midstream.simulating.partitions import simulate_gateway
from midstream.workload_making import KINDS, MIXED, make_workloads
from midstream_converters.forecasting.sequences import Observed, Sequences, sequences

Split = Literal["train", "validation", "test"]
SECONDS = 900
_DAY_S = 86_400
ALL_KINDS = (*KINDS, MIXED)


@dataclass(frozen=True)
class Ranges:
    """From where each gateway is drawn: the first seed, how many of each kind, ranges drawn evenly in logarithms."""

    first_seed: int
    of_each: int
    pace: tuple[tuple[float, float], ...]
    service_scale: tuple[tuple[float, float], ...]
    load: tuple[float, float]
    workers: tuple[int, ...]
    partitions: tuple[int, ...]


RANGES: Mapping[Split, Ranges] = {
    "train": Ranges(
        1_000_000, 20, ((0.5, 0.85), (1.2, 2.2)), ((0.6, 0.8), (1.3, 3.0)), (0.2, 1.3), (1, 2, 4), (1, 2, 3, 4, 6)
    ),
    "validation": Ranges(2_000_000, 4, ((0.85, 0.9), (1.15, 1.2)), ((0.8, 0.9),), (0.3, 1.2), (2, 3), (2, 3, 5)),
    "test": Ranges(3_000_000, 5, ((0.9, 1.15),), ((0.9, 1.3),), (0.3, 1.2), (2, 3), (2, 3, 5)),
}


@dataclass(frozen=True)
class Gateway:
    """What one did, and of what kind that was."""

    kind: str
    workers: int
    observed: Observed


def gateways(split: Split, of_each: int | None = None) -> Iterator[Gateway]:
    """So many of each kind."""
    ranges = RANGES[split]
    for number in range(of_each or ranges.of_each):
        for place, kind in enumerate(ALL_KINDS):
            seed = ranges.first_seed + 100 * number + place
            rng = np.random.default_rng(seed)
            workers = int(rng.choice(ranges.workers))
            made = make_workloads(
                kind,
                SECONDS,
                seed,
                partitions=int(rng.choice(ranges.partitions)),
                workers=workers,
                load=_drawn(rng, (ranges.load,)),
                pace=_drawn(rng, ranges.pace),
                service_scale=_drawn(rng, ranges.service_scale) * _by_workers(workers),
            )
            lived = simulate_gateway(made, SECONDS, workers=workers)
            # At any time of the day: what is to be learned from these is not when it was.
            yield Gateway(kind, workers, Observed(lived.intervals, lived.waits_ms, _DAY_S * rng.random()))


def corpus(gateways: Sequence[Gateway]) -> Sequences:
    """Of them all, in their order."""
    return sequences([each.observed for each in gateways])


def _by_workers(workers: int) -> float:
    """Many workers serve slower models: how many requests there are stays alike."""
    return math.sqrt(workers / 2)


def _drawn(rng: np.random.Generator, ranges: tuple[tuple[float, float], ...]) -> float:
    low, high = ranges[int(rng.integers(len(ranges)))]
    return float(low * (high / low) ** rng.random())
