"""The gateway's allocation, once a second: what was is collected, what comes is forecast, and made ready for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isinf, nan

from midstream.allocation.allocate import Allocation, Need, allocate
from midstream.allocation.intervals import INTERVAL_S, Forecast, Quantiles
from midstream.allocation.predictors import Amounts
from midstream.allocation.usage import Partition
from midstream.communication.directory import WHOLE_KEY
from midstream.gateway.collecting import Collector
from midstream.gateway.forecasting import Forecasting
from midstream.gateway.status import PredictorStatus, Target
from midstream.gateway.warming import Warmth, slice_of
from midstream.gateway.work import Load, Work

_log = logging.getLogger("midstream.gateway")

_TELL_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Ready:
    """What a gateway is ready for: the last allocation, the forecasts that it follows, and what is loaded how often.

    ``wait_ms`` is what a request is forecast to wait in the next second, by how many of each partition are to come;
    None where nothing is forecast.
    """

    allocation: Allocation
    forecasts: Mapping[Partition, Forecast] = field(default_factory=dict)
    loaded: Mapping[Partition, int] = field(default_factory=dict)

    @property
    def wait_ms(self) -> float | None:
        """Weighted by arrivals."""
        arrivals = sum(each.arrivals.middle for each in self.forecasts.values())
        if arrivals <= 0.0:
            return None
        return sum(each.wait_ms.middle * each.arrivals.middle for each in self.forecasts.values()) / arrivals


class Allocator:
    """Forecasts each partition's next second, and has workers and slices follow.

    ``budget_bytes`` bounds what loaded slices hold. `start` and `close` bracket its thread's life. Thread-safe.
    """

    def __init__(
        self,
        work: Work,
        collector: Collector,
        warmth: Warmth,
        forecasting: Forecasting,
        workers: int,
        budget_bytes: float,
    ) -> None:
        self._work = work
        self._collector = collector
        self._warmth = warmth
        self._forecasting = forecasting
        self._lock = forecasting.lock
        # Guarded by _lock.
        self._chooser = forecasting.chooser
        self._workers = workers
        self._budget_bytes = budget_bytes
        self._ready = Ready(Allocation(workers, (), behind=False))
        self._told: dict[Partition, dict[str, str]] = {}
        self._tell_s = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="midstream-allocator", daemon=True)

    @property
    def ready(self) -> Ready:
        """What the gateway is ready for."""
        return self._ready

    def held(self, partition: Partition) -> tuple[int, int]:
        """In how many workers a stage's slice is loaded, and the bytes that these hold."""
        count = self._ready.loaded.get(partition, 0)
        return count, int(count * self._warmth.memory_bytes(partition)) if count else 0

    def predictors(self) -> dict[Partition, tuple[PredictorStatus, ...]]:
        """What each predictor forecasts, how far it was off lately, and which is followed."""
        with self._lock:
            choices, middles = self._chooser.choices(), self._chooser.middles()
            forecasts = dict(self._chooser.forecast())
        return {
            partition: tuple(
                PredictorStatus(
                    name,
                    Target(target),
                    getattr(forecasts[partition], target) if name == choice.name else Quantiles(nan, middle, nan),
                    choice.errors.get(name),
                    name == choice.name,
                )
                for target, choice in targets.items()
                for name, middle in middles[partition][target].items()
            )
            for partition, targets in choices.items()
        }

    def start(self) -> None:
        """Begin."""
        self._forecasting.start()
        self._thread.start()

    def close(self) -> None:
        """End; what is loaded stays."""
        self._stopped.set()
        self._forecasting.close()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        due = time.monotonic() + INTERVAL_S
        while not self._stopped.wait(max(0.0, due - time.monotonic())):
            due = next_due(due, time.monotonic())
            try:
                self._turn()
            except Exception:  # noqa: BLE001  the gateway goes on with what is ready
                _log.exception("what comes next could not be prepared for")

    def _turn(self) -> None:
        load, held, warmth = self._work.load(), self._warmth.all_loaded(), self._warmth
        memory = {partition: warmth.memory_bytes(partition) * count for partition, count in held.items()}
        with self._lock:
            self._chooser.observe(self._collector.close(_Waits(load), memory, self._work.workers))
            forecasts = dict(self._chooser.forecast())
            returning = self._chooser.returning()
            if time.monotonic() >= self._tell_s:
                self._tell_s = time.monotonic() + _TELL_EVERY_S
                self._tell()
        needs = [
            self._need(partition, forecast, returning.get(partition), held) for partition, forecast in forecasts.items()
        ]
        waiting_s = load.wait_ms / 1e3 * self._work.workers
        allocation = allocate(needs, self._workers, self._budget_bytes, waiting_s)
        self._apply(allocation)
        self._ready = Ready(allocation, forecasts, warmth.all_loaded())

    def _tell(self) -> None:
        """Log by whom forecasts are made, where that is another one than was told last."""
        choices = self._chooser.choices()
        for partition, targets in choices.items():
            names = {target: choice.name for target, choice in targets.items()}
            if names != self._told.get(partition):
                told = ", ".join(
                    f"{target} by {each.name}, off by {each.error:.3g}" for target, each in targets.items()
                )
                _log.info("forecasts of %s: %s", slice_of(partition), told, extra={"bundle": partition.bundle})
        self._told = {
            partition: {t: each.name for t, each in targets.items()} for partition, targets in choices.items()
        }

    def _need(
        self, partition: Partition, forecast: Forecast, returning: Amounts | None, held: Mapping[Partition, int]
    ) -> Need:
        """What a partition needs by its forecast, and by what comes back to it."""
        cpu_ms, arrivals = forecast.cpu_ms.high, forecast.arrivals.high
        if returning is not None:
            cpu_ms, arrivals = max(cpu_ms, returning.cpu_ms), max(arrivals, returning.arrivals)
        return Need(
            partition,
            cpu_ms / 1e3 / INTERVAL_S,
            forecast.cpu_ms.middle / 1e3 / INTERVAL_S,
            arrivals,
            self._warmth.memory_bytes(partition),
            self._warmth.load_s(partition),
            partition in held,
        )

    def _apply(self, allocation: Allocation) -> None:
        before = self._ready.allocation
        if (allocation.workers, allocation.behind) != (before.workers, before.behind):
            behind = ", which more comes to than they run one at a time" if allocation.behind else ""
            _log.info("%d workers%s", allocation.workers, behind)
        if not isinf(self._budget_bytes):
            self._warmth.evict(allocation.warm, allocation.workers, self._budget_bytes)
        self._warmth.warm(allocation.warm, allocation.workers)
        self._work.use(allocation.workers, behind=allocation.behind)


def next_due(due: float, now: float) -> float:
    """When to close the next interval, after this one that was due: the last turn may have taken long.

    However late it is, no interval is as good as empty.
    """
    late = now - due
    return (due if late < INTERVAL_S / 2 else now) + INTERVAL_S


class _Waits:
    """What a request would wait, by partition."""

    def __init__(self, load: Load) -> None:
        self._load = load

    def __call__(self, partition: Partition) -> float:
        of_cuts = self._load.waits_ms.get(partition.bundle, {})
        return of_cuts.get(partition.cut or WHOLE_KEY, self._load.wait_ms)
