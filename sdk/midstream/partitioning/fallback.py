"""When a device stops waiting for a gateway: in time to finish by itself."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Times = TypeVar("Times", float, NDArray[np.float64])

# Without a deadline a gateway that says nothing is given up after this long at last.
PATIENCE_MS = 10_000.0
# The device's own rest is expected to take up to this much longer than measured.
_RESERVE = 1.15
_RESERVE_MS = 2.0
# What is late may be so for so many times what finishing here is worth.
_WORTH = 2.0
# Nothing is given up for being late by less than this, or than it was expected to take.
_LEAST_LATE_MS = 100.0


def give_up_ms(deadline_ms: float | None, rest_ms: float, late_ms: float = 0.0) -> float:
    """Milliseconds after a request began, of which the device needs ``rest_ms`` to finish; in time, where it can be.

    ``late_ms`` is how late the machine is expected to notice. Where the rest alone takes longer than the deadline
    leaves, the gateway has all of it.
    """
    if deadline_ms is None:
        return PATIENCE_MS
    latest_ms = deadline_ms - reserved_ms(rest_ms) - late_ms
    return latest_ms if latest_ms > 0 else deadline_ms


def reserved_ms(ms: Times) -> Times:
    """What is set aside for work that is expected to take so long."""
    return ms * _RESERVE + _RESERVE_MS


def patience_ms(predicted_ms: float, worth_ms: float) -> float:
    """Milliseconds to wait for an answer that was to take ``predicted_ms``, where no deadline says so.

    ``worth_ms`` is how long the device may wait at the price of finishing by itself: as long as it would take, by
    latency; by energy, as it could idle for the same. Twice as long is waited beyond what was predicted, which costs at
    most three times what finishing here at once would have: the rule for renting or buying skis, which is to pay as
    much in rent as they cost (Karlin et al., "Competitive snoopy caching", 1988), with more patience.
    """
    return min(PATIENCE_MS, predicted_ms + max(_WORTH * worth_ms, predicted_ms, _LEAST_LATE_MS))
