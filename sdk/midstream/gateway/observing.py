"""Who is told what each stage has used: counters, history, forecasts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from midstream.allocation.usage import Outcome, Partition, Usage
from midstream.communication.wire import Request, Status
from midstream.gateway.logs import about

_log = logging.getLogger("midstream.gateway")

Observe = Callable[[Usage], None]


class Observers:
    """Hands each `Usage` to all that were added, on whatever thread it comes from; they must not wait."""

    def __init__(self) -> None:
        self._observers: tuple[Observe, ...] = ()

    def add(self, observe: Observe) -> None:
        """Tell this one, too, from now on."""
        self._observers = (*self._observers, observe)

    def __call__(self, usage: Usage) -> None:
        """Tell them. What one of them raises is logged, and the others are told all the same."""
        for observe in self._observers:
            try:
                observe(usage)
            except Exception:  # noqa: BLE001  a request that was answered is not lost for a figure
                extra = about(usage.device_id, usage.request_id)
                _log.exception("what a request has used could not be noted", extra=extra)


def partition_of(request: Request) -> Partition:
    """The stage that a request asks for."""
    return Partition(request.bundle_digest.hex(), request.cut, request.onward[0].cut if request.onward else "")


def usage_of(
    device_id: str,
    request: Request,
    partition: Partition,
    outcome: Outcome,
    reason: str,
    *,
    lasted_s: float = 0.0,
    **measured: Any,
) -> Usage:
    """A request that came ``lasted_s`` ago and has ended now, with what was ``measured`` of it: fields of `Usage`."""
    return Usage(
        time_s=time.time() - lasted_s,
        request_id=request.request_id,
        machine="gateway",
        device_id=device_id,
        bundle=partition.bundle,
        cut=partition.cut,
        codec=request.codec,
        outcome=outcome,
        next_cut=partition.next_cut,
        priority=int(request.priority),
        deadline_ms=float(request.deadline_ms),
        score=request.score,
        features=dict(request.features),
        latency_ms=lasted_s * 1e3,
        reason=reason,
        **measured,
    )


def refused(device_id: str, request: Request, size_bytes: int, status: Status, reason: str) -> Usage:
    """A request that was not let in."""
    outcome = outcome_of(status)
    return usage_of(device_id, request, partition_of(request), outcome, reason, received_bytes=size_bytes)


def outcome_of(status: Status) -> Outcome:
    """How a status is counted."""
    return Outcome(status.name.lower())
