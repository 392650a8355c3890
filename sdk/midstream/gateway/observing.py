"""Who is told what each stage has used: counters, history, forecasts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from midstream.allocation.usage import Outcome, Usage
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


def refused(device_id: str, request: Request, size_bytes: int, status: Status, reason: str) -> Usage:
    """A request that was not let in."""
    return Usage(
        time_s=time.time(),
        request_id=request.request_id,
        machine="gateway",
        device_id=device_id,
        bundle=request.bundle_digest.hex(),
        cut=request.cut,
        codec=request.codec,
        outcome=outcome_of(status),
        next_cut=request.onward[0].cut if request.onward else "",
        priority=int(request.priority),
        deadline_ms=float(request.deadline_ms),
        score=request.score,
        features=dict(request.features),
        received_bytes=size_bytes,
        reason=reason,
    )


def outcome_of(status: Status) -> Outcome:
    """How a status is counted."""
    return Outcome(status.name.lower())
