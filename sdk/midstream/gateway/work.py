"""The gateway's work: requests that were let in, and the threads that run them in the order of their deadlines."""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from midstream.allocation.punctuality import Punctuality
from midstream.allocation.queueing import Admission, EarliestDeadlineFirst, Ticket, running_s
from midstream.allocation.usage import Outcome as Ended
from midstream.allocation.usage import Usage
from midstream.communication.directory import WHOLE_KEY
from midstream.communication.lanes import Lanes
from midstream.communication.wire import Buffer, Request, Status, content_tag, encode_reply
from midstream.gateway.collecting import Collector
from midstream.gateway.duplicates import Ledger, identity
from midstream.gateway.logs import about
from midstream.gateway.observing import Observe, outcome_of, usage_of
from midstream.gateway.peers import Peers
from midstream.gateway.posting import Post
from midstream.gateway.reading import Reading
from midstream.gateway.replies import HeldReplies
from midstream.gateway.scaling import pin
from midstream.gateway.served import ServedBundle
from midstream.gateway.stages import Job, Outcome, Spent, refusal, run_stages
from midstream.sensing import peak_bytes

_log = logging.getLogger("midstream.gateway")

# So many small ones may come in the seconds that they have; large ones are bounded by their bytes.
QUEUE_CAPACITY = 4096
QUEUE_CAPACITY_BYTES = 256 << 20
# What waits is finished within this, when the gateway stops.
DRAIN_S = 10.0
_STOPS = "this gateway stops"
# Of so many tails that were asked for last, it is known how much time their requests have.
_TAILS = 16
_SMOOTHING = 0.2
# What takes no longer is run before the connection is looked at again.
_SHORT_MS = 0.25
# A wait at a tail that differs by less is not told of.
_SAME_MS = 1.0


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the workers are: as in `LoadReport`."""

    queue_length: int
    wait_ms: float
    load: float
    waits_ms: dict[str, dict[str, float]]


class Work:
    """Workers, and the queue that they take from. Thread-safe; `start` and `close` bracket its life.

    Without ``admission`` all are let in for whom there is room. ``on_change`` is called, on any thread, when there is
    more or less to do, and ``observe`` with what became of each request that was let in; ``collector`` is told of each
    when it comes, begins and ends.
    """

    def __init__(
        self,
        post: Post,
        peers: Peers,
        transport: Lanes,
        on_change: Callable[[], None],
        observe: Observe,
        collector: Collector,
        *,
        admission: bool = True,
    ) -> None:
        self._admission = admission
        self._collector = collector
        self._post = post
        self._peers = peers
        self._transport = transport
        self._on_change = on_change
        self._observe = observe
        self._changed = threading.Condition()
        # Guarded by _changed.
        self._queue = EarliestDeadlineFirst(QUEUE_CAPACITY, 1, QUEUE_CAPACITY_BYTES)
        self._jobs: dict[int, Job] = {}
        self._numbers = itertools.count()
        self._ledger = Ledger()
        # By worker: until when its job is expected to run.
        self._running: dict[int, float] = {}
        self._punctuality = Punctuality()
        # By bundle and tail: how many seconds its requests have until their deadline.
        self._slacks_s: dict[tuple[str, str], float] = {}
        # Whether more is expected to come than can be run one at a time.
        self._behind = False
        self._stopping = False
        self._asked_s = -math.inf
        self._threads: list[threading.Thread] = []

    def start(self, workers: int, cores: Sequence[int] = ()) -> None:
        """Start so many workers, each kept on its one of the ``cores`` where these are given.

        All of them take jobs until `use` says otherwise.
        """
        self._queue.workers = workers
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(worker, cores[worker] if cores else None),
                name=f"midstream-worker-{worker}",
                daemon=True,
            )
            for worker in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def use(self, workers: int, *, behind: bool) -> None:
        """Have so many of the workers take jobs, and batches be as large as is cheapest where they are ``behind``."""
        with self._changed:
            self._queue.workers = workers
            self._behind = behind
            self._changed.notify_all()
        self._transport.rouse()

    @property
    def workers(self) -> int:
        """How many take jobs."""
        return self._queue.workers

    @property
    def asked_s(self) -> float:
        """When the last request came, on `time.monotonic`; long ago where none has."""
        return self._asked_s

    def close(self, drain_s: float = DRAIN_S) -> None:
        """Let nobody in any more, finish what is there, and end the workers; what then still waits is refused."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._transport.rouse()
        ends = time.monotonic() + drain_s
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))
        with self._changed:
            left = [self._jobs.pop(ticket.number) for ticket in iter(self._queue.take, None)]
        for job in left:
            self._collector.left(job)
            self._post.refuse(job.device_id, job.request.request_id, Status.BUSY, _STOPS)
            self._observe(_usage(job, Spent(), Ended.BUSY, _STOPS, 0))
        for thread in self._threads:
            thread.join()

    def load(self) -> Load:
        """How busy the workers are now.

        The waits at single tails follow from how much time their requests have: the queue is one of deadlines, so that
        who has less of it waits less.
        """
        now = time.monotonic()
        with self._changed:
            wait_ms = self._wait_s(math.inf, now) * 1e3
            waits_ms: dict[str, dict[str, float]] = {}
            for (digest, tail), slack_s in self._slacks_s.items():
                tail_ms = self._wait_s(now + slack_s, now) * 1e3
                if abs(tail_ms - wait_ms) >= _SAME_MS:
                    waits_ms.setdefault(digest, {})[tail] = tail_ms
            return Load(len(self._queue), wait_ms, min(1.0, len(self._running) / self.workers), waits_ms)

    def offer(
        self, served: ServedBundle, device_id: str, request: Request, message: Buffer, packed: bool
    ) -> tuple[Status, str] | None:
        """Put a request in the queue, or say why not. One that is there runs once; one that was answered is again."""
        now = time.monotonic()
        deadline = now + request.deadline_ms / 1e3
        answer = None
        with self._changed:
            self._asked_s = now
            expired = [self._jobs.pop(ticket.number) for ticket in self._queue.expired(now)]
            for late in expired:
                self._ledger.end(late.identity, None, now)
            known = self._ledger.runs(device_id, request, message)
            if not known:
                answer = self._ledger.answer(device_id, request, message, now)
            refusal = None
            if not known and answer is None:
                of = identity(device_id, request, message)
                job = Job(request, device_id, served, deadline, now, packed, of, len(message))
                self._collector.arrived(job)
                refusal = self._let_in(job)
                if refusal is not None:
                    self._collector.refused(job)
        for late in expired:
            reason = "its deadline has passed"
            self._collector.left(late)
            self._post.refuse(late.device_id, late.request.request_id, Status.EXPIRED, reason)
            self._observe(_usage(late, Spent(), Ended.EXPIRED, reason, 0))
        if answer is not None:
            self._post.reply(device_id, answer, deadline, priority=request.priority, parity=request.takes_parity)
        if known:
            # Whoever asks again is not to take this gateway for dead because the answer takes its time.
            self._post.taken(device_id, request.request_id, content_tag(message, request.deadline_ms))
        if refusal is not None:
            return Status.BUSY, refusal
        self._on_change()
        return None

    def cancel(self, device_id: str, request_id: bytes) -> None:
        """Do not begin this device's request of this id."""
        with self._changed:
            unwanted = {
                number: job
                for number, job in self._jobs.items()
                if (job.device_id, job.request.request_id) == (device_id, request_id)
            }
            if not unwanted:
                return
            self._queue.remove(unwanted.keys())
            for number, job in unwanted.items():
                del self._jobs[number]
                self._ledger.end(job.identity, None, job.arrived)
        for job in unwanted.values():
            self._collector.left(job)
            self._observe(_usage(job, Spent(), Ended.CANCELLED, "", 0))
        self._on_change()

    def _let_in(self, job: Job) -> str | None:
        """Put a job in the queue; where that is not done, why."""
        if self._stopping:
            return _STOPS
        request, served = job.request, job.served
        work_s = job.expected_ms / 1e3 * (1.0 if job.batches is None else job.batches.each)
        ticket = Ticket(
            job.deadline,
            next(self._numbers),
            work_s,
            job.arrived,
            job.size_bytes,
            request.priority,
            served.group(request),
        )
        busy_s = running_s(self._running.values(), self.workers, job.arrived)
        expected_s = busy_s + self._queue.wait_of_s(ticket) + work_s
        margin_s = self._punctuality.margin_s(expected_s, job.arrived)
        admission = self._queue.offer(ticket, job.arrived, busy_s + margin_s, anyway=not self._admission)
        if admission is not Admission.ACCEPTED:
            return f"{admission.value}: it would wait about {(expected_s - work_s) * 1e3:.0f} ms"
        job.expected_s = expected_s
        self._jobs[ticket.number] = job
        self._ledger.begin(job.identity)
        tail = (job.partition.bundle, request.cut or WHOLE_KEY)
        slack_s = job.deadline - job.arrived
        known_s = self._slacks_s.pop(tail, slack_s)
        self._slacks_s[tail] = known_s + _SMOOTHING * (slack_s - known_s)
        if len(self._slacks_s) > _TAILS:
            del self._slacks_s[next(iter(self._slacks_s))]
        # A worker that reads the connection takes the first one itself.
        if len(self._queue) > 1 or threading.current_thread() not in self._threads[: self.workers]:
            # One that takes no jobs may be the one that wakes.
            self._changed.notify(1 if self.workers == len(self._threads) else len(self._threads))
        return None

    def _wait_s(self, deadline: float, now: float) -> float:
        """What a request that came now would wait for a worker."""
        return self._queue.wait_before_s(deadline) + running_s(self._running.values(), self.workers, now)

    def _run(self, worker: int, core: int | None) -> None:
        if core is not None:
            pin(core)
        with Reading(self._transport) as reading:
            self._run_all(worker, HeldReplies(), reading)

    def _run_all(self, worker: int, held: HeldReplies, reading: Reading) -> None:
        while jobs := self._next(worker, held, reading):
            spent = [Spent() for _ in jobs]
            answers: list[bytes | None] = [None] * len(jobs)
            usages: list[Usage] = []
            failed: list[tuple[Job, str]] = []
            try:
                outcomes = run_stages(jobs, worker, self._peers, spent)
                for place, (job, outcome, each) in enumerate(zip(jobs, outcomes, spent, strict=True)):
                    answers[place], usage = self._deliver(job, outcome, each, held)
                    usages.append(usage)
            except Exception as error:  # noqa: BLE001  whatever it is, it is logged, and this worker goes on
                message = f"the gateway failed at it, and its log says how: {error}"
                for job, each in list(zip(jobs, spent, strict=True))[len(usages) :]:
                    extra = about(job.device_id, job.request.request_id)
                    _log.exception("a request of %s could not be answered", job.device_id, extra=extra)
                    failed.append((job, message))
                    usages.append(_usage(job, each, Ended.FAILED, message, 0))
            finally:
                self._end(worker, jobs, spent, answers)
                self._on_change()
            # Only now: who asks again at once is to find that this one has ended.
            for job, message in failed:
                self._post.refuse(job.device_id, job.request.request_id, Status.FAILED, message)
            for usage in usages:
                self._observe(usage)

    def _end(self, worker: int, jobs: Sequence[Job], spent: Sequence[Spent], answers: Sequence[bytes | None]) -> None:
        """What these have taken is known now, and the worker is free."""
        now = time.monotonic()
        with self._changed:
            del self._running[worker]
            for job, answer, each in zip(jobs, answers, spent, strict=True):
                self._collector.ended(job, each)
                self._ledger.end(job.identity, answer, now)
                self._punctuality.ended(job.expected_s, now - job.arrived, now)
            first, times = jobs[0], jobs[0].batches
            if times is not None and "run" in spent[0].timings_ms:
                size, alone_ms = spent[0].batch, first.expected_ms
                times.ran(size, spent[0].timings_ms["run"] / alone_ms if size > 1 and alone_ms else float(size))

    def _deliver(self, job: Job, outcome: Outcome, spent: Spent, held: HeldReplies) -> tuple[bytes | None, Usage]:
        """Send what a stage has made: the answer, where that is what it is, and what it has used."""
        if outcome.onward is not None and not self._post.forward(outcome.onward, job.device_id):
            outcome = refusal(job, Status.CANNOT_FORWARD, "too much waits to be sent by this gateway already")
        if outcome.reply is None:
            return None, _usage(job, spent, Ended.OK, "", 0)
        message = encode_reply(outcome.reply)
        self._post.reply(
            job.device_id,
            message,
            job.deadline,
            held if job.packed else None,
            job.request.priority,
            parity=job.request.takes_parity,
        )
        reply = outcome.reply
        final = reply.status is Status.OK and outcome.onward is None
        usage = _usage(job, spent, outcome_of(reply.status), reply.message, len(message))
        return message if final else None, usage

    def _next(self, worker: int, held: HeldReplies, reading: Reading) -> list[Job]:
        """The job that is due first, once there is one, and those to run with it; none when the gateway stops.

        Replies that are held are sent before, unless they may wait for these jobs'.
        """
        with self._changed:
            jobs = self._due_first(worker)
        if held and not (jobs and self._may_wait(held, jobs[0])):
            self._post.send_held(held)
        waited, has_news = not jobs, partial(self._has_news, worker)
        while not jobs:
            attended = reading.wait(has_news)
            with self._changed:
                if not attended:
                    self._changed.wait_for(has_news)
                jobs = self._due_first(worker)
                if self._stopping:
                    break
        if not waited or sum(job.expected_ms for job in jobs) > _SHORT_MS:
            reading.end()
        return jobs

    @staticmethod
    def _may_wait(held: HeldReplies, job: Job) -> bool:
        return job.packed and held.waits_for(job.device_id, job.expected_ms / 1e3, time.monotonic())

    def _has_news(self, worker: int) -> bool:
        """Whether a worker that waits has something to do: a job, or to end."""
        return self._stopping or (worker < self.workers and len(self._queue) > 0)

    def _due_first(self, worker: int) -> list[Job]:
        ticket = self._queue.take() if worker < self.workers or self._stopping else None
        if ticket is None:
            return []
        now, first = time.monotonic(), self._jobs[ticket.number]
        lasts_s, along = first.expected_ms / 1e3, list[Ticket]()
        if (times := first.batches) is not None and ticket.group is not None:
            size = times.size(1 + self._queue.alike(ticket.group), behind=self._behind)
            while size > 1 and not along:
                along = self._queue.take_along(ticket, size - 1, lasts_s * times.ratio(size), now)
                size = times.smaller(size)
            lasts_s *= times.ratio(1 + len(along))
        self._running[worker] = now + lasts_s
        jobs = [self._jobs.pop(each.number) for each in (ticket, *along)]
        for job in jobs:
            self._collector.began(job, now)
        return jobs


def _usage(job: Job, spent: Spent, outcome: Ended, reason: str, sent_bytes: int) -> Usage:
    """What a request that was let in has used, once it has ended now."""
    lasted_s = time.monotonic() - job.arrived
    return usage_of(
        job.device_id,
        job.request,
        job.partition,
        outcome,
        reason,
        lasted_s=lasted_s,
        cpu_ms=spent.cpu_ms,
        timings_ms=spent.timings_ms,
        peak_bytes=peak_bytes(),
        batch=spent.batch,
        received_bytes=job.size_bytes,
        sent_bytes=sent_bytes,
    )
