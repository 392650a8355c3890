"""Requests that come again, that nobody waits for any more, and that come too late."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from midstream.broker import Broker
from midstream.bundle import Bundle, TailInputs
from midstream.communication import topics
from midstream.communication.chunks import Reassembler, split
from midstream.communication.codecs import encode
from midstream.communication.control import TAG_BYTES, Cancel, Control, Taken, decode_control, encode_control
from midstream.communication.transport import Message, MqttTransport
from midstream.communication.wire import Reply, Request, Status, decode_reply, encode_request
from midstream.device import Device
from midstream.gateway import Gateway
from midstream.tensors import Tensors

from .conftest import WAIT_S, until

ID = "gw-once"


@dataclass
class Held:
    """A gateway of one worker whose runs wait for a test, and count."""

    gateway: Gateway
    may_run: threading.Event = field(default_factory=threading.Event)
    runs: int = 0


@contextmanager
def held_gateway(broker: Broker, path: Path) -> Iterator[Held]:
    with Gateway([path], broker.url, gateway_id=ID, workers=1) as gateway:
        held = Held(gateway)
        (served,) = gateway._served.values()
        run = served.bundles[0].run_tail_on

        def wait(inputs: TailInputs) -> Tensors:
            held.runs += 1
            assert held.may_run.wait(WAIT_S)
            return run(inputs)

        served.bundles[0].run_tail_on = wait  # type: ignore[method-assign]
        with Device(Bundle.open(path), broker.url) as device:
            until(lambda: device.gateways == 1, "the gateway")
        try:
            yield held
        finally:
            held.may_run.set()


class Client:
    """Sends requests as they are, and keeps the replies."""

    def __init__(self, url: str) -> None:
        self.replies: queue.Queue[Reply] = queue.Queue()
        self.controls: list[Control] = []
        self._parts = Reassembler()
        self._transport = MqttTransport(url, "client", on_message=self._on_message, on_state=lambda _: None)

    def __enter__(self) -> Client:
        self._transport.subscribe(topics.reply_filter("client"))
        self._transport.subscribe(topics.device_control_filter("client"))
        self._transport.start(WAIT_S, required=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._transport.close()

    def send(self, request: Request) -> None:
        for chunk in split(encode_request(request), request.request_id):
            topic = topics.request_topic(ID, "client")
            assert self._transport.publish(topic, chunk, correlation=request.request_id)

    def cancel(self, request: Request) -> None:
        topic = topics.gateway_control_topic(ID, "client")
        assert self._transport.publish(topic, encode_control(Cancel(request.request_id)))

    def reply(self) -> Reply:
        return self.replies.get(timeout=WAIT_S)

    def _on_message(self, message: Message) -> None:
        if topics.is_device_control(message.topic):
            self.controls.append(decode_control(message.payload))
            return
        whole = self._parts.add("gateway", message.payload)
        if whole is not None:
            self.replies.put(decode_reply(whole))


@pytest.fixture
def request_of(outputs: Bundle, vector: Tensors) -> Request:
    return Request(bytes(16), outputs.digest, "", "raw", 20_000, 0.0, (), encode("raw", vector, {}))


def numbered(request: Request, number: int) -> Request:
    return replace(request, request_id=bytes([number]) * 16)


def test_a_request_runs_once_however_often_it_comes(broker: Broker, outputs_path: Path, request_of: Request) -> None:
    later = replace(request_of, deadline_ms=15_000)
    with held_gateway(broker, outputs_path) as held, Client(broker.url) as client:
        client.send(request_of)
        until(lambda: held.runs == 1, "it to run")
        client.send(request_of)
        client.send(later)
        client.send(numbered(request_of, 9))
        until(lambda: held.gateway._work.load().queue_length == 1, "the other to wait")
        # Nothing was said of the first; who asks again is told that it is here.
        until(lambda: len(client.controls) == 2, "both repetitions to be acknowledged")
        tags = [encode_request(again)[-TAG_BYTES:] for again in (request_of, later)]
        assert client.controls == [Taken(bytes(16), tag, 1, 1) for tag in tags]
        held.may_run.set()
        first, other = client.reply(), client.reply()
        assert (first.request_id, other.request_id) == (bytes(16), bytes([9]) * 16)
        assert first.status is Status.OK
        # Once it was answered, it is answered again, and still not run.
        client.send(later)
        assert client.reply() == first
        assert held.runs == 2
        # What is another request under the same id is none of it.
        client.send(replace(request_of, score=1.0))
        assert client.reply().request_id == bytes(16)
        assert held.runs == 3


def test_what_nobody_waits_for_is_not_begun(broker: Broker, outputs_path: Path, request_of: Request) -> None:
    with held_gateway(broker, outputs_path) as held, Client(broker.url) as client:
        work = held.gateway._work
        client.send(numbered(request_of, 1))
        until(lambda: held.runs == 1, "it to run")
        client.send(numbered(request_of, 2))
        until(lambda: work.load().queue_length == 1, "the second to wait")
        client.cancel(numbered(request_of, 3))
        client.cancel(numbered(request_of, 2))
        until(lambda: work.load().queue_length == 0, "it to be dropped")
        client.send(numbered(request_of, 4))
        until(lambda: work.load().queue_length == 1, "the last to wait")
        held.may_run.set()
        assert [client.reply().request_id[0] for _ in range(2)] == [1, 4]
        assert held.runs == 2


def test_what_came_too_late_is_refused_and_not_run(broker: Broker, outputs_path: Path, request_of: Request) -> None:
    with held_gateway(broker, outputs_path) as held, Client(broker.url) as client:
        client.send(numbered(request_of, 1))
        until(lambda: held.runs == 1, "it to run")
        client.send(replace(numbered(request_of, 2), deadline_ms=200))
        until(lambda: held.gateway._work.load().queue_length == 1, "the second to wait")
        # Whoever comes later finds it expired, while the worker is still busy.
        numbers = iter(range(3, 200))
        until(
            lambda: client.send(numbered(request_of, next(numbers))) is None and not client.replies.empty(),
            "its refusal",
        )
        reply = client.reply()
        assert (reply.request_id, reply.status) == (bytes([2]) * 16, Status.EXPIRED)
        sent = next(numbers) - 3
        held.may_run.set()
        assert all(client.reply().status is Status.OK for _ in range(1 + sent))
        assert held.runs == 1 + sent


def test_a_device_that_gives_up_calls_its_request_off(
    broker: Broker, outputs_path: Path, outputs: Bundle, vector: Tensors, request_of: Request
) -> None:
    with (
        held_gateway(broker, outputs_path) as held,
        Client(broker.url) as client,
        Device(outputs, broker.url) as device,
    ):
        until(lambda: device.gateways == 1, "the gateway")
        client.send(request_of)
        until(lambda: held.runs == 1, "the worker to be busy")
        result = device.infer(vector, cut="input", deadline_ms=300)
        assert result.fallback == "no answer in time"
        until(lambda: held.gateway._work.load().queue_length == 0, "it to be called off")
        held.may_run.set()
        assert client.reply().status is Status.OK
        assert held.runs == 1


def test_the_wait_at_a_tail_is_that_of_its_deadlines(
    broker: Broker, outputs_path: Path, outputs: Bundle, request_of: Request, vector: Tensors
) -> None:
    """Whoever has little time is served before those that have much: so they do not wait for these."""
    crossing, _ = outputs.run_head("c2", vector)
    urgent = replace(request_of, cut="c2", deadline_ms=4000, tensors=encode("raw", crossing, {}))
    with (
        held_gateway(broker, outputs_path) as held,
        Client(broker.url) as client,
        Device(outputs, broker.url) as device,
    ):
        (served,) = held.gateway._served.values()
        for _ in range(40):
            served.ran("", 100.0)
        client.send(numbered(request_of, 1))
        until(lambda: held.runs == 1, "it to run")
        for number in (2, 3):
            client.send(numbered(request_of, number))
        client.send(numbered(urgent, 4))
        until(lambda: held.gateway._work.load().queue_length == 3, "the others to wait")
        load = held.gateway._work.load()
        assert load.load == 1.0
        assert load.wait_ms > 1.9 * served.expected_ms("")
        assert load.waits_ms[outputs.digest.hex()]["c2"] < load.wait_ms / 2
        exchange = device._exchange
        serving = threading.Thread(target=held.gateway.serve)
        serving.start()
        try:
            until(lambda: exchange.waits_ms(ID).get("c2", 1e9) < exchange.wait_ms(ID) / 2, "the report")
        finally:
            held.gateway.stop()
            serving.join()
        held.may_run.set()
        assert [client.reply().request_id[0] for _ in range(4)] == [1, 4, 2, 3]
