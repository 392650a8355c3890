"""The link as it is now: bandwidth and round trip, averaged over what transfers and echoes have shown."""

from __future__ import annotations

from dataclasses import dataclass, replace

# Below this the round trip and the system's buffers decide how long a transfer takes, not the bandwidth; unless it
# takes so much longer that neither can be why.
TELLING_BYTES = 8192
TELLING_MS = 5.0
# A sample this many times above or below the average counts as this many times.
MAX_JUMP = 8.0
# Where the middle one of the last three samples is this many times above or below the average, the link is another.
CHANGED = 2.0
# Outside of these a clock or a caller is wrong: no link is slower or faster.
PLAUSIBLE_KBPS = (0.01, 1e9)
PLAUSIBLE_RTT_MS = (1e-3, 1e7)
# The weight of a new sample, once there are as many as give each of them less in a plain mean.
SMOOTHING = 0.3
# A standard deviation in mean absolute deviations, of what is spread normally: √(π / 2).
DEVIATION = 1.2533


@dataclass(frozen=True, slots=True)
class LinkState:
    """What the planner needs to know of a link: kbit/s each way (0 means down) and the round trip in ms.

    ``uplink_spread`` is the standard deviation of a transfer's time in shares of it, ``rtt_spread_ms`` that of the
    round trip; 0 where they are not known.
    """

    uplink_kbps: float
    downlink_kbps: float
    rtt_ms: float
    uplink_spread: float = 0.0
    rtt_spread_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class LinkEstimate:
    """A running estimate of a link; each sample gives a new one.

    A plain mean at first, then an exponentially weighted one: the n-th sample weighs max(1/n, 0.3). Where the middle
    one of the last three says that the bandwidth has changed to less than half or more than twice, it takes the
    average's place: a link falls from 50 Mbit/s to 0.5 within two samples, and one alone never shows that. What the
    estimate starts with is an assumption and is forgotten with the first sample of its kind. Spreads are averages of
    how far the samples were off, as TCP's of the round trip (Jacobson, "Congestion Avoidance and Control", 1988): of
    round trips in ms, of transfers in shares of the time that was expected.
    """

    uplink_kbps: float = 5000.0
    downlink_kbps: float = 5000.0
    rtt_ms: float = 20.0
    uplink_samples: int = 0
    downlink_samples: int = 0
    echoes: int = 0
    uplink_off: float = 0.0
    rtt_off_ms: float = 0.0
    last_up_kbps: tuple[float, ...] = ()
    last_down_kbps: tuple[float, ...] = ()
    last_rtt_ms: tuple[float, ...] = ()

    @property
    def doubtful(self) -> bool:
        """Whether the last transfer up disagrees so much that another one should be looked at soon."""
        return bool(self.last_up_kbps) and _differ(self.last_up_kbps[-1], self.uplink_kbps)

    def after_transfer(self, payload_bytes: int, ms: float, *, down: bool = False) -> LinkEstimate:
        """After a payload took ``ms``, without the round trip and the peer's own time; ``down`` for a reply.

        Payloads under 8 KiB say something only where they take longer than the round trip, and 5 ms: then the link is
        slow. Where they do not, a sample before that says that it is was an exception, and is forgotten. Times that no
        link can take say nothing at all.
        """
        if payload_bytes <= 0 or not ms > 0:
            return self
        if payload_bytes < TELLING_BYTES and ms <= max(self.rtt_ms, TELLING_MS):
            if not down:
                return self._at_least(payload_bytes * 8 / (ms + self.rtt_ms))
            # A quick reply shows that the downlink is not slow, though not how fast.
            least = min(payload_bytes * 8 / max(ms, 1.0), self.uplink_kbps)
            return replace(self, downlink_kbps=max(self.downlink_kbps, least))
        kbps = payload_bytes * 8 / ms
        if not PLAUSIBLE_KBPS[0] <= kbps <= PLAUSIBLE_KBPS[1]:
            return self
        if down:
            average, last = _followed(self.downlink_kbps, kbps, self.downlink_samples, self.last_down_kbps)
            samples = self.downlink_samples + 1
            return replace(self, downlink_kbps=average, downlink_samples=samples, last_down_kbps=last)
        average, last = _followed(self.uplink_kbps, kbps, self.uplink_samples, self.last_up_kbps)
        off = self.uplink_off
        if self.uplink_samples:
            off = _blended(off, min(abs(self.uplink_kbps / kbps - 1.0), MAX_JUMP), self.uplink_samples)
        samples = self.uplink_samples + 1
        # Both directions are taken to go up and down together until the other one shows itself again.
        along = average / self.uplink_kbps if self.uplink_samples else 1.0
        down_kbps = min(max(self.downlink_kbps * along, PLAUSIBLE_KBPS[0]), PLAUSIBLE_KBPS[1])
        # Not by `replace`, which takes as long as all else here.
        return LinkEstimate(
            average,
            down_kbps,
            self.rtt_ms,
            samples,
            self.downlink_samples,
            self.echoes,
            off,
            self.rtt_off_ms,
            last,
            self.last_down_kbps,
            self.last_rtt_ms,
        )

    def alike_both_ways(self) -> LinkEstimate:
        """With a downlink as fast as the uplink is known to be."""
        if self.downlink_kbps == self.uplink_kbps:
            return self
        return LinkEstimate(
            self.uplink_kbps,
            self.uplink_kbps,
            self.rtt_ms,
            self.uplink_samples,
            self.downlink_samples,
            self.echoes,
            self.uplink_off,
            self.rtt_off_ms,
            self.last_up_kbps,
            self.last_down_kbps,
            self.last_rtt_ms,
        )

    def after_acknowledged(self, payload_bytes: int, ms: float) -> LinkEstimate:
        """After the broker has acknowledged a payload: ``ms`` hold one round trip to it."""
        return self.after_transfer(payload_bytes, max(ms - self.rtt_ms, 0.1 * ms))

    def _at_least(self, kbps: float) -> LinkEstimate:
        """Without the samples that a link as fast as this cannot have given."""
        if not any(sample < kbps < self.uplink_kbps for sample in self.last_up_kbps):
            return self
        return replace(
            self, last_up_kbps=tuple(self.uplink_kbps if sample < kbps else sample for sample in self.last_up_kbps)
        )

    def after_echo(self, rtt_ms: float) -> LinkEstimate:
        """After a small message came back in ``rtt_ms``; times that no link can take are ignored."""
        if not PLAUSIBLE_RTT_MS[0] <= rtt_ms <= PLAUSIBLE_RTT_MS[1]:
            return self
        off_ms = self.rtt_off_ms
        if self.echoes:
            off_ms = _blended(off_ms, min(abs(rtt_ms - self.rtt_ms), MAX_JUMP * self.rtt_ms), self.echoes)
        last = (*self.last_rtt_ms, rtt_ms)[-3:]
        # The middle one of the last three, the lower of two: one echo that was held up says nothing of the others.
        average = _blend(self.rtt_ms, sorted(last)[(len(last) - 1) // 2], self.echoes)
        return LinkEstimate(
            self.uplink_kbps,
            self.downlink_kbps,
            average,
            self.uplink_samples,
            self.downlink_samples,
            self.echoes + 1,
            self.uplink_off,
            off_ms,
            self.last_up_kbps,
            self.last_down_kbps,
            last,
        )

    def state(self) -> LinkState:
        """The estimate as the planner takes it."""
        return LinkState(
            self.uplink_kbps,
            self.downlink_kbps,
            self.rtt_ms,
            DEVIATION * self.uplink_off,
            DEVIATION * self.rtt_off_ms,
        )


def _followed(average: float, sample: float, samples: int, last: tuple[float, ...]) -> tuple[float, tuple[float, ...]]:
    """The average with one sample more, and the last two samples."""
    three = sorted((*last, sample))
    changed = len(three) > 2 and _differ(three[1], average)
    return three[1] if changed else _blend(average, sample, samples), (*last, sample)[-2:]


def _differ(kbps: float, average: float) -> bool:
    return not average / CHANGED <= kbps <= average * CHANGED


def _blend(average: float, sample: float, samples: int) -> float:
    if samples == 0:
        return sample
    return _blended(average, min(max(sample, average / MAX_JUMP), average * MAX_JUMP), samples)


def _blended(average: float, sample: float, samples: int) -> float:
    return average + (sample - average) * max(1 / (samples + 1), SMOOTHING)
