"""What a history comes to, for each partition on each kind of machine."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isfinite

import numpy as np

from midstream.allocation.usage import Outcome, Partition, Usage

# Whoever asks for what nobody has names what he likes: these count together, under no name.
_UNKNOWN = frozenset({Outcome.UNKNOWN_BUNDLE, Outcome.UNKNOWN_CUT, Outcome.BAD_REQUEST})
_ANSWERED = frozenset({Outcome.OK, Outcome.FALLBACK})


@dataclass(frozen=True, slots=True)
class Spread:
    """How a time in ms was distributed: its mean, and what 50, 95 and 99 of 100 did not exceed."""

    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class PartitionSummary:
    """One partition on one kind of machine, "device" or "gateway".

    ``rate_hz`` is requests over the time from the first to the last. ``latency_ms`` is of those that were answered,
    ``queue_ms`` of those that had a worker; None where there were none. ``cpu_ms`` is the mean of those that had this
    step at all, bytes are sums, ``peak_bytes`` is the largest. What was asked for and is not there has an empty bundle.
    """

    machine: str
    bundle: str
    cut: str
    next_cut: str
    requests: int
    outcomes: dict[str, int]
    first_s: float
    last_s: float
    rate_hz: float | None
    latency_ms: Spread | None
    queue_ms: Spread | None
    cpu_ms: dict[str, float]
    received_bytes: int
    sent_bytes: int
    codecs: dict[str, int]
    peak_bytes: int | None


@dataclass(slots=True)
class _Tally:
    """What is known so far; eight bytes a request and time."""

    requests: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    codecs: Counter[str] = field(default_factory=Counter)
    first_s: float = float("inf")
    last_s: float = float("-inf")
    latency_ms: array[float] = field(default_factory=lambda: array("d"))
    queue_ms: array[float] = field(default_factory=lambda: array("d"))
    cpu_ms: dict[str, float] = field(default_factory=dict)
    cpu_runs: Counter[str] = field(default_factory=Counter)
    received_bytes: int = 0
    sent_bytes: int = 0
    peak_bytes: int | None = None

    def add(self, usage: Usage) -> None:
        self.requests += 1
        self.outcomes[usage.outcome.value] += 1
        self.first_s = min(self.first_s, usage.time_s)
        self.last_s = max(self.last_s, usage.time_s)
        if usage.outcome not in _UNKNOWN:
            self.codecs[usage.codec] += 1
        if usage.outcome in _ANSWERED:
            self.latency_ms.append(usage.latency_ms)
        if "queue" in usage.timings_ms:
            self.queue_ms.append(usage.timings_ms["queue"])
        for step, ms in usage.cpu_ms.items():
            if not isfinite(ms):
                continue
            self.cpu_ms[step] = self.cpu_ms.get(step, 0.0) + ms
            self.cpu_runs[step] += 1
        self.received_bytes += usage.received_bytes
        self.sent_bytes += usage.sent_bytes
        if usage.peak_bytes is not None:
            self.peak_bytes = max(self.peak_bytes or 0, usage.peak_bytes)

    def summary(self, machine: str, partition: Partition) -> PartitionSummary:
        lasted_s = self.last_s - self.first_s
        return PartitionSummary(
            machine,
            partition.bundle,
            partition.cut,
            partition.next_cut,
            self.requests,
            dict(self.outcomes.most_common()),
            self.first_s,
            self.last_s,
            # Between n requests there are n - 1 times.
            (self.requests - 1) / lasted_s if lasted_s > 0 else None,
            _spread(self.latency_ms),
            _spread(self.queue_ms),
            {step: ms / self.cpu_runs[step] for step, ms in self.cpu_ms.items()},
            self.received_bytes,
            self.sent_bytes,
            dict(self.codecs.most_common()),
            self.peak_bytes,
        )


def summarise(usages: Iterable[Usage]) -> list[PartitionSummary]:
    """What these come to, the partitions with the most requests first."""
    tallies: dict[tuple[str, Partition], _Tally] = {}
    for usage in usages:
        partition = Partition("", "") if usage.outcome in _UNKNOWN else usage.partition
        key = usage.machine, partition
        if key not in tallies:
            tallies[key] = _Tally()
        tallies[key].add(usage)
    found = [tally.summary(machine, partition) for (machine, partition), tally in tallies.items()]
    return sorted(found, key=lambda each: (-each.requests, each.machine, each.bundle, each.cut, each.next_cut))


def _spread(values: array[float]) -> Spread | None:
    known = np.frombuffer(values, np.float64) if values else np.empty(0)
    known = known[np.isfinite(known)]
    if not known.size:
        return None
    p50, p95, p99 = (float(value) for value in np.percentile(known, (50, 95, 99)))
    return Spread(float(known.mean()), p50, p95, p99)
