"""Roles: rights that follow from the topics, each client's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from midstream.communication import topics
from midstream.communication.roles import ROLES, Rights, of_any, of_any_version, pool_member, rights
from midstream.errors import WireError


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a filter without # matches a topic."""
    pairs = zip(topic_filter.split("/"), topic.split("/"), strict=False)
    same_length = topic_filter.count("/") == topic.count("/")
    return same_length and all(level in ("+", its) for level, its in pairs)


def may(granted: tuple[str, ...], topic: str) -> bool:
    return any(matches(topic_filter, topic) for topic_filter in granted)


def test_each_may_do_what_the_protocol_needs_and_speak_for_nobody_else() -> None:
    device_writes = (
        topics.request_topic("gw", "me"),
        topics.pool_request_topic("pool", "me"),
        topics.gateway_control_topic("gw", "me"),
        topics.pool_control_topic("pool", "me"),
        topics.probe_topic("me"),
    )
    gateway_writes = (
        topics.reply_topic("me", "dev"),
        topics.device_control_topic("dev", "me"),
        topics.forward_topic("gw", "dev", "me"),
        topics.peer_control_topic("gw", "me"),
        topics.presence_topic("me"),
        topics.load_topic("me"),
    )
    for topic in device_writes:
        assert may(rights("device", "me").publish, topic)
        assert not may(rights("device", "other").publish, topic)
        assert not may(rights("gateway", "me").publish, topic)
        assert not may(rights("device", "me").receive, topic)
    for topic in gateway_writes:
        assert may(rights("gateway", "me").publish, topic)
        assert not may(rights("gateway", "other").publish, topic)
        assert not may(rights("device", "me").publish, topic)
    gateway_reads = (
        topics.request_topic("me", "dev"),
        topics.gateway_control_topic("me", "dev"),
        topics.forward_topic("me", "dev", "gw"),
        topics.peer_control_topic("me", "gw"),
    )
    for topic in gateway_reads:
        assert may(rights("gateway", "me").receive, topic)
        assert not may(rights("gateway", "other").receive, topic)
        assert not may(rights("device", "me").receive, topic)
    member = rights("gateway", "me") | pool_member("pool", "sixteen or more letters")
    for topic in (topics.pool_request_topic("pool", "dev"), topics.pool_control_topic("pool", "dev")):
        assert may(member.receive, topic)
        assert not may(rights("gateway", "me").receive, topic)
        assert not may(rights("device", "me").receive, topic)
    for topic in (topics.reply_topic("gw", "me"), topics.device_control_topic("me", "gw")):
        assert may(rights("device", "me").receive, topic)
        assert not may(rights("device", "other").receive, topic)
        assert not may(rights("gateway", "me").receive, topic)
    for topic in (topics.presence_topic("gw"), topics.load_topic("gw")):
        assert may(rights("device", "me").receive, topic)
        assert may(rights("gateway", "me").receive, topic)


def test_a_gateway_may_answer_another_version_where_that_is_looked_for() -> None:
    assert may(rights("gateway", "g").publish, topics.reply_topic("g", "d", 2))
    assert may(rights("gateway", "g").receive, "midstream/2/gw/g/req/d")
    assert may(rights("device", "d").publish, "midstream/2/gw/g/req/d")


def test_operators_are_told_exactly_this() -> None:
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| (device D|gateway G) \| (publish|subscribe) \| `([^`]+)` \|$", page, re.MULTILINE)
    table = {"device D": rights("device", "D"), "gateway G": rights("gateway", "G")}
    assert told == [
        (who, what, topic)
        for who, granted in table.items()
        for what, listed in (("publish", granted.publish), ("subscribe", granted.subscribe))
        for topic in listed
    ]


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
    requests = of_any(lambda device: topics.request_topic("a", device))
    assert of_any_version(requests) == topics.request_filter("a") == "midstream/+/gw/a/req/+"
    assert of_any_version(topics.presence_topic("a")) == topics.presence_topic("a")
    assert of_any(lambda gateway: topics.reply_topic(gateway, "b")) == topics.reply_filter("b")


def test_a_shared_subscription_receives_without_its_group() -> None:
    assert Rights(subscribe=("$share/g/x/+", "y")).receive == ("x/+", "y")


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(WireError, match="cannot be part of a topic"):
        rights("device", "+")
