"""Which gateways there are and whom to ask."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from midstream.communication import topics
from midstream.communication.directory import MAX_GATEWAYS, Directory, is_announcement
from midstream.communication.load import LoadReport, encode_load
from midstream.communication.presence import Presence, encode_presence
from midstream.errors import WireError

DIGEST = bytes(range(32))
ONE = Presence("one", (DIGEST,), knows=("zstd",), pools=("attic",))
TWO = replace(ONE, gateway_id="two")


def heard(*presences: Presence, loads: tuple[LoadReport, ...] = ()) -> Directory:
    directory = Directory(DIGEST)
    for presence in presences:
        assert directory.hear(topics.presence_topic(presence.gateway_id), encode_presence(presence)) is None
    for load in loads:
        assert directory.hear(topics.load_topic(load.gateway_id), encode_load(load)) is None
    return directory


def test_gateways_come_and_go() -> None:
    directory = heard(ONE, replace(TWO, bundles=()), replace(TWO, gateway_id="new", wire_versions=(200,)))
    assert directory.able(DIGEST) == [ONE]
    assert directory.able(bytes(32)) == []
    assert directory.hear(topics.presence_topic("one"), b"") == "one"
    assert directory.able(DIGEST) == []
    with pytest.raises(WireError):
        directory.hear(topics.presence_topic("one"), b"junk")
    assert is_announcement(topics.presence_topic("one"))
    assert is_announcement(topics.load_topic("one"))
    assert not is_announcement(topics.request_topic("one", "pi"))


def test_the_topic_says_whose_presence_it_is() -> None:
    directory = Directory()
    directory.hear(topics.presence_topic("two"), encode_presence(ONE))
    assert list(directory.gateways) == ["two"]
    assert directory.gateways["two"].gateway_id == "two"


def test_however_many_announce_themselves_a_bounded_number_is_kept() -> None:
    directory = heard(*(replace(ONE, gateway_id=f"g{number}") for number in range(2 * MAX_GATEWAYS)))
    assert len(directory.gateways) == MAX_GATEWAYS


@pytest.mark.parametrize("gone", [topics.load_topic, topics.presence_topic])
def test_nothing_is_kept_of_gateways_that_are_gone(gone: Callable[[str], str]) -> None:
    directory = heard()
    tracemalloc.start()
    for number in range(4000):
        name = f"g{number}"
        directory.hear(topics.load_topic(name), encode_load(LoadReport(name, "run")))
        directory.hear(gone(name), b"")
        if number == 1000:
            before, _ = tracemalloc.get_traced_memory()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 100_000


def test_the_wait_is_that_at_the_tail_asked_for() -> None:
    load = LoadReport("one", "run", 0, 3, 20.0, 1.0, waits_ms={DIGEST.hex(): {"c1": 5.0, "whole": 7.0}})
    directory = heard(ONE, loads=(load,))
    waits = [directory.wait_ms("one", DIGEST, cut) for cut in ("c1", "c2", None, "")]
    assert waits == [5.0, 20.0, 7.0, 7.0]
    assert directory.wait_ms("two", DIGEST, "c1") == 0.0


def test_times_of_other_bundles_are_not_kept() -> None:
    other = bytes(32).hex()
    times = {DIGEST.hex(): {"c1": 5.0}, other: {"c1": 6.0}}
    directory = heard(replace(ONE, tail_ms=times), loads=(LoadReport("one", "run", waits_ms=times),))
    assert directory.gateways["one"].tail_ms == {DIGEST.hex(): {"c1": 5.0}}
    assert directory.loads["one"].waits_ms == {DIGEST.hex(): {"c1": 5.0}}


def test_who_waits_least_is_asked_and_equals_share() -> None:
    idle, busy = LoadReport("one", "run", 0, 0, 0.0), LoadReport("two", "run", 0, 1, 9.0)
    directory = heard(ONE, TWO, loads=(idle, busy))
    ids = [number.to_bytes(16, "big") for number in range(400)]

    def chosen(directory: Directory) -> Counter[str]:
        found = [directory.least_busy(directory.able(DIGEST), request_id) for request_id in ids]
        return Counter(presence.gateway_id for presence in found if presence is not None)

    assert chosen(directory) == {"one": 400}
    equals = heard(ONE, TWO)
    shares = chosen(equals)
    assert shares == chosen(heard(TWO, ONE))
    assert 150 < shares["one"] < 250
    # Whom a third one joins, only what goes to it moves.
    three = heard(ONE, TWO, replace(ONE, gateway_id="three"))
    for request_id in ids:
        before, after = (found.least_busy(found.able(DIGEST), request_id) for found in (equals, three))
        assert after is not None
        assert after == before or after.gateway_id == "three"
    assert Directory().least_busy([], bytes(16)) is None


def test_a_pool_is_asked_where_each_member_can_be_asked_the_same() -> None:
    assert heard(ONE, TWO).pool_of(ONE, DIGEST) == "attic"
    assert heard(ONE).pool_of(ONE, DIGEST) is None
    assert heard(replace(ONE, pools=()), TWO).pool_of(ONE, DIGEST) is None
    for other in (
        replace(TWO, bundles=(bytes(32),)),
        replace(TWO, knows=()),
        replace(TWO, bases={DIGEST.hex(): "other"}),
        replace(TWO, wire_versions=(200,)),
    ):
        assert heard(ONE, other).pool_of(ONE, DIGEST) is None
    assert heard(ONE, replace(TWO, knows=("zstd", "sound"))).alike(ONE, DIGEST) == [
        ONE,
        replace(TWO, knows=("zstd", "sound")),
    ]
