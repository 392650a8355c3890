"""Intervals as the arrays that the network learns from and is judged by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from midstream.allocation.features import COLUMNS, TARGETS, Steps, bounded, numbers_of
from midstream.allocation.intervals import Interval
from midstream.allocation.usage import Partition

MAX_PARTITIONS = 64
# What an error is measured by is at least this much: requests, ms, bytes, ms.
_FLOORS = np.array([0.25, 5.0, float(1 << 20), 2.0], np.float32)


@dataclass(frozen=True)
class Sequences:
    """Rows of partitions × steps.

    ``features`` (… × `FEATURES`) are what is known at the end of each interval, ``targets`` (… × `TARGETS`) what the
    next one had, and ``counts`` whether that is known, 0 or 1. ``groups`` says which gateway a row is of.
    """

    features: NDArray[np.float32]
    targets: NDArray[np.float32]
    counts: NDArray[np.float32]
    groups: NDArray[np.intp]

    @property
    def scales(self) -> NDArray[np.float32]:
        """What errors are measured by: the mean of each row's targets, and a little; rows × targets."""
        known = np.maximum(self.counts.sum(axis=1), 1.0)
        scales: NDArray[np.float32] = (self.targets * self.counts).sum(axis=1) / known + _FLOORS
        return scales

    def rows(self, which: NDArray[np.intp] | NDArray[np.bool_]) -> Sequences:
        """Some of the rows."""
        return Sequences(self.features[which], self.targets[which], self.counts[which], self.groups[which])

    def steps(self, which: slice) -> Sequences:
        """Some of the steps."""
        return Sequences(self.features[:, which], self.targets[:, which], self.counts[:, which], self.groups)


@dataclass(frozen=True)
class Observed:
    """One gateway's intervals in order, and what those that came in each have waited in the end, where it is known.

    ``waits_ms`` is by partition, one for each interval, NaN where nobody waited or nobody knows. ``later_s`` is added
    to the times of the intervals.
    """

    intervals: Sequence[Mapping[Partition, Interval]]
    waits_ms: Mapping[Partition, NDArray[np.float64]]
    later_s: float = 0.0

    def busiest(self) -> list[Partition]:
        """The 64 partitions that were asked for most."""
        came: Counter[Partition] = Counter()
        for each in self.intervals:
            for partition, interval in each.items():
                came[partition] += interval.arrivals
        return [partition for partition, _ in came.most_common(MAX_PARTITIONS)]


def sequences(gateways: Sequence[Observed]) -> Sequences:
    """Of gateways with equally many intervals, row by row of each its `Observed.busiest` partitions."""
    return _made(*_stacked(gateways))


_ABSENT = Interval(0.0, 1.0, 0)


def _stacked(
    gateways: Sequence[Observed],
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64], NDArray[np.intp]]:
    """Numbers (rows × steps × `COLUMNS`), whether they are known, waits, and of which gateway each row is."""
    steps = min(len(each.intervals) for each in gateways)
    numbers, known, waits, groups = [], [], [], []
    for group, gateway in enumerate(gateways):
        for partition in gateway.busiest():
            there = [each.get(partition) for each in gateway.intervals[:steps]]
            numbers.append(numbers_of([each or _ABSENT for each in there]))
            numbers[-1][:, COLUMNS.index("time_s")] += gateway.later_s
            known.append(np.array([each is not None for each in there]))
            waits.append(gateway.waits_ms[partition][:steps])
            groups.append(group)
    return np.stack(numbers), np.stack(known), np.stack(waits), np.array(groups, np.intp)


def _made(
    numbers: NDArray[np.float64], known: NDArray[np.bool_], waits: NDArray[np.float64], groups: NDArray[np.intp]
) -> Sequences:
    shown = Steps(len(numbers))
    features = []
    for at in range(numbers.shape[1] - 1):
        for row in np.flatnonzero(known[:, at] & ~known[:, at - 1]) if at else ():
            shown.reset(int(row))
        features.append(shown.step(numbers[:, at], groups))
    following = bounded(numbers)[:, 1:]
    columns = [following[..., COLUMNS.index(target)] for target in TARGETS]
    counted = np.repeat((known[:, :-1] & known[:, 1:])[..., np.newaxis], len(TARGETS), axis=2)
    wait = TARGETS.index("wait_ms")
    columns[wait] = np.nan_to_num(waits[:, 1:])
    counted[..., wait] &= np.isfinite(waits[:, 1:])
    memory = TARGETS.index("memory_bytes")
    # A history does not tell what slices have held.
    counted[..., memory] &= (columns[memory] > 0).any(axis=1, keepdims=True)
    return Sequences(
        np.stack(features, axis=1), np.stack(columns, axis=2).astype(np.float32), counted.astype(np.float32), groups
    )
