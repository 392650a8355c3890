"""The gateway as devices meet it on the wire: whatever comes, whoever fails, it serves the next request."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.communication import topics
from midstream.communication.codecs import encode
from midstream.communication.transport import Message, MqttTransport
from midstream.communication.wire import Request, Status
from midstream.errors import BundleError, PeerError
from midstream.gateway import Gateway
from midstream.tensors import Tensors

from .conftest import WAIT_S, asking, device_with_gateway, until

Mosquitto = Callable[[Path, list[str]], AbstractContextManager[int]]
ID = "gw-here"


@contextmanager
def serving(url: str, *bundles: Path) -> Iterator[Gateway]:
    """A gateway with one worker in this process."""
    with Gateway(bundles, url, gateway_id=ID, workers=1) as gateway:
        assert gateway.wait_connected(WAIT_S)
        thread = Thread(target=gateway.serve)
        thread.start()
        try:
            yield gateway
        finally:
            gateway.stop()
            thread.join()


def request(bundle: Bundle, inputs: Tensors, deadline_ms: int = 5000) -> Request:
    return Request(bytes(16), bundle.digest, "", "raw", deadline_ms, 0.0, (), encode("raw", inputs, {}))


def test_a_mistake_of_ours_is_answered_logged_and_no_more(
    broker: Broker, faces_path: Path, faces: Bundle, inputs: Tensors, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(broker.url, faces_path) as gateway, asking(broker.url, ID) as ask:
        (served,) = gateway._served.values()
        bundle = served.bundles[0]
        run = bundle.run_tail_on
        bundle.run_tail_on = lambda *_: 1 / 0  # type: ignore[assignment, return-value]
        for _ in range(2):
            reply = ask(request(faces, inputs))
            assert reply.status is Status.FAILED
            assert "division by zero" in reply.message
        bundle.run_tail_on = run  # type: ignore[method-assign]
        assert ask(request(faces, inputs)).status is Status.OK
    assert "ZeroDivisionError" in caplog.text


def test_a_topic_that_names_nobody_is_one_line_in_the_log(
    broker: Broker, faces_path: Path, faces: Bundle, inputs: Tensors, caplog: pytest.LogCaptureFixture
) -> None:
    client = MqttTransport(broker.url, "hostile", on_message=lambda _m: None, on_state=lambda _up: None)
    with serving(broker.url, faces_path), asking(broker.url, ID) as ask, client:
        client.start(WAIT_S, required=True)
        client.publish(f"{topics.ROOT}/gw/{ID}/req/bad id!", b"junk", correlation=bytes(16))
        assert ask(request(faces, inputs)).status is Status.OK
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "'midstream/1/gw/gw-here/req/bad id!' is not a gateway's topic" in line


def test_a_request_whose_time_is_over_has_expired(
    broker: Broker, faces_path: Path, faces: Bundle, inputs: Tensors
) -> None:
    with serving(broker.url, faces_path), asking(broker.url, ID) as ask:
        assert ask(request(faces, inputs, deadline_ms=0)).status is Status.EXPIRED


def test_a_broker_of_small_packets_carries_large_requests_and_replies(
    faces_path: Path, faces: Bundle, inputs: Tensors, tmp_path: Path, mosquitto: Mosquitto
) -> None:
    with mosquitto(tmp_path, ["allow_anonymous true", "max_packet_size 2500"]) as port:
        url = f"mqtt://127.0.0.1:{port}"
        with serving(url, faces_path), device_with_gateway(faces, url) as device:
            result = device.infer(inputs, cut="input")
            assert result.ran_on == ("gateway",), result.fallback
            assert result.sent_bytes > inputs["input"].nbytes
            assert all(np.array_equal(value, result.outputs[name]) for name, value in faces.run(inputs).items())
            assert device.pending == 0


def test_a_broker_whose_packets_carry_nothing_is_said_to(
    faces_path: Path, faces: Bundle, inputs: Tensors, tmp_path: Path, mosquitto: Mosquitto
) -> None:
    with mosquitto(tmp_path, ["allow_anonymous true", "max_packet_size 1000"]) as port:
        url = f"mqtt://127.0.0.1:{port}"
        with serving(url, faces_path), device_with_gateway(faces, url) as device:
            for _ in range(2):
                result = device.infer(inputs, cut="input")
                assert result.ran_on == ("device",)
                assert "the request cannot be sent: chunks of" in (result.fallback or "")
            assert device.pending == 0
            assert device.infer(inputs).ran_on == ("device",)
    with (
        mosquitto(tmp_path, ["allow_anonymous true", "max_packet_size 150"]) as port,
        Gateway([faces_path], f"mqtt://127.0.0.1:{port}", workers=1) as gateway,
        pytest.raises(PeerError, match="the broker takes too little at once for a gateway to announce itself"),
    ):
        gateway.serve()


def test_more_bundles_than_can_be_announced_are_refused(
    faces_path: Path, voice_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("midstream.gateway.server.MAX_BUNDLES", 1)
    with pytest.raises(BundleError, match="serves at most 1 bundles, 2 were given; start another one"):
        Gateway([faces_path, voice_path], "mqtt://127.0.0.1:1", workers=1)
    Gateway([faces_path, faces_path], "mqtt://127.0.0.1:1", workers=1)


def test_a_will_that_comes_late_does_not_make_a_gateway_vanish(broker: Broker, faces_path: Path) -> None:
    """A broker that has missed the end of a connection publishes its will after the next one has announced itself."""
    heard: queue.Queue[Message] = queue.Queue()
    with (
        serving(broker.url, faces_path) as gateway,
        MqttTransport(broker.url, "before", on_message=heard.put, on_state=lambda _: None) as before,
    ):
        for topic in (topics.presence_topic(gateway.gateway_id), topics.load_topic(gateway.gateway_id)):
            before.subscribe(topic)
        before.start(WAIT_S, required=True)
        while not heard.get(timeout=WAIT_S).topic.startswith(topics.PRESENCE_PREFIX):
            pass
        before.publish(topics.presence_topic(gateway.gateway_id), b"", retain=True)
        while heard.get(timeout=WAIT_S).payload:
            pass
        announced: set[str] = set()
        while announced != {"presence", "load"}:
            announced.add(heard.get(timeout=WAIT_S).topic.split("/")[1])


def test_two_gateways_of_one_name_are_told_and_one_that_comes_again_is_not(
    broker: Broker, faces_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # With an account their connections have names of their own, and the broker keeps both.
    url = broker.url.replace("mqtt://", "mqtt://somebody@")
    for _ in range(2):
        with serving(url, faces_path), device_with_gateway(Bundle.open(faces_path), broker.url):
            pass
    assert "calls itself" not in caplog.text
    with serving(url, faces_path), serving(url, faces_path):
        until(lambda: f"another gateway calls itself {ID} at this broker" in caplog.text, "the warning")
