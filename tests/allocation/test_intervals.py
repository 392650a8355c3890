"""The collector of intervals: what it counts, when waits are known, and what it forgets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from midstream.allocation.intervals import Intervals
from midstream.allocation.usage import Outcome, Partition, Usage

TAIL, OTHER = Partition("a" * 64, "c1"), Partition("a" * 64, "")
DONE = Usage(
    1000.0,
    b"1",
    "gateway",
    "d",
    TAIL.bundle,
    TAIL.cut,
    "raw",
    Outcome.OK,
    cpu_ms={"decode": 1.0, "run": 8.0},
    timings_ms={"queue": 20.0, "decode": 1.0, "run": 9.0, "encode": 2.0},
)


def closed(known: Intervals, now_s: float, queue_ms: float = 0.0):
    return known.close(now_s, {TAIL: queue_ms}, {TAIL: 5e6}, 0.25)


def test_an_interval_holds_what_came_began_and_ended() -> None:
    known = Intervals(1000.0)
    known.arrived(TAIL, 1000.1, 40.0, {"motion": 2.0})
    known.arrived(TAIL, 1000.2, 60.0, {"motion": 4.0})
    known.arrived(TAIL, 1000.3, None, {})
    known.began(TAIL, 1000.1, 1000.1)
    known.began(TAIL, 1000.2, 1000.24)
    known.ended(DONE)
    known.refused(TAIL, 1000.3)
    interval = closed(known, 1001.0, 7.0)[TAIL]
    assert (interval.start_s, interval.length_s) == (1000.0, 1.0)
    assert (interval.arrivals, interval.served, interval.refused) == (3, 1, 1)
    assert interval.cpu_ms == 9.0
    assert interval.wait_ms == pytest.approx(20.0)
    assert interval.service_ms == 12.0
    assert (interval.memory_bytes, interval.queue_ms, interval.busy) == (5e6, 7.0, 0.25)
    assert (interval.score, interval.features) == (50.0, {"motion": 3.0})


def test_the_next_interval_begins_with_nothing_but_what_lasts() -> None:
    known = Intervals(1000.0)
    known.arrived(TAIL, 1000.1, 40.0, {"motion": 2.0})
    known.began(TAIL, 1000.1, 1000.1)
    known.ended(DONE)
    closed(known, 1001.0)
    interval = closed(known, 1002.0)[TAIL]
    assert (interval.arrivals, interval.served, interval.cpu_ms, interval.wait_ms) == (0, 0, 0.0, 0.0)
    assert (interval.score, interval.features) == (0.0, {})
    assert interval.service_ms == 12.0


def test_who_still_waits_counts_with_the_wait_that_is_expected() -> None:
    known = Intervals(1000.0)
    known.arrived(TAIL, 1000.2, None, {})
    # It has waited 0.8 s; those that come now would wait 0.4 s, so that it has half of that before it.
    assert closed(known, 1001.0, 400.0)[TAIL].wait_ms == pytest.approx(1000.0)
    # It counts for the interval in which it came only.
    known.began(TAIL, 1000.2, 1001.2)
    assert closed(known, 1002.0)[TAIL].wait_ms == 0.0


def test_those_before_it_run_first() -> None:
    known = Intervals(1000.0)
    known.arrived(TAIL, 1000.5, None, {})
    closed(known, 1001.0, 3000.0)
    known.arrived(TAIL, 1001.5, None, {})
    # What waited 3 s when the interval began is 2 s at its end, and then come its own until 4 s.
    assert closed(known, 1002.0, 4000.0)[TAIL].wait_ms == pytest.approx(500.0 + 3000.0)


@pytest.mark.parametrize("outcome", [Outcome.EXPIRED, Outcome.CANCELLED])
def test_who_leaves_without_a_run_waits_no_longer(outcome: Outcome) -> None:
    known = Intervals(1000.0)
    known.arrived(TAIL, 1000.2, None, {})
    known.ended(replace(DONE, outcome=outcome, time_s=1000.2))
    interval = closed(known, 1001.0, 400.0)[TAIL]
    assert (interval.arrivals, interval.served, interval.refused, interval.wait_ms) == (1, 0, 0, 0.0)


def test_a_usage_that_was_not_let_in_is_refused() -> None:
    known = Intervals(1000.0)
    known.arrived(TAIL, 1000.2, None, {})
    known.ended(replace(DONE, outcome=Outcome.BUSY, time_s=1000.2))
    interval = closed(known, 1001.0, 400.0)[TAIL]
    assert (interval.refused, interval.wait_ms) == (1, 0.0)


def test_a_batch_shares_its_run_and_nothing_else() -> None:
    known = Intervals(1000.0)
    known.arrived(TAIL, 1000.2, None, {})
    known.ended(replace(DONE, batch=4))
    assert closed(known, 1001.0)[TAIL].service_ms == 5.25


def test_service_times_have_mean_and_variation() -> None:
    known = Intervals(1000.0)
    known.arrived(TAIL, 1000.2, None, {})
    for service_ms in (8.0, 12.0) * 20:
        known.served(TAIL, 1.0, service_ms)
    interval = closed(known, 1001.0)[TAIL]
    assert interval.service_ms == pytest.approx(10.0)
    assert interval.service_cv2 == pytest.approx(0.04)


def test_a_partition_that_nobody_asks_for_is_forgotten() -> None:
    known = Intervals(1000.0)
    known.arrived(TAIL, 1000.2, None, {})
    assert TAIL in closed(known, 1600.0)
    assert TAIL in closed(known, 1601.0)
    assert TAIL not in closed(known, 1602.0)


def test_partitions_are_bounded_and_the_one_asked_for_least_lately_goes() -> None:
    known = Intervals(1000.0, most=2)
    known.arrived(TAIL, 1000.1, None, {})
    known.arrived(OTHER, 1000.2, None, {})
    known.arrived(TAIL, 1000.3, None, {})
    third = Partition("b" * 64, "")
    known.arrived(third, 1000.4, None, {})
    assert closed(known, 1001.0).keys() == {TAIL, third}


def test_features_are_bounded() -> None:
    known = Intervals(1000.0)
    known.arrived(TAIL, 1000.1, None, {str(number): 1.0 for number in range(1000)})
    assert len(closed(known, 1001.0)[TAIL].features) == 32


def test_a_feature_without_a_mean_is_left_out() -> None:
    known = Intervals(1000.0)
    for _ in range(2):
        known.arrived(TAIL, 1000.1, None, {"huge": 1.7e308, "motion": 3.0})
    assert closed(known, 1001.0)[TAIL].features == {"motion": 3.0}


def test_what_ends_of_a_partition_that_is_not_known_is_no_trouble() -> None:
    known = Intervals(1000.0)
    known.began(TAIL, 1000.1, 1000.2)
    known.ended(DONE)
    known.refused(TAIL, 1000.1)
    assert closed(known, 1001.0) == {}
