"""What keeps a device's slices busy: who runs there, what one that comes waits for it, and how often inputs come."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

# How a period is averaged; a pause counts as so many periods at most.
_PACE_GAIN, _MOST_LONGER = 0.1, 4.0


@dataclass(slots=True)
class Occupied:
    """A slice that runs one input at a time: how many are there, what they will take, and since when one runs."""

    inside: int = 0
    expected_ms: float = 0.0
    since_s: float = 0.0

    def enter(self, expected_ms: float, now_s: float) -> None:
        """One more has come."""
        if not self.inside:
            self.expected_ms, self.since_s = 0.0, now_s
        self.inside += 1
        self.expected_ms += expected_ms

    def leave(self, expected_ms: float, now_s: float) -> None:
        """One is done, and the next begins."""
        self.inside -= 1
        self.expected_ms = max(0.0, self.expected_ms - expected_ms)
        self.since_s = now_s

    def wait_ms(self, now_s: float) -> float:
        """What one that came now would wait."""
        return max(0.0, self.expected_ms - (now_s - self.since_s) * 1e3)


@dataclass(slots=True)
class Pace:
    """How often inputs come, as the last of them have."""

    period_ms: float | None = None
    last_s: float | None = None

    def came(self, now_s: float) -> None:
        """Another one has come."""
        if self.last_s is not None:
            gap_ms = (now_s - self.last_s) * 1e3
            known = gap_ms if self.period_ms is None else self.period_ms
            self.period_ms = known + _PACE_GAIN * (min(gap_ms, _MOST_LONGER * known) - known)
        self.last_s = now_s


class Run:
    """One run of a slice, a ``with`` block: who comes meanwhile waits for it.

    ``took_ms`` is what it took, without its own wait, once it is through. The ``lock`` guards what is ``occupied``.
    """

    __slots__ = ("_clock", "_entered_s", "_expected_ms", "_lock", "_occupied", "took_ms")

    def __init__(
        self, occupied: Occupied, expected_ms: float, lock: AbstractContextManager[object], clock: Callable[[], float]
    ) -> None:
        self._occupied = occupied
        self._expected_ms = expected_ms
        self._lock = lock
        self._clock = clock
        self._entered_s = 0.0
        self.took_ms = 0.0

    def __enter__(self) -> Run:
        with self._lock:
            self._entered_s = self._clock()
            self._occupied.enter(self._expected_ms, self._entered_s)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            now_s = self._clock()
            self.took_ms = (now_s - max(self._entered_s, self._occupied.since_s)) * 1e3
            self._occupied.leave(self._expected_ms, now_s)
