"""roles.toml, as an operator may write it."""

from __future__ import annotations

import pytest

from midstream.communication.roles import Rights
from midstream.communication.topics import pool_filters
from midstream.errors import InputError
from midstream.securing.members import HEAD, parse_members, with_member, without_member


def test_clients_are_added_and_removed_as_lines() -> None:
    text = with_member(with_member(HEAD, "device", "pi-1"), "gateway", "big")
    assert {name: member.role for name, member in parse_members(text).members.items()} == {
        "pi-1": "device",
        "big": "gateway",
    }
    without = without_member(text, "pi-1")
    assert set(parse_members(without).members) == {"big"}
    assert parse_members(without).removed == {"pi-1"}
    assert text.replace("[device.pi-1]", "[removed.pi-1]") == without


@pytest.mark.parametrize("header", ['[device."pi"]', "[ device.pi ]", "  [device . pi]  # the kitchen's"])
def test_a_header_may_be_written_in_any_way(header: str) -> None:
    changed = parse_members(without_member(f"{header}\npublish = ['x']\n", "pi"))
    assert (dict(changed.members), changed.removed) == ({}, {"pi"})


def test_what_cannot_be_found_is_not_removed() -> None:
    with pytest.raises(InputError, match="by hand"):
        without_member("device.pi = {}\n", "pi")
    with pytest.raises(InputError, match="by hand"):
        without_member("[device.pi-1]\n", "pi")


def test_a_client_may_have_topics_beyond_its_role() -> None:
    text = '[device.a]\npublish = ["home/a"]\nsubscribe = ["home/+/wish", "lamp/#"]\n'
    member = parse_members(text).members["a"]
    assert member.extra == Rights(("home/a",), ("home/+/wish", "lamp/#"))
    assert member.rights(str).publish[-1] == "home/a"


def test_a_gateway_may_belong_to_pools() -> None:
    member = parse_members('[gateway.a]\npools = ["attic", "cellar"]\n').members["a"]
    assert member.pools == ("attic", "cellar")
    granted = member.rights(lambda pool: f"the secret of {pool}").subscribe
    assert set(pool_filters("attic", "the secret of attic")) < set(granted)
    assert set(pool_filters("cellar", "the secret of cellar")) < set(granted)
    assert not set(pool_filters("attic", "the secret of cellar")) <= set(granted)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[device.a]\npools = ["attic"]\n', "'a' has other keys than publish and subscribe"),
        ('[gateway.a]\npools = "attic"\n', "not a list of at most 16 names"),
        ("[gateway.a]\npools = [1]\n", "not a list of at most 16 names"),
        ('[gateway.a]\npools = ["an attic"]\n', "cannot be part of a topic"),
    ],
)
def test_a_pool_is_a_name_and_for_gateways(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_members(text)


@pytest.mark.parametrize(
    "topic",
    [
        "#",
        "+",
        "+/1/dev/b/rep/g",
        "midstream",
        "midstream/#",
        "midstream/presence/g",
        "$SYS/#",
        "$share/g/x",
        "",
        "a\0",
    ],
)
@pytest.mark.parametrize("key", ["publish", "subscribe"])
def test_no_further_topic_reaches_into_midstreams_own(key: str, topic: str) -> None:
    text = f"[device.a]\n{key} = [{json_text(topic)}]\n"
    with pytest.raises(InputError, match=f"'{key}' of 'a' is not a list of topics outside"):
        parse_members(text)


def json_text(text: str) -> str:
    import json

    return json.dumps(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[devise.a]", r"it has \[devise\]"),
        ("device = 1", "'device' is not a table"),
        ("[device.a]\n[gateway.a]", "'a' is a device and a gateway"),
        ("[device.a]\n[removed.a]", "'a' is removed and has a role"),
        ("[device.'a/b']", "cannot be part of a topic"),
        ("[device.a]\nread = []", "'a' has other keys"),
        ("[device]\na = 1", "'a' has other keys"),
        ("[device.a]\npublish = 'x'", "not a list of topics"),
        ("[device.a]\npublish = [1]", "not a list of topics"),
        ("device", "it is not TOML"),
    ],
)
def test_what_is_wrong_is_said(text: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        parse_members(text)
