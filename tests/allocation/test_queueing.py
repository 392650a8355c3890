"""The gateway's queue: the earliest deadline first, only who can make it, never too many, and an honest wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.allocation.queueing import Admission, EarliestDeadlineFirst, Ticket

FAR = 1e6
DEADLINES = st.floats(0, 20)
WORK = st.floats(0, 5)
JOBS = st.lists(st.tuples(DEADLINES, WORK), max_size=20)


def ticket(number: int, deadline: float = FAR, work_s: float = 1.0) -> Ticket:
    return Ticket(deadline, number, work_s, arrived=0.0)


def large(number: int, size_bytes: int) -> Ticket:
    return Ticket(FAR, number, 1.0, 0.0, size_bytes)


def tickets(jobs: Sequence[tuple[float, float]], later: float = 0.0) -> list[Ticket]:
    return [ticket(number, later + deadline, work_s) for number, (deadline, work_s) in enumerate(jobs)]


def drain(queue: EarliestDeadlineFirst) -> list[int]:
    taken = []
    while (first := queue.take()) is not None:
        taken.append(first.number)
    return taken


@settings(deadline=None)
@given(JOBS)
def test_what_is_due_first_runs_first_and_ties_go_by_arrival(jobs: list[tuple[float, float]]) -> None:
    queue = EarliestDeadlineFirst(capacity=20, workers=1)
    for one in tickets(jobs, later=FAR):
        assert queue.offer(one, now=0.0) is Admission.ACCEPTED
    assert len(queue) == len(jobs)
    assert drain(queue) == sorted(range(len(jobs)), key=lambda number: (FAR + jobs[number][0], number))
    assert len(queue) == 0


@settings(deadline=None)
@given(JOBS, st.floats(0, 10))
def test_one_worker_lets_in_exactly_who_can_make_it(jobs: list[tuple[float, float]], now: float) -> None:
    """Where requests come in the order of their deadlines, running what was let in misses none."""
    queue = EarliestDeadlineFirst(capacity=20, workers=1)
    free_at = now
    for one in sorted(tickets(jobs)):
        done = free_at + one.work_s
        if abs(done - one.deadline) < 1e-9:
            continue
        expected = Admission.ACCEPTED if done < one.deadline else Admission.LATE
        assert queue.offer(one, now) is expected
        if expected is Admission.ACCEPTED:
            free_at = done


@settings(deadline=None)
@given(JOBS, st.integers(1, 4), st.floats(0, 10))
def test_only_work_that_is_due_before_counts(jobs: list[tuple[float, float]], workers: int, now: float) -> None:
    queue = EarliestDeadlineFirst(capacity=20, workers=workers)
    waiting: list[Ticket] = []
    for one in tickets(jobs):
        before = sum(other.work_s for other in waiting if (other.deadline, other.number) < (one.deadline, one.number))
        spare = one.deadline - now - before / workers - one.work_s
        if abs(spare) < 1e-9:
            continue
        found = queue.offer(one, now)
        assert (found is Admission.LATE) is (spare < 0)
        if found is Admission.ACCEPTED:
            waiting.append(one)
    assert sorted(drain(queue)) == [one.number for one in waiting]


def test_who_is_due_exactly_at_the_end_is_let_in() -> None:
    queue = EarliestDeadlineFirst(capacity=9, workers=2)
    assert queue.offer(ticket(0, deadline=4.0, work_s=4.0), now=0.0) is Admission.ACCEPTED
    assert queue.offer(ticket(1, deadline=5.0, work_s=3.0), now=0.0) is Admission.ACCEPTED
    assert queue.offer(ticket(2, deadline=5.0, work_s=1.75), now=0.0) is Admission.LATE
    assert queue.offer(ticket(3, deadline=1.0, work_s=0.0), now=0.0) is Admission.ACCEPTED
    assert queue.offer(ticket(4, deadline=1.0, work_s=0.0), now=1.5) is Admission.LATE


def test_what_still_runs_is_waited_for() -> None:
    queue = EarliestDeadlineFirst(capacity=9, workers=1)
    assert queue.offer(ticket(0, deadline=2.0), now=0.0, busy_s=1.5) is Admission.LATE
    assert queue.offer(ticket(0, deadline=2.0), now=0.0, busy_s=1.0) is Admission.ACCEPTED


@settings(deadline=None)
@given(JOBS)
def test_nobody_is_made_late_by_who_comes_later(jobs: list[tuple[float, float]]) -> None:
    """With one worker: whoever was let in ends in time, in whatever order the others came."""
    queue = EarliestDeadlineFirst(capacity=20, workers=1)
    let_in = {one.number: one for one in tickets(jobs) if queue.offer(one, now=0.0) is Admission.ACCEPTED}
    now = 0.0
    for number in drain(queue):
        now += let_in[number].work_s
        assert now <= let_in[number].deadline + 1e-9


def test_a_more_urgent_class_does_make_others_late() -> None:
    queue = EarliestDeadlineFirst(capacity=9, workers=1)
    assert queue.offer(ticket(0, deadline=1.0), now=0.0) is Admission.ACCEPTED
    assert queue.offer(ticket(1, deadline=9.0), now=0.0) is Admission.ACCEPTED
    assert queue.offer(ticket(2, deadline=1.9), now=0.0) is Admission.LATE
    assert queue.offer(Ticket(1.0, 3, 1.0, 0.0, priority=0), now=0.0) is Admission.ACCEPTED
    assert queue.offer(ticket(4, deadline=0.5, work_s=0.4), now=-1.0) is Admission.CROWDED


def group(number: int, name: str | None, deadline: float = FAR) -> Ticket:
    return Ticket(deadline, number, 1.0, 0.0, group=name)


def test_those_of_a_group_are_taken_along() -> None:
    queue = EarliestDeadlineFirst(capacity=9, workers=1)
    for number, name in enumerate(["a", "b", "a", None, "a", "b"]):
        queue.offer(group(number, name), now=0.0)
    first = queue.take()
    assert first is not None
    assert (queue.alike("a"), queue.alike(None)) == (2, 0)
    assert queue.take_along(first, 3, lasts_s=2.0, now=0.0) == []
    assert [one.number for one in queue.take_along(first, 2, lasts_s=2.0, now=0.0)] == [2, 4]
    assert (drain(queue), queue.wait_s) == ([1, 3, 5], 0.0)


def test_nobody_is_taken_along_where_somebody_would_be_late() -> None:
    queue = EarliestDeadlineFirst(capacity=9, workers=1)
    for one in (group(0, "a", 5.0), group(1, "b", 6.0), group(2, "a", 7.0)):
        assert queue.offer(one, now=0.0) is Admission.ACCEPTED
    first = queue.take()
    assert first is not None
    # The first itself, then the one that is overtaken.
    assert queue.take_along(first, 1, lasts_s=5.5, now=0.0) == []
    assert queue.take_along(first, 1, lasts_s=4.0, now=1.5) == []
    assert [one.number for one in queue.take_along(first, 1, lasts_s=4.0, now=0.5)] == [2]


def test_who_is_overtaken_waits_for_the_others_too() -> None:
    queue = EarliestDeadlineFirst(capacity=9, workers=1)
    for one in (group(0, "a", 5.0), group(1, "b", 5.1), group(2, "b", 5.2), group(3, "a", 9.0)):
        assert queue.offer(one, now=0.0) is Admission.ACCEPTED
    first = queue.take()
    assert first is not None
    assert queue.take_along(first, 1, lasts_s=3.5, now=0.0) == []
    assert [one.number for one in queue.take_along(first, 1, lasts_s=3.0, now=0.0)] == [3]


def test_an_urgent_request_passes_much_work_that_is_not() -> None:
    queue = EarliestDeadlineFirst(capacity=99, workers=1)
    for number in range(50):
        assert queue.offer(ticket(number), now=0.0) is Admission.ACCEPTED
    assert queue.offer(ticket(50, deadline=1.5), now=0.0) is Admission.ACCEPTED
    assert queue.offer(ticket(51, deadline=1.6), now=0.0) is Admission.LATE
    first = queue.take()
    assert first is not None
    assert first.number == 50


@settings(deadline=None)
@given(st.integers(1, 6), st.lists(st.booleans(), max_size=40))
def test_it_never_holds_more_than_its_capacity(capacity: int, offers: list[bool]) -> None:
    queue = EarliestDeadlineFirst(capacity, workers=1)
    held = 0
    for number, offering in enumerate(offers):
        if offering:
            found = queue.offer(ticket(number), now=0.0)
            assert found is (Admission.FULL if held == capacity else Admission.ACCEPTED)
            held += found is Admission.ACCEPTED
        else:
            assert (queue.take() is None) is (held == 0)
            held = max(0, held - 1)
        assert len(queue) == held <= capacity


def test_full_is_said_before_late() -> None:
    queue = EarliestDeadlineFirst(capacity=1, workers=1)
    assert queue.offer(ticket(0), now=0.0) is Admission.ACCEPTED
    assert queue.offer(ticket(1, deadline=-1.0), now=0.0) is Admission.FULL
    assert EarliestDeadlineFirst(capacity=0, workers=1).offer(ticket(0), now=0.0) is Admission.FULL


@settings(deadline=None)
@given(st.lists(st.none() | WORK, max_size=40), st.integers(1, 8))
def test_the_wait_is_the_work_that_waits_over_the_workers(steps: list[float | None], workers: int) -> None:
    queue = EarliestDeadlineFirst(capacity=100, workers=workers)
    waiting: list[float] = []
    for number, work_s in enumerate(steps):
        if work_s is None:
            queue.take()
            waiting = waiting[1:]
        else:
            queue.offer(ticket(number, work_s=work_s), now=0.0)
            waiting.append(work_s)
        assert queue.wait_s == pytest.approx(sum(waiting) / workers, abs=1e-9)
        assert queue.wait_s >= 0.0
        assert waiting or queue.wait_s == 0.0


def test_who_is_refused_leaves_nothing_behind() -> None:
    queue = EarliestDeadlineFirst(capacity=2, workers=1)
    queue.offer(ticket(0, work_s=2.0), now=0.0)
    assert queue.offer(ticket(1, deadline=1.0, work_s=7.0), now=0.0) is Admission.LATE
    queue.offer(ticket(2, work_s=3.0), now=0.0)
    assert queue.offer(ticket(3, work_s=9.0), now=0.0) is Admission.FULL
    assert (len(queue), queue.wait_s) == (2, 5.0)
    assert drain(queue) == [0, 2]


class Plain:
    """The queue as its documentation says it: one sorted list, and every answer added up anew."""

    def __init__(self, workers: int) -> None:
        self.waiting: list[Ticket] = []
        self.workers = workers

    def before_s(self, one: Ticket) -> float:
        return sum(other.work_s for other in self.waiting if other < one) / self.workers

    def offer(self, one: Ticket, now: float) -> Admission:
        start = now + self.before_s(one)
        if start + one.work_s > one.deadline:
            return Admission.LATE
        for other in self.waiting:
            if one < other and other.priority == one.priority:
                begins = now + self.before_s(other)
                if begins + other.work_s <= other.deadline < begins + other.work_s + one.work_s / self.workers:
                    return Admission.CROWDED
        self.waiting = sorted([*self.waiting, one])
        return Admission.ACCEPTED

    def take_along(self, first: Ticket, count: int, lasts_s: float, now: float) -> list[Ticket]:
        end = now + lasts_s
        chosen = [one for one in self.waiting if one.group == first.group][:count]
        if len(chosen) < count or any(one.deadline < end for one in (first, *chosen)):
            return []
        overtaken_s = 0.0
        for one in self.waiting:
            if one not in chosen and one < chosen[-1]:
                if end + overtaken_s + one.work_s > one.deadline:
                    return []
                overtaken_s += one.work_s / self.workers
        self.waiting = [one for one in self.waiting if one not in chosen]
        return chosen


# Eighths and quarters: sums of these are exact in whatever order, so that every comparison falls out alike.
EIGHTHS = st.integers(0, 40).map(lambda n: n / 8)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), EIGHTHS, EIGHTHS, st.integers(0, 2), st.sampled_from(["a", "b", None])),
        st.tuples(st.just("take"), st.integers(1, 3), EIGHTHS),
        st.tuples(st.just("remove"), st.sets(st.integers(0, 40))),
        st.tuples(st.just("expired"), EIGHTHS),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=300)
@given(STEPS, st.sampled_from([1, 2, 4]))
def test_it_is_one_sorted_list_to_who_looks_from_outside(steps: list[Any], workers: int) -> None:
    queue, plain = EarliestDeadlineFirst(100, workers), Plain(workers)
    for number, (step, *details) in enumerate(steps):
        if step == "offer":
            deadline, work_s, priority, name = details
            one = Ticket(2 * deadline, number, work_s / 4, 0.0, 8, priority, name)
            assert queue.wait_of_s(one) == plain.before_s(one)
            assert queue.offer(one, 0.25) is plain.offer(one, 0.25)
        elif step == "take":
            count, lasts_s = details
            first = queue.take()
            assert first == (plain.waiting.pop(0) if plain.waiting else None)
            if first is not None and first.group is not None:
                along = queue.take_along(first, count, lasts_s, 0.25)
                assert along == plain.take_along(first, count, lasts_s, 0.25)
        elif step == "remove":
            queue.remove(*details)
            plain.waiting = [one for one in plain.waiting if one.number not in details[0]]
        else:
            gone = queue.expired(*details)
            assert gone == [one for one in plain.waiting if one.deadline < details[0]]
            plain.waiting = [one for one in plain.waiting if one not in gone]
        assert len(queue) == len(plain.waiting)
        assert queue.wait_s == sum(one.work_s for one in plain.waiting) / workers
        for deadline in (1.0, 3.0, 8.0):
            due = sum(one.work_s for one in plain.waiting if one.deadline <= deadline)
            assert queue.wait_before_s(deadline) == due / workers
        for name in ("a", "b"):
            assert queue.alike(name) == sum(one.group == name for one in plain.waiting)
    assert drain(queue) == [one.number for one in plain.waiting]


def test_an_empty_queue_gives_none() -> None:
    queue = EarliestDeadlineFirst(capacity=3, workers=2)
    assert (queue.take(), len(queue), queue.wait_s) == (None, 0, 0.0)


def test_a_refusal_says_why() -> None:
    assert Admission.FULL.value == "the queue is full"
    assert Admission.LATE.value == "it cannot be finished in the time that remains"


def test_what_would_hold_too_much_memory_is_not_let_in() -> None:
    queue = EarliestDeadlineFirst(capacity=10, workers=1, capacity_bytes=100)
    assert queue.offer(large(0, 60), now=0.0) is Admission.ACCEPTED
    assert queue.offer(large(1, 41), now=0.0) is Admission.FULL
    assert queue.offer(large(2, 40), now=0.0) is Admission.ACCEPTED
    queue.take()
    assert queue.offer(large(3, 60), now=0.0) is Admission.ACCEPTED


def test_one_request_alone_is_always_let_in() -> None:
    queue = EarliestDeadlineFirst(capacity=10, workers=1, capacity_bytes=100)
    assert queue.offer(large(0, 5000), now=0.0) is Admission.ACCEPTED
    assert queue.offer(large(1, 1), now=0.0) is Admission.FULL


def test_who_no_longer_waits_leaves_room() -> None:
    queue = EarliestDeadlineFirst(capacity=3, workers=1, capacity_bytes=30)
    for number in range(3):
        assert queue.offer(Ticket(10.0 + number, number, 1.0, 0.0, 10), 0.0) is Admission.ACCEPTED
    assert queue.offer(Ticket(10.0, 9, 1.0, 0.0, 10), 0.0) is Admission.FULL
    queue.remove({0, 2, 77})
    assert queue.wait_s == 1.0
    assert queue.offer(Ticket(9.0, 9, 1.0, 0.0, 20), 0.0) is Admission.ACCEPTED
    assert [queue.take(), queue.take(), queue.take()] == [
        Ticket(9.0, 9, 1.0, 0.0, 20),
        Ticket(11.0, 1, 1.0, 0.0, 10),
        None,
    ]


def test_what_is_late_leaves_and_the_others_stay() -> None:
    queue = EarliestDeadlineFirst(capacity=8, workers=1)
    for number, deadline in enumerate((5.0, 3.0, 8.0)):
        assert queue.offer(Ticket(deadline, number, 0.5, 0.0), 0.0) is Admission.ACCEPTED
    assert queue.expired(3.0) == []
    assert [ticket.number for ticket in queue.expired(5.5)] == [1, 0]
    assert (len(queue), queue.wait_s) == (1, 0.5)


def test_only_what_is_due_before_makes_one_wait() -> None:
    queue = EarliestDeadlineFirst(capacity=8, workers=2)
    for number, deadline in enumerate((2.0, 4.0, 6.0)):
        queue.offer(Ticket(deadline, number, 1.0, 0.0), 0.0)
    assert [queue.wait_before_s(deadline) for deadline in (1.0, 2.0, 5.0, 9.0)] == [0.0, 0.5, 1.0, 1.5]


def test_a_more_urgent_class_runs_first_and_waits_for_its_own_only() -> None:
    queue = EarliestDeadlineFirst(capacity=20, workers=1)
    for number, (deadline, priority) in enumerate([(5.0, 2), (4.0, 1), (3.5, 1)]):
        assert queue.offer(Ticket(deadline, number, 1.0, 0.0, priority=priority), now=0.0) is Admission.ACCEPTED
    # Three seconds of work wait, and none of it runs before this.
    assert queue.offer(Ticket(1.0, 3, 1.0, 0.0, priority=0), now=0.0) is Admission.ACCEPTED
    # All of it runs before this, although its deadline is the earliest.
    assert queue.offer(Ticket(3.0, 4, 1.0, 0.0, priority=2), now=0.0) is Admission.LATE
    assert drain(queue) == [3, 2, 1, 0]


def test_what_has_expired_is_found_in_any_class() -> None:
    queue = EarliestDeadlineFirst(capacity=20, workers=1)
    for number, (deadline, priority) in enumerate([(9.0, 0), (2.0, 2), (1.5, 1), (9.0, 2)]):
        queue.offer(Ticket(deadline, number, 0.1, 0.0, priority=priority), now=0.0)
    assert [ticket.number for ticket in queue.expired(now=3.0)] == [2, 1]
    assert drain(queue) == [0, 3]
