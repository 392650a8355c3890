"""A gateway at one moment, as it is shown: on its page, as JSON, as metrics, and to who asks whether it is well."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from midstream.allocation.intervals import Quantiles
from midstream.gateway.tallying import Histogram, StageCounts, StageName


class Target(StrEnum):
    """What is forecast of a partition for the next interval: the fields of a `Forecast`."""

    ARRIVALS = "arrivals"
    CPU_MS = "cpu_ms"
    MEMORY_BYTES = "memory_bytes"
    WAIT_MS = "wait_ms"


@dataclass(frozen=True, slots=True)
class PredictorStatus:
    """What one predictor says of one target.

    ``error`` is by how much its middle was off lately in the mean, in the target's unit, None where that is not known
    yet; ``chosen`` says that what is allocated follows this one.
    """

    name: str
    target: Target
    forecast: Quantiles
    error: float | None = None
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One stage of one bundle: what was counted, the slices that are kept loaded for it, and what is forecast.

    ``warm_slices`` are copies, ``warm_bytes`` the memory that they hold; None where that is not known.
    """

    name: StageName
    counts: StageCounts
    warm_slices: int | None = None
    warm_bytes: int | None = None
    predictors: tuple[PredictorStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class BundleStatus:
    """A bundle that is served, under the name that it has in ``PartitionStatus``, and its digest in hexadecimal."""

    name: str
    digest: str
    cuts: tuple[str, ...] = ()


class Condition(StrEnum):
    """Whether a gateway serves, and if not, why."""

    SERVING = "serving"
    STARTING = "starting"
    BROKER_LOST = "broker lost"
    DRAINING = "draining"

    @property
    def why(self) -> str:
        """In words for anybody: who may ask for them need not know where the broker is."""
        return _WHY[self]


_WHY = {
    Condition.SERVING: "it serves",
    Condition.STARTING: "it is not ready yet: its bundles are loaded and timed",
    Condition.BROKER_LOST: "the broker cannot be reached, and no request comes in",
    Condition.DRAINING: "it ends, and takes no new requests",
}


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """A gateway at ``time_s``, in seconds since 1970 (UTC).

    ``connected`` says whether the broker is reached; ``broker_error`` why not, where that is known. ``queue_length``
    requests wait; ``wait_ms`` is what one that came now would wait, and ``load`` the share of its ``workers`` that
    runs. ``free_bytes`` is the memory that this process could still take and ``peak_bytes`` the most that it has held,
    None where the system does not say.
    """

    gateway_id: str
    version: str
    time_s: float
    uptime_s: float
    condition: Condition
    connected: bool
    broker_error: str | None
    pool: str | None
    workers: int
    queue_length: int
    wait_ms: float
    load: float
    free_bytes: int | None
    peak_bytes: int | None
    bundles: tuple[BundleStatus, ...] = ()
    partitions: tuple[PartitionStatus, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The same in what JSON has."""
        return {
            "gateway": self.gateway_id,
            "version": self.version,
            "time_s": round(self.time_s, 3),
            "uptime_s": round(self.uptime_s, 3),
            "condition": self.condition.value,
            "connected": self.connected,
            "broker_error": self.broker_error,
            "pool": self.pool,
            "workers": self.workers,
            "queue_length": self.queue_length,
            "wait_ms": round(self.wait_ms, 3),
            "load": round(self.load, 4),
            "free_bytes": self.free_bytes,
            "peak_bytes": self.peak_bytes,
            "bundles": [
                {"name": bundle.name, "digest": bundle.digest, "cuts": list(bundle.cuts)} for bundle in self.bundles
            ],
            "partitions": [_partition(partition) for partition in self.partitions],
        }


def _partition(partition: PartitionStatus) -> dict[str, Any]:
    name, counts = partition.name, partition.counts
    return {
        "bundle": name.bundle,
        "cut": name.cut,
        "next_cut": name.next_cut,
        "requests": {outcome.value: count for outcome, count in counts.requests.items()},
        "priorities": dict(counts.priorities),
        "received_bytes": counts.received_bytes,
        "sent_bytes": counts.sent_bytes,
        "cpu_ms": _rounded(counts.cpu_ms),
        "wait_ms": _mean(counts.wait_ms),
        "run_ms": _mean(counts.run_ms),
        "latency_ms": _mean(counts.latency_ms),
        "batch": _mean(counts.batch),
        "warm_slices": partition.warm_slices,
        "warm_bytes": partition.warm_bytes,
        "predictors": [
            {
                "name": predictor.name,
                "target": predictor.target.value,
                "low": _finite(predictor.forecast.low),
                "middle": _finite(predictor.forecast.middle),
                "high": _finite(predictor.forecast.high),
                "error": _finite(predictor.error),
                "chosen": predictor.chosen,
            }
            for predictor in partition.predictors
        ],
    }


def _finite(value: float | None) -> float | None:
    """JSON has no other numbers."""
    return value if value is not None and math.isfinite(value) else None


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 3) for key, value in values.items()}


def _mean(histogram: Histogram) -> float | None:
    return None if histogram.mean is None else round(histogram.mean, 3)
