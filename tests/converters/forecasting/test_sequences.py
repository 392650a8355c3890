"""From intervals to what is learned from: the target of a second is the next one's."""

from __future__ import annotations

import math

import numpy as np
import pytest

from midstream.allocation.features import FEATURES, TARGETS, amounts
from midstream.allocation.intervals import Interval
from midstream.allocation.usage import Partition
from midstream_converters.forecasting.judging import figures
from midstream_converters.forecasting.sequences import MAX_PARTITIONS, Observed, sequences

ONE, OTHER = Partition("aa", "c1"), Partition("bb", "c2")


def of(counts: list[int], waits: list[float] | None = None, memory_bytes: float = 1e6) -> Observed:
    intervals = [
        {ONE: Interval(float(at), 1.0, count, count, 0, 3.0 * count, memory_bytes)} for at, count in enumerate(counts)
    ]
    return Observed(intervals, {ONE: np.array(waits or [0.0] * len(counts))})


def test_targets_are_the_next_interval_s() -> None:
    found = sequences([of([1, 5, 2], [0.0, math.nan, 7.0])])
    assert found.features.shape == (1, 2, len(FEATURES))
    assert amounts(found.features[0, :, FEATURES.index("arrivals_last")], "arrivals") == pytest.approx([1, 5])
    assert found.targets[0, :, TARGETS.index("arrivals")].tolist() == [5, 2]
    assert found.targets[0, :, TARGETS.index("cpu_ms")].tolist() == [15, 6]
    # Where nobody waited there is no wait to forecast.
    assert found.counts[0, :, TARGETS.index("wait_ms")].tolist() == [0, 1]
    assert found.targets[0, 1, TARGETS.index("wait_ms")] == 7.0


def test_what_is_not_known_does_not_count() -> None:
    gateway = of([3] * 6)
    intervals = list(gateway.intervals)
    intervals[2] = {}
    found = sequences([Observed(intervals, gateway.waits_ms)])
    assert found.counts[0, :, TARGETS.index("arrivals")].tolist() == [1, 0, 0, 1, 1]


def test_memory_that_no_history_tells_does_not_count() -> None:
    assert sequences([of([3] * 4, memory_bytes=0.0)]).counts[..., TARGETS.index("memory_bytes")].sum() == 0


def test_of_many_partitions_the_busiest_are_taken() -> None:
    many = {Partition(f"{n:x}", "c"): Interval(0.0, 1.0, n) for n in range(MAX_PARTITIONS + 9)}
    gateway = Observed([many, many], {each: np.zeros(2) for each in many})
    found = sequences([gateway])
    assert len(found.features) == MAX_PARTITIONS
    assert found.targets[..., 0].min() == 9


def test_errors_are_by_the_partition_s_mean_and_coverage_is_a_share() -> None:
    held_out = sequences([of([4, 8, 4, 8, 4])])
    low, middle, high = np.zeros_like(held_out.targets), np.full_like(held_out.targets, 6.0), held_out.targets
    found = figures(held_out, {"network": np.stack([low, middle, high], axis=-1).astype(np.float64)})
    assert found.errors["network"]["arrivals"] == pytest.approx(2.0 / 6.25)
    assert found.errors["last value"]["arrivals"] == pytest.approx(4.0 / 6.25)
    assert found.coverage["arrivals"] == (0.0, 0.5, 1.0)
    assert found.intervals["arrivals"] == 4
