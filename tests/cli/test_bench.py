"""``midstream bench transport``."""

from __future__ import annotations

from midstream.broker import Broker

from .conftest import Midstream


def test_tensors_go_there_and_back_through_a_broker_of_its_own_and_through_another(midstream: Midstream) -> None:
    told = midstream("bench", "transport", "--rounds", "3", "--json").json
    assert [each["bytes"] for each in told] == [1_000, 50_000, 3_000_000]
    for each in told:
        assert set(each) == {"bytes", "rounds", "p50_ms", "p99_ms", "steps_ms"}
        assert 0 < each["p50_ms"] <= each["p99_ms"]
        assert set(each["steps_ms"]) == {"encode", "send", "wait", "decode"}
    with Broker() as broker:
        text = midstream("bench", "transport", "--rounds", "1", "--broker", broker.url).out
    assert "3,000,000" in text


def test_what_cannot_be_measured_is_one_line(midstream: Midstream) -> None:
    refused = midstream("bench", "transport", "--credentials", "somewhere")
    assert "name it with --broker" in refused.err
    assert refused.code == 2
    silent = midstream("bench", "transport", "--broker", "mqtt://127.0.0.1:1")
    assert "no broker answers" in silent.err
    assert silent.code == 4
