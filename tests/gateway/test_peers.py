"""Whom a gateway passes a request on to."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from midstream.communication import topics
from midstream.communication.load import LoadReport, encode_load
from midstream.communication.presence import Presence, encode_presence
from midstream.communication.wire import Request, Runner, Stage
from midstream.gateway.peers import Peers

DIGEST = bytes(range(32))
SELF = Presence("self", (DIGEST,), pools=("attic",))
OTHER = replace(SELF, gateway_id="other", bases={DIGEST.hex(): "mine"})


def peers(*presences: Presence) -> Peers:
    found = Peers("self", {DIGEST: "mine"})
    for presence in presences:
        found.hear(topics.presence_topic(presence.gateway_id), encode_presence(presence))
    return found


def onward(runner: Runner, name: str, codec: str = "raw") -> Request:
    return Request(bytes(16), DIGEST, "c1", codec, 100, 0.0, (), (), onward=(Stage("c2", runner, name),))


def test_a_named_gateway_is_that_one() -> None:
    known = peers(SELF, OTHER)
    for name in ("other", "self"):
        chosen, problem = known.runner(onward(Runner.GATEWAY, name))
        assert (chosen is not None and chosen.gateway_id, problem) == (name, "")
    assert known.runner(onward(Runner.GATEWAY, "attic"))[0] is None


def test_of_a_pool_it_is_another_member_and_the_least_busy() -> None:
    third = replace(OTHER, gateway_id="third")
    known = peers(SELF, OTHER, third)
    known.hear(topics.load_topic("other"), encode_load(LoadReport("other", "run", wait_ms=50.0)))
    chosen, _ = known.runner(onward(Runner.POOL, "attic"))
    assert chosen is not None
    assert chosen.gateway_id == "third"
    alone, _ = peers(SELF).runner(onward(Runner.POOL, "attic"))
    assert alone is not None
    assert alone.gateway_id == "self"


def test_who_cannot_be_asked_is_named_with_the_reason() -> None:
    absent, problem = peers(SELF).runner(onward(Runner.GATEWAY, "other"))
    assert absent is None
    assert problem == "gateway other, which is to run the stage from cut 'c2' on, is not there"
    without, problem = peers(replace(OTHER, bundles=())).runner(onward(Runner.GATEWAY, "other"))
    assert without is None
    assert problem.endswith("has not what this bundle needs")
    known = peers(OTHER)
    known.forget()
    assert known.runner(onward(Runner.GATEWAY, "other"))[0] is None


def test_decorrelated_channels_go_only_to_who_has_the_same_bases() -> None:
    request = onward(Runner.GATEWAY, "other", "klt0.5")
    assert peers(OTHER).runner(request)[0] is not None
    assert peers(replace(OTHER, bases={DIGEST.hex(): "others"})).runner(request)[0] is None
    assert peers(replace(OTHER, bases={})).runner(request)[0] is None


def test_junk_is_logged_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    known = peers(OTHER)
    with caplog.at_level(logging.WARNING):
        known.hear(topics.presence_topic("other"), b"junk")
    assert "ignored a message on midstream/presence/other" in caplog.text
    assert known.runner(onward(Runner.GATEWAY, "other"))[0] is not None
