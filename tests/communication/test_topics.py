from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.communication import topics
from midstream.communication.topics import Route
from midstream.errors import WireError

ids = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
PARSERS = (topics.parse_request_topic, topics.parse_reply_topic, topics.parse_presence_topic, topics.answer_topic)


def matches(topic: str, topic_filter: str) -> bool:
    """MQTT's rule for one-level wildcards."""
    pattern = "/".join("[^/]+" if level == "+" else re.escape(level) for level in topic_filter.split("/"))
    return re.fullmatch(pattern, topic) is not None


def test_names_are_those_of_the_protocol() -> None:
    assert topics.request_topic("gw-1", "pi_7") == "midstream/0/gw/gw-1/req/pi_7"
    assert topics.reply_topic("gw-1", "pi_7") == "midstream/0/dev/pi_7/rep/gw-1"
    assert topics.presence_topic("gw-1") == "midstream/0/presence/gw-1"


@settings(deadline=None)
@given(ids, ids)
def test_topics_are_parsed_and_matched(gateway: str, device: str) -> None:
    request, reply = topics.request_topic(gateway, device), topics.reply_topic(gateway, device)
    assert topics.parse_request_topic(request) == Route(gateway, device)
    assert topics.parse_reply_topic(reply) == Route(gateway, device)
    assert topics.parse_presence_topic(topics.presence_topic(gateway)) == gateway
    assert topics.answer_topic(request) == reply
    assert matches(request, topics.request_filter(gateway))
    assert matches(reply, topics.reply_filter(device))
    assert matches(topics.presence_topic(gateway), topics.presence_filter())


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "a b", "ü", "a\n", "x" * 65, "$SYS", "a.b", "\0"])
def test_other_ids_are_refused(name: str) -> None:
    with pytest.raises(WireError, match="cannot be part of a topic"):
        topics.check_id(name)
    for build in (topics.presence_topic, topics.request_filter, topics.reply_filter):
        with pytest.raises(WireError):
            build(name)
    for build_pair in (topics.request_topic, topics.reply_topic):
        with pytest.raises(WireError):
            build_pair("gw", name)
        with pytest.raises(WireError):
            build_pair(name, "dev")


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "midstream/0/gw/a/req/b/c",
        "midstream/0/gw/a/req/",
        "midstream/0/gw/a/req/b\n",
        "midstream/1/gw/a/req/b",
        "/midstream/0/gw/a/req/b",
        "midstream/0/gw/+/req/b",
        "midstream/0/gw/a/rep/b",
        "midstream/0/presence/a/b",
    ],
)
def test_other_topics_are_refused(topic: str) -> None:
    for parse in PARSERS:
        with pytest.raises(WireError, match="topic"):
            parse(topic)


def test_kinds_are_not_confused() -> None:
    with pytest.raises(WireError, match="not a request's topic"):
        topics.parse_request_topic(topics.reply_topic("g", "d"))
    with pytest.raises(WireError, match="not a reply's topic"):
        topics.parse_reply_topic(topics.request_topic("g", "d"))


@settings(deadline=None)
@given(st.text(max_size=100))
def test_random_topics_raise_wire_errors_only(topic: str) -> None:
    for parse in PARSERS:
        with pytest.raises(WireError):
            parse(topic)
