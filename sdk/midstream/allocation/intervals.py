"""What a gateway's partitions asked for and got, interval by interval, and what the next one is forecast to ask for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace

from midstream.allocation.usage import Outcome, Partition, Usage

INTERVAL_S = 1.0
# So many features of a partition are averaged.
_MOST_FEATURES = 32
_IDLE_S = 600.0
_SERVICE_WEIGHT = 0.003


@dataclass(frozen=True, slots=True)
class Interval:
    """One partition in one interval.

    ``arrivals`` are all requests that came, of which ``refused`` were not let in; of the others, ``served`` ended in
    this interval. ``cpu_ms`` is the processor time that these took, ``memory_bytes`` what the partition's slices held
    at its end. ``wait_ms`` is the mean wait for a worker of those that came in it and were let in, 0 where none was;
    of those that wait still it is what the queue lets expect. ``service_ms`` is the mean time of a run and
    ``service_cv2`` its squared coefficient of variation, as known at its end.
    ``queue_ms`` is what a request that came at its end would have waited, by the gateway's own report, and ``busy`` the
    share of the workers' time in which they ran, for whatever partition. ``score`` is the mean complexity score and
    ``features`` the mean features of those that came, empty where none did.
    """

    start_s: float
    length_s: float
    arrivals: int
    served: int = 0
    refused: int = 0
    cpu_ms: float = 0.0
    memory_bytes: float = 0.0
    wait_ms: float = 0.0
    service_ms: float = 0.0
    service_cv2: float = 0.0
    queue_ms: float = 0.0
    busy: float = 0.0
    score: float = 0.0
    features: Mapping[str, float] = field(default_factory=dict)

    def mean_second(self) -> Interval:
        """As it was in the mean in `INTERVAL_S`, where it was longer, as when who closes it was kept from that."""
        share = min(1.0, INTERVAL_S / self.length_s)
        counts = {name: round(share * getattr(self, name)) for name in ("arrivals", "served", "refused")}
        return replace(self, length_s=share * self.length_s, cpu_ms=share * self.cpu_ms, **counts)


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A forecast of one number: at most ``low`` one time in ten, ``middle`` one in two, ``high`` nine in ten."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a partition is forecast to ask for and get in the next interval; as in `Interval`."""

    arrivals: Quantiles
    cpu_ms: Quantiles
    memory_bytes: Quantiles
    wait_ms: Quantiles


