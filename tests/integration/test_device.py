"""A device's life: how it is made, entered, interrupted, left and entered again."""

from __future__ import annotations

import _thread
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.device import Device
from midstream.errors import BundleError, CodecError, InputError, MidstreamError, PlanError
from midstream.gateway import Gateway
from midstream.link import LinkEmulator
from midstream.tensors import Tensors

from .conftest import GatewayProcess, device_with_gateway, until

NOWHERE = "mqtt://127.0.0.1:9"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"objective": "fast"}, "the objective 'fast' is unknown; take one of latency"),
        ({"min_agreement": math.nan}, "min_agreement is nan, needed a share of 0 to 1"),
        ({"min_agreement": 2}, "min_agreement is 2"),
        ({"deadline_ms": -1}, "deadline_ms is -1, needed a finite number above 0"),
        ({"deadline_ms": math.inf}, "deadline_ms is inf"),
        ({"deadline_ms": "5"}, "deadline_ms is '5'"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_at_once(faces: Bundle, wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(PlanError, match=reason):
        Device(faces, NOWHERE, **wrong)


@pytest.mark.parametrize("deadline_ms", ["5", -1, 0, math.nan, math.inf])
def test_a_wrong_deadline_of_one_call_is_a_plan_error(faces: Bundle, inputs: Tensors, deadline_ms: Any) -> None:
    with pytest.raises(PlanError, match="deadline_ms is"):
        Device(faces, NOWHERE).infer(inputs, deadline_ms=deadline_ms)


def test_calls_of_a_wrong_type_are_midstream_errors(faces: Bundle, inputs: Tensors) -> None:
    device, cut = Device(faces, NOWHERE), faces.cuts[0].id
    for call in (faces.run, device.infer):
        with pytest.raises(InputError, match="takes a dict of arrays by their names, not a list"):
            call([inputs["input"]])  # type: ignore[arg-type, operator]
    for codec in (None, 5, ["raw"]):
        with pytest.raises(CodecError, match="is unknown; there are raw"):
            faces.run_split(inputs, cut, codec=codec)  # type: ignore[arg-type]
    with pytest.raises(CodecError, match="'nosuch' is unknown"):
        device.infer(inputs, cut="local", codec="nosuch")


def test_a_plan_is_checked_without_an_input(faces: Bundle) -> None:
    device = Device(faces, NOWHERE)
    device.check_plan(None, None)
    device.check_plan(faces.cuts[0].id, "lossless")
    device.check_plan("local", None)
    with pytest.raises(BundleError, match="has no cut 'c999'"):
        device.check_plan("c999", None)
    with pytest.raises(CodecError, match="'gzip'"):
        device.check_plan(None, "gzip")


def test_it_may_be_entered_again(broker: Broker, start_gateway, faces: Bundle, inputs: Tensors) -> None:
    start_gateway(broker)
    device = Device(faces, broker.url)
    for _ in range(2):
        with device:
            until(lambda: device.gateways > 0, "a gateway's presence")
            assert device.infer(inputs, cut="input").ran_on == ("gateway",)
        assert not device.connected
        assert device.infer(inputs, cut="input").ran_on == ("device",)


def test_an_interrupt_while_it_is_entered_leaves_nothing_running(broker: Broker, faces: Bundle) -> None:
    with Device(faces, broker.url) as earlier:
        until(lambda: earlier.connected and earlier.gateways == 0, "the gateways of other tests to be gone")
    device = Device(faces, broker.url, device_id="interrupted")
    before = set(threading.enumerate())

    def interrupt() -> None:
        until(lambda: device.connected, "the connection")
        _thread.interrupt_main()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt), device:
        pytest.fail("it was entered")
    thread.join()
    assert set(threading.enumerate()) == before


def test_an_error_while_a_gateway_is_entered_leaves_nothing_running(
    broker: Broker, faces_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(threading.enumerate())
    gateway = Gateway([faces_path], broker.url, workers=2)

    def fail(*_: object) -> None:
        raise RuntimeError("no more sockets")

    monkeypatch.setattr(gateway._transport, "subscribe", fail)
    with pytest.raises(RuntimeError, match="no more sockets"), gateway:
        pytest.fail("it was entered")
    assert set(threading.enumerate()) == before
    with pytest.raises(MidstreamError, match="was stopped; make another one"), gateway:
        pytest.fail("it was entered")


def test_a_gateway_that_rests_is_said_to(broker: Broker, start_gateway, faces: Bundle, inputs: Tensors) -> None:
    gateway = start_gateway(broker)
    with device_with_gateway(faces, broker.url) as device:
        device._exchange._gateways.failed(gateway.name, time.monotonic())
        result = device.infer(inputs)
        assert "the gateway rests for 0." in (result.fallback or "")
        gateway.stop()
        until(lambda: device.gateways == 0, "the gateway to vanish")
        assert device.infer(inputs).fallback == "no gateway is there"
    assert np.array_equal(result.outputs["regressors"], faces.run(inputs)["regressors"])


def test_a_gateway_with_other_bundles_is_said_to_be_there(
    broker: Broker, start_gateway, faces: Bundle, inputs: Tensors
) -> None:
    gateway = start_gateway(broker)
    with Device(faces, broker.url) as device:
        until(lambda: gateway.name in device._exchange._gateways.gateways, "the gateway's presence")
        device._exchange._gateways.gateways[gateway.name] = replace(
            device._exchange._gateways.gateways[gateway.name], bundles=()
        )
        assert device.infer(inputs).fallback == f"no gateway has this bundle; there are {gateway.name} with others"


def test_a_machine_that_wakes_late_gives_up_earlier(faces: Bundle) -> None:
    device = Device(faces, NOWHERE)
    plain_ms = device._answering._give_up_ms(None, 1000.0)
    device._answering._woke(30.0)
    assert device._answering._give_up_ms(None, 1000.0) == pytest.approx(plain_ms - 30)
    assert device._answering._give_up_ms(None, 200.0) == pytest.approx(plain_ms - 800 - 20)
    for _ in range(500):
        device._answering._woke(0.1)
    assert device._answering._give_up_ms(None, 1000.0) == pytest.approx(plain_ms, abs=0.5)
    assert device._answering._give_up_ms(None, None) == 10_000.0


def test_what_it_learns_outlasts_it_where_it_is_asked_to(
    broker: Broker, start_gateway, faces: Bundle, inputs: Tensors, tmp_path: Path
) -> None:
    gateway = start_gateway(broker)
    folder = tmp_path / "state" / "midstream"
    for _ in range(2):
        with device_with_gateway(faces, broker.url, device_id="keeper", state_dir=folder) as device:
            known = device._planning._corrections.gateway(gateway.name)
            before = 0 if known is None else known.tracks[0].samples
            for _ in range(3):
                assert device.infer(inputs, cut=faces.cuts[0].id).fallback is None
        learned = device._planning._corrections.gateway(gateway.name)
        assert learned is not None
        assert learned.tracks[0].samples == before + 3
        assert [file.name for file in folder.iterdir()] == [f"{faces.digest.hex()}.keeper.json"]
    assert before == 3


def test_a_folder_that_cannot_be_written_is_refused_at_once(faces: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"what is learned cannot be kept in .*file'"):
        Device(faces, NOWHERE, state_dir=tmp_path / "file")


def test_a_downlink_that_is_slower_than_the_uplink_is_seen(
    broker: Broker, start_gateway: Callable[..., GatewayProcess], faces: Bundle, inputs: Tensors
) -> None:
    start_gateway(broker, "gw-a")
    with (
        LinkEmulator(("127.0.0.1", broker.port), uplink_kbps=20_000, downlink_kbps=2000, rtt_ms=4) as link,
        Device(faces, link.url) as device,
    ):
        until(lambda: device.gateways == 1, "the gateway")
        for _ in range(4):
            result = device.infer(inputs, cut="input", codec="raw")
            assert result.fallback is None
        # Once the downlink is known, its reply is not taken for lost: nothing is sent twice.
        assert result.sent_bytes < 1.2 * faces.input_bytes
        assert device.link.uplink_kbps > 8000
        assert 500 < device.link.downlink_kbps < 4000
