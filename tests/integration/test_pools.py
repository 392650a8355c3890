"""Gateways that share requests: whoever dies, another one answers, within the deadline."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.communication import topics
from midstream.communication.address import parse_broker_url
from midstream.communication.chunks import Reassembler, peek, split
from midstream.communication.codecs import optional_libraries
from midstream.communication.control import Taken, decode_control, encode_control
from midstream.communication.fec import FEC_LIBRARY, fec_available
from midstream.communication.presence import Presence, encode_presence
from midstream.communication.transport import Message, MqttTransport
from midstream.communication.wire import Reply, Request, Status, decode_request, encode_reply
from midstream.device import Device, Result
from midstream.gateway.pooling import secret_of_pool
from midstream.link import LinkEmulator
from midstream.tensors import Tensors

from .conftest import WAIT_S, GatewayProcess, until

POOL = ("--pool", "attic")
DEADLINE_MS = 10_000.0
KNOWS = (*optional_libraries(), *((FEC_LIBRARY,) if fec_available() else ()))


@pytest.fixture
def members(broker: Broker, start_gateway: Callable[..., GatewayProcess], outputs_path: Path) -> list[GatewayProcess]:
    return [start_gateway(broker, name, outputs_path, POOL) for name in ("gw-a", "gw-b")]


@contextmanager
def listening(broker: Broker, *filters: str) -> Iterator[list[str]]:
    """The topics of all messages on these."""
    heard: list[str] = []
    spy = MqttTransport(
        broker.url, "spy", on_message=lambda message: heard.append(message.topic), on_state=lambda _: None
    )
    with spy:
        for topic_filter in filters:
            spy.subscribe(topic_filter)
        spy.start(WAIT_S, required=True)
        yield heard


@contextmanager
def device_in_front_of(bundle: Bundle, broker: Broker, gateways: int) -> Iterator[Device]:
    with Device(bundle, broker.url, deadline_ms=DEADLINE_MS, packing=False) as device:
        until(lambda: device.gateways == gateways, "the gateways")
        yield device


def request_in(message: Message) -> Request:
    """What a message of one chunk asks."""
    whole = Reassembler().add("device", message.payload)
    assert whole is not None
    return decode_request(whole)


def answered(result: Result, want: Tensors) -> bool:
    same = all(np.array_equal(want[name], result.outputs[name]) for name in want)
    return same and result.ran_on == ("device", "gateway")


def test_small_requests_go_to_the_pool_and_each_member_gets_some(
    broker: Broker, members: list[GatewayProcess], outputs: Bundle, vector: Tensors
) -> None:
    want = outputs.run(vector)
    filters = ("midstream/1/+/+/req/+", "midstream/1/dev/+/rep/+", "midstream/1/dev/+/ctl/+")
    with listening(broker, *filters) as heard, device_in_front_of(outputs, broker, 2) as device:
        for _ in range(8):
            result = device.infer(vector, cut="c2")
            assert answered(result, want), result.fallback
        asked = [topic for topic in heard if "/req/" in topic]
        assert asked == [topics.pool_request_topic("attic", device.device_id)] * 8
        until(lambda: sum("/rep/" in topic for topic in heard) == 8, "all replies to be heard")
        until(lambda: sum("/ctl/" in topic for topic in heard) == 8, "all to be taken")
        replies = Counter(topics.parse_reply_topic(topic).gateway_id for topic in heard if "/rep/" in topic)
        assert replies == {"gw-a": 4, "gw-b": 4}


def test_what_is_named_or_large_or_cannot_be_shared_goes_to_one_gateway(
    broker: Broker,
    start_gateway: Callable[..., GatewayProcess],
    members: list[GatewayProcess],
    outputs: Bundle,
    vector: Tensors,
    faces: Bundle,
    inputs: Tensors,
) -> None:
    want = outputs.run(vector)
    with listening(broker, "midstream/1/+/+/req/+") as heard, device_in_front_of(outputs, broker, 2) as device:
        assert answered(device.infer(vector, cut="c2", machines=["gw-b"]), want)
        device._exchange._transport.main._shares_subscriptions = False
        assert answered(device.infer(vector, cut="c2"), want)
        until(lambda: len(heard) == 2, "both requests to be heard")
        assert heard[0] == topics.request_topic("gw-b", device.device_id)
        assert not any("/pool/" in topic for topic in heard)
        heard.clear()
    for name in ("gw-c", "gw-d"):
        start_gateway(broker, name, options=POOL)
    with listening(broker, "midstream/1/+/+/req/+") as heard, device_in_front_of(faces, broker, 2) as device:
        assert device.infer(inputs, cut="input").ran_on == ("gateway",)
        # A pool of which some have another bundle is none for this one.
        assert device.infer(inputs, cut=faces.cuts[-1].id).ran_on == ("device", "gateway")
        assert not any("/pool/" in topic for topic in heard)


def test_a_pool_of_one_is_that_gateway(
    broker: Broker, start_gateway: Callable[..., GatewayProcess], outputs_path: Path, outputs: Bundle, vector: Tensors
) -> None:
    start_gateway(broker, "gw-a", outputs_path, POOL)
    with listening(broker, "midstream/1/+/+/req/+") as heard, device_in_front_of(outputs, broker, 1) as device:
        assert answered(device.infer(vector, cut="c2"), outputs.run(vector))
        until(lambda: heard == [topics.request_topic("gw-a", device.device_id)], "the request to be heard")


@pytest.mark.parametrize("kill", [True, False])
def test_a_member_killed_or_frozen_mid_request_loses_none(
    broker: Broker, members: list[GatewayProcess], outputs: Bundle, vector: Tensors, kill: bool
) -> None:
    want = outputs.run(vector)
    with device_in_front_of(outputs, broker, 2) as device, ThreadPoolExecutor(6) as threads:
        members[0].process.send_signal(signal.SIGSTOP)
        waiting = [threads.submit(device.infer, vector, cut="c2") for _ in range(6)]
        # The other one has answered its own; what is left is with the one that is frozen.
        until(lambda: 0 < device.pending < 6, "the requests to be sent")
        if kill:
            members[0].process.kill()
        for future in waiting:
            result = future.result(WAIT_S)
            assert answered(result, want), result.fallback
            assert result.timings_ms["total"] < DEADLINE_MS
        members[0].process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("pool", [True, False])
def test_a_gateway_that_has_taken_a_request_and_dies_is_replaced(
    broker: Broker,
    start_gateway: Callable[..., GatewayProcess],
    outputs_path: Path,
    outputs: Bundle,
    vector: Tensors,
    pool: bool,
) -> None:
    """The first says that it has the request, and vanishes: its will alone tells the device."""
    asked: set[bytes] = set()

    def take(message: Message) -> None:
        chunk = peek(message.payload)
        assert chunk is not None
        asked.add(chunk.message_id)
        device_id = topics.parse_inbound(message.topic).device_id
        dying.publish(
            topics.device_control_topic(device_id, "dying"), encode_control(Taken(chunk.message_id, chunk.tag, 1, 1))
        )

    presence = Presence("dying", (outputs.digest,), knows=KNOWS, pools=("attic",) if pool else ())
    topic = topics.presence_topic("dying")
    with (
        ExitStack() as life,
        ExitStack() as path,
        ThreadPoolExecutor(16) as threads,
    ):
        link = path.enter_context(LinkEmulator(("127.0.0.1", broker.port)))
        dying = MqttTransport(link.url, "dying", will=(topic, b""), on_message=take, on_state=lambda _: None)
        life.enter_context(dying)
        dying.start(WAIT_S, required=True)
        if pool:
            dying.subscribe(
                topics.pool_filters("attic", secret_of_pool("attic", None, parse_broker_url(broker.url)))[0]
            )
        dying.subscribe(topics.request_filter("dying"))
        dying.publish(topic, encode_presence(presence), retain=True)
        start_gateway(broker, "gw-b", outputs_path, POOL if pool else ())
        device = life.enter_context(device_in_front_of(outputs, broker, 2))
        waiting = [threads.submit(device.infer, vector, cut="c2") for _ in range(16)]
        until(lambda: 0 < device.pending == len(asked), "the other to have answered, and this one to have the rest")
        path.close()
        for future in waiting:
            result = future.result(WAIT_S)
            assert answered(result, outputs.run(vector)), result.fallback


@dataclass
class Fake:
    """A gateway that says only what a test lets it, and that it has the first request where that came to its pool."""

    broker: Broker
    name: str
    bundle: Bundle
    pool: str | None = None
    asked: list[Request] = field(default_factory=list)
    cancelled: list[bytes] = field(default_factory=list)

    def __enter__(self) -> Fake:
        self._transport = MqttTransport(self.broker.url, self.name, on_message=self._take, on_state=lambda _: None)
        self._transport.__enter__().start(WAIT_S, required=True)
        pools = () if self.pool is None else (self.pool,)
        secrets = [secret_of_pool(pool, None, parse_broker_url(self.broker.url)) for pool in pools]
        shared = [topics.pool_filters(*each)[0] for each in zip(pools, secrets, strict=True)]
        for topic in (topics.request_filter(self.name), *topics.gateway_filters(self.name), *shared):
            self._transport.subscribe(topic)
        self._announce(encode_presence(Presence(self.name, (self.bundle.digest,), knows=KNOWS, pools=pools)))
        return self

    def __exit__(self, *_: object) -> None:
        self._announce(b"")
        self._transport.close()

    def refuse(self, device: Device, request: Request) -> None:
        reply = encode_reply(Reply(request.request_id, Status.BUSY, (), "raw", 0.0, 0.0, "not now"))
        (chunk,) = split(reply, request.request_id)
        topic = topics.reply_topic(self.name, device.device_id)
        self._transport.publish(topic, chunk, correlation=request.request_id)

    def _announce(self, presence: bytes) -> None:
        self._transport.publish(topics.presence_topic(self.name), presence, retain=True)

    def _take(self, message: Message) -> None:
        inbound = topics.parse_inbound(message.topic)
        if inbound.kind == "control":
            self.cancelled.append(decode_control(message.payload).message_id)
            return
        request = request_in(message)
        if not request.deadline_ms:
            return  # a probe
        chunk = peek(message.payload)
        if inbound.pool_id and chunk is not None and not self.asked:
            taken = encode_control(Taken(chunk.message_id, chunk.tag, 1, 1))
            self._transport.publish(topics.device_control_topic(inbound.device_id, self.name), taken)
        self.asked.append(request)


@pytest.mark.parametrize("pool", [True, False])
def test_a_gateway_that_has_a_request_and_freezes_is_replaced_long_before_the_broker_gives_it_up(
    broker: Broker,
    start_gateway: Callable[..., GatewayProcess],
    outputs_path: Path,
    outputs: Bundle,
    vector: Tensors,
    pool: bool,
) -> None:
    """The first says that it has it, or only gets it, and never says anything again: nor does the broker of it."""
    with Fake(broker, "frozen", outputs, "attic" if pool else None) as frozen:
        start_gateway(broker, "gw-b", outputs_path, POOL if pool else ())
        with device_in_front_of(outputs, broker, 2) as device:
            while not frozen.asked:
                result = device.infer(vector, cut="c2")
                assert answered(result, outputs.run(vector)), result.fallback
            # To the pool or to the gateway, and once more to the gateway; then to the other one.
            first, again = frozen.asked
            assert first.request_id == again.request_id
            # It rests now: further requests go to the other one at once.
            for _ in range(8):
                assert answered(device.infer(vector, cut="c2"), outputs.run(vector))
            assert frozen.asked == [first, again]


def test_who_answers_after_the_request_has_moved_on_is_who_has_answered(
    broker: Broker, outputs: Bundle, vector: Tensors
) -> None:
    with (
        Fake(broker, "gw-a", outputs) as a,
        Fake(broker, "gw-b", outputs) as b,
        device_in_front_of(outputs, broker, 2) as device,
        ThreadPoolExecutor(1) as threads,
    ):
        waiting = threads.submit(device.infer, vector, cut="c2")
        until(lambda: bool(a.asked and b.asked), "the second to be asked")
        first, second = (a, b) if len(a.asked) > len(b.asked) else (b, a)
        gateways = device._exchange._gateways
        assert gateways.rests(first.name)
        first.refuse(device, first.asked[0])
        assert waiting.result(WAIT_S).fallback == "the gateway refused: not now"
        assert not gateways.rests(first.name)
        # What the other one has is of no use any more; who has answered has nothing.
        until(lambda: second.cancelled == [second.asked[0].request_id], "the other to be told")
        assert not first.cancelled


def test_who_is_well_again_is_found_while_a_request_waits(
    broker: Broker,
    start_gateway: Callable[..., GatewayProcess],
    outputs_path: Path,
    outputs: Bundle,
    vector: Tensors,
) -> None:
    """The only other gateway rests as the one that was asked falls silent."""
    start_gateway(broker, "gw-b", outputs_path)
    with Fake(broker, "gw-a", outputs) as mute, device_in_front_of(outputs, broker, 2) as device:
        device._exchange._gateways.failed("gw-b", time.monotonic())
        result = device.infer(vector, cut="c2")
        assert answered(result, outputs.run(vector)), result.fallback
        assert len(mute.asked) > 2


def test_what_a_member_has_taken_is_sent_again_to_that_member_and_then_to_another(
    broker: Broker, outputs: Bundle, vector: Tensors
) -> None:
    """Both members are the same fake, which takes requests, and answers none."""
    heard: list[str] = []

    def take(message: Message) -> None:
        if request_in(message).deadline_ms:  # else a probe
            heard.append(message.topic)
        inbound = topics.parse_inbound(message.topic)
        chunk = peek(message.payload)
        if inbound.pool_id and chunk is not None:
            taken = encode_control(Taken(chunk.message_id, chunk.tag, 1, 1))
            fake.publish(topics.device_control_topic(inbound.device_id, "mute-a"), taken)

    fake = MqttTransport(broker.url, "mute", on_message=take, on_state=lambda _: None)
    with fake:
        fake.start(WAIT_S, required=True)
        fake.subscribe(topics.pool_filters("attic", secret_of_pool("attic", None, parse_broker_url(broker.url)))[0])
        for name in ("mute-a", "mute-b"):
            fake.subscribe(topics.request_filter(name))
            presence = Presence(name, (outputs.digest,), knows=KNOWS, pools=("attic",))
            fake.publish(topics.presence_topic(name), encode_presence(presence), retain=True)
        with Device(outputs, broker.url, deadline_ms=2000, packing=False) as device:
            until(lambda: device.gateways == 2, "both")
            assert device.infer(vector, cut="c2").ran_on == ("device",)
            for name in ("mute-a", "mute-b"):
                fake.publish(topics.presence_topic(name), b"", retain=True)
            until(lambda: device.gateways == 0, "both to be gone")
    first, *again = heard
    assert first == topics.pool_request_topic("attic", device.device_id)
    first, second = (topics.request_topic(name, device.device_id) for name in ("mute-a", "mute-b"))
    assert again[0] == first
    assert set(again[1:]) == {second}


@pytest.mark.long
@pytest.mark.timeout(600)
def test_twenty_killed_members_under_load_lose_no_request(
    broker: Broker, start_gateway: Callable[..., GatewayProcess], outputs_path: Path, outputs: Bundle, vector: Tensors
) -> None:
    """One of two is killed, comes back, and then the other, while four callers ask on and on."""
    want = outputs.run(vector)
    stop = threading.Event()

    def ask(device: Device) -> list[Result]:
        results = []
        while not stop.is_set():
            results.append(device.infer(vector, cut="c2"))
        return results

    with device_in_front_of(outputs, broker, 0) as device, ThreadPoolExecutor(4) as threads:
        members = [start_gateway(broker, f"gw-{number}", outputs_path, POOL) for number in range(2)]
        until(lambda: device.gateways == 2, "both")
        asking = [threads.submit(ask, device) for _ in range(4)]
        try:
            for number in range(20):
                members.pop(0).process.kill()
                until(lambda: device.gateways == 1, "it to be gone")
                members.append(start_gateway(broker, f"gw-{number + 2}", outputs_path, POOL))
                until(lambda: device.gateways == 2, "the next one")
        finally:
            stop.set()
        results = [result for future in asking for result in future.result(WAIT_S)]
    lost = [result.fallback for result in results if not answered(result, want)]
    assert not lost, f"{len(lost)} of {len(results)}: {Counter(lost)}"
    assert max(result.timings_ms["total"] for result in results) < DEADLINE_MS