class Intervals:
    """Collects one gateway's intervals while its requests come, run and end.

    All times are on one clock, the one of `Usage.time_s`. Not thread-safe: it belongs to one owner, who reads the
    clock and closes an interval about once each `INTERVAL_S`. It knows ``most`` partitions; for a newer one the one
    asked for least lately is forgotten, as is one that nobody has asked for in ten minutes.
    """

    def __init__(self, start_s: float, most: int = 256) -> None:
        self._start_s = start_s
        self._most = most
        self._open: dict[Partition, _Open] = {}

    @property
    def partitions(self) -> Set[Partition]:
        """Those that it knows."""
        return self._open.keys()

    def arrived(self, partition: Partition, now_s: float, score: float | None, features: Mapping[str, float]) -> None:
        """A request has come, whether it will be let in or not."""
        known = self._open.get(partition)
        if known is None:
            if len(self._open) >= self._most:
                del self._open[min(self._open, key=lambda each: self._open[each].last_s)]
            known = self._open[partition] = _Open()
        known.last_s = now_s
        known.arrivals += 1
        known.waiting += 1
        known.came_s += now_s - self._start_s
        if score is not None:
            known.scores += 1
            known.score += min(max(score, 0.0), 100.0)
        sums = known.features
        for name, value in features.items():
            held = sums.get(name)
            if held is not None:
                held[0] += 1
                held[1] += value
            elif len(sums) < _MOST_FEATURES:
                sums[name] = [1, value]

    def began(self, partition: Partition, arrived_s: float, now_s: float) -> None:
        """A worker has begun to run a request."""
        known = self._open.get(partition)
        if known is not None and arrived_s >= self._start_s:
            known.waiting -= 1
            known.came_s -= arrived_s - self._start_s
            known.begun += 1
            known.waited_s += now_s - arrived_s

    def ended(self, usage: Usage) -> None:
        """A request has ended, in whatever way."""
        if usage.outcome is Outcome.BUSY:
            self.refused(usage.partition, usage.time_s)
        elif usage.outcome in (Outcome.EXPIRED, Outcome.CANCELLED):
            self.left(usage.partition, usage.time_s)
        elif usage.outcome is Outcome.OK:
            self.served(usage.partition, sum(usage.cpu_ms.values()), usage.service_ms)

    def served(self, partition: Partition, cpu_ms: float, service_ms: float) -> None:
        """A request was answered that took so much processor time, and so much of one worker's time."""
        known = self._open.get(partition)
        if known is not None:
            known.served += 1
            known.cpu_ms += cpu_ms
            known.service.add(service_ms)

    def refused(self, partition: Partition, arrived_s: float) -> None:
        """A request was not let in."""
        known = self._open.get(partition)
        if known is not None:
            known.refused += 1
        self.left(partition, arrived_s)

    def left(self, partition: Partition, arrived_s: float) -> None:
        """A request waits no longer, and was not run."""
        known = self._open.get(partition)
        if known is not None and arrived_s >= self._start_s:
            known.waiting -= 1
            known.came_s -= arrived_s - self._start_s

    def close(
        self,
        now_s: float,
        queue_ms: Mapping[Partition, float],
        memory_bytes: Mapping[Partition, float],
        busy: float,
    ) -> dict[Partition, Interval]:
        """What was since the last call, for every partition known; ``queue_ms`` and what follows are as in `Interval`.

        How long those will wait that wait still is estimated: they begin, evenly, from when those that came before
        this interval have begun until a request that came now would.
        """
        start_s, self._start_s = self._start_s, now_s
        length_s = now_s - start_s
        closed = {}
        for partition, known in list(self._open.items()):
            wait_ms = queue_ms.get(partition, 0.0)
            closed[partition] = Interval(
                start_s,
                length_s,
                known.arrivals,
                known.served,
                known.refused,
                known.cpu_ms,
                memory_bytes.get(partition, 0.0),
                known.wait_ms(length_s, wait_ms),
                known.service.mean,
                known.service.cv2,
                wait_ms,
                busy,
                known.score / known.scores if known.scores else 0.0,
                {name: total / count for name, (count, total) in known.features.items() if math.isfinite(total)},
            )
            known.clear(wait_ms)
            if now_s - known.last_s > _IDLE_S:
                del self._open[partition]
        return closed


class _Service:
    """Mean and variance of the last three hundred or so, by Welford's recurrence with a weight that stops falling."""

    __slots__ = ("count", "mean", "variance")

    def __init__(self) -> None:
        self.count, self.mean, self.variance = 0, 0.0, 0.0

    def add(self, value: float) -> None:
        self.count += 1
        weight = max(1 / self.count, _SERVICE_WEIGHT)
        off = value - self.mean
        self.mean += weight * off
        self.variance += weight * ((1 - weight) * off * off - self.variance)

    @property
    def cv2(self) -> float:
        return self.variance / (self.mean * self.mean) if self.mean > 0 else 0.0


class _Open:
    """One partition in the interval that is not over: sums, and who has come in it and waits."""

    __slots__ = (
        "arrivals", "begun", "came_s", "cpu_ms", "features", "last_s", "queue_ms", "refused", "score", "scores",
        "served", "service", "waited_s", "waiting",
    )  # fmt: skip

    def __init__(self) -> None:
        self.service = _Service()
        self.last_s = 0.0
        self.clear(0.0)

    def clear(self, queue_ms: float) -> None:
        """The next interval begins; at its start a request would have waited so long."""
        self.queue_ms = queue_ms
        self.arrivals = self.served = self.refused = self.scores = self.begun = self.waiting = 0
        self.cpu_ms = self.score = self.waited_s = self.came_s = 0.0
        self.features: dict[str, list[float]] = {}

    def wait_ms(self, length_s: float, queue_ms: float) -> float:
        """The mean wait of those that came in the interval, which ends now and was so long."""
        waiting = max(self.waiting, 0)
        if not self.begun + waiting:
            return 0.0
        waited_s = self.waited_s
        if waiting:
            older_s = min(max(self.queue_ms / 1e3 - length_s, 0.0), queue_ms / 1e3)
            waited_s += waiting * (length_s + (older_s + queue_ms / 1e3) / 2) - self.came_s
        return 1e3 * waited_s / (self.begun + waiting)
