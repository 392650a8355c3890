"""A circuit breaker: a gateway that failed is not asked until it has answered a probe. Time is passed in.

A dead gateway so costs the one request that found out, and no other; one that recovers is used again with the first
probe that it answers.
"""

from __future__ import annotations

# After a failure a gateway is left alone for this long, doubled at each further failure without an answer between.
FIRST_REST_S, LONGEST_REST_S = 0.5, 15.0
# Then it is probed, at first this often, and at last.
_FIRST_PROBE_S, _LONGEST_PROBE_S = 0.25, 2.0


class Breaker:
    """Whether one gateway may be asked. Closed: it may. Open: it rests, then is probed. Not thread-safe.

    A gateway that answers probes but fails requests is asked once after each rest, which is twice as long each time.
    """

    def __init__(self) -> None:
        self._rest_s = 0.0
        self._open = False
        self._probe_s = 0.0
        self._pause_s = _FIRST_PROBE_S

    @property
    def closed(self) -> bool:
        """Whether it may be asked."""
        return not self._open

    def failed(self, now_s: float) -> None:
        """It has not answered a request. Those that failed together with one before count once."""
        if self._open:
            return
        self._rest_s = FIRST_REST_S if not self._rest_s else min(2 * self._rest_s, LONGEST_REST_S)
        self._open = True
        self._probe_s = now_s + self._rest_s
        self._pause_s = _FIRST_PROBE_S

    def answered(self) -> None:
        """It has answered a request: it is as good as new."""
        self._open = False
        self._rest_s = 0.0

    def probe_due(self, now_s: float) -> bool:
        """Whether to probe it now."""
        return self._open and now_s >= self._probe_s

    def probed(self, now_s: float) -> None:
        """A probe was sent."""
        self._probe_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PROBE_S)

    def echoed(self) -> bool:
        """It has answered a probe; returns whether that ends its rest. A late answer from before the rest does not."""
        if not self._open or self._pause_s == _FIRST_PROBE_S:
            return False
        self._open = False
        return True

    def rest_left_s(self, now_s: float) -> float:
        """For how long it will not even be probed."""
        return max(0.0, self._probe_s - now_s) if self._open else 0.0
