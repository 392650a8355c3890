"""A board's cores and a wire: who comes first is served first, so that when something ends is known as it begins.

Times are seconds of the simulation.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterator

from midstream.traces import Trace


class Board:
    """Cores, and slices of which each runs one input at a time."""

    __slots__ = ("_cores", "_slices")

    def __init__(self, cores: int) -> None:
        # Ascending.
        self._cores = [0.0] * cores
        self._slices: dict[object, float] = {}

    def copy(self) -> Board:
        """Another that goes on from here."""
        found = Board(0)
        found._cores, found._slices = self._cores.copy(), self._slices.copy()
        return found

    def run(self, now_s: float, slice_name: object | None, work_s: float) -> tuple[float, float]:
        """Run a slice, or what is none (None), as soon as it and a core are free: from when to when."""
        start_s = max(now_s, self._cores[0])
        if slice_name is not None:
            start_s = max(start_s, self._slices.get(slice_name, 0.0))
        end_s = start_s + work_s
        del self._cores[0]
        insort(self._cores, end_s)
        if slice_name is not None:
            self._slices[slice_name] = end_s
        return start_s, end_s

    def encode(self, now_s: float, work_s: float) -> tuple[float, float]:
        """Encode, which several may do at once, as far as there are cores."""
        return self.run(now_s, None, work_s)

    def free(self) -> Iterator[tuple[object, float]]:
        """When each core and slice is free, by name."""
        yield from enumerate(self._cores)
        yield from self._slices.items()


class Wire:
    """One direction of a link: bytes leave one after another as the trace lets them, and arrive in their order."""

    __slots__ = ("_arrived_s", "_down", "_free_s", "_offset_s", "_trace")

    def __init__(self, trace: Trace, offset_s: float, *, down: bool = False) -> None:
        self._trace = trace
        self._offset_s = offset_s
        self._down = down
        self._free_s = 0.0
        self._arrived_s = 0.0

    def copy(self) -> Wire:
        """Another that goes on from here."""
        found = Wire(self._trace, self._offset_s, down=self._down)
        found._free_s, found._arrived_s = self._free_s, self._arrived_s
        return found

    def free(self) -> tuple[float, float]:
        """When the last bytes have left, and when they have arrived."""
        return self._free_s, self._arrived_s

    def send(self, now_s: float, size_bytes: float, until_s: float = math.inf) -> tuple[float, float]:
        """When these begin to leave, and when the last of them arrives: never, where it would not leave before.

        What has not left by then is not sent any more.
        """
        start_s = max(now_s, self._free_s)
        if start_s >= until_s:
            return start_s, math.inf
        left_s = self._trace.sent_s(start_s + self._offset_s, size_bytes, down=self._down) - self._offset_s
        if left_s > until_s:
            self._free_s = until_s
            return start_s, math.inf
        self._free_s = left_s
        if left_s == math.inf:
            return start_s, math.inf
        self._arrived_s = max(self._arrived_s, left_s + self.half_rtt_s(left_s))
        return start_s, self._arrived_s

    def half_rtt_s(self, now_s: float) -> float:
        """Half of the round trip at this time."""
        return self._trace.rtt_at(now_s + self._offset_s) / 2e3


def wires(trace: Trace, offset_s: float) -> tuple[Wire, Wire]:
    """A device's way up and its way down."""
    return Wire(trace, offset_s), Wire(trace, offset_s, down=True)
