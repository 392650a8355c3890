"""Packing: small requests wait for each other while the link is busy with one, never longer than their deadlines allow.

Like Nagle's algorithm (RFC 896) for TCP, but bounded by time. A small request goes at once where no other one of this
device is with the gateway. Otherwise it waits, with those that come after it, until those under way are answered, the
link should have taken what was sent before, a message is full, or the slack of one of them is used up. So what waits
here would have waited for the link. Time is passed in, on one clock that only moves forward.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from midstream.communication.packs import MAX_PACK_BYTES, MAX_PACKED, packed_bytes
from midstream.communication.wire import with_deadline

SMALL_BYTES = 8 << 10
# A pack is one unit on its way: larger ones come so late as a whole that the way back lies idle meanwhile. So it is
# full at one TCP segment, or what the link takes in this time.
FULL_BYTES = 1400
_FULL_MS = 5.0
# However late a deadline is, or where there is none, no request waits longer than this.
LONGEST_HOLD_MS = 20.0
# What cannot be held for so long is not held at all: timers are that late, and waking up costs as much.
_SHORTEST_HOLD_MS = 0.5
# What a message takes on its way beside its own bytes: headers, and being handled at either end.
_HEADERS_BYTES = 190
_HANDLING_MS = 1.0
# Of the time that the link is predicted to take, so that it has not been idle for long when the next message comes.
_LINK_SHARE = 0.5
# A request is expected to take up to this much longer than predicted.
_RESERVE = 1.5
_RESERVE_MS = 5.0


@dataclass(frozen=True, slots=True)
class SmallRequest:
    """An encoded request: when it was ready, the time that remained then, and what it takes the gateway."""

    request_id: bytes
    message: bytes
    ready_s: float
    deadline_ms: int
    work_ms: float = 0.0

    def at(self, now_s: float) -> bytes:
        """The message as it is to be sent now, with what remains of its time."""
        remaining_ms = max(1, int(self.deadline_ms - (now_s - self.ready_s) * 1e3))
        return self.message if remaining_ms == self.deadline_ms else with_deadline(self.message, remaining_ms)


@dataclass(frozen=True, slots=True)
class Way:
    """What a message to the gateway takes: round trip and queue there, ms; the uplink, kbit/s.

    ``pack_bytes`` is how long a pack may be, for the broker to take it as one MQTT message.
    """

    round_trip_ms: float
    queue_ms: float
    uplink_kbps: float
    pack_bytes: int = MAX_PACK_BYTES

    @property
    def full_bytes(self) -> int:
        """What a pack has at most, where it could have fewer."""
        return min(self.pack_bytes, max(FULL_BYTES, int(self.uplink_kbps / 8 * _FULL_MS)))

    @property
    def small_bytes(self) -> int:
        """Up to this length a request is small: two of them fit into a pack."""
        return min(SMALL_BYTES, (self.full_bytes - packed_bytes(())) // 2 - 16)


def due_s(requests: Iterable[SmallRequest], way: Way) -> float:
    """When these, sent in one message, must go: none is held for more than 20 ms, nor until it may come too late.

    Each is taken to be answered last, after the way of the whole message and the work of all.
    """
    held = list(requests)
    size = _HEADERS_BYTES + packed_bytes([request.message for request in held])
    work_ms = sum(request.work_ms for request in held)
    predicted_ms = way.round_trip_ms + way.queue_ms + work_ms + size * 8 / way.uplink_kbps
    reserved_ms = predicted_ms * _RESERVE + _RESERVE_MS
    return min(request.ready_s + min(LONGEST_HOLD_MS, request.deadline_ms - reserved_ms) / 1e3 for request in held)


class Packer:
    """The small requests of one device to one gateway: those under way, and those that wait. Not thread-safe.

    What a method returns is to be sent now, in one message. Whoever offers a request calls `forget` when it is answered
    or given up.
    """

    def __init__(self) -> None:
        self._under_way: set[bytes] = set()
        self._held: list[SmallRequest] = []
        self._due_s = 0.0
        # When the link has taken what was sent, at this rate.
        self._free_s = 0.0
        self._uplink_kbps = 1.0

    @property
    def due_s(self) -> float | None:
        """When those that wait must go at the latest; None where none waits."""
        return self._due_s if self._held else None

    def holds(self, request_id: bytes) -> bool:
        """Whether this request waits."""
        return any(request.request_id == request_id for request in self._held)

    def offer(self, request: SmallRequest, way: Way, now_s: float) -> Sequence[SmallRequest]:
        """Take a small request. Due now is it, with those that wait or alone, or those it cannot wait with, or none."""
        self._uplink_kbps = way.uplink_kbps
        soon_s = now_s + _SHORTEST_HOLD_MS / 1e3
        if not self._under_way or due_s([request], way) < soon_s:
            return self._sent([request], now_s)
        joined = [*self._held, request]
        full = len(joined) > MAX_PACKED or packed_bytes([held.message for held in joined]) > way.full_bytes
        before: Sequence[SmallRequest] = ()
        if full or due_s(joined, way) <= now_s:
            before, joined = self._sent(self._held, now_s), [request]
        self._held, self._due_s = joined, min(due_s(joined, way), self._free_s)
        return before or (self._release(now_s) if self._due_s < soon_s else ())

    def overdue(self, now_s: float) -> Sequence[SmallRequest]:
        """Those that wait, where one of them must go by now."""
        return self._release(now_s) if self._held and now_s >= self._due_s else ()

    def forget(self, request_id: bytes, now_s: float) -> Sequence[SmallRequest]:
        """A request was answered or given up: those that wait, where it was the last one under way."""
        self._held = [request for request in self._held if request.request_id != request_id]
        if request_id not in self._under_way:
            return ()
        self._under_way.remove(request_id)
        return () if self._under_way else self._release(now_s)

    def _release(self, now_s: float) -> Sequence[SmallRequest]:
        released, self._held = self._held, []
        return self._sent(released, now_s) if released else ()

    def _sent(self, requests: Sequence[SmallRequest], now_s: float) -> Sequence[SmallRequest]:
        self._under_way.update(request.request_id for request in requests)
        size = _HEADERS_BYTES + sum(len(request.message) for request in requests)
        self._free_s = max(self._free_s, now_s) + (_LINK_SHARE * size * 8 / self._uplink_kbps + _HANDLING_MS) / 1e3
        return requests
