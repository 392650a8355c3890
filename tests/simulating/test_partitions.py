"""A gateway's partitions, simulated: against the real queue, against formulas, and as the real collector sees them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from midstream.allocation.formulas import mgk_wait_s
from midstream.allocation.queueing import EarliestDeadlineFirst, Ticket, running_s
from midstream.allocation.usage import Partition
from midstream.simulating.partitions import simulate_gateway
from midstream.workload_making import Workload, make_workloads


def workload(number: int, arrivals_s: list[float], service_ms: float, slack_s: float) -> Workload:
    count = len(arrivals_s)
    return Workload(
        Partition(f"{number:064x}", ""),
        "steady",
        np.array(arrivals_s),
        np.full(count, service_ms),
        np.full(count, 50.0),
        {"motion": np.full(count, 3.0)},
        slack_s,
        1e6,
        np.zeros(0),
    )


def test_requests_wait_for_one_another() -> None:
    one = workload(1, [0.1, 0.11, 0.12, 1.5], 100.0, 10.0)
    found = simulate_gateway([one], 2, workers=1)
    assert found.request_waits_s[one.partition] == pytest.approx([0.0, 0.09, 0.18, 0.0])
    assert found.waits_ms[one.partition] == pytest.approx([90.0, 0.0])
    first, second = (each[one.partition] for each in found.intervals)
    assert (first.arrivals, first.served, first.refused, first.cpu_ms) == (3, 3, 0, 300.0)
    assert first.wait_ms == pytest.approx(90.0)
    assert (first.service_ms, first.service_cv2) == (100.0, 0.0)
    assert (first.score, first.features) == (50.0, {"motion": 3.0})
    assert first.busy == pytest.approx(0.3)
    assert (second.arrivals, second.busy) == (1, pytest.approx(0.1))
    assert first.memory_bytes == 1e6


def test_a_run_over_several_intervals_keeps_a_worker_busy_in_each() -> None:
    one = workload(1, [0.5], 2000.0, 10.0)
    found = simulate_gateway([one], 4, workers=2)
    assert [each[one.partition].busy for each in found.intervals] == pytest.approx([0.25, 0.5, 0.25, 0.0])
    assert [each[one.partition].served for each in found.intervals] == [0, 0, 1, 0]


def test_the_earliest_deadline_runs_first_and_waits_are_reported_by_deadline() -> None:
    patient = workload(1, [0.1, 0.2, 0.3], 1000.0, 100.0)
    urgent = workload(2, [0.4], 1000.0, 2.5)
    found = simulate_gateway([patient, urgent], 6, workers=1)
    assert found.request_waits_s[urgent.partition] == pytest.approx([0.7])
    assert found.request_waits_s[patient.partition] == pytest.approx([0.0, 1.9, 2.8])
    first = found.intervals[0]
    # 0.1 s are left of the run; then the urgent one's, and for the patient two more.
    assert first[urgent.partition].queue_ms == pytest.approx(1100.0)
    assert first[patient.partition].queue_ms == pytest.approx(3100.0)


def test_who_cannot_make_it_is_refused() -> None:
    one = workload(1, [0.1, 0.2, 0.3, 0.4], 1000.0, 2.5)
    found = simulate_gateway([one], 5, workers=1)
    assert np.isnan(found.request_waits_s[one.partition]).tolist() == [False, False, True, True]
    assert found.intervals[0][one.partition].refused == 2


def test_there_is_room_for_so_many() -> None:
    one = workload(1, [0.1, 0.2, 0.3, 0.4], 1000.0, 100.0)
    found = simulate_gateway([one], 5, workers=1, capacity=1)
    assert found.intervals[0][one.partition].refused == 2


def real_queue(workloads: tuple[Workload, ...], workers: int, seconds: float) -> list[float]:
    """Waits of all requests in order of arrival, NaN where one was not run; by the gateway's own queue."""
    jobs = sorted(
        (arrives, place, index)
        for place, each in enumerate(workloads)
        for index, arrives in enumerate(each.arrivals_s.tolist())
    )
    queue = EarliestDeadlineFirst(256, workers)
    expected_s = [each.service_ms[0] / 1e3 for each in workloads]
    running: list[tuple[float, int, float]] = []
    waits = [float("nan")] * len(jobs)

    def begin(number: int, now_s: float) -> None:
        arrives, place, index = jobs[number]
        waits[number] = now_s - arrives
        took_s = workloads[place].service_ms[index] / 1e3
        running.append((now_s + took_s, place, took_s))
        running.sort()

    def finish(until_s: float) -> None:
        while running and running[0][0] <= until_s:
            now_s, place, took_s = running.pop(0)
            expected_s[place] += 0.2 * (took_s - expected_s[place])
            while (ticket := queue.take()) is not None:
                if ticket.deadline >= now_s:
                    begin(ticket.number, now_s)
                    break

    for number, (arrives, place, _) in enumerate(jobs):
        finish(arrives)
        queue.expired(arrives)
        if len(running) < workers:
            begin(number, arrives)
            continue
        ticket = Ticket(arrives + workloads[place].slack_s, number, expected_s[place], arrives)
        queue.offer(ticket, arrives, running_s([until for until, _, _ in running], workers, arrives))
    finish(seconds)
    return waits


@pytest.mark.parametrize(("kind", "load"), [("bursty", 0.6), ("steady", 0.95), ("recurring", 0.9)])
def test_it_is_the_real_queue(kind: str, load: float) -> None:
    workloads = make_workloads(kind, 60, 3, load=load)
    found = simulate_gateway(workloads, 60, workers=2)
    order = np.argsort(np.concatenate([each.arrivals_s for each in workloads]), kind="stable")
    ours = np.concatenate([found.request_waits_s[each.partition] for each in workloads])[order]
    assert np.isnan(ours).sum() >= sum(each.refused for step in found.intervals for each in step.values())
    np.testing.assert_allclose(ours, real_queue(workloads, 2, 60), atol=1e-9)


@pytest.mark.parametrize("workers", [1, 3])
def test_steady_waits_are_the_formulas(workers: int) -> None:
    (made,) = make_workloads("steady", 1000, 5, partitions=1, workers=workers, load=0.6, service_scale=0.3)
    patient = replace(made, slack_s=1e6)
    found = simulate_gateway([patient], 1000, workers=workers)
    rate_hz = made.arrivals_s.size / 1000
    service_s = float(made.service_ms.mean()) / 1e3
    known = mgk_wait_s(workers, rate_hz, service_s, float(made.service_ms.var() / made.service_ms.mean() ** 2))
    assert np.nanmean(found.request_waits_s[patient.partition]) == pytest.approx(known, rel=0.06)


def test_what_is_known_at_the_end_of_an_interval_is_near_what_comes_out_later() -> None:
    workloads = make_workloads("recurring", 600, 8, load=0.6)
    found = simulate_gateway(workloads, 600)
    for each in workloads:
        later = found.waits_ms[each.partition]
        known = np.array([step[each.partition].wait_ms if each.partition in step else 0.0 for step in found.intervals])
        there = ~np.isnan(later)
        assert np.abs(known - later)[there].mean() < 0.3 * later[there].mean() + 0.1


def test_the_same_comes_out_again() -> None:
    workloads = make_workloads("mixed", 60, 8)
    assert simulate_gateway(workloads, 60).intervals == simulate_gateway(workloads, 60).intervals
