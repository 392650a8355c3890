"""The gateway's queue as a decision: who is let in, who runs next, and with whom, who has waited too long."""

from __future__ import annotations

from bisect import bisect, insort
from collections.abc import Collection, Hashable, Iterable, Iterator, Set
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate


class Admission(Enum):
    """What becomes of a request that asks to be let in."""

    ACCEPTED = "accepted"
    FULL = "the queue is full"
    LATE = "it cannot be finished in the time that remains"
    CROWDED = "others that were let in would be late by it"


@dataclass(frozen=True, slots=True)
class Ticket:
    """One waiting request. Times are seconds on one monotonic clock; ``work_s`` is what it is expected to take.

    ``size_bytes`` is the memory that it holds while it waits; the class ``priority`` is the more urgent the lower.
    Those of one ``group`` may run at once; of None, nobody.
    """

    deadline: float
    number: int
    work_s: float
    arrived: float
    size_bytes: int = 0
    priority: int = 1
    group: Hashable = None

    def __lt__(self, other: Ticket) -> bool:
        """Whether it runs first."""
        return (self.priority, self.deadline, self.number) < (other.priority, other.deadline, other.number)


def running_s(until: Collection[float], workers: int, now: float) -> float:
    """What a request waits for those that run until these times; nothing while a worker is free."""
    return 0.0 if len(until) < workers else sum(max(0.0, each - now) for each in until) / workers


def makes_late(after: Iterable[tuple[float, float]], start: float, work_s: float, workers: int) -> bool:
    """Whether one of those ``after`` a request, each its deadline and its work, would be in time but for that request.

    In the order in which they run; the request is expected to begin at ``start`` and takes ``work_s``.
    """
    longer_s = work_s / workers
    for deadline, other_s in after:
        if start + other_s <= deadline < start + other_s + longer_s:
            return True
        start += other_s / workers
    return False


class EarliestDeadlineFirst:
    """A queue bounded in requests and in bytes; who cannot make its deadline is told at once.

    A more urgent class runs first, and of one class the earliest deadline. Who was let in is not made late by others
    of its class. What a class waits for is bounded by its own deadlines: a request whose deadline passes in the queue
    is not run.

    ``workers`` may be set to another number at any time. Not thread-safe: it belongs to one owner, who also reads the
    clock.
    """

    def __init__(self, capacity: int, workers: int, capacity_bytes: int | None = None) -> None:
        self.workers = workers
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._bytes = 0
        # In the order in which they run.
        self._waiting: list[Ticket] = []
        self._waiting_s = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def wait_s(self) -> float:
        """What a request that came now would wait, if it came last."""
        return self._waiting_s / self.workers

    def wait_before_s(self, deadline: float) -> float:
        """What a request of this deadline would wait for those that are due before it."""
        return sum(ticket.work_s for ticket in self._waiting if ticket.deadline <= deadline) / self.workers

    def wait_of_s(self, ticket: Ticket) -> float:
        """What this one would wait for those that run before it."""
        return sum(other.work_s for other in self._waiting[: bisect(self._waiting, ticket)]) / self.workers

    def offer(self, ticket: Ticket, now: float, busy_s: float = 0.0, *, anyway: bool = False) -> Admission:
        """Let a request in, or say why not; workers are expected to be busy for ``busy_s`` yet.

        With ``anyway`` nobody is refused while there is room.
        """
        if len(self._waiting) >= self._capacity or not self._fits(ticket.size_bytes):
            return Admission.FULL
        start = now + busy_s + self.wait_of_s(ticket)
        if start + ticket.work_s > ticket.deadline and not anyway:
            return Admission.LATE
        if not anyway and makes_late(self._after(ticket), start, ticket.work_s, self.workers):
            return Admission.CROWDED
        insort(self._waiting, ticket)
        self._waiting_s += ticket.work_s
        self._bytes += ticket.size_bytes
        return Admission.ACCEPTED

    def _after(self, ticket: Ticket) -> Iterator[tuple[float, float]]:
        """Deadline and work of those of its class that run after it."""
        for other in self._waiting[bisect(self._waiting, ticket) :]:
            if other.priority != ticket.priority:
                return
            yield other.deadline, other.work_s

    def _fits(self, size_bytes: int) -> bool:
        limit = self._capacity_bytes
        return limit is None or not self._waiting or self._bytes + size_bytes <= limit

    def take(self) -> Ticket | None:
        """The request that runs next, or None."""
        if not self._waiting:
            return None
        ticket = self._waiting.pop(0)
        self._left(ticket)
        return ticket

    def alike(self, group: Hashable) -> int:
        """How many of this group wait."""
        return 0 if group is None else sum(ticket.group == group for ticket in self._waiting)

    def take_along(self, first: Ticket, count: int, lasts_s: float, now: float) -> list[Ticket]:
        """The next ``count`` of the group of ``first``, which was taken, to run with it for ``lasts_s`` from now.

        None of them where there are not so many, or one of the run would be late, or one that they overtake.
        """
        end = now + lasts_s
        chosen = [ticket for ticket in self._waiting if ticket.group == first.group][:count]
        if len(chosen) < count or any(ticket.deadline < end for ticket in (first, *chosen)):
            return []
        numbers = {ticket.number for ticket in chosen}
        overtaken = [ticket for ticket in self._waiting if ticket < chosen[-1] and ticket.number not in numbers]
        before_s = accumulate((ticket.work_s / self.workers for ticket in overtaken), initial=0.0)
        if any(end + wait_s + each.work_s > each.deadline for each, wait_s in zip(overtaken, before_s, strict=False)):
            return []
        self.remove(numbers)
        return chosen

    def remove(self, numbers: Set[int]) -> None:
        """Let those go, of these numbers, that wait."""
        gone = [ticket for ticket in self._waiting if ticket.number in numbers]
        self._waiting = [ticket for ticket in self._waiting if ticket.number not in numbers]
        for ticket in gone:
            self._left(ticket)

    def expired(self, now: float) -> list[Ticket]:
        """Let those go whose deadline has passed."""
        gone = [ticket for ticket in self._waiting if ticket.deadline < now]
        if gone:
            self.remove({ticket.number for ticket in gone})
        return sorted(gone)

    def _left(self, ticket: Ticket) -> None:
        self._bytes -= ticket.size_bytes
        self._waiting_s = max(0.0, self._waiting_s - ticket.work_s) if self._waiting else 0.0
