"""What a device knows of its link, and when it looks again: without clock or I/O, so that it can be simulated.

Times are in seconds on one clock that only moves forward, and passed in; what transfers and echoes take is in ms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from midstream.communication.chunks import CHUNK_BYTES
from midstream.partitioning import LinkEstimate

PROBE_EVERY_S = 1.0
# A probe is one small message for the round trip, and one large enough to say something about bandwidth: a chunk, but
# not more than this.
ECHO_BYTES, _MOST_PROBE_BYTES = 64, 32 << 10
# A chunk is what the link takes in this time, but not less than says something about its bandwidth.
_CHUNK_MS = 100.0
_SMALLEST_CHUNK_BYTES = 8 << 10


@dataclass(slots=True, eq=False)
class Transfer:
    """What was handed over to be sent, and when; ``behind`` others that were not acknowledged yet.

    ``acknowledged_s`` is when all of it was.
    """

    size_bytes: int
    began_s: float
    behind: bool
    acknowledged_s: float | None = None


class LinkWatch:
    """The estimate of one link, what is under way on it, and the rules by which it is measured. Not thread-safe."""

    def __init__(self) -> None:
        self.estimate = LinkEstimate()
        self._probed_s = self._freed_s = self._came_s = -math.inf
        self._under_way: set[Transfer] = set()
        self._bytes = 0
        # When what is under way will have left, as far as is known.
        self._busy_until_s = -math.inf
        self._awaited_bytes = 0

    def chunk_bytes(self) -> int:
        """As much as the link takes in a while; a link that was not measured yet counts as a slow one."""
        wanted = self.estimate.uplink_kbps / 8 * _CHUNK_MS if self.estimate.uplink_samples else 0.0
        return min(CHUNK_BYTES, max(_SMALLEST_CHUNK_BYTES, int(wanted)))

    def probe_bytes(self, now_s: float, every_s: float = PROBE_EVERY_S) -> int | None:
        """How large a probe to send now, beside an echo; None where the link was measured within that time."""
        if now_s - self._probed_s < every_s:
            return None
        self._probed_s = now_s
        # Where the link may have fallen, what was a moment on it before can now hold up all that follows.
        return _SMALLEST_CHUNK_BYTES if self.estimate.doubtful else min(_MOST_PROBE_BYTES, self.chunk_bytes())

    def begins(self, size_bytes: int, now_s: float) -> Transfer:
        """So many bytes are handed over to be sent."""
        transfer = Transfer(size_bytes, now_s, bool(self._under_way))
        start_s = max(now_s, self._busy_until_s) if self._under_way else now_s
        self._busy_until_s = start_s + self._takes_s(size_bytes)
        self._under_way.add(transfer)
        self._bytes += size_bytes
        return transfer

    def ends(self, transfer: Transfer, now_s: float, *, acknowledged: bool = True) -> None:
        """All of it was acknowledged, or what is left of it is not sent any more; the second time that is no news.

        A transfer that was handed over behind others had the link since the last of them was acknowledged.
        """
        if transfer not in self._under_way:
            return
        self._under_way.remove(transfer)
        self._bytes -= transfer.size_bytes
        if acknowledged:
            if transfer.behind and self._freed_s > transfer.began_s:
                self._learn(self.estimate.after_transfer(transfer.size_bytes, (now_s - self._freed_s) * 1e3), now_s)
            else:
                taken_ms = (now_s - transfer.began_s) * 1e3
                self._learn(self.estimate.after_acknowledged(transfer.size_bytes, taken_ms), now_s)
            self._freed_s = transfer.acknowledged_s = now_s
        # What follows has been on its way for as long as the acknowledgement was.
        ahead_s = self.estimate.rtt_ms / 1e3 if acknowledged else 0.0
        self._busy_until_s = now_s + max(0.0, self._takes_s(self._bytes) - ahead_s)

    def nothing_under_way(self) -> None:
        """The connection is gone, and with it what was on it."""
        self._under_way.clear()
        self._bytes = 0

    def awaits(self, reply_bytes: int) -> None:
        """A reply of so many bytes is to come; fewer than none: no longer."""
        self._awaited_bytes += reply_bytes

    def uplink_wait_ms(self, now_s: float) -> float:
        """What a transfer that began now would wait for those under way.

        One that should have been acknowledged already is expected to take as long again as it is late.
        """
        if not self._under_way:
            return 0.0
        left_s = self._busy_until_s - now_s
        return max(0.0, left_s, -left_s - self.estimate.rtt_ms / 1e3) * 1e3

    def downlink_wait_ms(self) -> float:
        """What the replies that are to come take of the downlink."""
        return self._awaited_bytes * 8 / self.estimate.downlink_kbps

    def after_echo(self, ms: float, transfer: Transfer, now_s: float) -> None:
        """A small message was acknowledged: the round trip, unless it had to wait for others."""
        self.ends(transfer, now_s, acknowledged=False)
        if not transfer.behind or ms < self.estimate.rtt_ms:
            self.estimate = self.estimate.after_echo(ms)

    def came_back(self, transfer: Transfer, received_bytes: int, gateway_ms: float, now_s: float) -> None:
        """Learn of the downlink from the reply to a request that the gateway had for so long.

        The acknowledgement left the broker when the request did: by what the reply comes later, and the gateway has not
        had, it was on the downlink, unless others were there before it.
        """
        if transfer.acknowledged_s is not None:
            began_s = max(transfer.acknowledged_s + gateway_ms / 1e3, self._came_s)
            self.estimate = self.estimate.after_transfer(received_bytes, (now_s - began_s) * 1e3, down=True)
        self._came_s = now_s

    def _takes_s(self, size_bytes: int) -> float:
        return size_bytes * 8 / self.estimate.uplink_kbps / 1e3

    def _learn(self, link: LinkEstimate, now_s: float) -> None:
        """One that tells of the bandwidth is as good as a probe; one that disagrees is held against one.

        The downlink counts as fast until it is shown.
        """
        if link.uplink_samples == self.estimate.uplink_samples:
            self.estimate = link
            return
        if link.downlink_samples == 0:
            link = link.alike_both_ways()
        self.estimate = link
        self._probed_s = -math.inf if link.doubtful else now_s
