"""Classes of priority between a device, a gateway process and a broker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import cast

import numpy as np
import pytest

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.communication import topics
from midstream.communication.transport import MqttTransport
from midstream.device import Device, PriorityName
from midstream.errors import InputError
from midstream.tensors import Tensors

from .conftest import WAIT_S, GatewayProcess, device_with_gateway, until


def test_critical_requests_are_answered_on_the_second_connection(
    broker: Broker, start_gateway: Callable[..., GatewayProcess], outputs_path: object, outputs: Bundle, vector: Tensors
) -> None:
    start_gateway(broker, "gw-a", outputs_path)
    heard: list[str] = []
    spy = MqttTransport(
        broker.url, "spy", on_message=lambda message: heard.append(message.topic), on_state=lambda _up: None
    )
    want = outputs.run(vector)
    with spy, device_with_gateway(outputs, broker.url) as device:
        for kind in ("rep", "urg"):
            spy.subscribe(f"midstream/1/dev/+/{kind}/+")
        spy.start(WAIT_S, required=True)
        until(lambda: device._exchange._transport.urgent.connected, "the second connection")
        for priority in ("critical", "normal", "bulk"):
            result = device.infer(vector, cut="c2", priority=cast("PriorityName", priority))
            assert result.ran_on == ("device", "gateway"), result.fallback
            assert all(np.array_equal(want[name], result.outputs[name]) for name in want)
        until(lambda: len(heard) == 3, "the replies")
        assert heard == [
            topics.urgent_reply_topic("gw-a", device.device_id),
            *[topics.reply_topic("gw-a", device.device_id)] * 2,
        ]


def test_without_a_second_connection_they_are_answered_on_the_first(
    broker: Broker, start_gateway: Callable[..., GatewayProcess], outputs_path: object, outputs: Bundle, vector: Tensors
) -> None:
    start_gateway(broker, "gw-a", outputs_path)
    with device_with_gateway(outputs, broker.url, priority="critical") as device:
        until(lambda: device._exchange._transport.urgent.connected, "the second connection")
        lanes = device._exchange._transport
        # Another client of the same id takes its place again and again.
        rivals = [
            MqttTransport(
                broker.url, lanes.urgent._client_id, on_message=lambda _message: None, on_state=lambda _up: None
            )
        ]
        with rivals[0]:
            rivals[0].start(WAIT_S, required=True)
            until(lambda: not lanes.urgent.connected, "the second connection's end")
            lanes.urgent.close()
        settled = threading.Event()
        lanes.publish(topics.probe_topic(device.device_id), b"", on_ack=lambda _ms: settled.set())
        assert settled.wait(WAIT_S)
        result = device.infer(vector, cut="c2")
        assert result.ran_on == ("device", "gateway"), result.fallback


def test_an_unknown_priority_is_refused(outputs: Bundle, vector: Tensors) -> None:
    unknown = cast("PriorityName", "urgent")
    with pytest.raises(InputError, match="known are critical, normal, bulk"):
        Device(outputs, "mqtt://127.0.0.1:1", priority=unknown)
    device = Device(outputs, "mqtt://127.0.0.1:1")
    with pytest.raises(InputError, match="'urgent'"):
        device.infer(vector, priority=unknown)
