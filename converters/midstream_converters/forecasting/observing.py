"""Intervals of a gateway made again from what its history says of each request."""

from __future__ import annotations

import heapq
import math
import struct
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
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


# As a million of them wait: a float each, the partition's and the outcome's number, and the named features.
_ROW = struct.Struct(f"=6d2i{len(NAMED)}d")
_OUTCOMES = tuple(Outcome)


@dataclass(frozen=True, slots=True)
class _Stage:
    """One request at the gateway: when it came, began and ended, and what is shown of it."""

    came_s: float
    began_s: float
    ended_s: float
    cpu_ms: float
    service_ms: float
    score: float | None
    partition: Partition
    outcome: Outcome
    features: Mapping[str, float]


class _Stages:
    """The last `MAX_REQUESTS` of them, in the order in which they came."""

    def __init__(self) -> None:
        self._rows: deque[bytes] = deque(maxlen=MAX_REQUESTS)
        self._partitions: dict[Partition, int] = {}
        self._named: list[Partition] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, usage: Usage) -> None:
        # What is no number counts as none.
        ended_s = usage.time_s + min(max(0.0, usage.latency_ms) / 1e3, _PAUSE_S)
        waited_s = max(0.0, usage.timings_ms.get("queue", usage.latency_ms)) / 1e3
        number = self._partitions.setdefault(usage.partition, len(self._named))
        if number == len(self._named):
            self._named.append(usage.partition)
        row = _ROW.pack(
            usage.time_s,
            min(usage.time_s + waited_s, ended_s),
            ended_s,
            sum(usage.cpu_ms.values()),
            usage.service_ms,
            math.nan if usage.score is None else usage.score,
            number,
            _OUTCOMES.index(usage.outcome),
            *(usage.features.get(name, math.nan) for name in NAMED),
        )
        self._rows.append(row)

    @property
    def first_s(self) -> float:
        """When the first one came."""
        return float(_ROW.unpack(self._rows[0])[0])

    def take(self) -> _Stage:
        """The first one, which is in it no longer."""
        came_s, began_s, ended_s, cpu_ms, service_ms, score, number, outcome, *values = _ROW.unpack(
            self._rows.popleft()
        )
        return _Stage(
            came_s,
            began_s,
            ended_s,
            cpu_ms,
            service_ms,
            None if math.isnan(score) else score,
            self._named[number],
            _OUTCOMES[outcome],
            {name: value for name, value in zip(NAMED, values, strict=True) if not math.isnan(value)},
        )

    def workers(self) -> int:
        """How many ran at once, at most."""
        ran = [_OUTCOMES.index(each) for each in _RAN]
        rows = np.frombuffer(b"".join(self._rows), _COLUMNS)
        rows = rows[np.isin(rows["outcome"], ran)]
        times = np.concatenate([rows["began"], rows["ended"]])
        steps = np.repeat([1, -1], len(rows))
        # Who ends makes room for who begins then.
        running = np.cumsum(steps[np.lexsort((steps, times))])
        return max(1, int(running.max(initial=0)))


_COLUMNS = np.dtype(
    {
        "names": ["began", "ended", "outcome"],
        "formats": ["=f8", "=f8", "=i4"],
        "offsets": [8, 16, 52],
        "itemsize": _ROW.size,
    }
)


def observed(usages: Iterable[Usage]) -> Observed:
    """What a gateway's intervals were, of usages in order of `Usage.time_s`.

    Those of devices are left out, and what was refused before it was asked whether there is time for it: who sends
    such things would choose what is learned from.

    Three things a history does not tell. The queue report is taken to be what those that waited then did wait on; how
    many workers there were, the most that were ever busy at once; and what slices held is left at 0.
    """
    stages = _Stages()
    for usage in usages:
        if _counts(usage):
            stages.add(usage)
    if not stages:
        return Observed((), {})
    workers = stages.workers()
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


def _closed(
    coming: _Stages, workers: int
) -> Iterator[tuple[dict[Partition, Interval], dict[Partition, tuple[float, int]]]]:
    """Each interval, and the waits of those that came in it and ran: their sum in ms, and how many."""
    now_s = float(math.floor(coming.first_s))
    collected = Intervals(now_s)
    waiting: list[tuple[float, int, _Stage]] = []
    running: list[tuple[float, int, _Stage]] = []
    number = 0
    last_s = now_s
    while coming or waiting or running:
        start_s, now_s = now_s, now_s + INTERVAL_S
        busy_s = 0.0
        waited: defaultdict[Partition, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
        while coming and coming.first_s < now_s:
            stage, number = coming.take(), number + 1
            last_s = stage.came_s
            collected.arrived(stage.partition, stage.came_s, stage.score, stage.features)
            if stage.outcome is Outcome.BUSY:
                collected.refused(stage.partition, stage.came_s)
                continue
            if stage.outcome in _RAN:
                total_ms, count = waited[stage.partition]
                waited[stage.partition] = (total_ms + 1e3 * (stage.began_s - stage.came_s), count + 1)
            heapq.heappush(waiting, (stage.began_s, number, stage))
        while waiting and waiting[0][0] < now_s:
            began_s, order, stage = heapq.heappop(waiting)
            if stage.outcome in _RAN:
                collected.began(stage.partition, stage.came_s, began_s)
                heapq.heappush(running, (stage.ended_s, order, stage))
            elif stage.outcome in _LEFT:
                collected.left(stage.partition, stage.came_s)
        for ended_s, _, stage in running:
            busy_s += max(0.0, min(ended_s, now_s) - max(stage.began_s, start_s))
        while running and running[0][0] < now_s:
            stage = heapq.heappop(running)[2]
            if stage.outcome is Outcome.OK:
                collected.served(stage.partition, stage.cpu_ms, stage.service_ms)
        yield collected.close(now_s, _reports(waiting, now_s), {}, min(1.0, busy_s / workers)), dict(waited)
        if not waiting and not running and coming and min(now_s, coming.first_s) > last_s + _PAUSE_S:
            now_s = float(math.floor(coming.first_s))
            collected = Intervals(now_s)


def _reports(waiting: list[tuple[float, int, _Stage]], now_s: float) -> dict[Partition, float]:
    """What one that comes now would wait: until those of its partition that wait have begun, ms."""
    found: dict[Partition, float] = {}
    for began_s, _, stage in waiting:
        found[stage.partition] = max(found.get(stage.partition, 0.0), 1e3 * (began_s - now_s))
    return found
