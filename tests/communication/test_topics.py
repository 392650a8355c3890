from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.communication import topics
from midstream.communication.topics import Inbound, Route
from midstream.errors import WireError

ids = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
PARSERS = (
    topics.parse_inbound,
    topics.parse_request_topic,
    topics.parse_reply_topic,
    topics.parse_device_control_topic,
    topics.parse_presence_topic,
    topics.parse_load_topic,
    lambda topic: topics.answer_topic(topic, "gw"),
)
SECRET = "sixteen or more letters"


def matches(topic: str, topic_filter: str) -> bool:
    """MQTT's rule for one-level wildcards."""
    pattern = "/".join("[^/]+" if level == "+" else re.escape(level) for level in topic_filter.split("/"))
    return re.fullmatch(pattern, topic) is not None


def test_names_are_those_of_the_protocol() -> None:
    assert topics.request_topic("gw-1", "pi_7") == "midstream/1/gw/gw-1/req/pi_7"
    assert topics.pool_request_topic("attic", "pi_7") == "midstream/1/pool/attic/req/pi_7"
    assert topics.forward_topic("gw-2", "pi_7", "gw-1") == "midstream/1/gw/gw-2/fwd/pi_7/gw-1"
    assert topics.reply_topic("gw-1", "pi_7") == "midstream/1/dev/pi_7/rep/gw-1"
    assert topics.urgent_reply_topic("gw-1", "pi_7") == "midstream/1/dev/pi_7/urg/gw-1"
    assert topics.gateway_control_topic("gw-1", "pi_7") == "midstream/1/gw/gw-1/ctl/pi_7"
    assert topics.pool_control_topic("attic", "pi_7") == "midstream/1/pool/attic/ctl/pi_7"
    assert topics.device_control_topic("pi_7", "gw-1") == "midstream/1/dev/pi_7/ctl/gw-1"
    assert topics.peer_control_topic("gw-1", "gw-2") == "midstream/1/gw/gw-1/peer/gw-2"
    assert topics.presence_topic("gw-1") == "midstream/presence/gw-1"
    assert topics.load_topic("gw-1") == "midstream/load/gw-1"


@settings(deadline=None)
@given(ids, ids, ids)
def test_topics_are_parsed_and_matched(gateway: str, device: str, other: str) -> None:
    request, reply = topics.request_topic(gateway, device), topics.reply_topic(gateway, device)
    assert topics.parse_request_topic(request) == Route(gateway, device, 1)
    assert topics.parse_reply_topic(reply) == Route(gateway, device, 1)
    urgent = topics.urgent_reply_topic(gateway, device)
    assert topics.parse_reply_topic(urgent) == Route(gateway, device, 1)
    assert matches(urgent, topics.urgent_reply_filter(device))
    assert not matches(urgent, topics.reply_filter(device))
    assert topics.parse_device_control_topic(topics.device_control_topic(device, gateway)) == Route(gateway, device, 1)
    assert topics.parse_presence_topic(topics.presence_topic(gateway)) == gateway
    assert topics.parse_load_topic(topics.load_topic(gateway)) == gateway
    assert topics.parse_inbound(request) == Inbound("request", 1, device, device)
    assert topics.parse_inbound(topics.pool_request_topic(other, device)) == Inbound(
        "request", 1, device, device, other
    )
    forward = topics.forward_topic(gateway, device, other)
    assert topics.parse_inbound(forward) == Inbound("forward", 1, other, device)
    assert topics.parse_inbound(topics.gateway_control_topic(gateway, device)) == Inbound("control", 1, device, device)
    pooled = topics.parse_inbound(topics.pool_control_topic(other, device))
    assert pooled == Inbound("control", 1, device, device, other)
    assert topics.parse_inbound(topics.peer_control_topic(gateway, other)) == Inbound("peer", 1, other)
    for topic in (request, topics.pool_request_topic(other, device), forward):
        assert topics.answer_topic(topic, gateway) == reply
    assert matches(request, topics.request_filter(gateway))
    assert matches(reply, topics.reply_filter(device))
    assert matches(topics.device_control_topic(device, gateway), topics.device_control_filter(device))
    assert matches(topics.presence_topic(gateway), topics.presence_filter())
    assert matches(topics.load_topic(gateway), topics.load_filter())
    others = (forward, topics.gateway_control_topic(gateway, device), topics.peer_control_topic(gateway, other))
    for topic, topic_filter in itertools.product(others, topics.gateway_filters(gateway)):
        assert matches(topic, topic_filter) == (topic.split("/")[4] == topic_filter.split("/")[4])


