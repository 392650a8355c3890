"""What comes to a gateway's workers and what becomes of it, collected for forecasts as it happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from midstream.allocation.intervals import INTERVAL_S, Interval, Intervals
from midstream.allocation.usage import Partition, service_ms
from midstream.gateway.stages import Job, Spent

# Forecasting takes about a millisecond a second of each.
MOST_PARTITIONS = 64
# What is as many times as long as an interval is to be is not one.
_LONG = 1.5


class Collector:
    """One gateway's `Intervals`, told by all of its threads and closed by one. Thread-safe.

    Times are `time.monotonic`'s, moved to when it began on the clock that tells the time of day.
    """

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()
        self._lock = threading.Lock()
        # Guarded by _lock.
        self._closed_s = time.monotonic() + self._offset_s
        self._intervals = Intervals(self._closed_s, MOST_PARTITIONS)
        self._busy_s = 0.0

    def arrived(self, job: Job) -> None:
        """A request has come, whether it will be let in or not."""
        request = job.request
        with self._lock:
            arrived_s = job.arrived + self._offset_s
            self._intervals.arrived(job.partition, arrived_s, request.score, dict(request.features))

    def refused(self, job: Job) -> None:
        """It was not let in."""
        with self._lock:
            self._intervals.refused(job.partition, job.arrived + self._offset_s)

    def left(self, job: Job) -> None:
        """It was let in and waits no longer, and will not be run."""
        with self._lock:
            self._intervals.left(job.partition, job.arrived + self._offset_s)

    def began(self, job: Job, now: float) -> None:
        """A worker has taken it."""
        with self._lock:
            self._intervals.began(job.partition, job.arrived + self._offset_s, now + self._offset_s)

    def ended(self, job: Job, spent: Spent) -> None:
        """A worker has done with it, and with those that ran with it."""
        took_ms = service_ms(spent.timings_ms, spent.batch)
        with self._lock:
            self._busy_s += took_ms / 1e3
            if "run" in spent.timings_ms:
                self._intervals.served(job.partition, sum(spent.cpu_ms.values()), took_ms)

    def close(
        self, wait_ms: Callable[[Partition], float], memory_bytes: Mapping[Partition, float], workers: int
    ) -> dict[Partition, Interval]:
        """What was since the last call, in the mean second where that was long ago.

        ``wait_ms`` is what a request for a partition would wait now.
        """
        with self._lock:
            busy_s, self._busy_s = self._busy_s, 0.0
            waits_ms = {partition: wait_ms(partition) for partition in self._intervals.partitions}
            now_s = time.monotonic() + self._offset_s
            length_s, self._closed_s = now_s - self._closed_s, now_s
            busy = min(1.0, busy_s / max(length_s, INTERVAL_S) / workers)
            closed = self._intervals.close(now_s, waits_ms, memory_bytes, busy)
        if length_s < _LONG * INTERVAL_S:
            return closed
        return {partition: interval.mean_second() for partition, interval in closed.items()}
