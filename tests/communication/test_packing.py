from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream.communication.packing import FULL_BYTES, LONGEST_HOLD_MS, SMALL_BYTES, Packer, SmallRequest, Way, due_s
from midstream.communication.packs import MAX_PACK_BYTES, MAX_PACKED, packed_bytes
from midstream.communication.wire import decode_request, encode_request

from .test_wire import REQUEST

# 200 bytes, with headers, take 6 ms.
SLOW = Way(round_trip_ms=40.0, queue_ms=0.0, uplink_kbps=500.0)
FAST = Way(round_trip_ms=0.5, queue_ms=0.0, uplink_kbps=1e6)


def small(number: int, ready_s: float = 0.0, deadline_ms: int = 10_000, size: int = 200) -> SmallRequest:
    return SmallRequest(number.to_bytes(16, "big"), bytes(size), ready_s, deadline_ms)


def ids(requests: Sequence[SmallRequest]) -> list[int]:
    return [int.from_bytes(request.request_id, "big") for request in requests]


def test_one_at_a_time_never_waits() -> None:
    packer = Packer()
    for number in range(5):
        now = number * 1e-4
        assert ids(packer.offer(small(number, now), SLOW, now)) == [number]
        assert packer.due_s is None
        assert packer.forget(number.to_bytes(16, "big"), now) == ()


def test_while_one_is_under_way_others_wait_and_go_together_when_it_is_answered() -> None:
    packer = Packer()
    assert ids(packer.offer(small(0), SLOW, 0.0)) == [0]
    for number in (1, 2, 3):
        assert packer.offer(small(number, 0.001), SLOW, 0.001) == ()
        assert packer.holds(number.to_bytes(16, "big"))
    assert ids(packer.forget(bytes(16), 0.002)) == [1, 2, 3]
    assert packer.due_s is None
    assert packer.forget(bytes(16), 0.002) == ()


def test_those_that_wait_go_when_all_under_way_are_answered_and_not_before() -> None:
    packer = Packer()
    packer.offer(small(0), SLOW, 0.0)
    packer.offer(small(1), SLOW, 0.0)
    assert ids(packer.overdue(1.0)) == [1]
    packer.offer(small(2, 1.0), SLOW, 1.0)
    assert packer.forget(bytes(16), 1.0) == ()
    assert ids(packer.forget((1).to_bytes(16, "big"), 1.0)) == [2]


def test_they_go_when_the_link_has_taken_what_was_sent_before() -> None:
    packer = Packer()
    packer.offer(small(0), SLOW, 0.0)
    packer.offer(small(1, 0.001), SLOW, 0.001)
    assert packer.due_s is not None
    assert 0.001 < packer.due_s < 0.010
    assert packer.overdue(packer.due_s - 1e-6) == ()
    assert ids(packer.overdue(packer.due_s)) == [1]
    # It is free again long before these are answered.
    assert ids(packer.offer(small(2, 0.030), SLOW, 0.030)) == [2]


def test_a_fast_link_is_waited_for_hardly_at_all() -> None:
    packer = Packer()
    packer.offer(small(0), FAST, 0.0)
    assert ids(packer.offer(small(1, 0.001), FAST, 0.001)) == [1]


def test_a_request_without_slack_goes_at_once_and_alone() -> None:
    packer = Packer()
    packer.offer(small(0), SLOW, 0.0)
    assert packer.offer(small(1), SLOW, 0.0) == ()
    assert ids(packer.offer(small(2, deadline_ms=70), SLOW, 0.0)) == [2]
    assert packer.holds((1).to_bytes(16, "big"))


def test_little_slack_is_a_short_wait() -> None:
    way = Way(round_trip_ms=100.0, queue_ms=20.0, uplink_kbps=50.0)
    needed_ms = (100 + 20 + (190 + packed_bytes([bytes(200)])) * 8 / 50) * 1.5 + 5
    packer = Packer()
    packer.offer(small(0), way, 0.0)
    assert packer.offer(small(1, deadline_ms=int(needed_ms) + 10), way, 0.0) == ()
    assert packer.due_s == pytest.approx(0.010, abs=0.001)
    # What is expected of the gateway counts as well.
    assert ids(packer.offer(replace(small(2, deadline_ms=int(needed_ms) + 10), work_ms=20.0), way, 0.0)) == [2]


