"""When a device stops waiting for a gateway: in time to finish by itself."""

from __future__ import annotations

# Without a deadline a gateway that says nothing is given up after this long.
PATIENCE_MS = 10_000.0
# The device's own rest is expected to take up to this much longer than measured.
_RESERVE = 1.15
_RESERVE_MS = 2.0


def give_up_ms(deadline_ms: float | None, rest_ms: float, late_ms: float = 0.0) -> float:
    """Milliseconds after a request began, of which the device needs ``rest_ms`` to finish; in time, where it can be.

    ``late_ms`` is how late the machine is expected to notice. Where the rest alone takes longer than the deadline
    leaves, the gateway has all of it.
    """
    if deadline_ms is None:
        return PATIENCE_MS
    latest_ms = deadline_ms - rest_ms * _RESERVE - _RESERVE_MS - late_ms
    return latest_ms if latest_ms > 0 else deadline_ms
