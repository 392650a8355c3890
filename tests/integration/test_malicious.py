"""A malicious client does what it can to a real gateway process: others are served, and its memory stays as it was."""

from __future__ import annotations

import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.communication import topics
from midstream.communication.checksum import sealed
from midstream.communication.chunks import Reassembler, split
from midstream.communication.codecs import encode
from midstream.communication.control import Cancel, Missing, encode_control
from midstream.communication.load import LoadReport, encode_load
from midstream.communication.presence import Presence, encode_presence
from midstream.communication.transport import Message, MqttTransport
from midstream.communication.wire import EncodedTensor, Reply, Request, Status, decode_reply, encode_request
from midstream.device import Device
from midstream.tensors import Tensors

from .conftest import WAIT_S, GatewayProcess, until

ID = "gw-target"
# What Python, its allocator and the messages on their way take of a burst; each attack means to take far more.
FLAT_BYTES = 40 << 20

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")


class Evil:
    """A client that sends what it likes where it may, and hears all that there is to hear."""

    def __init__(self, url: str) -> None:
        self.heard: list[Message] = []
        self._client = MqttTransport(url, "evil", on_message=self.heard.append, on_state=lambda _: None)

    def __enter__(self) -> Evil:
        self._client.subscribe("midstream/#")
        self._client.start(WAIT_S, required=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def send(self, topic: str, payload: bytes, **options: object) -> None:
        """Publish, as soon as the connection takes it."""
        until(lambda: self._client.publish(topic, payload, **options), "room to send")  # type: ignore[arg-type]

    def ask(self, message: bytes, request_id: bytes = bytes(16), device: str = "evil") -> None:
        """Send a message as a request."""
        for chunk in split(message, request_id):
            self.send(topics.request_topic(ID, device), chunk, correlation=request_id)

    def replies(self) -> list[Reply]:
        """How its requests were answered."""
        parts = Reassembler()
        mine = [message for message in self.heard if message.topic == topics.reply_topic(ID, "evil")]
        wholes = [parts.add("gateway", message.payload) for message in mine]
        return [decode_reply(whole) for whole in wholes if whole is not None]

    def statuses(self) -> Counter[Status]:
        """The same, counted."""
        return Counter(reply.status for reply in self.replies())


@pytest.fixture
def gateway(broker: Broker, start_gateway: Callable[..., GatewayProcess], outputs_path: Path) -> GatewayProcess:
    return start_gateway(broker, ID, outputs_path)


@pytest.fixture
def good(broker: Broker, gateway: GatewayProcess, outputs: Bundle) -> Iterator[Device]:
    with Device(outputs, broker.url, packing=False) as device:
        until(lambda: device.gateways == 1, "the gateway")
        yield device


@pytest.fixture
def evil(broker: Broker, good: Device) -> Iterator[Evil]:
    with Evil(broker.url) as client:
        yield client


@pytest.fixture
def request_of(outputs: Bundle, vector: Tensors) -> Request:
    return Request(bytes(16), outputs.digest, "", "raw", 5000, 0.0, (), encode("raw", vector, {}))


def memory_bytes(gateway: GatewayProcess) -> int:
    """The most that it has taken so far."""
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def is_served(good: Device, bundle: Bundle, vector: Tensors) -> bool:
    result = good.infer(vector, cut="c2")
    want = bundle.run(vector)
    return "gateway" in result.ran_on and all(np.array_equal(want[name], result.outputs[name]) for name in want)


def attacked(
    gateway: GatewayProcess, good: Device, bundle: Bundle, vector: Tensors, attack: Callable[[int], None], times: int
) -> None:
    """Attack: the gateway must serve on, and at no time take more memory than before."""
    assert all(is_served(good, bundle, vector) for _ in range(20))
    before = memory_bytes(gateway)
    for number in range(times):
        attack(number)
    until(lambda: is_served(good, bundle, vector), "the gateway to have gone through it")
    assert memory_bytes(gateway) - before < FLAT_BYTES
    assert gateway.process.poll() is None


def test_it_answers_where_it_derives_and_nowhere_else(
    evil: Evil, good: Device, outputs: Bundle, vector: Tensors, request_of: Request
) -> None:
    topic = topics.request_topic(ID, "evil")
    names = (topics.presence_topic(ID), topics.reply_topic("other", "victim"), "$SYS/broker", "elsewhere", "a/+")
    for answers, named in enumerate(names, 1):
        for chunk in split(encode_request(request_of), bytes(16)):
            evil.send(topic, chunk, correlation=bytes(16), response_topic=named)
        # One that comes again while it runs is answered once.
        until(lambda answers=answers: evil.statuses()[Status.OK] == answers, "the answer")
    assert is_served(good, outputs, vector)
    own = {topics.presence_topic(ID), topics.load_topic(ID), topic, topics.reply_topic(ID, "evil")}
    now = [message.topic for message in evil.heard if not message.retained and good.device_id not in message.topic]
    foreign = set(now) - own
    assert not foreign


def test_what_the_broker_has_kept_is_not_run(
    broker: Broker,
    start_gateway: Callable[..., GatewayProcess],
    outputs_path: Path,
    outputs: Bundle,
    vector: Tensors,
    request_of: Request,
) -> None:
    (chunk,) = split(encode_request(request_of), bytes(16))
    with Evil(broker.url) as evil:
        try:
            for device in ("evil", "victim"):
                evil.send(topics.request_topic(ID, device), chunk, retain=True, correlation=bytes(16))
            until(lambda: sum("/req/" in message.topic for message in evil.heard) == 2, "them to be kept")
            start_gateway(broker, ID, outputs_path)
            with Device(outputs, broker.url) as device:
                until(lambda: device.gateways == 1, "the gateway")
                assert is_served(device, outputs, vector)
            assert not [
                message for message in evil.heard if "/rep/" in message.topic and "dev/dev-" not in message.topic
            ]
        finally:
            for device_id in ("evil", "victim"):
                evil.send(topics.request_topic(ID, device_id), b"", retain=True)


def test_announced_sizes_take_no_memory(
    evil: Evil, gateway: GatewayProcess, good: Device, outputs: Bundle, vector: Tensors, request_of: Request
) -> None:
    """A chunk of a message of many, of a size that the bundle allows and of one that it does not."""
    header = struct.Struct("<2sBB16sHHI4sB")
    largest = 65_000  # below what a request of this bundle may have

    def attack(number: int) -> None:
        message_id = number.to_bytes(16, "big")
        for total, count in ((largest, 2), (64 << 20, 256), (0xFFFF_FFFF, 0xFFFF))[: 1 if number % 20 else 3]:
            part = bytes(min(-(-total // count), 200_000))
            chunk = sealed(header.pack(b"MC", 1, 0, message_id, 0, count, total, bytes(4), 0), part)
            evil.send(topics.request_topic(ID, f"evil-{number % 50}"), chunk)

    attacked(gateway, good, outputs, vector, attack, 3000)


def test_tables_that_promise_more_than_the_bundle_allows_take_no_memory(
    evil: Evil, gateway: GatewayProcess, good: Device, outputs: Bundle, vector: Tensors, request_of: Request
) -> None:
    floats = np.dtype(np.float32)
    tables = [
        (EncodedTensor((4000, 4000), floats, b""),),
        (EncodedTensor((0xFFFF_FFFF,) * 8, floats, b""),),
        (EncodedTensor((1, 64), np.dtype(np.float64), bytes(512)),),
        (EncodedTensor((1, 64), floats, bytes(3)),),
        (EncodedTensor((1, 64), floats, bytes(256)),) * 64,
        (),
    ]
    messages = [encode_request(replace(request_of, tensors=tensors)) for tensors in tables]

    attacked(gateway, good, outputs, vector, lambda number: evil.ask(messages[number % len(messages)]), 600)
    assert evil.statuses().keys() == {Status.BAD_REQUEST}


def test_what_unpacks_to_more_than_it_says_is_refused(
    evil: Evil, gateway: GatewayProcess, good: Device, outputs: Bundle, vector: Tensors, request_of: Request
) -> None:
    """56 KB of DEFLATE that hold 56 MB, and say that they are one vector."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packer.compress(bytes(56 << 20)) + packer.flush()
    for form in (1, 2, 3):
        tensors = (EncodedTensor((1, 64), np.dtype(np.float32), bytes([form]) + bomb),)
        message = encode_request(replace(request_of, codec="lossless", tensors=tensors))
        attacked(gateway, good, outputs, vector, lambda _: evil.ask(message), 40)  # noqa: B023
    assert evil.statuses().keys() == {Status.BAD_REQUEST}


def test_what_it_does_not_serve_is_refused_with_a_reply(evil: Evil, request_of: Request) -> None:
    evil.ask(encode_request(replace(request_of, bundle_digest=bytes(32))))
    evil.ask(encode_request(replace(request_of, cut="c999")))
    until(lambda: evil.statuses() == {Status.UNKNOWN_BUNDLE: 1, Status.UNKNOWN_CUT: 1}, "both refusals")


def test_junk_on_every_topic_is_ignored(
    evil: Evil, gateway: GatewayProcess, good: Device, outputs: Bundle, vector: Tensors, request_of: Request
) -> None:
    rng = np.random.default_rng(3)
    controls = [encode_control(Cancel(bytes(16))), encode_control(Missing(bytes(16), bytes(4), 1, 9, ((2, 7),)))]
    (chunk,) = split(encode_request(request_of), bytes(16))

    def attack(number: int) -> None:
        for topic in (
            topics.request_topic(ID, "evil"),
            topics.forward_topic(ID, "evil", f"gw-{number}"),
            topics.gateway_control_topic(ID, "evil"),
            topics.peer_control_topic(ID, "evil"),
            topics.presence_topic("gw-forged"),
            topics.load_topic("gw-forged"),
            f"midstream/1/gw/{ID}/req/no id!",
            f"midstream/99/gw/{ID}/req/evil",
        ):
            evil.send(topic, rng.bytes(int(rng.integers(0, 3000))))
        evil.send(topics.gateway_control_topic(ID, "evil"), controls[number % 2])
        damaged = bytearray(chunk)
        damaged[int(rng.integers(0, len(chunk)))] ^= 1 << int(rng.integers(0, 8))
        evil.send(topics.request_topic(ID, "evil"), bytes(damaged), correlation=bytes(16))

    attacked(gateway, good, outputs, vector, attack, 200)


def test_forged_gateways_without_end_take_no_memory(
    evil: Evil, gateway: GatewayProcess, good: Device, outputs: Bundle, vector: Tensors
) -> None:
    digests = tuple(bytes([number]) * 32 for number in range(16))
    tails = {digest.hex(): {f"c{number}": 1.0 for number in range(256)} for digest in digests}

    def attack(number: int) -> None:
        name = f"forged-{number}"
        presence = Presence(name, digests, tail_ms=tails)
        evil.send(topics.presence_topic(name), encode_presence(presence))
        evil.send(topics.load_topic(name), encode_load(LoadReport(name, "run")))

    attacked(gateway, good, outputs, vector, attack, 300)


def test_who_floods_is_refused_then_ignored_and_the_others_are_served(
    broker: Broker,
    start_gateway: Callable[..., GatewayProcess],
    outputs_path: Path,
    outputs: Bundle,
    vector: Tensors,
    request_of: Request,
) -> None:
    start_gateway(broker, ID, outputs_path, ("--device-messages", "20"))
    with Device(outputs, broker.url) as good, Evil(broker.url) as evil:
        until(lambda: good.gateways == 1, "the gateway")
        for number in range(3000):
            request_id = number.to_bytes(16, "big")
            evil.ask(encode_request(replace(request_of, request_id=request_id)), request_id)
        assert is_served(good, outputs, vector)
        until(lambda: evil.statuses()[Status.OK] >= 40, "what it was allowed")
        replies = evil.replies()
    refusals = [reply.message for reply in replies if reply.status is Status.BUSY]
    assert len(refusals) >= 10
    assert all("more than the 20 messages" in refusal for refusal in refusals)
    assert len(replies) < 1500
