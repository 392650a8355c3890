"""The gateway's queue as a decision: who is let in, who runs next, and with whom, who has waited too long."""

from __future__ import annotations

from bisect import bisect, bisect_left, insort
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Set
from dataclasses import dataclass
from enum import Enum
from itertools import chain, islice
from operator import attrgetter

_deadline = attrgetter("deadline")


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


class _Line:
    """Those of one class, in the order in which they run."""

    def __init__(self) -> None:
        self.tickets: list[Ticket] = []
        self.work_s = 0.0

    def add(self, ticket: Ticket) -> None:
        insort(self.tickets, ticket)
        self.work_s += ticket.work_s

    def pop(self, place: int) -> Ticket:
        ticket = self.tickets.pop(place)
        # What additions leave over goes where nobody waits.
        self.work_s = max(0.0, self.work_s - ticket.work_s) if self.tickets else 0.0
        return ticket

    def before_s(self, place: int) -> float:
        """The work of those before a place, added up from the nearer end: nearly all come last."""
        if place <= len(self.tickets) // 2:
            return sum(ticket.work_s for ticket in islice(self.tickets, place))
        return max(0.0, self.work_s - sum(ticket.work_s for ticket in islice(self.tickets, place, None)))


class EarliestDeadlineFirst:
    """A queue bounded in requests and in bytes; who cannot make its deadline is told at once.

    A more urgent class runs first, and of one class the earliest deadline. Who was let in is not made late by others
    of its class. What a class waits for is bounded by its own deadlines: a request whose deadline passes in the queue
    is not run.

    ``workers`` may be set to another number at any time. Not thread-safe: it belongs to one owner, who also reads the
    clock. What is done for each request takes the same however many wait, where deadlines are about as long.
    """

    def __init__(self, capacity: int, workers: int, capacity_bytes: int | None = None) -> None:
        self.workers = workers
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._count = 0
        self._bytes = 0
        self._groups: Counter[Hashable] = Counter()
        # By priority, the most urgent first.
        self._lines: dict[int, _Line] = {}

    def __len__(self) -> int:
        return self._count

    @property
    def wait_s(self) -> float:
        """What a request that came now would wait, if it came last."""
        return sum(line.work_s for line in self._lines.values()) / self.workers

    def wait_before_s(self, deadline: float) -> float:
        """What a request of this deadline would wait for those that are due before it."""
        lines = self._lines.values()
        return sum(line.before_s(bisect(line.tickets, deadline, key=_deadline)) for line in lines) / self.workers

    def wait_of_s(self, ticket: Ticket) -> float:
        """What this one would wait for those that run before it."""
        before_s = 0.0
        for priority, line in self._lines.items():
            if priority < ticket.priority:
                before_s += line.work_s
            elif priority == ticket.priority:
                before_s += line.before_s(bisect(line.tickets, ticket))
        return before_s / self.workers

    def offer(self, ticket: Ticket, now: float, busy_s: float = 0.0, *, anyway: bool = False) -> Admission:
        """Let a request in, or say why not; workers are expected to be busy for ``busy_s`` yet.

        With ``anyway`` nobody is refused while there is room.
        """
        if self._count >= self._capacity or not self._fits(ticket.size_bytes):
            return Admission.FULL
        if not anyway:
            start = now + busy_s + self.wait_of_s(ticket)
            if start + ticket.work_s > ticket.deadline:
                return Admission.LATE
            if makes_late(self._after(ticket), start, ticket.work_s, self.workers):
                return Admission.CROWDED
        line = self._lines.get(ticket.priority)
        if line is None:
            line = self._lines[ticket.priority] = _Line()
            self._lines = dict(sorted(self._lines.items()))
        line.add(ticket)
        self._count += 1
        self._bytes += ticket.size_bytes
        self._groups[ticket.group] += 1
        return Admission.ACCEPTED

    def _after(self, ticket: Ticket) -> Iterator[tuple[float, float]]:
        """Deadline and work of those of its class that run after it."""
        line = self._lines.get(ticket.priority)
        if line is not None:
            for other in islice(line.tickets, bisect(line.tickets, ticket), None):
                yield other.deadline, other.work_s

    def _fits(self, size_bytes: int) -> bool:
        limit = self._capacity_bytes
        return limit is None or not self._count or self._bytes + size_bytes <= limit

    def take(self) -> Ticket | None:
        """The request that runs next, or None."""
        line = next((line for line in self._lines.values() if line.tickets), None)
        return None if line is None else self._pop(line, 0)

    def alike(self, group: Hashable) -> int:
        """How many of this group wait."""
        return 0 if group is None else self._groups[group]

    def take_along(self, first: Ticket, count: int, lasts_s: float, now: float) -> list[Ticket]:
        """The next ``count`` of the group of ``first``, which was taken, to run with it for ``lasts_s`` from now.

        None of them where there are not so many, or one of the run would be late, or one that they overtake.
        """
        end = now + lasts_s
        chosen, overtaken_s = list[Ticket](), 0.0
        if self.alike(first.group) < count or first.deadline < end:
            return []
        for ticket in chain.from_iterable(line.tickets for line in self._lines.values()):
            if ticket.group == first.group:
                if ticket.deadline < end:
                    return []
                chosen.append(ticket)
                if len(chosen) == count:
                    break
            elif end + overtaken_s + ticket.work_s > ticket.deadline:
                return []
            else:
                overtaken_s += ticket.work_s / self.workers
        for ticket in chosen:
            self._leave(ticket)
        return chosen

    def remove(self, numbers: Set[int]) -> None:
        """Let those go, of these numbers, that wait."""
        for ticket in [each for line in self._lines.values() for each in line.tickets if each.number in numbers]:
            self._leave(ticket)

    def expired(self, now: float) -> list[Ticket]:
        """Let those go whose deadline has passed."""
        gone = list[Ticket]()
        for line in self._lines.values():
            while line.tickets and line.tickets[0].deadline < now:
                gone.append(self._pop(line, 0))
        return gone

    def _leave(self, ticket: Ticket) -> None:
        line = self._lines[ticket.priority]
        self._pop(line, bisect_left(line.tickets, ticket))

    def _pop(self, line: _Line, place: int) -> Ticket:
        ticket = line.pop(place)
        self._count -= 1
        self._bytes -= ticket.size_bytes
        self._groups[ticket.group] -= 1
        if not self._groups[ticket.group]:
            del self._groups[ticket.group]
        return ticket
