"""The link as it is now: bandwidth and round trip, averaged over what transfers and echoes have shown."""

from __future__ import annotations

from dataclasses import dataclass, replace

# Below this the round trip and the system's buffers decide how long a transfer takes, not the bandwidth.
TELLING_BYTES = 8192
# A sample this many times above or below the average counts as this many times.
MAX_JUMP = 8.0
# Outside of these a clock or a caller is wrong: no link is slower or faster.
PLAUSIBLE_KBPS = (0.01, 1e9)
PLAUSIBLE_RTT_MS = (1e-3, 1e7)
# The weight of a new sample, once there are as many as give each of them less in a plain mean.
SMOOTHING = 0.3


@dataclass(frozen=True, slots=True)
class LinkState:
    """What the planner needs to know of a link: kbit/s each way (0 means down) and the round trip in ms."""

    uplink_kbps: float
    downlink_kbps: float
    rtt_ms: float


@dataclass(frozen=True, slots=True)
class LinkEstimate:
    """A running estimate of a link; each sample gives a new one.

    A plain mean at first, then an exponentially weighted one: the n-th sample weighs max(1/n, 0.3). What the
    estimate starts with is an assumption and is forgotten with the first sample of its kind.
    """

    uplink_kbps: float = 5000.0
    downlink_kbps: float = 5000.0
    rtt_ms: float = 20.0
    uplink_samples: int = 0
    downlink_samples: int = 0
    echoes: int = 0

    def after_transfer(self, payload_bytes: int, ms: float, *, down: bool = False) -> LinkEstimate:
        """After a payload took ``ms``, without the round trip and the peer's own time; ``down`` for a reply.

        Payloads under 8 KiB say nothing about bandwidth, and times that no link can take nothing at all.
        """
        if payload_bytes < TELLING_BYTES or not ms > 0:
            return self
        kbps = payload_bytes * 8 / ms
        if not PLAUSIBLE_KBPS[0] <= kbps <= PLAUSIBLE_KBPS[1]:
            return self
        if down:
            average = _blend(self.downlink_kbps, kbps, self.downlink_samples)
            return replace(self, downlink_kbps=average, downlink_samples=self.downlink_samples + 1)
        average = _blend(self.uplink_kbps, kbps, self.uplink_samples)
        return replace(self, uplink_kbps=average, uplink_samples=self.uplink_samples + 1)

    def after_echo(self, rtt_ms: float) -> LinkEstimate:
        """After a small message came back in ``rtt_ms``; times that no link can take are ignored."""
        if not PLAUSIBLE_RTT_MS[0] <= rtt_ms <= PLAUSIBLE_RTT_MS[1]:
            return self
        return replace(self, rtt_ms=_blend(self.rtt_ms, rtt_ms, self.echoes), echoes=self.echoes + 1)

    def state(self) -> LinkState:
        """The estimate as the planner takes it."""
        return LinkState(self.uplink_kbps, self.downlink_kbps, self.rtt_ms)


def _blend(average: float, sample: float, samples: int) -> float:
    if samples == 0:
        return sample
    sample = min(max(sample, average / MAX_JUMP), average * MAX_JUMP)
    weight = max(1 / (samples + 1), SMOOTHING)
    return average + (sample - average) * weight
