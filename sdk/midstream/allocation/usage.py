"""What one stage of one request asked for and used: counted, kept in the history, and what forecasts are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """How a stage ended, as it is counted and kept."""

    OK = "ok"
    EXPIRED = "expired"
    UNKNOWN_BUNDLE = "unknown_bundle"
    UNKNOWN_CUT = "unknown_cut"
    BAD_REQUEST = "bad_request"
    BUSY = "busy"
    FAILED = "failed"
    CANNOT_FORWARD = "cannot_forward"
    CANCELLED = "cancelled"
    FALLBACK = "fallback"
    """On a device: the plan was another, and the answer came from here."""


@dataclass(frozen=True, slots=True)
class Usage:
    """One stage of one request, once it has ended.

    ``time_s`` is when it came, in seconds since 1970 (UTC). ``machine`` is "gateway" or "device". ``bundle`` is the
    digest in hexadecimal; the stage begins at ``cut`` and ends at ``next_cut``, of which the empty one is the whole
    input, and the model's end. ``score`` and ``features`` are the input's. ``plan`` is what was decided, on a device:
    the stages, codec, and what was predicted.

    ``cpu_ms`` is processor time by step ("decode", "run", "encode"; on a device "analysis", "plan", "device", …) and
    ``timings_ms`` time by the clock ("queue", "run", "link", "total", …). ``peak_bytes`` is the most memory that this
    process has held resident so far, None where the system does not say. A stage that ran with others at once says in
    ``batch`` how many these were, and counts its share of their processor time. ``latency_ms`` is from when it came to
    when its answer was handed on.
    """

    time_s: float
    request_id: bytes
    machine: str
    device_id: str
    bundle: str
    cut: str
    codec: str
    outcome: Outcome
    next_cut: str = ""
    priority: int = 1
    deadline_ms: float | None = None
    score: float | None = None
    features: Mapping[str, float] = field(default_factory=dict)
    plan: Mapping[str, object] = field(default_factory=dict)
    cpu_ms: Mapping[str, float] = field(default_factory=dict)
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    peak_bytes: int | None = None
    received_bytes: int = 0
    sent_bytes: int = 0
    batch: int = 1
    latency_ms: float = 0.0
    reason: str = ""

    @property
    def partition(self) -> Partition:
        """What it is forecast with."""
        return Partition(self.bundle, self.cut, self.next_cut)

    @property
    def service_ms(self) -> float:
        """How long it had a worker; of a run of several, its share."""
        return service_ms(self.timings_ms, self.batch)


def service_ms(timings_ms: Mapping[str, float], batch: int) -> float:
    """How long a stage had a worker, by its steps' times; so many ran at once, but were not decoded and encoded so."""
    alone_ms = timings_ms.get("decode", 0.0) + timings_ms.get("encode", 0.0)
    return alone_ms + timings_ms.get("run", 0.0) / batch


@dataclass(frozen=True, slots=True, order=True)
class Partition:
    """A stage of a bundle: from ``cut`` (empty: the whole input) to ``next_cut`` (empty: the model's end)."""

    bundle: str
    cut: str
    next_cut: str = ""
