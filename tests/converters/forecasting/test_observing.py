"""A gateway's intervals, made again from its history."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace

import pytest

from midstream.allocation.usage import Outcome, Partition, Usage
from midstream_converters.forecasting.observing import observed

ONE, OTHER = Partition("aa", "c1"), Partition("bb", "c2", "c3")
START_S = 1_700_000_000.0


def usage(
    at_s: float,
    partition: Partition = ONE,
    *,
    wait_ms: float = 0.0,
    run_ms: float = 10.0,
    outcome: Outcome = Outcome.OK,
    machine: str = "gateway",
) -> Usage:
    return Usage(
        time_s=START_S + at_s, request_id=b"r", machine=machine, device_id="d", bundle=partition.bundle,
        cut=partition.cut, next_cut=partition.next_cut, codec="raw", outcome=outcome, score=40.0,
        features={"motion": 2.0}, cpu_ms={"run": run_ms}, timings_ms={"queue": wait_ms, "run": run_ms},
        latency_ms=wait_ms + run_ms,
    )  # fmt: skip


def test_each_second_has_what_came_ran_and_waited() -> None:
    found = observed(
        [
            usage(0.1),
            usage(0.2, wait_ms=40),
            usage(0.3, OTHER, wait_ms=1900, run_ms=300),
            usage(1.5, outcome=Outcome.BUSY),
            usage(2.9, outcome=Outcome.EXPIRED, wait_ms=20),
        ]
    )
    first, second, third = found.intervals
    assert (first[ONE].arrivals, first[ONE].served, first[ONE].cpu_ms) == (2, 2, 20.0)
    assert first[ONE].wait_ms == pytest.approx(20.0)
    assert (first[ONE].score, first[ONE].features) == (40.0, {"motion": 2.0})
    assert (second[ONE].arrivals, second[ONE].refused) == (1, 1)
    # Who came at the end of the first second would have waited for the other's start at 2.2.
    assert first[OTHER].queue_ms == pytest.approx(1200.0)
    assert third[OTHER].served == 1
    assert found.waits_ms[OTHER][0] == pytest.approx(1900.0)
    assert found.waits_ms[ONE][0] == pytest.approx(20.0)
    assert math.isnan(found.waits_ms[ONE][1])
    assert math.isnan(found.waits_ms[ONE][2])


def test_workers_are_as_many_as_ever_ran_at_once() -> None:
    found = observed([usage(0.0, run_ms=500), usage(0.1, run_ms=400), usage(1.0, run_ms=500)])
    assert found.intervals[0][ONE].busy == pytest.approx(0.45)
    assert found.intervals[1][ONE].busy == pytest.approx(0.25)


def test_devices_do_not_count_and_nothing_gives_nothing() -> None:
    assert observed([usage(0.0, machine="device")]).intervals == ()
    assert observed([]).intervals == ()


def test_a_night_of_nobody_is_passed_over() -> None:
    found = observed([usage(0.0), usage(8 * 3600.0)])
    assert len(found.intervals) < 1000
    assert found.intervals[-1][ONE].start_s == START_S + 8 * 3600
    assert found.intervals[-1][ONE].arrivals == 1


def test_damaged_times_do_no_harm() -> None:
    found = observed([usage(0.0, wait_ms=math.nan, run_ms=math.nan), usage(0.5), usage(0.6, run_ms=math.inf)])
    assert found.intervals[0][ONE].arrivals == 3
    assert len(found.intervals) < 1000


def test_what_was_never_let_in_is_not_learned_from() -> None:
    junk = [replace(usage(0.001 * n, Partition(f"{n:x}", "")), outcome=outcome, timings_ms={}, latency_ms=0.0)
            for n in range(300) for outcome in (Outcome.UNKNOWN_BUNDLE, Outcome.BAD_REQUEST)]  # fmt: skip
    found = observed([*junk, usage(0.5)])
    assert set(found.intervals[0]) == {ONE}


def test_of_each_request_little_is_kept() -> None:
    features = {f"f{number}": 1.0 for number in range(24)} | {"motion": 2.0}
    many = (replace(usage(number / 100), request_id=bytes(16), features=dict(features)) for number in range(20_000))
    tracemalloc.start()
    found = observed(many)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.intervals[0][ONE].features == {"motion": 2.0}
    assert most < 20_000 * 400
