"""Roles: rights that follow from the topics, each client's own."""

from __future__ import annotations

import pytest

from midstream.communication import topics
from midstream.communication.roles import ROLES, Rights, of_any, rights
from midstream.errors import WireError


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a filter without # matches a topic."""
    pairs = zip(topic_filter.split("/"), topic.split("/"), strict=False)
    same_length = topic_filter.count("/") == topic.count("/")
    return same_length and all(level in ("+", its) for level, its in pairs)


def may(granted: tuple[str, ...], topic: str) -> bool:
    return any(matches(topic_filter, topic) for topic_filter in granted)


def test_a_device_and_a_gateway_can_do_their_work() -> None:
    device, gateway = rights("device", "d"), rights("gateway", "g")
    assert may(device.publish, topics.request_topic("g", "d"))
    assert may(gateway.receive, topics.request_topic("g", "d"))
    assert may(gateway.publish, topics.reply_topic("g", "d"))
    assert may(device.receive, topics.reply_topic("g", "d"))
    assert may(gateway.publish, topics.presence_topic("g"))
    assert may(device.receive, topics.presence_topic("g"))
    assert may(device.publish, topics.probe_topic("d"))
    assert set(device.subscribe) == {topics.presence_filter(), topics.reply_filter("d")}
    assert set(gateway.subscribe) == {topics.request_filter("g")}


@pytest.mark.parametrize("role", ROLES)
def test_whatever_one_publishes_bears_its_name(role: str) -> None:
    for topic_filter in rights(role, "own").publish:  # type: ignore[arg-type]
        assert "own" in topic_filter.split("/")


def test_nobody_reads_what_is_for_another() -> None:
    for own in (rights("device", "d"), rights("gateway", "d")):
        for topic in (topics.request_topic("g", "e"), topics.reply_topic("g", "e"), topics.probe_topic("e")):
            assert not may(own.receive, topic)
            assert not may(own.publish, topic)


def test_any_is_a_wildcard_where_the_name_stands() -> None:
    assert of_any(topics.presence_topic) == topics.presence_filter()
    assert of_any(lambda device: topics.request_topic("a", device)) == topics.request_filter("a")
    assert of_any(lambda gateway: topics.reply_topic(gateway, "b")) == topics.reply_filter("b")


def test_a_shared_subscription_receives_without_its_group() -> None:
    assert Rights(subscribe=("$share/g/x/+", "y")).receive == ("x/+", "y")


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(WireError, match="cannot be part of a topic"):
        rights("device", "+")
