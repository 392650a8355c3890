"""A gateway of the simulation: the real queue and the real rule for load reports, with workers that only take time."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import simpy

from midstream.allocation.queueing import Admission, EarliestDeadlineFirst, Ticket, running_s
from midstream.communication.load import LoadReport, LoadThrottle
from midstream.gateway.work import QUEUE_CAPACITY, QUEUE_CAPACITY_BYTES
from midstream.simulating.draws import Other
from midstream.traces import MAX_RTT_MS

# So many reports are looked through for old ones.
_MOST_REPORTS = 4096


class Served(NamedTuple):
    """What became of a request: ``queue_s`` it waited and ``work_s`` it ran; or a refusal, in words."""

    queue_s: float = 0.0
    work_s: float = 0.0
    refusal: str | None = None


@dataclass(slots=True)
class _Job:
    arrived_s: float
    deadline_s: float
    work_s: float
    done: Callable[[Served], None] | None


class SimulatedGateway:
    """Workers that take requests by their deadlines; what it has published of its load is kept."""

    def __init__(self, environment: simpy.Environment, gateway_id: str, workers: int) -> None:
        self.gateway_id = gateway_id
        self._environment = environment
        self._workers = workers
        self._queue = EarliestDeadlineFirst(QUEUE_CAPACITY, workers, QUEUE_CAPACITY_BYTES)
        self._jobs: dict[int, _Job] = {}
        self._numbers = itertools.count()
        self._running: dict[int, float] = {}
        self._throttle = LoadThrottle()
        self._times_s: list[float] = []
        self._reports: list[LoadReport] = []
        self._published = 0
        self._due_s = math.inf
        self._report()

    def report_at(self, time_s: float) -> LoadReport:
        """What it had published last by this time."""
        if self._times_s[-1] <= time_s:
            return self._reports[-1]
        return self._reports[max(0, bisect_right(self._times_s, time_s) - 1)]

    def others(self, jobs: list[Other], deadline_s: float) -> Generator[Any, Any, None]:
        """A process: what others send it; each job has this much time."""
        for job in jobs:
            yield self._environment.timeout(job.arrives_s - self._environment.now)
            self.offer(job.work_s, job.work_s, deadline_s, 0, None)

    def offer(
        self,
        expected_s: float,
        work_s: float,
        left_s: float,
        size_bytes: int,
        done: Callable[[Served], None] | None,
    ) -> bool:
        """A request has come that is expected to take so long, and has so long; ``done`` is told what becomes of it.

        Returns whether it runs at once.
        """
        now_s = self._environment.now
        for ticket in self._queue.expired(now_s):
            self._refuse(self._jobs.pop(ticket.number), "its deadline has passed")
        job = _Job(now_s, now_s + left_s, work_s, done)
        ticket = Ticket(job.deadline_s, next(self._numbers), expected_s, now_s, size_bytes)
        busy_s = running_s(self._running.values(), self._workers, now_s)
        admission = self._queue.offer(ticket, now_s, busy_s)
        if admission is not Admission.ACCEPTED:
            self._refuse(job, admission.value)
            return False
        self._jobs[ticket.number] = job
        if len(self._running) < self._workers:
            self._begin()
        self._report()
        return ticket.number in self._running

    def _begin(self) -> None:
        while (ticket := self._queue.take()) is not None:
            job = self._jobs.pop(ticket.number)
            now_s = self._environment.now
            if now_s > job.deadline_s:
                self._refuse(job, "its deadline passed in the queue")
                continue
            self._running[ticket.number] = now_s + ticket.work_s
            ended = self._environment.timeout(job.work_s)
            ended.callbacks.append(partial(self._end, ticket.number, job, now_s - job.arrived_s))
            return

    def _end(self, number: int, job: _Job, queue_s: float, _: simpy.Event) -> None:
        del self._running[number]
        if job.done is not None:
            job.done(Served(queue_s, job.work_s))
        self._begin()
        self._report()

    @staticmethod
    def _refuse(job: _Job, why: str) -> None:
        if job.done is not None:
            job.done(Served(refusal=why))

    def _report(self) -> None:
        """Publish how busy it is, where that is due, else once it is."""
        now_s = self._environment.now
        wait_s = self._queue.wait_s + running_s(self._running.values(), self._workers, now_s)
        load = len(self._running) / self._workers
        # Rounded as `rounded` does, which has more to do.
        report = LoadReport(
            self.gateway_id, "run", self._published, len(self._queue), round(wait_s * 1e3, 1), round(load, 2)
        )
        due_s = self._throttle.due_s(report)
        if due_s <= now_s:
            self._throttle = self._throttle.after(report, now_s)
            self._published += 1
            self._times_s.append(now_s)
            self._reports.append(report)
            if len(self._reports) > _MOST_REPORTS:
                # Nobody is so far behind.
                old = bisect_left(self._times_s, now_s - MAX_RTT_MS / 1e3)
                self._times_s, self._reports = self._times_s[old:], self._reports[old:]
        elif not now_s < self._due_s <= due_s:
            self._due_s = due_s
            self._environment.timeout(due_s - now_s).callbacks.append(lambda _: self._report())