def test_a_pack_whose_growth_would_be_too_late_for_one_in_it_goes_before() -> None:
    way = replace(SLOW, uplink_kbps=50.0)
    slack_ms = 5 + 1.5 * (40 + (190 + packed_bytes([bytes(200)])) * 8 / 50) + 10
    packer = Packer()
    packer.offer(small(0), way, 0.0)
    assert packer.offer(small(1, deadline_ms=int(slack_ms)), way, 0.0) == ()
    assert ids(packer.offer(small(2), way, 0.0)) == [1]
    assert packer.holds((2).to_bytes(16, "big"))


def test_a_full_pack_goes_at_once() -> None:
    packer = Packer()
    packer.offer(small(0), SLOW, 0.0)
    number, due = 0, []
    while not due:
        number += 1
        due = ids(packer.offer(small(number), SLOW, 0.0))
    assert due == list(range(1, number))
    assert packed_bytes([bytes(200)] * (number - 1)) <= FULL_BYTES < packed_bytes([bytes(200)] * number)
    assert packer.holds(number.to_bytes(16, "big"))


def test_a_pack_has_no_more_requests_than_the_wire_format_carries() -> None:
    way = replace(FAST, uplink_kbps=2e5)
    packer = Packer()
    packer.offer(small(999), way, 0.0)
    for number in range(MAX_PACKED):
        assert packer.offer(small(number), way, 0.0) == ()
    assert ids(packer.offer(small(MAX_PACKED), way, 0.0)) == list(range(MAX_PACKED))


def test_who_gives_up_waiting_is_not_sent() -> None:
    packer = Packer()
    packer.offer(small(0), SLOW, 0.0)
    packer.offer(small(1), SLOW, 0.0)
    assert packer.forget((1).to_bytes(16, "big"), 0.0) == ()
    assert packer.due_s is None
    assert packer.forget(bytes(16), 0.0) == ()


def test_what_is_small_depends_on_what_the_broker_and_the_link_take_at_once() -> None:
    assert Way(1.0, 0.0, 1e6).small_bytes == SMALL_BYTES
    for way in (SLOW, Way(1.0, 0.0, 1e6, pack_bytes=2000), Way(1.0, 0.0, 1e6, pack_bytes=2011)):
        two = [bytes(way.small_bytes)] * 2
        assert packed_bytes(two) <= way.full_bytes <= way.pack_bytes
    assert Way(1.0, 0.0, 1e6, pack_bytes=-20).small_bytes < 0


def test_the_time_that_was_waited_is_taken_off_the_deadline() -> None:
    message = encode_request(replace(REQUEST, deadline_ms=250))
    request = SmallRequest(REQUEST.request_id, message, 10.0, 250)
    assert request.at(10.0) is message
    assert decode_request(request.at(10.012)).deadline_ms in (237, 238)
    assert decode_request(request.at(11.0)).deadline_ms == 1


@given(
    st.lists(
        st.tuples(st.floats(0, 0.02), st.integers(0, 2000), st.integers(28, 700), st.booleans()),
        min_size=1,
        max_size=40,
    ),
    st.floats(10, 1e6),
    st.floats(0, 200),
)
def test_each_is_sent_once_and_in_time(
    steps: list[tuple[float, int, int, bool]], uplink_kbps: float, round_trip_ms: float
) -> None:
    way = Way(round_trip_ms, 0.0, uplink_kbps)
    packer, now, sent, offered = Packer(), 0.0, [], {}
    for number, (pause_s, deadline_ms, size, answered) in enumerate(steps):
        then, now = now, now + pause_s
        if packer.due_s is not None and packer.due_s <= now:
            then = packer.due_s
            batch = packer.overdue(then)
            assert batch
            for request in batch:
                assert then - request.ready_s <= LONGEST_HOLD_MS / 1e3 + 1e-9
                assert then <= max(due_s([request], way), request.ready_s) + 1e-9
            sent.append(ids(batch))
        if answered and sent:
            sent += [ids(batch) for one in sent[-1] if (batch := packer.forget(one.to_bytes(16, "big"), now))]
        request = small(number, now, deadline_ms, min(size, way.small_bytes))
        offered[number] = request
        if batch := packer.offer(request, way, now):
            sent.append(ids(batch))
        if due_s([request], way) <= now:
            assert [number] in sent
    if packer.due_s is not None:
        sent.append(ids(packer.overdue(packer.due_s)))
    assert sorted(number for batch in sent for number in batch) == sorted(offered)
    for batch in sent:
        assert len(batch) <= MAX_PACKED
        assert packed_bytes([offered[number].message for number in batch]) <= MAX_PACK_BYTES
