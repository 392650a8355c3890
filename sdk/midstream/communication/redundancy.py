"""How much parity a message needs: from what share of chunks is lost, as receivers report it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from midstream.communication.fec import MAX_CODED_PARTS, MAX_PARITY

# What was observed longer ago than so many chunks counts less than a third.
_MEMORY_CHUNKS = 200.0
# The least that it takes until a loss is noticed.
_NOTICE_MS = 100.0
_NOTICE_CHUNKS = 8.0
_WORST = 0.99
_COME_ALREADY = 20.0
_LATE_ONLY = 1.0
_NEGLIGIBLE = 1e-3


@dataclass(frozen=True, slots=True)
class LossEstimate:
    """The share of chunks that a link has lost lately: an average whose weights fall with the chunks sent since.

    It begins as if some had come already, and a single loss is none yet: that may have been late only.
    """

    lost: float = 0.0
    sent: float = _COME_ALREADY

    @property
    def share(self) -> float:
        """Of those sent, how many were lost: 0 to 1, and 0 where that is one or none."""
        return self.lost / self.sent if self.lost > _LATE_ONLY else 0.0

    def after(self, received: int, sent: int) -> LossEstimate:
        """What is known once of ``sent`` further chunks ``received`` have come; weights fall by e over 200 chunks."""
        keep = math.exp(-sent / _MEMORY_CHUNKS)
        return LossEstimate(self.lost * keep + max(0, sent - received), self.sent * keep + sent)


def redundancy(loss_share: float, parts: int, target: float = 0.999) -> int:
    """The least number p of parity chunks with which ``parts`` = k data chunks survive with probability ``target``.

    Each of the k + p chunks is lost with probability q = ``loss_share``, independently; the message survives where no
    more than p are. So p is the smallest with Σ_{i=0…p} C(k+p, i) qⁱ (1−q)^{k+p−i} ≥ target, one less the binomial's
    tail. At most 64, and so many that k + p is at most 256; 0 where k is larger than that.
    """
    if loss_share <= 0 or parts >= MAX_CODED_PARTS:
        return 0
    most = min(MAX_PARITY, MAX_CODED_PARTS - parts)
    loss_share = min(loss_share, _WORST)
    for parity in range(most):
        if _at_most(parity, parts + parity, loss_share) >= target:
            return parity
    return most


def _at_most(losses: int, sent: int, share: float) -> float:
    """The probability that of so many, each lost with this probability, no more than so many are."""
    term = math.exp(sent * math.log1p(-share))
    total = term
    for lost in range(losses):
        term *= (sent - lost) / (lost + 1) * share / (1 - share)
        total += term
    return total


@dataclass(frozen=True, slots=True)
class Way:
    """How long a message takes to a peer: round trip, ms, and the rate, kbit/s; infinite where it is not known."""

    round_trip_ms: float = 0.0
    kbps: float = math.inf


def parity_chunks(loss_share: float, parts: int, message_bytes: int, way: Way) -> int:
    """How many parity chunks a message of ``parts`` = k chunks is sent with: `redundancy`'s p, or none.

    Parity costs the link the time of the chunks that come after the message is complete: p − q·(k + p) of them. Asking
    again takes Σ_{r≥1} (1 − (1 − qʳ)ᵏ) rounds on average, each of a round trip and the time until the loss is noticed:
    of several chunks 100 ms, or the time of eight where that is longer (three later ones, or the silence of four, and
    those on the way before it); of a single one what its sender waits for the answer. The less is taken;
    ``docs/benchmarks/loss.md`` shows that this is the quicker way.
    """
    parity = redundancy(loss_share, parts)
    if not parity:
        return 0
    chunk_ms = message_bytes * 8 / way.kbps / parts
    if parts == 1:
        notice_ms = _NOTICE_MS + 2 * (way.round_trip_ms + chunk_ms)
    else:
        notice_ms = max(_NOTICE_MS, _NOTICE_CHUNKS * chunk_ms)
    asking_ms = _rounds(min(loss_share, _WORST), parts) * (notice_ms + way.round_trip_ms)
    spare_ms = max(0.0, parity - loss_share * (parts + parity)) * chunk_ms
    return parity if spare_ms < asking_ms else 0


def _rounds(loss_share: float, parts: int) -> float:
    """How often a message of so many chunks is asked for on average, where each time all that is missing is sent."""
    total, lost = 0.0, loss_share
    while lost * parts > _NEGLIGIBLE:
        total += 1 - (1 - lost) ** parts
        lost *= loss_share
    return total
