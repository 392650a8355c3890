from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream.communication.outbox import FAIR_TURN, Item, Outbox, Publish, Subscribe, Unsubscribe, pack_properties
from midstream.communication.wire import Priority


def message(
    payload: bytes = b"",
    correlation: bytes | None = None,
    expires_s: float | None = None,
    priority: Priority = Priority.NORMAL,
) -> Publish:
    return Publish("t", payload, 1, False, b"", None, 0.0, expires_s, correlation, priority)


def drain(outbox: Outbox, now_s: float = 0.0) -> list[Item]:
    taken = []
    while (item := outbox.take(now_s)) is not None:
        taken.append(item)
    return taken


def test_it_keeps_the_order() -> None:
    outbox = Outbox(100)
    items = [Subscribe("t/+", 1), Unsubscribe("t/+"), message(b"a"), message(b"b")]
    assert all(outbox.put(item) for item in items)
    assert len(outbox) == 4
    assert drain(outbox) == items
    assert outbox.take(0.0) is None


def test_it_is_full_once_it_holds_what_is_allowed_but_takes_what_has_no_payload() -> None:
    outbox = Outbox(10)
    assert outbox.put(message(bytes(9)))
    assert outbox.put(message(bytes(500)))
    assert not outbox.put(message(b"1"))
    assert outbox.put(message())
    assert outbox.put(Subscribe("t", 1))
    assert outbox.waiting_bytes == 509
    for _ in range(2):  # the subscription, and what has nine bytes
        outbox.take(0.0)
        assert not outbox.put(message(b"1"))
    outbox.take(0.0)
    assert outbox.put(message(b"1"))


def test_what_has_expired_is_not_sent() -> None:
    outbox = Outbox(100)
    late, timely, endless = message(b"1", expires_s=5.0), message(b"2", expires_s=6.0), message(b"3")
    for item in (late, timely, endless):
        outbox.put(item)
    assert drain(outbox, now_s=5.5) == [timely, endless]
    assert outbox.waiting_bytes == 0


def test_what_is_withdrawn_is_not_sent() -> None:
    outbox = Outbox(100)
    mine, other, none = message(b"12", b"mine"), message(b"3", b"other"), message(b"4")
    for item in (mine, other, mine, none, Subscribe("t", 1)):
        outbox.put(item)
    outbox.withdraw(b"mine")
    assert outbox.waiting_bytes == 2
    assert drain(outbox)[1:] == [other, none]
    outbox.withdraw(b"mine")


@given(st.lists(st.tuples(st.binary(max_size=5), st.sampled_from([b"a", b"b", None])), max_size=30), st.integers(1, 20))
def test_it_always_knows_what_waits(messages: list[tuple[bytes, bytes | None]], limit: int) -> None:
    outbox = Outbox(limit)
    waiting = [item for item in (message(*fields) for fields in messages) if outbox.put(item)]
    assert outbox.waiting_bytes == sum(len(item.payload) for item in waiting) < limit + 5
    outbox.withdraw(b"a")
    kept = [item for item in waiting if item.correlation != b"a"]
    assert outbox.waiting_bytes == sum(len(item.payload) for item in kept)
    assert drain(outbox) == kept
    outbox.put(message(b"1"))
    outbox.clear()
    assert (len(outbox), outbox.waiting_bytes) == (0, 0)


@given(st.lists(st.sampled_from(Priority), max_size=60))
def test_a_class_goes_before_the_next_and_every_eighth_is_the_oldest(classes: list[Priority]) -> None:
    outbox = Outbox(1000)
    waiting = [message(b"%d" % number, priority=priority) for number, priority in enumerate(classes)]
    assert all(outbox.put(item) for item in waiting)
    number = 0
    while waiting:
        fair = number % FAIR_TURN == FAIR_TURN - 1
        expected = waiting[0] if fair else min(waiting, key=lambda item: item.priority)
        several = len({item.priority for item in waiting}) > 1
        assert outbox.take(0.0) is expected
        waiting.remove(expected)
        number = number + 1 if several else 0


def test_bulk_goes_out_however_much_else_comes() -> None:
    outbox = Outbox(1000)
    bulk = [message(b"bulk", priority=Priority.BULK) for _ in range(3)]
    for item in bulk:
        outbox.put(item)
    taken = []
    for _ in range(3 * FAIR_TURN):
        outbox.put(message(b"1", priority=Priority.CRITICAL))
        taken.append(outbox.take(0.0))
    assert [item for item in taken if item in bulk] == bulk


@pytest.mark.parametrize("length", [0, 1, 100, 118, 119, 20_000])
def test_properties_begin_with_their_length(length: int) -> None:
    """The standard's section 1.5.5: seven bits a byte, the lowest first, the eighth for more to come."""
    packed = pack_properties(bytes(length), None, 7)
    body = b"\x02\x00\x00\x00\x07\x09" + length.to_bytes(2, "big") + bytes(length)
    value, shift, at = 0, 0, 0
    while True:
        value |= (packed[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not packed[at - 1] & 0x80:
            break
    assert value == len(body)
    assert packed[at:] == body
    assert pack_properties(None, None, None) == b""
