"""Two ends of a link that loses chunks: what is missing comes, by parity or by asking again."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

import pytest

from midstream.communication.chunks import MIN_CHUNK_BYTES, Reassembler, peek, split
from midstream.communication.control import Cancel, Missing, Taken, decode_control, encode_control
from midstream.communication.mail import Mail
from midstream.communication.redundancy import Way, parity_chunks, redundancy
from midstream.errors import WireError

from .golden import ID
from .test_chunks import message_of

MESSAGE = message_of(40_000)
WAIT_S = 20.0
WAY = Way()


class Pair:
    """A sender "s" and a receiver "r"; ``lost`` says which of the chunks sent to the receiver are."""

    def __init__(self, lost: Callable[[bytes], bool]) -> None:
        self.lost = lost
        self.came: queue.Queue[bytes] = queue.Queue()
        self.asked: list[bytes] = []
        self.sender = Mail(Reassembler(), self._deliver, lambda _peer, _control: None, answers=False)
        self.receiver = Mail(Reassembler(), lambda _peer, _id, _chunks: None, self._ask, answers=True)

    def send(self, message: bytes, *, parity: bool = False, message_id: bytes = ID) -> list[bytes]:
        chunks = self.sender.chunks("r", message, message_id, MIN_CHUNK_BYTES, 60.0, parity=parity, way=WAY)
        self._deliver("r", message_id, chunks)
        return chunks

    def _deliver(self, _peer: str, _message_id: bytes, chunks: list[bytes]) -> None:
        for chunk in chunks:
            if not self.lost(chunk) and (whole := self.receiver.add("s", chunk)) is not None:
                self.came.put(whole)

    def _ask(self, _peer: str, payload: bytes) -> None:
        self.asked.append(payload)
        self.sender.control("r", payload)


@contextmanager
def pair(lost: Callable[[bytes], bool]) -> Iterator[Pair]:
    ends = Pair(lost)
    yield ends
    ends.sender.close()
    ends.receiver.close()


def once(indices: set[int]) -> Callable[[bytes], bool]:
    """Loses these chunks the first time."""

    def lost(chunk: bytes) -> bool:
        header = peek(chunk)
        assert header is not None
        if header.index in indices:
            indices.remove(header.index)
            return True
        return False

    return lost


def test_lost_chunks_come_again() -> None:
    with pair(once({3, 4, 9})) as ends:
        ends.send(MESSAGE)
        assert ends.came.get(timeout=WAIT_S) == MESSAGE
        asked = [control for control in map(decode_control, ends.asked) if isinstance(control, Missing)]
        assert {pair for control in asked for pair in control.ranges} == {(3, 3), (4, 4), (9, 9)}
        assert ends.sender.loss("r") > 0


def test_the_last_chunks_come_again_though_nothing_follows_them() -> None:
    with pair(once({18, 19})) as ends:
        ends.send(MESSAGE)
        assert ends.came.get(timeout=WAIT_S) == MESSAGE


def test_who_begins_messages_without_end_keeps_no_other_from_being_repaired() -> None:
    last = len(split(MESSAGE, ID, MIN_CHUNK_BYTES)) - 1
    with pair(once({last})) as ends:
        ends.send(MESSAGE)
        for number in range(1000):
            ends.receiver.add("flood", split(MESSAGE, number.to_bytes(16), MIN_CHUNK_BYTES)[0])
        assert ends.came.get(timeout=WAIT_S) == MESSAGE


def test_a_damaged_chunk_of_several_counts_as_lost_and_one_alone_as_an_error() -> None:
    with pair(lambda _chunk: False) as ends:
        chunks = ends.sender.chunks("r", MESSAGE, ID, MIN_CHUNK_BYTES, 60.0, parity=False, way=WAY)
        broken = bytearray(chunks[2])
        broken[-9] ^= 1
        assert ends.receiver.add("s", bytes(broken)) is None
        (alone,) = ends.sender.chunks("r", MESSAGE[:900], ID, MIN_CHUNK_BYTES, 60.0, parity=False, way=WAY)
        broken = bytearray(alone)
        broken[-9] ^= 1
        with pytest.raises(WireError, match="damaged"):
            ends.receiver.add("s", bytes(broken))
        ends.sender.observed("r", 80, 100)
        copy, *others = ends.sender.chunks("r", MESSAGE[:900], ID, MIN_CHUNK_BYTES, 60.0, parity=True, way=WAY)
        broken = bytearray(copy)
        broken[-9] ^= 1
        assert ends.receiver.add("s", bytes(broken)) is None
        assert [ends.receiver.add("s", chunk) for chunk in others] == [MESSAGE[:900]] + [None] * (len(others) - 1)


def test_without_losses_nothing_is_said() -> None:
    with pair(lambda _chunk: False) as ends:
        ends.send(MESSAGE)
        assert ends.came.get_nowait() == MESSAGE
        assert ends.asked == []
        assert ends.sender.qos("r", 100) == 1
        assert len(ends.send(MESSAGE, parity=True, message_id=bytes(16))) == 20


def test_parity_follows_the_losses() -> None:
    random = Random(2)
    with pair(lambda _chunk: random.random() < 0.2) as ends:
        for number in range(30):
            ends.send(MESSAGE, parity=True, message_id=number.to_bytes(16, "big"))
            assert ends.came.get(timeout=WAIT_S) == MESSAGE
        assert any(isinstance(decode_control(control), Taken) for control in ends.asked)
        assert 0.1 < ends.sender.loss("r") < 0.3
        assert len(ends.send(MESSAGE, parity=True)) > 26
        assert ends.sender.qos("r", 100) == 0
        assert ends.sender.qos("r", 1 << 20) == 1


def test_copies_of_a_single_chunk_come_once() -> None:
    with pair(lambda _chunk: False) as ends:
        ends.sender.observed("r", 80, 100)
        assert len(ends.send(MESSAGE[:1000], parity=True)) > 2
        assert ends.came.get_nowait() == MESSAGE[:1000]
        assert ends.came.empty()


def test_nothing_is_kept_of_what_was_cancelled() -> None:
    with pair(lambda _chunk: False) as ends:
        chunks = ends.sender.chunks("r", MESSAGE, ID, MIN_CHUNK_BYTES, 60.0, parity=False, way=WAY)
        ends.receiver.add("s", chunks[0])
        ends.sender.forget("r", ID)
        assert ends.receiver.control("s", encode_control(Cancel(ID))) == Cancel(ID)
        for chunk in chunks[1:]:
            assert ends.receiver.add("s", chunk) is None
        assert ends.asked
        sent: list[bytes] = []
        ends.lost = lambda chunk: bool(sent.append(chunk))
        ends.sender.control("r", encode_control(Missing(ID, MESSAGE[-4:], 19, 20, ((0, 0),))))
        assert sent == []


def test_parity_is_used_where_it_is_quicker() -> None:
    assert parity_chunks(0.0, 20, 40_000, Way(10, 1000)) == 0
    assert parity_chunks(0.05, 20, 40_000, Way(10, 100_000)) == redundancy(0.05, 20) > 0
    # At 100 kbit/s these bytes take seconds, and asking again, which is rare, does not.
    assert parity_chunks(0.01, 20, 400_000, Way(10, 100)) == 0
    assert parity_chunks(0.2, 20, 400_000, Way(10, 100)) == redundancy(0.2, 20)
    assert parity_chunks(0.05, 1, 1000, Way(10, 50)) == 0
    assert parity_chunks(0.05, 1, 1000, Way(10, 50_000)) == redundancy(0.05, 1)
    assert 0 < parity_chunks(1.0, 4, 4000, Way()) <= 64