def test_requests_of_other_versions_are_heard_and_answered_there() -> None:
    topic = "midstream/2/gw/gw-1/req/pi"
    assert matches(topic, topics.request_filter("gw-1"))
    assert topics.parse_request_topic(topic) == Route("gw-1", "pi", 2)
    assert topics.answer_topic(topic, "gw-1") == topics.reply_topic("gw-1", "pi", 2) == "midstream/2/dev/pi/rep/gw-1"


def test_a_pool_shares_by_a_name_that_only_its_members_know() -> None:
    shared, control = topics.pool_filters("attic", SECRET)
    group = re.fullmatch(r"\$share/([0-9a-f]{32})/midstream/1/pool/attic/req/\+", shared)
    assert group is not None
    assert matches(topics.pool_request_topic("attic", "pi"), shared.split("/", 2)[2])
    assert matches(topics.pool_control_topic("attic", "pi"), control)
    assert topics.pool_filters("attic", SECRET)[0] == shared
    others = (topics.pool_filters("attic", SECRET + "!"), topics.pool_filters("cellar", SECRET))
    assert all(group[1] not in other for other, _ in others)
    with pytest.raises(WireError, match="secret of pool 'attic' has 15 characters; take 16 random ones"):
        topics.pool_filters("attic", "x" * 15)


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "a b", "ü", "a\n", "x" * 65, "$SYS", "a.b", "\0"])
def test_other_ids_are_refused(name: str) -> None:
    with pytest.raises(WireError, match="cannot be part of a topic"):
        topics.check_id(name)
    for build in (
        topics.presence_topic,
        topics.load_topic,
        topics.probe_topic,
        topics.request_filter,
        topics.gateway_filters,
        topics.reply_filter,
        topics.device_control_filter,
        lambda pool: topics.pool_filters(pool, SECRET),
    ):
        with pytest.raises(WireError):
            build(name)
    for build_pair in (
        topics.request_topic,
        topics.reply_topic,
        topics.pool_request_topic,
        topics.gateway_control_topic,
        topics.pool_control_topic,
        topics.device_control_topic,
        topics.peer_control_topic,
    ):
        with pytest.raises(WireError):
            build_pair("gw", name)
        with pytest.raises(WireError):
            build_pair(name, "dev")
    for triple in itertools.permutations(("gw", "dev", name)):
        with pytest.raises(WireError):
            topics.forward_topic(*triple)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "midstream/1/gw/a/req/b/c",
        "midstream/1/gw/a/req/",
        "midstream/1/gw/a/req/b\n",
        "midstream/01/gw/a/req/b",
        "midstream/1000/gw/a/req/b",
        "midstream//gw/a/req/b",
        "/midstream/1/gw/a/req/b",
        "midstream/1/gw/+/req/b",
        "midstream/1/gw/a/rep/b",
        "midstream/1/gw/a/fwd/b",
        "midstream/1/pool/a/fwd/b/c",
        "midstream/1/pool/a/peer/b",
        "midstream/1/presence/a",
        "midstream/presence/a/b",
        "midstream/load/",
    ],
)
def test_other_topics_are_refused(topic: str) -> None:
    for parse in PARSERS:
        with pytest.raises(WireError, match="topic"):
            parse(topic)


def test_kinds_are_not_confused() -> None:
    with pytest.raises(WireError, match="not a request's topic"):
        topics.parse_request_topic(topics.reply_topic("g", "d"))
    with pytest.raises(WireError, match="is a pool's, not a gateway's"):
        topics.parse_request_topic(topics.pool_request_topic("p", "d"))
    with pytest.raises(WireError, match="not a reply's topic"):
        topics.parse_reply_topic(topics.request_topic("g", "d"))
    for control in (topics.gateway_control_topic("g", "d"), topics.peer_control_topic("g", "h")):
        with pytest.raises(WireError, match="not a request's topic"):
            topics.answer_topic(control, "g")


@settings(deadline=None)
@given(st.text(max_size=100))
def test_random_topics_raise_wire_errors_only(topic: str) -> None:
    for parse in PARSERS:
        with pytest.raises(WireError):
            parse(topic)
