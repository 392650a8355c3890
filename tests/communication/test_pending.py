"""When a request has all its replies."""

from __future__ import annotations

import itertools

import pytest

from midstream.communication.destination import to_gateway
from midstream.communication.pending import Expected, Pending
from midstream.communication.wire import Reply, Request, Status

ID = bytes(16)


def reply(*outputs: int, partial: bool = False, status: Status = Status.OK) -> Reply:
    return Reply(ID, status, (), "raw", 0.0, 0.0, outputs=outputs, partial=partial)


def pending(outputs: int | None) -> Pending:
    request = Request(ID, bytes(32), "", "raw", 1000, 0.0, (), ())
    return Pending(request, to_gateway("g"), Expected(0.0, 0.0, 0.0, 0.0), 0.0, 1.0, frozenset("g"), outputs)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_replies_of_several_stages_may_come_in_any_order(order: tuple[int, ...]) -> None:
    replies = [reply(0, partial=True), reply(2, partial=True), reply(1, 3)]
    asked = pending(4)
    done = [asked.add(replies[place]) for place in order]
    assert done == [False, False, True]
    assert asked.reply == replies[2]
    assert sorted(place for each in asked.partial for place in each.outputs) == [0, 2]


def test_what_comes_twice_counts_once() -> None:
    asked = pending(2)
    assert not asked.add(reply(0, partial=True))
    assert not asked.add(reply(0, partial=True))
    assert len(asked.partial) == 1
    assert asked.add(reply(1))


def test_a_refusal_by_any_stage_ends_it() -> None:
    asked = pending(4)
    assert not asked.add(reply(0, partial=True))
    assert asked.add(reply(status=Status.CANNOT_FORWARD))
    assert asked.reply is not None
    assert asked.reply.status is Status.CANNOT_FORWARD


def test_of_one_stage_the_first_reply_is_all() -> None:
    asked = pending(None)
    assert asked.add(reply(0, 1))
    later = pending(None)
    assert later.add(reply(0, partial=True))  # for whoever reads it to refuse
