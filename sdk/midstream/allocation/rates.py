"""How much one sender may send: token buckets, so that one that floods a gateway takes nothing from the others."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

# How many senders are remembered; for a newer one the one heard least lately is forgotten, and begins anew.
_MAX_SENDERS = 1024
# How often a sender beyond its rate is told so, a second; beyond that it is no longer heard.
_REFUSALS_PER_S = 10.0


@dataclass(frozen=True, slots=True)
class Rates:
    """What one sender may send for long; for two seconds' worth of it at once there is room."""

    messages_per_s: float = 5_000.0
    bytes_per_s: float = 256e6


DEFAULT_RATES = Rates()


class Verdict(Enum):
    """What to do with what somebody has sent."""

    TAKE = "take"
    REFUSE = "refuse"
    DROP = "drop"


class TokenBucket:
    """Holds up to ``burst`` tokens, and gets ``rate_per_s`` more each second. Time is passed in, on one clock.

    What costs more than the burst takes all of it, and the rest is owed.
    """

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._level = burst
        self._at_s: float | None = None

    def has(self, cost: float, now_s: float) -> bool:
        """Whether there are as many tokens, or all that there can be."""
        if self._at_s is not None:
            self._level = min(self._burst, self._level + (now_s - self._at_s) * self._rate_per_s)
        self._at_s = now_s
        return self._level >= min(cost, self._burst)

    def spend(self, cost: float) -> None:
        """Take them."""
        self._level -= cost


class _Sender:
    def __init__(self, rates: Rates) -> None:
        self.messages = TokenBucket(rates.messages_per_s, 2 * rates.messages_per_s)
        self.bytes = TokenBucket(rates.bytes_per_s, 2 * rates.bytes_per_s)
        self.refusals = TokenBucket(_REFUSALS_PER_S, _REFUSALS_PER_S)


class Throttle:
    """What becomes of each message, by who sent it. Not thread-safe."""

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self._senders: dict[str, _Sender] = {}

    def judge(self, sender: str, size_bytes: int, now_s: float) -> Verdict:
        """Whether to take a message of this sender; where not, whether to tell it."""
        state = self._senders.pop(sender, None) or _Sender(self._rates)
        self._senders[sender] = state
        if len(self._senders) > _MAX_SENDERS:
            del self._senders[next(iter(self._senders))]
        if state.messages.has(1, now_s) and state.bytes.has(size_bytes, now_s):
            state.messages.spend(1)
            state.bytes.spend(size_bytes)
            return Verdict.TAKE
        if state.refusals.has(1, now_s):
            state.refusals.spend(1)
            return Verdict.REFUSE
        return Verdict.DROP
