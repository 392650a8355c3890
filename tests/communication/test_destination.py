"""Where requests go, and who counts."""

from __future__ import annotations

from midstream.communication import topics
from midstream.communication.destination import to_gateway, to_pool


def test_a_gateway_is_asked_on_its_topic_and_answers_on_the_devices() -> None:
    one = to_gateway("g")
    assert one.request_topic("pi") == topics.request_topic("g", "pi")
    assert one.reply_topic("pi") == topics.reply_topic("g", "pi")
    assert one.control_topics("pi") == (topics.gateway_control_topic("g", "pi"),)
    assert one.answerers == one.bearers == {"g"}
    assert one.take_within_s is None


def test_of_several_stages_each_gateway_may_answer_and_has_it() -> None:
    chain = to_gateway("g", onward=("h", "i"), before=("old",))
    assert chain.request_topic("pi") == topics.request_topic("g", "pi")
    assert chain.bearers == {"g", "h", "i"}
    assert chain.answerers == {"g", "h", "i", "old"}
    assert chain.control_topics("pi") == tuple(topics.gateway_control_topic(name, "pi") for name in "ghi")


def test_a_pool_is_asked_on_its_own_topics() -> None:
    pool = to_pool("g", ("a", "b"), 0.5)
    assert pool.request_topic("pi") == topics.pool_request_topic("g", "pi")
    assert pool.control_topics("pi") == (topics.pool_control_topic("g", "pi"),)
    assert pool.reply_topic("pi") is None
    assert pool.take_within_s == 0.5
    assert pool.key != to_gateway("g").key
