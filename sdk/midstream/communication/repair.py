"""Chunks asked for again: when a receiver does, and what the sender sends then. Time is passed in, on one clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from midstream.communication.chunks import Progress
from midstream.communication.control import Missing
from midstream.errors import WireError


@dataclass(frozen=True, slots=True)
class RepairRules:
    """``reorder`` later chunks show that one is lost, not late; so does ``quiet_s`` without any: a round trip or more.

    ``most_asks`` bounds how often one message is asked for; without a chunk between them, each waits twice as long.
    """

    reorder: int = 3
    quiet_s: float = 0.1
    most_asks: int = 8


class Repair:
    """Of one message whose first chunk has come at ``now_s``: whether to ask for chunks again. Not thread-safe.

    A gap is asked for as soon as more chunks are lost than parity chunks will come, and only once in ``quiet_s``. After
    ``quiet_s`` without a chunk everything that is missing is asked for.
    """

    def __init__(self, now_s: float, rules: RepairRules = RepairRules()) -> None:
        self._rules = rules
        self._heard_s = now_s
        self._asked_s = float("-inf")
        self._asks = 0
        self._in_vain = 0

    @property
    def due_s(self) -> float | None:
        """When to call `overdue` if no chunk has come until then; None where it was asked often enough."""
        if self._asks >= self._rules.most_asks:
            return None
        return max(self._heard_s, self._asked_s) + self._rules.quiet_s * 2.0**self._in_vain

    def arrived(self, progress: Progress, now_s: float) -> Missing | None:
        """A chunk has come, after which so much is there: what to ask for now, if anything."""
        self._heard_s = now_s
        self._in_vain = 0
        certain = progress.span - self._rules.reorder
        if (
            self._asks >= self._rules.most_asks
            or now_s < self._asked_s + self._rules.quiet_s
            or progress.span - progress.received <= progress.parity
            or progress.lost_before(certain) <= progress.parity
        ):
            return None
        return self._ask(progress, certain, now_s)

    def overdue(self, progress: Progress, now_s: float) -> Missing | None:
        """What to ask for where nothing has come for so long."""
        if self.due_s is None or now_s < self.due_s:
            return None
        missing = self._ask(progress, progress.count, now_s)
        self._in_vain += 1
        return missing

    def _ask(self, progress: Progress, before: int, now_s: float) -> Missing | None:
        ranges = progress.missing(before)
        if not ranges:
            return None
        self._asks += 1
        self._asked_s = now_s
        return Missing(progress.message_id, progress.tag, progress.received, progress.span, ranges)


class Resend:
    """The chunks of one message, kept for whoever asks for some again. Not thread-safe.

    However often a peer asks, no more than ``most`` times the message is sent again.
    """

    def __init__(self, tag: bytes, chunks: Sequence[bytes], most: float = 2.0) -> None:
        self._tag = tag
        self._chunks = chunks
        self._left = int(most * len(chunks))

    def answer(self, missing: Missing) -> list[bytes]:
        """The chunks to send again; none for another attempt's. Raises WireError where there are no such chunks."""
        if missing.tag != self._tag:
            return []
        if missing.ranges[-1][1] >= len(self._chunks):
            raise WireError(
                f"chunk {missing.ranges[-1][1]} of message {missing.message_id.hex()} is asked for; it has "
                f"{len(self._chunks)}"
            )
        wanted = [self._chunks[index] for first, last in missing.ranges for index in range(first, last + 1)]
        wanted = wanted[: self._left]
        self._left -= len(wanted)
        return wanted
