"""The part of candidates that machines beyond the gateway have, as columns of numbers beside those of `Columns`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from midstream.partitioning.costs import Candidate, Numbers
from midstream.partitioning.state import SystemState, stretch

# No more requests that wait at a machine are counted against what it would be given.
MOST_WAITING = 100.0


class Far:
    """What some candidates leave to machines beyond the gateway: a row each, a column for each machine.

    ``past_gateway`` is 1 where the gateway itself does nothing.
    """

    def __init__(self, chosen: Sequence[Candidate]) -> None:
        self.machines = tuple(dict.fromkeys(leg.machine for each in chosen for leg in each.legs))
        self.past_gateway = np.array([bool(each.legs) and not each.tail for each in chosen], float)
        shape = (len(chosen), len(self.machines))
        self._used, self._first, self._work_ms = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self._codec_ms, self._sent_bytes, self._reply_bytes = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        for row, each in enumerate(chosen):
            for place, leg in enumerate(each.legs):
                at = row, self.machines.index(leg.machine)
                self._used[at], self._work_ms[at], self._codec_ms[at] = 1.0, leg.work_ms, leg.codec_ms
                self._reply_bytes[at] = leg.reply_bytes
                if place == 0 and not each.tail:
                    # It gets what the device sends, and that differs from input to input.
                    self._first[at] = 1.0
                else:
                    self._sent_bytes[at] = leg.payload_bytes

    def latency_ms(self, state: SystemState, payloads: Numbers) -> Numbers:
        """What these machines, and the ways to them, add."""
        tiers = [state.further.get(machine) for machine in self.machines]
        around = np.array([0.0 if tier is None else tier.link.rtt_ms + tier.wait_ms for tier in tiers])
        slower, per_byte, per_reply = self._rates(state)
        return np.asarray(
            self._used @ around
            + self._work_ms @ slower
            + self._codec_ms.sum(1)
            + self._sent_bytes @ per_byte
            + payloads * (self._first @ per_byte)
            + self._reply_bytes @ per_reply
        )

    def period_ms(self, state: SystemState, payloads: Numbers) -> Numbers:
        """The slowest of these machines and of the ways to them."""
        slower, per_byte, per_reply = self._rates(state)
        work = self._work_ms * slower + self._codec_ms
        sent = (self._sent_bytes + payloads[:, np.newaxis] * self._first) * per_byte
        return np.asarray(np.maximum(np.maximum(work, sent), self._reply_bytes * per_reply).max(1))

    def variance(self, state: SystemState, payloads: Numbers) -> Numbers:
        """Of the time that they add."""
        tiers = [state.further.get(machine) for machine in self.machines]
        slower, per_byte, _ = self._rates(state)
        spread = np.array([0.0 if tier is None else tier.link.uplink_spread for tier in tiers])
        around = np.array([0.0 if tier is None else tier.link.rtt_spread_ms**2 for tier in tiers])
        sent = (self._sent_bytes + payloads[:, np.newaxis] * self._first) * (per_byte * spread)
        work = self._work_ms * (slower * state.gateway_spread)
        return np.asarray((sent**2 + work**2).sum(1) + self._used @ around)

    def congestion_ms(self, state: SystemState) -> Numbers:
        """Their work, by how many wait for each."""
        tiers = [state.further.get(machine) for machine in self.machines]
        return np.asarray(
            self._work_ms @ np.array([0.0 if tier is None else min(tier.queue, MOST_WAITING) for tier in tiers])
        )

    def work_ms(self) -> Numbers:
        """What they compute."""
        return np.asarray(self._work_ms.sum(1) + self._codec_ms.sum(1))

    def _rates(self, state: SystemState) -> tuple[Numbers, Numbers, Numbers]:
        """How loads stretch work, and ms for each byte there and back; machines that are down cost nothing."""
        tiers = [state.further.get(machine) for machine in self.machines]
        up = [tier if tier is not None and tier.is_up else None for tier in tiers]
        return (
            np.array([1.0 if tier is None else stretch(tier.load) for tier in up]),
            np.array([0.0 if tier is None else 8.0 / tier.link.uplink_kbps for tier in up]),
            np.array([0.0 if tier is None else 8.0 / tier.link.downlink_kbps for tier in up]),
        )
