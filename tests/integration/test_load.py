"""Devices plan with what gateways say about their load."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.communication import topics
from midstream.communication.load import LoadReport, encode_load
from midstream.communication.presence import Presence, encode_presence
from midstream.communication.transport import MqttTransport
from midstream.device import Device
from midstream.gateway import Gateway
from midstream.tensors import Tensors

from .conftest import WAIT_S, device_with_gateway, until


@contextmanager
def reporting(broker: Broker, bundle: Bundle, name: str) -> Iterator[Callable[[LoadReport], None]]:
    """Something that announces itself as a gateway, and gives the load reports that a test wants."""
    transport = MqttTransport(broker.url, name, on_message=lambda _: None, on_state=lambda _: None)
    with transport:
        transport.start(WAIT_S, required=True)
        transport.publish(topics.presence_topic(name), encode_presence(Presence(name, (bundle.digest,))), retain=True)

        def report(load: LoadReport) -> None:
            assert transport.publish(topics.load_topic(name), encode_load(load), retain=True)

        yield report
        transport.publish(topics.load_topic(name), b"", retain=True)
        transport.close(last=(topics.presence_topic(name), b""))


def asked(device: Device) -> str | None:
    presence = device._exchange.route(1, None, bytes(16), forced=False).first
    return None if presence is None else presence.gateway_id


def test_the_less_busy_gateway_is_asked(broker: Broker, faces: Bundle) -> None:
    first, second = LoadReport("one", "run", 5, 2, 20.0), LoadReport("two", "run", 3, 1, 30.0)
    with reporting(broker, faces, "one") as one, reporting(broker, faces, "two") as two:
        one(first)
        two(second)
        with device_with_gateway(faces, broker.url) as device:
            exchange = device._exchange
            until(lambda: exchange.wait_ms("two") == 30.0 and exchange.wait_ms("one") == 20.0, "both reports")
            assert asked(device) == "one"
            two(replace(second, sequence=4, wait_ms=5.0))
            until(lambda: asked(device) == "two", "the other to be asked")
            # What is older is not news, and what comes after it is.
            two(replace(second, sequence=2, wait_ms=90.0))
            one(replace(first, sequence=6, wait_ms=10.0))
            until(lambda: exchange.wait_ms("one") == 10.0, "the report")
            until(lambda: exchange.wait_ms("two") == 5.0, "nothing")
            two(replace(second, run="again", sequence=0, wait_ms=40.0))
            until(lambda: asked(device) == "one", "the first to be asked")
            assert exchange.wait_ms("nobody") == 0.0


def test_a_gateway_reports_what_waits_at_once(broker: Broker, faces_path: Path, faces: Bundle, inputs: Tensors) -> None:
    free = threading.Event()
    with Gateway([faces_path], broker.url, gateway_id="loaded", workers=1) as gateway:
        (served,) = gateway._served.values()
        run = served.bundles[0].run_tail_on

        def wait(*arguments: Any) -> Tensors:
            assert free.wait(WAIT_S)
            return run(*arguments)

        served.bundles[0].run_tail_on = wait  # type: ignore[method-assign]
        serving = threading.Thread(target=gateway.serve)
        serving.start()
        try:
            with device_with_gateway(faces, broker.url) as device, ThreadPoolExecutor(6) as threads:
                waiting = [threads.submit(device.infer, inputs, cut="input") for _ in range(6)]
                loads = device._exchange._gateways.loads
                until(lambda: "loaded" in loads and loads["loaded"].queue_length == 5, "what waits to be told")
                assert device._exchange.wait_ms("loaded") > 0
                free.set()
                assert {future.result().ran_on for future in waiting} == {("gateway",)}
                until(lambda: device._exchange.wait_ms("loaded") == 0, "the queue to be empty")
        finally:
            free.set()
            gateway.stop()
            serving.join()
