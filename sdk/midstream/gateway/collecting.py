"""What comes to a gateway and what becomes of it, collected for forecasts as it happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from midstream.allocation.intervals import INTERVAL_S, Interval, Intervals
from midstream.allocation.usage import Partition, Usage
from midstream.communication.wire import Request
from midstream.gateway.stages import Job


class Collector:
    """One gateway's `Intervals`, told by all of its threads and closed by one. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Guarded by _lock.
        self._intervals = Intervals(time.time())
        self._busy_s = 0.0

    def arrived(self, request: Request) -> None:
        """A request for a stage that there is has come, whether it will be let in or not."""
        with self._lock:
            self._intervals.arrived(partition_of(request), time.time(), request.score, dict(request.features))

    def began(self, job: Job, now: float) -> None:
        """A worker has taken a job, at this time of `time.monotonic`."""
        wall_s = time.time()
        with self._lock:
            self._intervals.began(partition_of(job.request), wall_s - (now - job.arrived), wall_s)

    def ended(self, usage: Usage) -> None:
        """A request has ended, in whatever way."""
        busy_s = sum(ms for step, ms in usage.timings_ms.items() if step != "queue") / 1e3 / usage.batch
        with self._lock:
            self._intervals.ended(usage)
            self._busy_s += busy_s

    def close(
        self, wait_ms: Callable[[Partition], float], memory_bytes: Mapping[Partition, float], workers: int
    ) -> dict[Partition, Interval]:
        """What was since the last call; ``wait_ms`` is what a request for a partition would wait now."""
        with self._lock:
            busy_s, self._busy_s = self._busy_s, 0.0
            waits_ms = {partition: wait_ms(partition) for partition in self._intervals.partitions}
            return self._intervals.close(time.time(), waits_ms, memory_bytes, min(1.0, busy_s / INTERVAL_S / workers))


def partition_of(request: Request) -> Partition:
    """The stage that a request asks for."""
    return Partition(request.bundle_digest.hex(), request.cut, request.onward[0].cut if request.onward else "")
