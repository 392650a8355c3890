"""Whom a device asks, by a clock that the test turns."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import pytest

from midstream.communication import topics
from midstream.communication.choosing import Gateways
from midstream.communication.destination import to_gateway, to_pool
from midstream.communication.directory import WHOLE_KEY
from midstream.communication.load import LoadReport, encode_load
from midstream.communication.presence import Presence, encode_presence

DIGEST = bytes(range(32))
ID = bytes(16)
PROBED = "it answers a probe"
A, B, C = (Presence(name, (DIGEST,), pools=("attic",)) for name in "abc")


def known(*presences: Presence, waits_ms: dict[str, float] | None = None) -> Gateways:
    gateways = Gateways(DIGEST)
    for presence in presences:
        gateways.hear(topics.presence_topic(presence.gateway_id), encode_presence(presence))
    for name, wait_ms in (waits_ms or {}).items():
        gateways.hear(topics.load_topic(name), encode_load(LoadReport(name, "run", wait_ms=wait_ms)))
    return gateways


def test_who_failed_rests_twice_as_long_each_time_until_it_answers() -> None:
    gateways = known(A)
    assert gateways.resting_s(0.0) is None
    for length_s in (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0):
        gateways.failed("a", 100.0)
        assert gateways.resting_s(100.0) == length_s
        assert gateways.rests("a")
        assert gateways.route(1, None, ID, forced=False).first is None
        assert gateways.route(1, None, ID, forced=True).first == A
        assert gateways.absence(100.0) == f"the gateway rests for {length_s:.1f} s after a failure, and until {PROBED}"
        # It is asked once more when it answers a probe, and not before.
        assert not gateways.to_probe(99.9 + length_s)
        assert not gateways.echoed("a")
        assert gateways.to_probe(100.0 + length_s) == ["a"]
        assert not gateways.to_probe(100.0 + length_s)
        assert gateways.echoed("a")
        assert not gateways.rests("a")
        assert gateways.resting_s(100.0) is None
    gateways.failed("a", 100.0)
    gateways.answered("a")
    assert gateways.route(1, None, ID, forced=False).first == A


def test_who_comes_anew_does_not_rest() -> None:
    gateways = known(A, B)
    gateways.failed("a", 100.0)
    gateways.hear(topics.presence_topic("a"), encode_presence(A))
    assert gateways.rests("a")
    gateways.hear(topics.presence_topic("a"), b"")
    gateways.hear(topics.presence_topic("a"), encode_presence(A))
    assert not gateways.rests("a")
    gateways.failed("b", 100.0)
    gateways.clear()
    gateways.hear(topics.presence_topic("b"), encode_presence(B))
    assert not gateways.rests("b")


def test_stages_go_to_as_many_gateways_the_least_busy_first() -> None:
    gateways = known(A, B, C, waits_ms={"a": 9.0, "b": 1.0, "c": 5.0})
    assert gateways.route(1, None, ID, forced=True).gateways == (B,)
    assert not gateways.route(1, None, ID, forced=True).directly
    chain = gateways.route(3, None, ID, forced=True)
    assert (chain.gateways, chain.directly) == ((B, C, A), True)
    few = gateways.route(4, None, ID, forced=True)
    assert few.first is None
    assert few.problem == "4 stages need as many gateways with this bundle; there are 3"


def test_a_forced_plan_goes_to_who_rests_only_where_there_are_too_few_others() -> None:
    gateways = known(A, B, C, waits_ms={"a": 9.0, "b": 1.0, "c": 5.0})
    gateways.failed("b", 0.0)
    assert gateways.route(2, None, ID, forced=True).gateways == (C, A)
    assert gateways.route(3, None, ID, forced=True).gateways == (B, C, A)
    assert not gateways.route(3, None, ID, forced=False).gateways


def test_named_gateways_are_those_and_no_others() -> None:
    gateways = known(A, B, replace(C, bundles=()))
    named = gateways.route(3, ("b", "a", "b"), ID, forced=True)
    assert (named.gateways, named.directly) == ((B, A, B), True)
    for name in ("c", "z"):
        missing = gateways.route(2, ("a", name), ID, forced=True)
        assert missing.first is None
        assert missing.problem == f"gateway {name} is not there, or has not this bundle"
    assert known().route(1, ("a",), ID, forced=True).problem == ""


def test_a_pool_of_which_one_rests_is_not_asked() -> None:
    gateways = known(A, B)
    assert gateways.pool(A) == ("attic", ("a", "b"))
    gateways.failed("b", 0.0)
    assert gateways.pool(A) is None
    gateways.answered("b")
    assert gateways.pool(A) == ("attic", ("a", "b"))


def test_after_one_is_lost_who_was_heard_meanwhile_is_asked_first() -> None:
    gateways = known(A, B, C, waits_ms={"a": 1.0, "b": 2.0, "c": 3.0})
    pool = to_pool("attic", "abc", 1.0)
    assert gateways.instead(A, ID, [pool], 10.0) == (to_gateway("a", before="abc"), False)
    gateways.said("c", 10.5)
    gateways.said("b", 9.5)
    gateways.said("nobody", 10.5)
    chosen, heard = gateways.instead(A, ID, [pool], 10.0)
    assert (chosen, heard) == (to_gateway("c", before="abc"), True)
    assert chosen is not None
    assert (chosen.answerers, chosen.bearers) == (frozenset("abc"), frozenset("c"))
    # Nobody is asked twice, nor who rests, nor who is gone.
    assert gateways.instead(A, ID, [pool, to_gateway("c")], 10.0)[0] == to_gateway("a", before="abc")
    gateways.failed("a", 11.0)
    gateways.hear(topics.presence_topic("b"), b"")
    assert gateways.instead(A, ID, [pool, to_gateway("c")], 10.0) == (None, False)


def test_what_is_elsewhere_is_who_neither_has_it_nor_was_asked_by_name_nor_rests() -> None:
    gateways = known(A, B, C)
    pool = to_pool("attic", "abc", 0.25)
    assert gateways.another(A, [pool], frozenset("a"))
    assert gateways.another(A, [pool, to_gateway("a"), to_gateway("b")], frozenset("b"))
    assert not gateways.another(A, [pool, to_gateway("a"), to_gateway("b")], frozenset("c"))
    gateways.failed("c", 10.0)
    assert not gateways.another(A, [pool, to_gateway("a")], frozenset("b"))


def test_silent_is_who_has_said_nothing_since() -> None:
    gateways = known(A, B)
    assert gateways.silent(frozenset("ab"), 10.0)
    gateways.said("a", 10.5)
    assert not gateways.silent(frozenset("ab"), 10.0)
    assert gateways.silent(frozenset("b"), 10.0)
    assert gateways.silent(frozenset("a"), 10.5)


def test_why_nobody_can_be_asked_is_told() -> None:
    assert known().absence(0.0) is None
    assert known(replace(A, bundles=())).absence(0.0) == "no gateway has this bundle; there are a with others"
    foreign = known(replace(A, wire_versions=(200,))).absence(0.0) or ""
    assert foreign.startswith("no gateway can be asked: gateway a speaks wire version 200")


def with_times(**whole_ms: float) -> Gateways:
    gateways = Gateways(DIGEST)
    for name, ms in whole_ms.items():
        told = Presence(name, (DIGEST,), tail_ms={DIGEST.hex(): {WHOLE_KEY: ms}})
        gateways.hear(topics.presence_topic(name), encode_presence(told))
    return gateways


def shares(gateways: Gateways, requests: int = 2000) -> dict[str, float]:
    found = [gateways.free_route(number.to_bytes(16), 0).gateways[0].gateway_id for number in range(requests)]
    return {name: found.count(name) / requests for name in sorted(gateways.gateways)}


def test_each_gateway_gets_its_share_of_free_requests() -> None:
    assert shares(with_times(a=5.0, b=5.0, c=5.0)) == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, abs=0.04)
    assert shares(with_times(a=5.0, b=10.0)) == pytest.approx({"a": 32 / 33, "b": 1 / 33}, abs=0.01)
    waiting = with_times(a=5.0, b=5.0)
    waiting.hear(topics.load_topic("b"), encode_load(LoadReport("b", "run", wait_ms=10.0)))
    assert shares(waiting) == pytest.approx({"a": 0.9, "b": 0.1}, abs=0.03)


def test_devices_with_the_same_reports_do_not_all_rush_to_one_gateway() -> None:
    """Devices ask two gateways, of 10 ms each, twelve times between two reports: so each is at work for 60 %."""

    def mean_wait_ms(by_share: bool) -> float:
        gateways, queued, waits = with_times(a=10.0, b=10.0), {"a": 0.0, "b": 30.0}, []
        for report in range(200):
            for name, wait_ms in queued.items():
                load = LoadReport(name, "run", sequence=report, wait_ms=wait_ms)
                gateways.hear(topics.load_topic(name), encode_load(load))
            for number in range(12):
                request_id = (report * 100 + number).to_bytes(16)
                route = gateways.free_route(request_id, 0)
                if not by_share:
                    route = gateways.route(1, None, request_id, forced=False)
                name = route.gateways[0].gateway_id
                waits.append(queued[name])
                queued[name] += 10.0
                queued = {name: max(0.0, wait_ms - 100 / 12) for name, wait_ms in queued.items()}
        return fmean(waits)

    assert mean_wait_ms(by_share=True) < 0.85 * mean_wait_ms(by_share=False)


def test_further_gateways_are_of_no_pool_that_the_first_has() -> None:
    gateways = Gateways(DIGEST)
    for name, pools in (("a", ("p",)), ("b", ("p",)), ("c", ()), ("d", ())):
        gateways.hear(topics.presence_topic(name), encode_presence(Presence(name, (DIGEST,), pools=pools)))
    for number in range(20):
        route = gateways.free_route(number.to_bytes(16), 2)
        assert route.first is not None
        names = [gateway.gateway_id for gateway in route.further]
        assert names == sorted(names)
        assert route.first.gateway_id not in names
        assert route.first.gateway_id not in "ab" or not {"a", "b"}.intersection(names)
        assert gateways.free_route(number.to_bytes(16), 1).further
        assert not gateways.free_route(number.to_bytes(16), 0).further
    way = route.by_way_of([names[0], route.first.gateway_id])
    assert [gateway.gateway_id for gateway in way.gateways] == [names[0], route.first.gateway_id]
    assert way.directly
