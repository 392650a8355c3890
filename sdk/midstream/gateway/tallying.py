"""What a gateway has done since it started, counted by stage: requests by how they ended, times, bytes."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from midstream.allocation.usage import Outcome, Partition, Usage
from midstream.communication.wire import Priority
from midstream.errors import printable

OTHER = "other"
"""Stands for whatever a peer has named that this gateway has not."""
INPUT, OUTPUT = "input", "output"
TIME_BOUNDS_MS = (0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0)
BATCH_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_PRIORITIES = {priority.value: priority.name.lower() for priority in Priority}
_MAX_NAME = 64
_DIGEST_DIGITS = 12


@dataclass(frozen=True, slots=True, order=True)
class StageName:
    """A stage as people read it: the bundle's name, and where it begins ("input") and ends ("output")."""

    bundle: str
    cut: str
    next_cut: str


@dataclass(frozen=True, slots=True)
class Known:
    """A bundle that is served: its digest in hexadecimal, and the ids of its cuts and of its slices between two."""

    name: str
    digest: str
    cuts: tuple[str, ...] = ()
    middles: tuple[tuple[str, str], ...] = ()


class StageNames:
    """Names only what the gateway itself has, so that nobody who sends requests can make more names.

    Two bundles of one name are told apart by the beginning of their digests.
    """

    def __init__(self, bundles: Iterable[Known]) -> None:
        bundles = tuple(bundles)
        shown = Counter(printable(bundle.name, _MAX_NAME) for bundle in bundles)
        self.bundles: dict[str, str] = {}
        self._names: dict[Partition, StageName] = {}
        for bundle in bundles:
            name = printable(bundle.name, _MAX_NAME)
            if shown[name] > 1 or name in ("", OTHER):
                name = f"{name} {bundle.digest[:_DIGEST_DIGITS]}".strip()
            self.bundles[bundle.digest] = name
            ends = [("", ""), *((cut, "") for cut in bundle.cuts), *(("", cut) for cut in bundle.cuts)]
            for cut, next_cut in (*ends, *bundle.middles):
                known = StageName(name, printable(cut, _MAX_NAME) or INPUT, printable(next_cut, _MAX_NAME) or OUTPUT)
                self._names[Partition(bundle.digest, cut, next_cut)] = known

    def stages(self) -> dict[StageName, Partition]:
        """The stages that it names, by what they are called."""
        return {name: partition for partition, name in self._names.items()}

    def of(self, partition: Partition) -> StageName:
        """What a stage is called."""
        name = self._names.get(partition)
        if name is None:
            name = StageName(self.bundles.get(partition.bundle, OTHER), OTHER, OTHER)
        return name


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values were at most as large as each bound and above the one before; the last count has no bound."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """How many values."""
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """Their mean; None without any."""
        return self.total / self.count if self.count else None


def added(histograms: Sequence[Histogram]) -> Histogram:
    """One of all values of these, which have the same bounds."""
    counts = tuple(map(sum, zip(*(each.counts for each in histograms), strict=True)))
    return Histogram(histograms[0].bounds, counts, sum(each.total for each in histograms))


@dataclass(frozen=True, slots=True)
class StageCounts:
    """One stage since the gateway started.

    ``requests`` are by how they ended and ``priorities`` by their class. ``cpu_ms`` is processor time by step.
    ``wait_ms`` and ``run_ms`` are of those that had a worker, ``latency_ms`` of those that ended well, and ``batch``
    has, for each request that ran, how many ran in one go with it.
    """

    requests: Mapping[Outcome, int]
    priorities: Mapping[str, int]
    received_bytes: int
    sent_bytes: int
    cpu_ms: Mapping[str, float]
    wait_ms: Histogram
    run_ms: Histogram
    latency_ms: Histogram
    batch: Histogram


class Tally:
    """Counts each `Usage` that it is called with. Thread-safe."""

    def __init__(self, names: StageNames) -> None:
        self._names = names
        self._lock = threading.Lock()
        self._stages: dict[StageName, _Stage] = {}

    def __call__(self, usage: Usage) -> None:
        """Count it."""
        name = self._names.of(usage.partition)
        with self._lock:
            stage = self._stages.get(name)
            if stage is None:
                stage = self._stages[name] = _Stage()
            stage.add(usage)

    def counts(self) -> dict[StageName, StageCounts]:
        """What was counted so far, by stage, in the order of their names."""
        with self._lock:
            return {name: stage.counts() for name, stage in sorted(self._stages.items())}


class _Stage:
    def __init__(self) -> None:
        self._requests: Counter[Outcome] = Counter()
        self._priorities: Counter[int] = Counter()
        self._received_bytes = 0
        self._sent_bytes = 0
        self._cpu_ms: dict[str, float] = {}
        self._wait, self._run, self._latency = (_Bins(TIME_BOUNDS_MS) for _ in range(3))
        self._batch = _Bins(BATCH_BOUNDS)

    def add(self, usage: Usage) -> None:
        self._requests[usage.outcome] += 1
        self._priorities[usage.priority] += 1
        self._received_bytes += usage.received_bytes
        self._sent_bytes += usage.sent_bytes
        for step, ms in usage.cpu_ms.items():
            self._cpu_ms[step] = self._cpu_ms.get(step, 0.0) + ms
        timings = usage.timings_ms
        if "queue" in timings:
            self._wait.add(timings["queue"])
        if "run" in timings:
            self._run.add(timings["run"])
            self._batch.add(usage.batch)
        if usage.outcome is Outcome.OK:
            self._latency.add(usage.latency_ms)

    def counts(self) -> StageCounts:
        return StageCounts(
            dict(self._requests),
            {_PRIORITIES.get(number, OTHER): count for number, count in self._priorities.items()},
            self._received_bytes,
            self._sent_bytes,
            dict(self._cpu_ms),
            self._wait.histogram(),
            self._run.histogram(),
            self._latency.histogram(),
            self._batch.histogram(),
        )


class _Bins:
    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def histogram(self) -> Histogram:
        return Histogram(self._bounds, tuple(self._counts), self._total)
