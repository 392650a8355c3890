"""The gateway's queue is bounded in bytes, too."""

from __future__ import annotations

from midstream.allocation.queueing import Admission, EarliestDeadlineFirst, Ticket


def ticket(number: int, size_bytes: int) -> Ticket:
    return Ticket(1e6, number, 1.0, 0.0, size_bytes)


def test_what_would_hold_too_much_memory_is_not_let_in() -> None:
    queue = EarliestDeadlineFirst(capacity=10, workers=1, capacity_bytes=100)
    assert queue.offer(ticket(0, 60), now=0.0) is Admission.ACCEPTED
    assert queue.offer(ticket(1, 41), now=0.0) is Admission.FULL
    assert queue.offer(ticket(2, 40), now=0.0) is Admission.ACCEPTED
    queue.take()
    assert queue.offer(ticket(3, 60), now=0.0) is Admission.ACCEPTED


def test_one_request_alone_is_always_let_in() -> None:
    queue = EarliestDeadlineFirst(capacity=10, workers=1, capacity_bytes=100)
    assert queue.offer(ticket(0, 5000), now=0.0) is Admission.ACCEPTED
    assert queue.offer(ticket(1, 1), now=0.0) is Admission.FULL
