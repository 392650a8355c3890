"""When chunks are asked for again, and how much parity a link needs. The clock is a number."""

from __future__ import annotations

import math
from random import Random

import pytest

from midstream.communication.chunks import MIN_CHUNK_BYTES, Reassembler, split
from midstream.communication.control import Missing
from midstream.communication.redundancy import LossEstimate, redundancy
from midstream.communication.repair import Repair, RepairRules, Resend
from midstream.errors import WireError

from .golden import ID
from .test_chunks import message_of

MESSAGE = message_of(20_000)
RULES = RepairRules(reorder=3, quiet_s=0.1, most_asks=4)


class Receiving:
    """A receiver of one message that repairs it."""

    def __init__(self, rules: RepairRules = RULES) -> None:
        self.reassembler = Reassembler()
        self.repair: Repair | None = None
        self.rules = rules

    def add(self, chunk: bytes, now_s: float) -> Missing | bytes | None:
        whole = self.reassembler.add("d", chunk)
        if whole is not None:
            return whole
        progress = self.reassembler.progress("d", ID)
        assert progress is not None
        self.repair = self.repair or Repair(now_s, self.rules)
        return self.repair.arrived(progress, now_s)

    def silence(self, now_s: float) -> Missing | None:
        progress = self.reassembler.progress("d", ID)
        assert progress is not None
        assert self.repair is not None
        return self.repair.overdue(progress, now_s)


def test_a_gap_is_asked_for_once_enough_later_chunks_have_come() -> None:
    chunks, receiver = split(MESSAGE, ID, MIN_CHUNK_BYTES), Receiving()
    for at in (0, 1, 3, 4):
        assert receiver.add(chunks[at], 0.0) is None
    assert receiver.add(chunks[5], 0.01) == Missing(ID, MESSAGE[-4:], 5, 6, ((2, 2),))
    assert receiver.add(chunks[6], 0.02) is None
    assert receiver.add(chunks[2], 0.03) is None
    for at in (7, 8):
        assert receiver.add(chunks[at], 0.04) is None
    assert receiver.add(chunks[9], 0.04) == MESSAGE


def test_what_parity_will_repair_is_not_asked_for() -> None:
    chunks, receiver = split(MESSAGE, ID, MIN_CHUNK_BYTES, parity=2), Receiving()
    for at in (0, 2, 4, 5, 6, 7, 8, 9, 10):
        assert receiver.add(chunks[at], 0.0) is None
    assert receiver.add(chunks[11], 0.0) == MESSAGE


def test_more_loss_than_parity_is_asked_for_at_once() -> None:
    chunks, receiver = split(MESSAGE, ID, MIN_CHUNK_BYTES, parity=1), Receiving()
    for at in (0, 2, 4, 5, 6):
        asked = receiver.add(chunks[at], 0.0)
    assert asked == Missing(ID, MESSAGE[-4:], 5, 7, ((1, 1), (3, 3)))


def test_after_silence_everything_is_asked_for_a_bounded_number_of_times() -> None:
    chunks, receiver = split(MESSAGE, ID, MIN_CHUNK_BYTES), Receiving()
    assert receiver.add(chunks[0], 5.0) is None
    assert receiver.repair is not None
    assert receiver.repair.due_s == pytest.approx(5.1)
    assert receiver.silence(5.09) is None
    times = []
    while (due_s := receiver.repair.due_s) is not None:
        assert receiver.silence(due_s) == Missing(ID, MESSAGE[-4:], 1, 1, ((1, 9),))
        times.append(due_s)
    assert times == pytest.approx([5.1, 5.3, 5.7, 6.5])
    assert receiver.silence(100.0) is None
    assert receiver.add(chunks[9], 100.0) is None


def test_a_lossy_link_is_repaired_with_few_questions() -> None:
    random = Random(7)
    message = message_of(300_000)
    chunks, receiver = split(message, ID, MIN_CHUNK_BYTES), Receiving(RepairRules(quiet_s=0.05, most_asks=16))
    sender = Resend(message[-4:], chunks)
    found: bytes | None = None
    under_way, now_s, asks = list(chunks), 0.0, 0
    while found is None:
        answer: Missing | bytes | None = None
        if under_way:
            now_s += 0.001
            chunk = under_way.pop(0)
            if random.random() < 0.05:
                continue
            answer = receiver.add(chunk, now_s)
        else:
            assert receiver.repair is not None
            assert receiver.repair.due_s is not None
            now_s = receiver.repair.due_s
            answer = receiver.silence(now_s)
        if isinstance(answer, bytes):
            found = answer
        elif answer is not None:
            asks += 1
            under_way += sender.answer(answer)
    assert found == message
    assert 1 <= asks <= 10


def test_a_sender_answers_with_what_was_asked_and_no_more_than_it_may() -> None:
    chunks = split(MESSAGE, ID, MIN_CHUNK_BYTES)
    sender = Resend(MESSAGE[-4:], chunks, most=1.0)
    asked = Missing(ID, MESSAGE[-4:], 1, 10, ((1, 2), (7, 7)))
    assert sender.answer(Missing(ID, b"else", 1, 10, ((1, 2),))) == []
    for _ in range(3):
        assert sender.answer(asked) == [chunks[1], chunks[2], chunks[7]]
    assert sender.answer(asked) == [chunks[1]]
    assert sender.answer(asked) == []
    with pytest.raises(WireError, match=r"chunk 10 of message .* is asked for; it has 10"):
        sender.answer(Missing(ID, MESSAGE[-4:], 1, 10, ((1, 10),)))


@pytest.mark.parametrize(("loss", "parts"), [(0.01, 12), (0.05, 12), (0.2, 12), (0.05, 100), (0.2, 1)])
@pytest.mark.parametrize("target", [0.9, 0.999])
def test_redundancy_is_the_least_that_reaches_the_target(loss: float, parts: int, target: float) -> None:
    def survives(parity: int) -> float:
        sent = parts + parity
        return math.fsum(math.comb(sent, lost) * loss**lost * (1 - loss) ** (sent - lost) for lost in range(parity + 1))

    parity = redundancy(loss, parts, target)
    assert survives(parity) >= target
    assert parity == 0 or survives(parity - 1) < target


def test_redundancy_has_bounds() -> None:
    assert redundancy(0.0, 12) == 0
    assert redundancy(0.5, 300) == 0
    assert redundancy(1.0, 12) == 64
    assert redundancy(0.5, 250) == 6


def test_simulated_losses_spare_as_many_messages_as_was_wanted() -> None:
    random = Random(3)
    parity = redundancy(0.05, 12, 0.99)
    lost = sum(sum(random.random() < 0.05 for _ in range(12 + parity)) > parity for _ in range(20_000))
    assert lost / 20_000 <= 0.01


def test_the_loss_estimate_follows_the_link() -> None:
    estimate = LossEstimate()
    assert estimate.share == 0.0
    for _ in range(50):
        estimate = estimate.after(received=19, sent=20)
    assert estimate.share == pytest.approx(0.05, rel=0.01)
    for _ in range(50):
        estimate = estimate.after(received=16, sent=20)
    assert estimate.share == pytest.approx(0.2, abs=0.005)
    # Duplicates do not count as less than nothing lost.
    assert LossEstimate().after(received=12, sent=10).share == 0.0


def test_one_loss_may_have_been_late_only_and_two_are_losses() -> None:
    once = LossEstimate().after(received=1, sent=2)
    assert once.share == 0.0
    twice = once.after(received=1, sent=2)
    # Two of four, and as if twenty had come before.
    assert twice.share == pytest.approx(2 / 24, rel=0.05)
