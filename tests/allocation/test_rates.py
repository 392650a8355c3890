"""What one sender may send, by a clock that the test turns."""

from __future__ import annotations

from collections import Counter

from midstream.allocation.rates import Rates, Throttle, TokenBucket, Verdict


def test_a_bucket_fills_at_its_rate_and_no_higher_than_its_burst() -> None:
    bucket = TokenBucket(rate_per_s=10, burst=5)
    taken = 0
    while bucket.has(1, 100.0):
        bucket.spend(1)
        taken += 1
    assert taken == 5
    assert not bucket.has(1, 100.09)
    assert bucket.has(1, 100.11)
    assert bucket.has(5, 1000.0)
    assert bucket.has(50, 1000.0)  # what is larger than the burst waits for all of it, and owes the rest
    bucket.spend(50)
    assert not bucket.has(1, 1004.5)
    assert bucket.has(1, 1004.7)


def test_who_sends_too_much_is_told_then_no_longer_heard_and_the_others_are_served() -> None:
    throttle = Throttle(Rates(messages_per_s=100, bytes_per_s=1e6))
    verdicts = Counter(throttle.judge("flood", 10, 50.0) for _ in range(1000))
    assert verdicts == {Verdict.TAKE: 200, Verdict.REFUSE: 10, Verdict.DROP: 790}
    assert throttle.judge("other", 10, 50.0) is Verdict.TAKE
    again = Counter(throttle.judge("flood", 10, 51.0) for _ in range(1000))
    assert again == {Verdict.TAKE: 100, Verdict.REFUSE: 10, Verdict.DROP: 890}


def test_bytes_count_too() -> None:
    throttle = Throttle(Rates(messages_per_s=100, bytes_per_s=1000))
    assert [throttle.judge("large", 900, 0.0) for _ in range(3)] == [Verdict.TAKE, Verdict.TAKE, Verdict.REFUSE]
    assert throttle.judge("large", 900, 1.0) is Verdict.TAKE


def test_however_many_senders_come_a_bounded_number_is_remembered() -> None:
    throttle = Throttle(Rates())
    for number in range(5000):
        throttle.judge(f"device-{number}", 1, 0.0)
    assert len(throttle._senders) == 1024
