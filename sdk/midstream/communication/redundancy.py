"""How much parity a message needs: from what share of chunks is lost, as receivers report it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from midstream.communication.fec import MAX_CODED_PARTS, MAX_PARITY

# What was observed longer ago than so many chunks counts less than a third.
_MEMORY_CHUNKS = 200.0
# The least that it takes until a loss is noticed.
_NOTICE_MS = 100.0


@dataclass(frozen=True, slots=True)
class LossEstimate:
    """The share of chunks that a link has lost lately: an average whose weights fall with the chunks sent since."""

    lost: float = 0.0
    sent: float = 0.0

    @property
    def share(self) -> float:
        """Of those sent, how many were lost: 0 to 1, and 0 where nothing is known."""
        return self.lost / self.sent if self.sent else 0.0

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
    loss_share = min(loss_share, 0.99)
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
    """How many parity chunks a message of ``parts`` chunks is sent with: `redundancy`'s, where these are quicker.

    Without parity a message loses a chunk with probability 1 − (1−q)ᵏ, and then waits for the time until its receiver
    (or, of a message of one chunk, its sender) notices, and for a round trip. With p parity chunks it always waits for
    p / k of its own transfer time. ``docs/benchmarks/loss.md`` shows both, and that this rule takes the better one.
    """
    parity = redundancy(loss_share, parts)
    if not parity:
        return 0
    repair_ms = (1 - (1 - min(loss_share, 1.0)) ** parts) * (_NOTICE_MS + way.round_trip_ms)
    parity_ms = message_bytes * 8 / way.kbps * parity / parts
    return parity if parity_ms < repair_ms else 0
