"""What comes and what becomes of it, as a gateway's threads tell it."""

from __future__ import annotations

import time

import pytest

from midstream.allocation.usage import Partition
from midstream.communication.wire import Request
from midstream.gateway import collecting
from midstream.gateway.allocating import next_due
from midstream.gateway.collecting import Collector
from midstream.gateway.served import ServedBundle
from midstream.gateway.stages import Job, Spent

STAGE = Partition(bytes(32).hex(), "c1")


def job(came_ago_s: float = 0.0) -> Job:
    now = time.monotonic()
    request = Request(bytes(16), bytes(32), "c1", "raw", 1000, 40.0, (("motion", 2.0),), ())
    served: ServedBundle = None  # type: ignore[assignment]
    return Job(request, "board", served, now + 1.0, now - came_ago_s, False, (), 100)  # type: ignore[arg-type]


def spent(run_ms: float, batch: int = 1) -> Spent:
    return Spent({"run": run_ms / batch}, {"queue": 3.0, "run": run_ms}, batch)


def test_what_came_ran_and_was_refused_is_in_the_interval() -> None:
    collector, ran, refused, gone = Collector(), job(), job(), job()
    for each in (ran, refused, gone):
        collector.arrived(each)
    collector.refused(refused)
    collector.left(gone)
    collector.began(ran, ran.arrived + 0.02)
    collector.ended(ran, spent(5.0))
    found = collector.close(lambda _: 7.0, {STAGE: 5e6}, 2)[STAGE]
    assert (found.arrivals, found.refused, found.served) == (3, 1, 1)
    # At so many seconds since 1970 a float is to a quarter of a microsecond.
    assert found.wait_ms == pytest.approx(20.0, abs=1e-3)
    assert (found.cpu_ms, found.service_ms, found.queue_ms, found.memory_bytes) == (5.0, 5.0, 7.0, 5e6)
    assert (found.score, found.features) == (40.0, {"motion": 2.0})
    assert found.busy == pytest.approx(0.0025)


def test_those_that_ran_at_once_were_decoded_and_encoded_one_by_one() -> None:
    collector, each = Collector(), job()
    collector.arrived(each)
    collector.ended(each, Spent({"run": 2.0}, {"queue": 3.0, "decode": 1.0, "run": 8.0, "encode": 0.5}, 4))
    assert collector.close(lambda _: 0.0, {}, 1)[STAGE].service_ms == 3.5


def test_those_that_ran_at_once_share_the_worker() -> None:
    collector, jobs = Collector(), [job() for _ in range(4)]
    for each in jobs:
        collector.arrived(each)
        collector.began(each, each.arrived)
    for each in jobs:
        collector.ended(each, spent(8.0, batch=4))
    found = collector.close(lambda _: 0.0, {}, 1)[STAGE]
    assert found.service_ms == 2.0
    assert found.busy == pytest.approx(0.008)


def test_no_wait_is_ever_less_than_none() -> None:
    """Requests that came before the interval, and whose end is told in it, leave nothing behind."""
    collector, early = Collector(), job(came_ago_s=5.0)
    collector.arrived(early)
    collector.close(lambda _: 0.0, {}, 1)
    collector.began(early, time.monotonic())
    late = job()
    collector.arrived(late)
    collector.left(late)
    collector.ended(early, spent(1.0))
    found = collector.close(lambda _: 0.0, {}, 1)[STAGE]
    assert found.wait_ms == 0.0
    assert found.served == 1


def test_what_failed_was_not_served() -> None:
    collector, failing = Collector(), job()
    collector.arrived(failing)
    collector.began(failing, failing.arrived)
    collector.ended(failing, Spent({"decode": 1.0}, {"queue": 0.0, "decode": 1.0}))
    assert collector.close(lambda _: 0.0, {}, 1)[STAGE].served == 0


def test_what_was_closed_late_counts_as_one_second_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where slices were loaded for long: four seconds' requests are no burst."""
    collector, began = Collector(), time.monotonic()
    for number in range(40):
        each = job()
        collector.arrived(each)
        collector.began(each, each.arrived)
        if number % 2:
            collector.ended(each, spent(50.0))
    monkeypatch.setattr(collecting.time, "monotonic", lambda: began + 4.0)
    found = collector.close(lambda _: 0.0, {}, 1)[STAGE]
    assert (found.arrivals, found.served, found.length_s) == (10, 5, pytest.approx(1.0))
    assert found.cpu_ms == pytest.approx(250.0, rel=1e-3)
    assert found.busy == pytest.approx(0.25, rel=1e-3)


@pytest.mark.parametrize(("late_s", "next_s"), [(0.0, 1.0), (0.2, 1.0), (0.7, 1.7), (5.0, 6.0)])
def test_after_a_turn_that_took_long_the_next_interval_is_whole(late_s: float, next_s: float) -> None:
    assert next_due(100.0, 100.0 + late_s) == pytest.approx(100.0 + next_s)
