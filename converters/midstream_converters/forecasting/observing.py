"""Intervals of a gateway made again from what its history says of each request."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from midstream.allocation.features import NAMED
from midstream.allocation.intervals import INTERVAL_S, Interval, Intervals
from midstream.allocation.usage import Outcome, Partition, Usage
from midstream_converters.forecasting.sequences import Observed

MAX_INTERVALS = 200_000
"""More than these are not learned from: the latest are, two days and some of them."""

MAX_REQUESTS = 1_000_000
"""Nor from more than these."""

# After so long without any request the clock goes on at the next one.
_PAUSE_S = 900.0
_RAN = (Outcome.OK, Outcome.CANNOT_FORWARD, Outcome.FAILED)
_LEFT = (Outcome.EXPIRED, Outcome.CANCELLED)


@dataclass(frozen=True, slots=True)
class _Stage:
    """One request at the gateway: when it came, began and ended, and what is shown of it; of a million it is little."""

    came_s: float
    began_s: float
    ended_s: float
    number: int
    partition: Partition
    outcome: Outcome
    score: float | None
    features: tuple[tuple[str, float], ...]
    cpu_ms: float
    service_ms: float


def observed(usages: Iterable[Usage]) -> Observed:
    """What a gateway's intervals were, of usages in order of `Usage.time_s`.

    Those of devices are left out, and what was refused before it was asked whether there is time for it: who sends
    such things would choose what is learned from.

    Three things a history does not tell. The queue report is taken to be what those that waited then did wait on; how
    many workers there were, the most that were ever busy at once; and what slices held is left at 0.
    """
    known: dict[Partition, Partition] = {}
    stages = deque(
        (_stage(number, usage, known) for number, usage in enumerate(usages) if _counts(usage)), maxlen=MAX_REQUESTS
    )
    if not stages:
        return Observed((), {})
    workers = _workers(stages)
    intervals: deque[dict[Partition, Interval]] = deque(maxlen=MAX_INTERVALS)
    waits: deque[dict[Partition, tuple[float, int]]] = deque(maxlen=MAX_INTERVALS)
    for interval, waited in _closed(stages, workers):
        intervals.append(interval)
        waits.append(waited)
    partitions = {partition for each in intervals for partition in each}
    waits_ms = {partition: np.full(len(waits), math.nan) for partition in partitions}
    for at, waited in enumerate(waits):
        for partition, (total_ms, count) in waited.items():
            if partition in waits_ms:
                waits_ms[partition][at] = total_ms / count
    return Observed(tuple(intervals), waits_ms)


def _counts(usage: Usage) -> bool:
    return usage.machine == "gateway" and (usage.outcome is Outcome.BUSY or usage.latency_ms != 0.0)


def _stage(number: int, usage: Usage, known: dict[Partition, Partition]) -> _Stage:
    # What is no number counts as none.
    ended_s = usage.time_s + min(max(0.0, usage.latency_ms) / 1e3, _PAUSE_S)
    waited_s = max(0.0, usage.timings_ms.get("queue", usage.latency_ms)) / 1e3
    return _Stage(
        usage.time_s,
        min(usage.time_s + waited_s, ended_s),
        ended_s,
        number,
        known.setdefault(usage.partition, usage.partition),
        usage.outcome,
        usage.score,
        tuple((name, value) for name, value in usage.features.items() if name in NAMED),
        sum(usage.cpu_ms.values()),
        usage.service_ms,
    )


def _workers(stages: Iterable[_Stage]) -> int:
    changes = sorted(
        change for each in stages if each.outcome in _RAN for change in ((each.began_s, 1), (each.ended_s, -1))
    )
    return max(1, int(np.cumsum([step for _, step in changes] or [0]).max()))


def _closed(
    stages: deque[_Stage], workers: int
) -> Iterator[tuple[dict[Partition, Interval], dict[Partition, tuple[float, int]]]]:
    """Each interval, and the waits of those that came in it and ran: their sum in ms, and how many."""
    now_s = float(math.floor(stages[0].came_s))
    collected = Intervals(now_s)
    waiting: list[tuple[float, int, _Stage]] = []
    running: list[tuple[float, int, _Stage]] = []
    coming = stages
    last_s = now_s
    while coming or waiting or running:
        start_s, now_s = now_s, now_s + INTERVAL_S
        busy_s = 0.0
        waited: defaultdict[Partition, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
        while coming and coming[0].came_s < now_s:
            stage = coming.popleft()
            last_s = stage.came_s
            collected.arrived(stage.partition, stage.came_s, stage.score, dict(stage.features))
            if stage.outcome is Outcome.BUSY:
                collected.refused(stage.partition, stage.came_s)
                continue
            if stage.outcome in _RAN:
                total_ms, count = waited[stage.partition]
                waited[stage.partition] = (total_ms + 1e3 * (stage.began_s - stage.came_s), count + 1)
            heapq.heappush(waiting, (stage.began_s, stage.number, stage))
        while waiting and waiting[0][0] < now_s:
            began_s, number, stage = heapq.heappop(waiting)
            if stage.outcome in _RAN:
                collected.began(stage.partition, stage.came_s, began_s)
                heapq.heappush(running, (stage.ended_s, number, stage))
            elif stage.outcome in _LEFT:
                collected.left(stage.partition, stage.came_s)
        for ended_s, _, stage in running:
            busy_s += max(0.0, min(ended_s, now_s) - max(stage.began_s, start_s))
        while running and running[0][0] < now_s:
            stage = heapq.heappop(running)[2]
            if stage.outcome is Outcome.OK:
                collected.served(stage.partition, stage.cpu_ms, stage.service_ms)
        yield collected.close(now_s, _reports(waiting, now_s), {}, min(1.0, busy_s / workers)), dict(waited)
        if not waiting and not running and coming and min(now_s, coming[0].came_s) > last_s + _PAUSE_S:
            now_s = float(math.floor(coming[0].came_s))
            collected = Intervals(now_s)


def _reports(waiting: list[tuple[float, int, _Stage]], now_s: float) -> dict[Partition, float]:
    """What one that comes now would wait: until those of its partition that wait have begun, ms."""
    found: dict[Partition, float] = {}
    for began_s, _, stage in waiting:
        found[stage.partition] = max(found.get(stage.partition, 0.0), 1e3 * (began_s - now_s))
    return found
