"""The gateway's work: requests that were let in, and the threads that run them in the order of their deadlines."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from midstream.allocation.queueing import Admission, EarliestDeadlineFirst, Ticket
from midstream.communication.codecs import encode
from midstream.communication.wire import Reply, Request, Status, encode_reply
from midstream.errors import CodecError, InputError, MidstreamError
from midstream.gateway.posting import Post
from midstream.gateway.replies import HeldReplies
from midstream.gateway.served import ServedBundle

_log = logging.getLogger("midstream.gateway")

QUEUE_CAPACITY = 256
QUEUE_CAPACITY_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Job:
    """A request that was let in; ``packed`` if it came with others, so that its reply may go with theirs.

    Times are seconds on `time.monotonic`.
    """

    request: Request
    device_id: str
    served: ServedBundle
    deadline: float
    arrived: float
    packed: bool


class Work:
    """Workers, and the queue that they take from. Thread-safe; `start` and `close` bracket its life.

    ``on_change`` is called, on any thread, when there is more or less to do.
    """

    def __init__(self, workers: int, post: Post, on_change: Callable[[], None]) -> None:
        self._workers = workers
        self._post = post
        self._on_change = on_change
        self._queue = EarliestDeadlineFirst(QUEUE_CAPACITY, workers, QUEUE_CAPACITY_BYTES)
        self._jobs: dict[int, Job] = {}
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._busy = 0
        self._stopping = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the workers."""
        for worker in range(self._workers):
            thread = threading.Thread(target=self._run, args=(worker,), name=f"midstream-worker-{worker}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Finish what is there, and end the workers."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def load(self) -> tuple[int, float, float]:
        """How many requests wait, how long one that came now would, in ms, and what share of the workers is busy."""
        with self._changed:
            return len(self._queue), self._queue.wait_s * 1e3, self._busy / self._workers

    def offer(self, job: Job, size_bytes: int) -> tuple[Status, str] | None:
        """Put a job in the queue, or say why not."""
        with self._changed:
            work_s = job.served.expected_ms(job.request.cut) / 1e3
            ticket = Ticket(job.deadline, next(self._numbers), work_s, job.arrived, size_bytes)
            admission = self._queue.offer(ticket, job.arrived)
            if admission is Admission.ACCEPTED:
                self._jobs[ticket.number] = job
                self._changed.notify()
        if admission is not Admission.ACCEPTED:
            return Status.BUSY, admission.value
        self._on_change()
        return None

    def _run(self, worker: int) -> None:
        held = HeldReplies()
        while (job := self._next(held)) is not None:
            try:
                reply = encode_reply(_answer(job, worker))
                self._post.reply(job.device_id, reply, job.deadline, held if job.packed else None)
            except Exception as error:  # noqa: BLE001  whatever it is, it is logged, and this worker goes on
                _log.exception("a request of %s could not be answered", job.device_id)
                message = f"the gateway failed at it, and its log says how: {error}"
                self._post.refuse(job.device_id, job.request.request_id, Status.FAILED, message)
            finally:
                with self._changed:
                    self._busy -= 1
                self._on_change()

    def _next(self, held: HeldReplies) -> Job | None:
        """The job that is due first, once there is one; None when the gateway stops.

        Replies that are held are sent before, unless they may wait for this job's.
        """
        with self._changed:
            job = self._due_first()
        if held and (
            job is None
            or not job.packed
            or not held.waits_for(job.device_id, job.served.expected_ms(job.request.cut) / 1e3, time.monotonic())
        ):
            self._post.send_held(held)
        if job is None:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or len(self._queue) > 0)
                job = self._due_first()
        return job

    def _due_first(self) -> Job | None:
        ticket = self._queue.take()
        if ticket is None:
            return None
        self._busy += 1
        return self._jobs.pop(ticket.number)


def _answer(job: Job, worker: int) -> Reply:
    request, started = job.request, time.monotonic()
    queue_ms = (started - job.arrived) * 1e3

    def failed(status: Status, message: str) -> Reply:
        return Reply(request.request_id, status, (), "raw", queue_ms, 0.0, message)

    if started > job.deadline:
        return failed(Status.EXPIRED, "its deadline passed in the queue")
    bundle = job.served.bundles[worker]
    cut = request.cut or None
    try:
        came = bundle.decode_for_tail(cut, request.codec, request.tensors, job.served.max_request_bytes)
        began = time.perf_counter()
        outputs = bundle.run_tail_on(came)
        job.served.ran(request.cut, (time.perf_counter() - began) * 1e3)
        # What came lossy may go back lossless: outputs are small, and they are the answer.
        codec = "raw" if request.codec == "raw" else "lossless"
        outputs = {spec.name: outputs[spec.name] for spec in bundle.outputs if spec.name in outputs}
        encoded = encode(codec, outputs, {})
    except (CodecError, InputError) as error:
        return failed(Status.BAD_REQUEST, str(error))
    except MidstreamError as error:
        return failed(Status.FAILED, str(error))
    compute_ms = (time.monotonic() - started) * 1e3
    places = tuple(place for place, spec in enumerate(bundle.outputs) if spec.name in outputs)
    return Reply(request.request_id, Status.OK, encoded, codec, queue_ms, compute_ms, outputs=places)
