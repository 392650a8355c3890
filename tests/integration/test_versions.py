"""Device and gateway of different releases: version 2 is made up."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.communication import topics
from midstream.communication.checksum import sealed
from midstream.communication.chunks import split
from midstream.communication.presence import Presence, encode_presence
from midstream.communication.transport import Message, MqttTransport
from midstream.communication.versions import VersionNotice, decode_notice, encode_notice
from midstream.device import Device
from midstream.tensors import Tensors

from .conftest import WAIT_S, GatewayProcess, device_with_gateway, until

ID = bytes(range(16))


@contextmanager
def gateway_of_another_release(broker: Broker, presence: Presence) -> Iterator[None]:
    """Announces this, and answers whatever comes with the versions that it speaks."""
    transport: MqttTransport

    def on_message(message: Message) -> None:
        topic = topics.answer_topic(message.topic, presence.gateway_id)
        notice = encode_notice(VersionNotice(message.correlation or b"", (2, 3)))
        transport.publish(topic, notice, correlation=message.correlation)

    transport = MqttTransport(broker.url, "other", on_message=on_message, on_state=lambda _: None)
    with transport:
        transport.start(WAIT_S, required=True)
        transport.subscribe(topics.request_filter(presence.gateway_id))
        transport.publish(topics.presence_topic(presence.gateway_id), encode_presence(presence), retain=True)
        yield
        transport.close(last=(topics.presence_topic(presence.gateway_id), b""))


def test_a_device_says_which_versions_there_are_and_whom_to_update(
    broker: Broker, faces: Bundle, inputs: Tensors
) -> None:
    with (
        gateway_of_another_release(broker, Presence("later", (faces.digest,), wire_versions=(2, 3))),
        Device(faces, broker.url) as device,
    ):
        until(lambda: "later" in device._exchange._gateways.gateways, "the presence")
        for plan in ({}, {"cut": "input"}):
            result = device.infer(inputs, **plan)
            assert result.ran_on == ("device",)
            assert result.fallback == (
                "no gateway can be asked: gateway later speaks wire version 2, 3, this device 1: update midstream on "
                "this device"
            )
        assert device.gateways == 0


def test_a_gateway_that_was_updated_meanwhile_says_so(broker: Broker, faces: Bundle, inputs: Tensors) -> None:
    with (
        gateway_of_another_release(broker, Presence("later", (faces.digest,), wire_versions=(1, 2, 3))),
        device_with_gateway(faces, broker.url) as device,
    ):
        result = device.infer(inputs, cut="input")
        assert result.ran_on == ("device",)
        assert "gateway later speaks wire version 2, 3, this device 1: update" in (result.fallback or "")


@pytest.mark.parametrize(
    ("topic", "payload", "answer"),
    [
        ("midstream/2/gw/gw-test/req/later", b"whatever version 2 has", "midstream/2/dev/later/rep/gw-test"),
        ("midstream/1/gw/gw-test/req/later", b"MC\2" + bytes(60), "midstream/1/dev/later/rep/gw-test"),
        (
            "midstream/1/gw/gw-test/req/later",
            split(sealed(b"MS\2" + bytes(60)), ID)[0],
            "midstream/1/dev/later/rep/gw-test",
        ),
    ],
)
def test_a_gateway_answers_another_version_with_those_it_speaks(
    broker: Broker,
    start_gateway,  # type: ignore[no-untyped-def]
    faces: Bundle,
    topic: str,
    payload: bytes,
    answer: str,
) -> None:
    gateway: GatewayProcess = start_gateway(broker)
    answers: queue.Queue[Message] = queue.Queue()
    client = MqttTransport(broker.url, "later", on_message=answers.put, on_state=lambda _: None)
    with device_with_gateway(faces, broker.url), client:
        client.subscribe("midstream/+/dev/later/rep/+")
        client.start(WAIT_S, required=True)
        client.publish(topic, payload, correlation=b"short")
        client.publish(topic, payload, correlation=ID)
        message = answers.get(timeout=WAIT_S)
    assert message.topic == answer
    assert message.correlation == ID
    assert decode_notice(message.payload) == VersionNotice(ID, (1,))
    assert gateway.stop() == 0
