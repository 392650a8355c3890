"""The gateway's allocation, once a second: what was is collected, what comes is forecast, and made ready for."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from midstream.allocation.allocate import Allocation, Need, allocate
from midstream.allocation.intervals import INTERVAL_S, Forecast, Intervals
from midstream.allocation.predictors import Predictor
from midstream.allocation.usage import Partition, Usage
from midstream.communication.directory import WHOLE_KEY
from midstream.gateway.stages import Job
from midstream.gateway.warming import Warmth
from midstream.gateway.work import Work

_log = logging.getLogger("midstream.gateway")


@dataclass(frozen=True, slots=True)
class Ready:
    """What the gateway is ready for: the last allocation, and the forecasts that it follows."""

    allocation: Allocation
    forecasts: Mapping[Partition, Forecast] = field(default_factory=dict)
    loaded: Mapping[Partition, int] = field(default_factory=dict)


class Allocator:
    """Forecasts each partition's next second by a ``predictor``, and has workers and slices follow. Thread-safe.

    ``budget_bytes`` bounds what loaded slices hold. `start` and `close` bracket its thread's life.
    """

    def __init__(self, work: Work, warmth: Warmth, predictor: Predictor, workers: int, budget_bytes: float) -> None:
        self._work = work
        self._warmth = warmth
        self._predictor = predictor
        self._workers = workers
        self._budget_bytes = budget_bytes
        self._lock = threading.Lock()
        # Guarded by _lock.
        self._intervals = Intervals(time.time())
        self._busy_s = 0.0
        self._ready = Ready(Allocation(workers, (), behind=False))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="midstream-allocator", daemon=True)

    @property
    def ready(self) -> Ready:
        """What the gateway is ready for."""
        return self._ready

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End; what is loaded stays."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def arrived(self, partition: Partition, score: float, features: Mapping[str, float]) -> None:
        """A request for a stage of a bundle that is served has come, whether it will be let in or not."""
        with self._lock:
            self._intervals.arrived(partition, time.time(), score, features)

    def began(self, job: Job, now: float) -> None:
        """A worker has taken a job, at this time of `time.monotonic`."""
        wall_s = time.time()
        with self._lock:
            self._intervals.began(partition_of(job), wall_s - (now - job.arrived), wall_s)

    def ended(self, usage: Usage) -> None:
        """A request has ended, in whatever way."""
        with self._lock:
            self._intervals.ended(usage)
            self._busy_s += sum(ms for step, ms in usage.timings_ms.items() if step != "queue") / 1e3 / usage.batch

    def _run(self) -> None:
        due = time.monotonic() + INTERVAL_S
        while not self._stopped.wait(max(0.0, due - time.monotonic())):
            due = max(due + INTERVAL_S, time.monotonic())
            try:
                self._turn()
            except Exception:  # noqa: BLE001  the gateway goes on with what is ready
                _log.exception("what comes next could not be prepared for")

    def _turn(self) -> None:
        load = self._work.load()
        held = self._warmth.all_loaded()
        memory = {partition: self._warmth.memory_bytes(partition) * count for partition, count in held.items()}
        with self._lock:
            queues = _Waits(load.wait_ms, load.waits_ms)
            busy_s, self._busy_s = self._busy_s, 0.0
            busy = min(1.0, busy_s / INTERVAL_S / self._work.workers)
            intervals = self._intervals.close(time.time(), queues, memory, busy)
        self._predictor.observe(intervals)
        forecasts = self._predictor.forecast()
        needs = [self._need(partition, forecast, held) for partition, forecast in forecasts.items()]
        allocation = allocate(needs, self._workers, self._budget_bytes)
        self._apply(allocation)
        self._ready = Ready(allocation, forecasts, self._warmth.all_loaded())

    def _need(self, partition: Partition, forecast: Forecast, held: Mapping[Partition, int]) -> Need:
        arrivals, cpu_ms = forecast.arrivals, forecast.cpu_ms
        return Need(
            partition,
            cpu_ms.high / 1e3 / INTERVAL_S,
            cpu_ms.middle / 1e3 / INTERVAL_S,
            arrivals.high,
            self._warmth.memory_bytes(partition),
            self._warmth.load_s(partition),
            partition in held,
        )

    def _apply(self, allocation: Allocation) -> None:
        before = self._ready.allocation
        if (allocation.workers, allocation.behind) != (before.workers, before.behind):
            _log.info("%d workers%s", allocation.workers, ", behind" if allocation.behind else "")
        if not math.isinf(self._budget_bytes):
            self._warmth.evict(allocation.warm, allocation.workers, self._budget_bytes)
        self._warmth.warm(allocation.warm, allocation.workers)
        self._work.use(allocation.workers, behind=allocation.behind)


def partition_of(job: Job) -> Partition:
    """The stage that a job is of."""
    return Partition(job.request.bundle_digest.hex(), job.request.cut, job.next_cut or "")


class _Waits(dict[Partition, float]):
    """What a request would wait, by partition, for those of which nothing else is known too."""

    def __init__(self, wait_ms: float, waits_ms: Mapping[str, Mapping[str, float]]) -> None:
        super().__init__(
            {
                Partition(digest, "" if cut == WHOLE_KEY else cut): ms
                for digest, tails in waits_ms.items()
                for cut, ms in tails.items()
            }
        )
        self._wait_ms = wait_ms

    def get(self, partition: Partition, default: float = 0.0) -> float:  # type: ignore[override]
        return super().get(partition, self._wait_ms)
