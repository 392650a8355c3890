"""What a device knows of its link, and when it looks again: without clock or I/O, so that it can be simulated.

Times are in seconds on one clock that only moves forward, and passed in; what transfers and echoes take is in ms.
"""

from __future__ import annotations

import math
from dataclasses import replace

from midstream.communication.chunks import CHUNK_BYTES
from midstream.partitioning import LinkEstimate

PROBE_EVERY_S = 1.0
# A probe is one small message for the round trip, and one large enough to say something about bandwidth: a chunk, but
# not more than this.
ECHO_BYTES, _MOST_PROBE_BYTES = 64, 32 << 10
# A chunk is what the link takes in this time, but not less than says something about its bandwidth.
_CHUNK_MS = 100.0
_SMALLEST_CHUNK_BYTES = 8 << 10
# What of a round trip's time is left for the downlink must be at least this share to say something about it.
_DOWN_SHARE = 0.25


class LinkWatch:
    """The estimate of one link, and the rules by which it is measured. Not thread-safe."""

    def __init__(self) -> None:
        self.estimate = LinkEstimate()
        self._probed_s = self._probe_ended_s = -math.inf

    def chunk_bytes(self) -> int:
        """As much as the link takes in a while; a link that was not measured yet counts as a slow one."""
        wanted = self.estimate.uplink_kbps / 8 * _CHUNK_MS if self.estimate.uplink_samples else 0.0
        return min(CHUNK_BYTES, max(_SMALLEST_CHUNK_BYTES, int(wanted)))

    def probe_bytes(self, now_s: float) -> int | None:
        """How large a probe to send now, beside an echo; None where the link was measured lately."""
        if now_s - self._probed_s < PROBE_EVERY_S:
            return None
        self._probed_s = now_s
        # Where the link may have fallen, what was a moment on it before can now hold up all that follows.
        return _SMALLEST_CHUNK_BYTES if self.estimate.doubtful else min(_MOST_PROBE_BYTES, self.chunk_bytes())

    def after_echo(self, ms: float) -> None:
        """A small message was acknowledged."""
        self.estimate = self.estimate.after_echo(ms)

    def after_probe(self, size_bytes: int, ms: float, now_s: float) -> None:
        """A probe of this size was acknowledged."""
        self._after_transfer(size_bytes, ms, now_s)
        self._probe_ended_s = now_s

    def after_request(self, size_bytes: int, ms: float, now_s: float) -> None:
        """A transfer was acknowledged. What had to wait behind a probe tells no more than that one."""
        if now_s - ms / 1e3 >= self._probe_ended_s:
            self._after_transfer(size_bytes, ms, now_s)

    def came_back(self, sent_bytes: int, received_bytes: int, link_ms: float) -> None:
        """Learn of the downlink from a reply: ``link_ms`` are those of both ways, without the gateway's own time.

        What is left of them without the round trip and what the uplink takes is the downlink's; where that is less than
        a quarter, it says more about the other two.
        """
        link = self.estimate
        down_ms = link_ms - link.rtt_ms - sent_bytes * 8 / link.uplink_kbps
        if link.uplink_samples and down_ms >= _DOWN_SHARE * link_ms:
            self.estimate = link.after_transfer(received_bytes, down_ms, down=True)

    def _after_transfer(self, size_bytes: int, ms: float, now_s: float) -> None:
        """An acknowledged transfer holds one round trip to the broker; the downlink counts as fast until shown.

        One that tells of the bandwidth is as good as a probe; one that disagrees with those before is held against one.
        """
        link = self.estimate.after_acknowledged(size_bytes, ms)
        if link.uplink_samples == self.estimate.uplink_samples:
            return
        if link.downlink_samples == 0:
            link = replace(link, downlink_kbps=link.uplink_kbps)
        self.estimate = link
        self._probed_s = -math.inf if link.doubtful else now_s
