"""A gateway's partitions, simulated: made workloads in, the intervals that the real collector would close out.

The queue is the real one in a shorter form (`allocation.queueing`: earliest deadline first, admission by what is
expected to run before), so that an hour takes seconds.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from midstream.allocation.intervals import INTERVAL_S, Interval, Intervals
from midstream.allocation.queueing import makes_late
from midstream.allocation.usage import Partition
from midstream.workload_making import Workload

Floats = NDArray[np.float64]

# A worker's copy of a slice that nobody has asked for is let go after so long.
_WARM_S = 60.0
# Fewer than a gateway of today has room for, so that some workloads reach it: the network that is shipped has learned
# from these.
_CAPACITY = 256
# How fast the expected time of a run follows what runs took.
_SMOOTHING = 0.2


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a gateway did: ``intervals`` in order, each as it was known at its end.

    In hindsight, by partition: ``waits_ms``, shape (intervals,), the mean wait of those that came in each and were run
    later, NaN where none was; ``request_waits_s``, shape (requests,), NaN for those that were refused or expired.
    """

    intervals: tuple[dict[Partition, Interval], ...]
    waits_ms: dict[Partition, Floats]
    request_waits_s: dict[Partition, Floats]


def simulate_gateway(
    workloads: Sequence[Workload], seconds: float, *, workers: int = 2, capacity: int = _CAPACITY
) -> Simulated:
    """Run these on so many workers, with room for ``capacity`` requests that wait."""
    gateway = _Gateway(workloads, workers, capacity)
    count = int(seconds / INTERVAL_S)
    intervals = tuple(gateway.interval((number + 1) * INTERVAL_S) for number in range(count))
    waits_s = {each.partition: gateway.waits_s[gateway.of == place] for place, each in enumerate(workloads)}
    return Simulated(
        intervals,
        {each.partition: _means(each.arrivals_s, 1e3 * waits_s[each.partition], count) for each in workloads},
        waits_s,
    )


