"""Decisions of a device beside a real gateway: by the bandit too, and from its log again."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.decision_log import replay_file
from midstream.device import Device
from midstream.tensors import Tensors

from .conftest import until


@pytest.mark.parametrize("planner", ["adaptive", "bandit"])
def test_what_a_device_decides_is_repeated_exactly(
    broker: Broker, start_gateway, faces: Bundle, inputs: Tensors, tmp_path: Path, planner
) -> None:
    start_gateway(broker)
    log = tmp_path / "log"
    with Device(faces, broker.url, planner=planner, decisions=log, min_agreement=0.0) as device:
        until(lambda: device.gateways > 0, "a gateway's presence")

        def ask() -> None:
            results.extend(device.infer(inputs) for _ in range(15))

        results: list = []
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        device.infer(inputs, cut="input")
    found = replay_file(log)
    assert (found.replay.differences, found.cut_off) == ([], False)
    records = [json.loads(line) for line in log.read_bytes().splitlines()]
    # A plan that the caller forced was no decision; behind a head it is decided again, but by the bandit.
    again = sum(record.get("standing") == 0 for record in records)
    assert 45 <= found.replay.decisions <= 45 + (again if planner == "adaptive" else 0)
    learned = [record["learned"] for record in records if "learned" in record]
    if planner == "bandit":
        assert all("µLinUCB" in result.plan.why for result in results)
        assert len(learned) == len(set(learned)) == sum(result.plan.offloads for result in results) > 0
    else:
        assert not learned


def test_the_bandit_learns_from_a_gateway_that_never_answers(
    broker: Broker, start_gateway, faces: Bundle, inputs: Tensors, tmp_path: Path
) -> None:
    gateway = start_gateway(broker)
    log = tmp_path / "log"
    with Device(faces, broker.url, planner="bandit", decisions=log, deadline_ms=150) as device:
        until(lambda: device.gateways > 0, "a gateway's presence")
        gateway.process.send_signal(19)
        try:
            results = [device.infer(inputs) for _ in range(8)]
        finally:
            gateway.process.send_signal(18)
    # After the first, the gateway rests, and the device alone teaches nothing.
    offloaded = [result for result in results if result.plan.offloads]
    assert offloaded
    assert all(result.fallback and result.ran_on == ("device",) for result in offloaded)
    learned = [record for record in map(json.loads, log.read_bytes().splitlines()) if "learned" in record]
    assert len(learned) == len(offloaded)
    assert replay_file(log).replay.differences == []
