"""The gateway's queue as a decision: who is let in, who runs next, who has waited too long."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Set
from dataclasses import dataclass
from enum import Enum


class Admission(Enum):
    """What becomes of a request that asks to be let in."""

    ACCEPTED = "accepted"
    FULL = "the queue is full"
    LATE = "it cannot be finished in the time that remains"


@dataclass(frozen=True, slots=True)
class Ticket:
    """One waiting request. Times are seconds on one monotonic clock; ``work_s`` is what it is expected to take.

    ``size_bytes`` is the memory that it holds while it waits; the class ``priority`` is the more urgent the lower.
    """

    deadline: float
    number: int
    work_s: float
    arrived: float
    size_bytes: int = 0
    priority: int = 1

    def __lt__(self, other: Ticket) -> bool:
        """Whether it runs first."""
        return (self.priority, self.deadline, self.number) < (other.priority, other.deadline, other.number)


def running_s(until: Collection[float], workers: int, now: float) -> float:
    """What a request waits for those that run until these times; nothing while a worker is free."""
    return 0.0 if len(until) < workers else sum(max(0.0, each - now) for each in until) / workers


class EarliestDeadlineFirst:
    """A queue bounded in requests and in bytes; who cannot make its deadline is told at once.

    A more urgent class runs first, and of one class the earliest deadline. What a class waits for is bounded by its own
    deadlines: a request whose deadline passes in the queue is not run.

    Not thread-safe: it belongs to one owner, who also reads the clock.
    """

    def __init__(self, capacity: int, workers: int, capacity_bytes: int | None = None) -> None:
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._workers = workers
        self._bytes = 0
        self._heap: list[Ticket] = []
        self._waiting_s = 0.0

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def wait_s(self) -> float:
        """What a request that came now would wait, if it came last."""
        return self._waiting_s / self._workers

    def wait_before_s(self, deadline: float) -> float:
        """What a request of this deadline would wait for those that are due before it."""
        return sum(ticket.work_s for ticket in self._heap if ticket.deadline <= deadline) / self._workers

    def offer(self, ticket: Ticket, now: float) -> Admission:
        """Let a request in, or say why not. Only work that runs before it counts as its wait."""
        if len(self._heap) >= self._capacity or not self._fits(ticket.size_bytes):
            return Admission.FULL
        before = sum(other.work_s for other in self._heap if other < ticket)
        if now + before / self._workers + ticket.work_s > ticket.deadline:
            return Admission.LATE
        heapq.heappush(self._heap, ticket)
        self._waiting_s += ticket.work_s
        self._bytes += ticket.size_bytes
        return Admission.ACCEPTED

    def _fits(self, size_bytes: int) -> bool:
        limit = self._capacity_bytes
        return limit is None or not self._heap or self._bytes + size_bytes <= limit

    def take(self) -> Ticket | None:
        """The request that runs next, or None."""
        if not self._heap:
            return None
        ticket = heapq.heappop(self._heap)
        self._left(ticket)
        return ticket

    def remove(self, numbers: Set[int]) -> None:
        """Let those go, of these numbers, that wait."""
        gone = [ticket for ticket in self._heap if ticket.number in numbers]
        self._heap = [ticket for ticket in self._heap if ticket.number not in numbers]
        heapq.heapify(self._heap)
        for ticket in gone:
            self._left(ticket)

    def expired(self, now: float) -> list[Ticket]:
        """Let those go whose deadline has passed."""
        gone = sorted(ticket for ticket in self._heap if ticket.deadline < now)
        if gone:
            self.remove({ticket.number for ticket in gone})
        return gone

    def _left(self, ticket: Ticket) -> None:
        self._bytes -= ticket.size_bytes
        self._waiting_s = max(0.0, self._waiting_s - ticket.work_s) if self._heap else 0.0
