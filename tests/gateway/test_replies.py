from __future__ import annotations

from midstream.communication.packing import FULL_BYTES, SMALL_BYTES
from midstream.communication.packs import MAX_PACKED, encode_pack
from midstream.gateway.replies import HeldReplies

ROOM = 60_000


def reply(number: int, size: int = 60) -> bytes:
    return bytes(8) + number.to_bytes(16, "big") + bytes(size - 24)


def test_replies_to_one_device_wait_for_the_next_quick_one() -> None:
    held = HeldReplies()
    for number in range(3):
        assert held.takes("d", reply(number), 1.0, 0.0, ROOM)
        held.add("d", reply(number), 1.0 + number, 0.0)
        assert held.waits_for("d", 0.001, 0.0)
    assert held.deadline == 3.0
    assert held.take() == [reply(0), reply(1), reply(2)]
    assert len(held) == 0


def test_they_wait_neither_for_long_nor_for_another_device() -> None:
    held = HeldReplies()
    held.add("d", reply(0), 1.0, 0.0)
    assert not held.waits_for("other", 0.001, 0.0)
    assert not held.takes("other", reply(1), 1.0, 0.0, ROOM)
    assert not held.waits_for("d", 0.010, 0.0)
    assert not held.waits_for("d", 0.001, 0.0015)


def test_a_reply_that_is_due_or_large_does_not_wait() -> None:
    held = HeldReplies()
    assert not held.takes("d", reply(0), 0.019, 0.0, ROOM)
    assert not held.takes("d", reply(0, SMALL_BYTES + 1), 1.0, 0.0, ROOM)
    assert not held.takes("d", reply(0, 600), 1.0, 0.0, 500)


def test_two_answers_to_one_request_are_not_packed() -> None:
    held = HeldReplies()
    held.add("d", reply(7), 1.0, 0.0)
    assert not held.takes("d", reply(7), 1.0, 0.0, ROOM)


def test_what_is_held_fits_into_one_pack() -> None:
    held, number = HeldReplies(), 0
    while held.takes("d", reply(number), 1.0, 0.0, ROOM):
        held.add("d", reply(number), 1.0, 0.0)
        number += 1
    assert 2 < number <= MAX_PACKED
    assert len(encode_pack(held.take())) <= FULL_BYTES
