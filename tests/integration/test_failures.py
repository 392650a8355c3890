"""Whatever fails, the device answers: by its own slices, in time, and says so."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.communication import topics
from midstream.communication.chunks import Reassembler, split
from midstream.communication.codecs import encode
from midstream.communication.presence import Presence, encode_presence
from midstream.communication.transport import Message, MqttTransport
from midstream.communication.wire import Reply, Request, Runner, Stage, Status, decode_request, encode_reply
from midstream.device import Device, Result
from midstream.errors import InputError
from midstream.gateway import Gateway
from midstream.link import LinkEmulator
from midstream.tensors import Tensors

from .conftest import GatewayProcess, asking, device_with_gateway, until

DEADLINE_MS = 1000.0
# Far below the 10 s a device waits without a deadline, far above what a busy machine adds.
CLEARLY_IN_TIME_S = 5.0


def answered_by_itself(result: Result, want: Tensors, *reasons: str) -> None:
    assert result.ran_on == ("device",)
    assert result.fallback is not None
    assert any(reason in result.fallback for reason in reasons), result.fallback
    assert all(np.array_equal(want[name], result.outputs[name]) for name in want)


@contextmanager
def fake_gateway(broker: Broker, bundle: Bundle, answer: Callable[[Message], list[bytes]]) -> Iterator[MqttTransport]:
    """Something that announces itself as a gateway, and answers as a test wants."""
    transport: MqttTransport

    def on_message(message: Message) -> None:
        route = topics.parse_request_topic(message.topic)
        for payload in answer(message):
            topic = topics.reply_topic(route.gateway_id, route.device_id)
            transport.publish(topic, payload, correlation=message.correlation)

    transport = MqttTransport(
        broker.url, "fake", will=(topics.presence_topic("fake"), b""), on_message=on_message, on_state=lambda _: None
    )
    with transport:
        transport.start(5.0, required=True)
        transport.subscribe(topics.request_filter("fake"))
        presence = encode_presence(Presence("fake", (bundle.digest,)))
        transport.publish(topics.presence_topic("fake"), presence, retain=True)
        yield transport
        transport.close(last=(topics.presence_topic("fake"), b""))


def test_no_gateway(broker: Broker, faces: Bundle, inputs: Tensors) -> None:
    with Device(faces, broker.url, deadline_ms=DEADLINE_MS) as device:
        answered_by_itself(device.infer(inputs), faces.run(inputs), "no gateway")
        answered_by_itself(device.infer(inputs, cut=faces.cuts[0].id), faces.run(inputs), "no gateway")


def test_no_broker(faces: Bundle, inputs: Tensors) -> None:
    with Device(faces, "mqtt://127.0.0.1:9", deadline_ms=DEADLINE_MS) as device:
        answered_by_itself(device.infer(inputs, cut=faces.cuts[0].id), faces.run(inputs), "no gateway")
        answered_by_itself(device.infer(inputs), faces.run(inputs), "127.0.0.1:9")


def test_a_gateway_with_another_bundle_is_no_gateway(
    broker: Broker, faces: Bundle, inputs: Tensors, start_gateway, assets: Path, tmp_path: Path
) -> None:
    from midstream_converters.convert import convert
    from midstream_converters.opening import Options

    other = tmp_path / "other"
    convert(assets / "models" / "face_detection_short_range.tflite", other, Options(max_cuts=1))
    start_gateway(broker, bundle=other)
    with device_with_gateway(Bundle.open(other), broker.url), Device(faces, broker.url) as device:
        answered_by_itself(device.infer(inputs, cut="input"), faces.run(inputs), "no gateway")


def test_a_frozen_gateway(broker: Broker, start_gateway, faces: Bundle, inputs: Tensors) -> None:
    gateway = start_gateway(broker)
    with device_with_gateway(faces, broker.url, deadline_ms=DEADLINE_MS) as device:
        gateway.process.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        result = device.infer(inputs, cut=faces.cuts[3].id)
        assert time.monotonic() - start < CLEARLY_IN_TIME_S
        answered_by_itself(result, faces.run(inputs), "no answer in time")
        assert not device.infer(inputs).plan.offloads  # a gateway that failed rests
        gateway.process.send_signal(signal.SIGCONT)


def kill_mid_request(gateway, device: Device, bundle: Bundle, inputs: Tensors) -> Result:
    """SIGKILL a gateway that has a request and has not answered it."""
    gateway.process.send_signal(signal.SIGSTOP)
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(device.infer(inputs, cut=bundle.cuts[3].id)))
    thread.start()
    until(lambda: device.pending > 0, "the request to be sent")
    gateway.process.kill()
    gateway.process.wait()
    thread.join(30)
    assert results, "the device hangs"
    return results[0]


def test_a_gateway_killed_mid_request(broker: Broker, start_gateway, faces: Bundle, inputs: Tensors) -> None:
    gateway = start_gateway(broker)
    with device_with_gateway(faces, broker.url) as device:
        start = time.monotonic()
        result = kill_mid_request(gateway, device, faces, inputs)
        assert time.monotonic() - start < CLEARLY_IN_TIME_S  # told by the gateway's will, not by patience running out
        answered_by_itself(result, faces.run(inputs), "is gone")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_hundred_killed_gateways_lose_no_answer(
    broker: Broker, start_gateway, faces: Bundle, inputs: Tensors
) -> None:
    want = faces.run(inputs)
    with Device(faces, broker.url) as device:
        for round_number in range(100):
            gateway = start_gateway(broker, name=f"gw-{round_number}")
            until(lambda: device.gateways > 0, "a gateway's presence")
            before = device.infer(inputs, cut=faces.cuts[3].id)
            assert before.ran_on == ("device", "gateway"), before.fallback
            answered_by_itself(kill_mid_request(gateway, device, faces, inputs), want, "is gone")
            until(lambda: device.gateways == 0, "the gateway to vanish")


def test_the_broker_dies_mid_request(faces: Bundle, inputs: Tensors, start_gateway) -> None:
    with Broker() as broker:
        gateway = start_gateway(broker)
        with device_with_gateway(faces, broker.url) as device:
            gateway.process.send_signal(signal.SIGSTOP)
            results: list[Result] = []
            thread = threading.Thread(target=lambda: results.append(device.infer(inputs, cut=faces.cuts[3].id)))
            thread.start()
            until(lambda: device.pending > 0, "the request to be sent")
            broker.stop()
            thread.join(30)
            # A broker that is told to stop may still deliver the gateway's will.
            answered_by_itself(results[0], faces.run(inputs), "connection to the broker was lost", "is gone")
            gateway.process.send_signal(signal.SIGCONT)
            broker.start()
            until(lambda: device.gateways > 0, "the gateway to come back with the broker")
            until(lambda: "gateway" in device.infer(inputs, cut=faces.cuts[3].id).ran_on, "the gateway's answers")


@contextmanager
def asking_in_vain(device: Device, gateway: GatewayProcess, inputs: Tensors, cut: str) -> Iterator[list[Result]]:
    """A request under way to a gateway that does not answer, which is over by the end; its result."""
    gateway.process.send_signal(signal.SIGSTOP)
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(device.infer(inputs, cut=cut)))
    thread.start()
    until(lambda: device.pending > 0, "the request to be sent")
    yield results
    thread.join(30)


def test_a_killed_broker_ends_what_is_under_way(faces: Bundle, inputs: Tensors, start_gateway) -> None:
    """At once: who waits for its answer by reading the connection does not keep its end from being found."""
    cut = faces.cuts[3].id
    with Broker() as broker:
        gateway = start_gateway(broker)
        with (
            device_with_gateway(faces, broker.url) as device,
            asking_in_vain(device, gateway, inputs, cut) as results,
        ):
            assert broker.pid is not None
            os.kill(broker.pid, signal.SIGKILL)
    answered_by_itself(results[0], faces.run(inputs), "connection to the broker was lost")


def test_closing_ends_what_is_under_way(broker: Broker, start_gateway, faces: Bundle, inputs: Tensors) -> None:
    gateway = start_gateway(broker)
    with ExitStack() as after, device_with_gateway(faces, broker.url) as device:
        results = after.enter_context(asking_in_vain(device, gateway, inputs, faces.cuts[3].id))
    answered_by_itself(results[0], faces.run(inputs), "the device is closing")


def test_everything_boots_before_the_broker(faces: Bundle, faces_path: Path, inputs: Tensors, start_gateway) -> None:
    broker = Broker()
    with broker:
        port = broker.port
    later = Broker(port=port)
    gateway = start_gateway(later)
    with Device(faces, later.url) as device:
        answered_by_itself(device.infer(inputs), faces.run(inputs), "no gateway")
        with later:
            until(lambda: device.gateways > 0, "the gateway")
            assert device.infer(inputs, cut="input").ran_on == ("gateway",)
            assert gateway.stop() == 0


def damaged(message: Message) -> list[bytes]:
    reply = split(
        encode_reply(Reply(message.correlation or b"", Status.OK, (), "raw", 0, 0)), message.correlation or b""
    )
    broken = bytearray(reply[0])
    broken[-7] ^= 0x40
    return [bytes(broken)]


def without_tensors(message: Message) -> list[bytes]:
    return split(
        encode_reply(Reply(message.correlation or b"", Status.OK, (), "raw", 0, 0)), message.correlation or b""
    )


def for_another(message: Message) -> list[bytes]:
    return split(encode_reply(Reply(bytes(16), Status.OK, (), "raw", 0, 0)), message.correlation or b"")


def busy(message: Message) -> list[bytes]:
    reply = Reply(message.correlation or b"", Status.BUSY, (), "raw", 0, 0, "the queue is full")
    return split(encode_reply(reply), message.correlation or b"")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (damaged, "damaged"),
        (without_tensors, "damaged"),
        (for_another, "another"),
        (busy, "the queue is full"),
        (lambda _: [], "no answer in time"),
        (lambda _: [b"", b"MS", bytes(100_000)], "damaged"),
    ],
)
def test_a_reply_that_is_none(
    broker: Broker, faces: Bundle, inputs: Tensors, answer: Callable[[Message], list[bytes]], reason: str
) -> None:
    with (
        fake_gateway(broker, faces, answer),
        device_with_gateway(faces, broker.url, deadline_ms=DEADLINE_MS) as device,
    ):
        answered_by_itself(device.infer(inputs, cut=faces.cuts[3].id), faces.run(inputs), reason)


def test_hostile_requests_leave_the_gateway_standing(
    broker: Broker, start_gateway, faces: Bundle, inputs: Tensors
) -> None:
    start_gateway(broker)
    replies: list[Message] = []
    with device_with_gateway(faces, broker.url) as device:
        gateway_id = "gw-test"
        topic = topics.request_topic(gateway_id, "evil")
        hostile = MqttTransport(broker.url, "evil", on_message=replies.append, on_state=lambda _: None)
        with hostile:
            hostile.subscribe(topics.reply_filter("evil"))
            hostile.start(5.0, required=True)
            rng = np.random.default_rng(0)
            for size in (0, 1, 2, 40, 1000, 200_000):
                hostile.publish(topic, rng.bytes(size), correlation=bytes(16))
            hostile.publish(topic, b"MS" + bytes(80), retain=True)
            hostile.publish(topic, b"", retain=True)
            whole = Reassembler()
            until(lambda: len(replies) >= 5, "refusals")
            for message in replies:
                del message
            del whole
        result = device.infer(inputs, cut=faces.cuts[3].id)
        assert result.ran_on == ("device", "gateway"), result.fallback


def test_refusals_say_what_is_wrong(broker: Broker, faces_path: Path, faces: Bundle, inputs: Tensors) -> None:
    def request(digest: bytes, cut: str, deadline_ms: int, tensors: Tensors, codec: str = "raw") -> Request:
        return Request(bytes(range(16)), digest, cut, codec, deadline_ms, 0.0, (), encode(codec, tensors, {}))

    small = {"input": inputs["input"][:, :5]}
    onward = (Stage(faces.cuts[0].id, Runner.POOL, "attic"),)
    cases = [
        (request(bytes(32), "", 1000, inputs), Status.UNKNOWN_BUNDLE),
        (request(faces.digest, "c9999", 1000, inputs), Status.UNKNOWN_CUT),
        (request(faces.digest, "", 1000, small), Status.BAD_REQUEST),
        (replace(request(faces.digest, "", 1000, inputs), onward=onward), Status.CANNOT_FORWARD),
        (request(faces.digest, "", 0, inputs), Status.EXPIRED),
        (request(faces.digest, "", 5000, inputs), Status.OK),
    ]
    with Gateway([faces_path], broker.url, gateway_id="gw-direct", workers=1) as gateway:
        gateway.wait_connected(5.0)
        with asking(broker.url, "gw-direct") as ask:
            for wanted, status in cases:
                reply = ask(wanted)
                assert reply.status is status, reply.message
                assert reply.message or status is Status.OK


def test_a_dynamic_size_of_none_at_all_is_refused(broker: Broker, start_gateway, voice_path: Path) -> None:
    """The runtime itself would abort the process."""
    voice = Bundle.open(voice_path)
    empty: Tensors = {"input": np.zeros((0, 576), np.float32), "state": np.zeros((2, 0, 128), np.float32)}
    with pytest.raises(InputError, match=r"shape \[0, 576\], needed \[\?, \?\]; \? is 1 or more"):
        voice.run(empty)
    gateway = start_gateway(broker, bundle=voice_path)
    with device_with_gateway(voice, broker.url) as device:
        with pytest.raises(InputError, match="1 or more"):
            device.infer(empty, cut="input")
        with asking(broker.url, gateway.name) as ask:
            request = Request(bytes(16), voice.digest, "", "raw", 5000, 0.0, (), encode("raw", empty, {}))
            reply = ask(request)
            assert (reply.status, "1 or more" in reply.message) == (Status.BAD_REQUEST, True)
            full = {name: np.zeros(voice.manifest.sample_shapes[name], np.float32) for name in empty}
            assert ask(replace(request, tensors=encode("raw", full, {}))).status is Status.OK


def test_the_device_announces_its_score_and_features(broker: Broker, faces: Bundle, inputs: Tensors) -> None:
    seen: list[bytes] = []
    parts = Reassembler()

    def record(message: Message) -> list[bytes]:
        whole = parts.add("device", message.payload)
        if whole is not None:
            seen.append(whole)
        return []

    with fake_gateway(broker, faces, record), device_with_gateway(faces, broker.url, deadline_ms=500) as device:
        result = device.infer(inputs, cut=faces.cuts[3].id)
    request = decode_request(seen[0])
    assert result.analysis is not None
    assert request.score == pytest.approx(result.analysis.score)
    assert dict(request.features).keys() == result.analysis.features.keys()
    assert 0 < request.deadline_ms <= 500


def test_a_request_that_was_given_up_does_not_hold_up_the_next(
    broker: Broker, start_gateway, faces: Bundle, inputs: Tensors
) -> None:
    """The first would take 3 s on this link, of which the second has less than one."""
    start_gateway(broker)
    large, small = faces.cuts[0].id, faces.cuts[-1].id
    with (
        LinkEmulator(("127.0.0.1", broker.port), uplink_kbps=1000, rtt_ms=10) as link,
        device_with_gateway(faces, link.url) as device,
    ):
        for _ in range(3):
            answered_by_itself(device.infer(inputs, cut=large, deadline_ms=100), faces.run(inputs), "no answer in time")
            assert device.pending == 0
        result = device.infer(inputs, cut=small, codec="lossless", deadline_ms=2000)
        assert result.ran_on == ("device", "gateway"), result.fallback


@pytest.mark.parametrize("deadline_ms", [1e10, 1e15, 1e300])
def test_a_deadline_that_is_never_is_one(
    broker: Broker, start_gateway, faces: Bundle, inputs: Tensors, deadline_ms: float
) -> None:
    start_gateway(broker)
    with device_with_gateway(faces, broker.url) as device:
        result = device.infer(inputs, cut=faces.cuts[-1].id, deadline_ms=deadline_ms)
        assert result.ran_on == ("device", "gateway"), result.fallback