class _Gateway:
    """All workloads' requests as one, in order of arrival; a request is its number in that order."""

    def __init__(self, workloads: Sequence[Workload], workers: int, capacity: int) -> None:
        arrivals = np.concatenate([each.arrivals_s for each in workloads])
        order = np.argsort(arrivals, kind="stable")
        self.of = np.repeat(np.arange(len(workloads)), [each.arrivals_s.size for each in workloads])[order]
        self.waits_s = np.full(arrivals.size, np.nan)
        self._workloads = workloads
        self._places: list[int] = self.of.tolist()
        self._arrivals_s: list[float] = arrivals[order].tolist()
        self._service_ms: list[float] = np.concatenate([each.service_ms for each in workloads])[order].tolist()
        self._scores: list[float] = np.concatenate([each.scores for each in workloads])[order].tolist()
        names = list(dict.fromkeys(name for each in workloads for name in each.features))
        columns = [
            np.concatenate([each.features.get(name, np.zeros(each.arrivals_s.size)) for each in workloads])[order]
            for name in names
        ]
        rows = np.stack(columns, axis=1).tolist() if columns else [[]] * arrivals.size
        self._features = [dict(zip(names, row, strict=True)) for row in rows]
        self._slacks_s = [each.slack_s for each in workloads]
        self._expected_s = [float(each.service_ms[:1].sum()) / 1e3 for each in workloads]
        self._workers, self._capacity = workers, capacity
        self._next = 0
        # Deadline, number, expected seconds.
        self._queue: list[tuple[float, int, float]] = []
        # When it ends, worker, number.
        self._running: list[tuple[float, int, int]] = []
        self._idle = deque(range(workers))
        self._used_s = [[-math.inf] * workers for _ in workloads]
        self._collected = Intervals(0.0)
        self._end_s = self._busy_s = 0.0

    def interval(self, end_s: float) -> dict[Partition, Interval]:
        """Go on until then, and close the interval."""
        start_s, self._end_s = self._end_s, end_s
        self._busy_s = sum(min(until, end_s) - start_s for until, _, _ in self._running)
        arrivals_s, running = self._arrivals_s, self._running
        while True:
            arrives_s = arrivals_s[self._next] if self._next < len(arrivals_s) else math.inf
            if running and running[0][0] <= min(arrives_s, end_s):
                self._end(*heapq.heappop(running))
            elif arrives_s < end_s:
                self._arrive(self._next, arrives_s)
                self._next += 1
            else:
                break
        queue_ms = {each.partition: 1e3 * self._wait_s(end_s + each.slack_s, end_s) for each in self._workloads}
        held = {
            each.partition: each.slice_bytes * sum(used_s > end_s - _WARM_S for used_s in self._used_s[place])
            for place, each in enumerate(self._workloads)
        }
        busy = self._busy_s / (self._workers * (end_s - start_s))
        return self._collected.close(end_s, queue_ms, held, busy)

    def _wait_s(self, deadline: float, now_s: float) -> float:
        before_s = sum(expected_s for due, _, expected_s in self._queue if due <= deadline)
        if self._idle:
            return before_s / self._workers
        return (before_s + sum(until - now_s for until, _, _ in self._running)) / self._workers

    def _arrive(self, number: int, now_s: float) -> None:
        place = self._places[number]
        partition = self._workloads[place].partition
        self._collected.arrived(partition, now_s, self._scores[number], self._features[number])
        if self._idle:
            self._begin(number, now_s)
            return
        deadline, expected_s = now_s + self._slacks_s[place], self._expected_s[place]
        entry = (deadline, number, expected_s)
        while self._queue and self._queue[0][0] < now_s:
            self._left(self._take())
        if len(self._queue) >= self._capacity or not self._in_time(entry, now_s):
            self._collected.refused(partition, now_s)
            return
        heapq.heappush(self._queue, entry)

    def _in_time(self, entry: tuple[float, int, float], now_s: float) -> bool:
        """Whether it can be finished by its deadline, behind what runs and is due before it, and makes nobody late."""
        deadline, _, expected_s = entry
        # Most times nobody is due later.
        later = sorted(each for each in self._queue if each > entry)
        before_s = sum(each[2] for each in self._queue) - sum(each[2] for each in later)
        start_s = now_s + (sum(until - now_s for until, _, _ in self._running) + before_s) / self._workers
        after = ((due, work_s) for due, _, work_s in later)
        return start_s + expected_s <= deadline and not makes_late(after, start_s, expected_s, self._workers)

    def _take(self) -> tuple[float, int]:
        """Deadline and number of the one that is due first."""
        deadline, number, _ = heapq.heappop(self._queue)
        return deadline, number

    def _left(self, taken: tuple[float, int]) -> None:
        number = taken[1]
        self._collected.left(self._workloads[self._places[number]].partition, self._arrivals_s[number])

    def _begin(self, number: int, now_s: float) -> None:
        place, arrived_s, worker = self._places[number], self._arrivals_s[number], self._idle.popleft()
        until = now_s + self._service_ms[number] / 1e3
        heapq.heappush(self._running, (until, worker, number))
        self._busy_s += min(until, self._end_s) - now_s
        self._used_s[place][worker] = until
        self.waits_s[number] = now_s - arrived_s
        self._collected.began(self._workloads[place].partition, arrived_s, now_s)

    def _end(self, now_s: float, worker: int, number: int) -> None:
        place, service_ms = self._places[number], self._service_ms[number]
        self._expected_s[place] += _SMOOTHING * (service_ms / 1e3 - self._expected_s[place])
        self._collected.served(self._workloads[place].partition, service_ms, service_ms)
        self._idle.append(worker)
        while self._queue:
            taken = self._take()
            if taken[0] >= now_s:
                self._begin(taken[1], now_s)
                return
            self._left(taken)


def _means(arrivals_s: Floats, values: Floats, count: int) -> Floats:
    """The mean of those that arrived in each interval, NaN where there is none."""
    known = ~np.isnan(values) & (arrivals_s < count * INTERVAL_S)
    places = (arrivals_s[known] / INTERVAL_S).astype(np.intp)
    with np.errstate(invalid="ignore"):
        return np.bincount(places, values[known], count) / np.bincount(places, minlength=count)
