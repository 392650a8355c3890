"""Small requests that are made at once travel together: fewer messages, the same answers, nobody late."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.communication import topics
from midstream.communication.chunks import Reassembler, split
from midstream.communication.codecs import encode
from midstream.communication.packs import decode_pack, encode_pack, is_pack, request_id_of
from midstream.communication.transport import Message, MqttTransport
from midstream.communication.wire import Reply, Request, Status, decode_reply, encode_reply, encode_request
from midstream.device import Device, Result
from midstream.link import LinkEmulator
from midstream.tensors import Tensors
from midstream_converters.convert import convert
from midstream_converters.opening import Options

from .conftest import WAIT_S, device_with_gateway, until
from .test_failures import fake_gateway

CALLERS = 12
ROUNDS = 4


@pytest.fixture(scope="module")
def digits_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 64 bytes: requests of some 200."""
    target = tmp_path_factory.mktemp("bundles") / "digits"
    convert(Path(__file__).parent.parent / "models" / "digits_int8.tflite", target, Options(max_cuts=4))
    return target


@pytest.fixture(scope="module")
def digits(digits_path: Path) -> Bundle:
    return Bundle.open(digits_path)


@pytest.fixture(scope="module")
def pictures(digits: Bundle) -> list[Tensors]:
    (spec,) = digits.inputs
    pictures = np.load(Path(__file__).parent.parent / "models" / "digits_calibration.npz")["image"]
    shape = digits.manifest.sample_shapes[spec.name]
    assert spec.scale is not None
    return [
        {spec.name: np.clip(np.round(one / spec.scale) + spec.zero_point, -128, 127).astype(np.int8).reshape(shape)}
        for one in pictures
    ]


@contextmanager
def watching(url: str, topic_filter: str) -> Iterator[list[Message]]:
    """What the broker passes on there."""
    seen: list[Message] = []
    name = "watcher-" + topic_filter.replace("/", "-").replace("+", "any")
    with MqttTransport(url, name, on_message=seen.append, on_state=lambda _up: None) as client:
        client.subscribe(topic_filter)
        client.start(WAIT_S, required=True)
        yield seen


@contextmanager
def slow_link(broker: Broker) -> Iterator[str]:
    with LinkEmulator(("127.0.0.1", broker.port), uplink_kbps=300.0, downlink_kbps=300.0, rtt_ms=20.0) as link:
        yield link.url


@contextmanager
def slow_device(broker: Broker, digits: Bundle, **options: object) -> Iterator[Device]:
    """A device behind a link that it has measured."""
    with slow_link(broker) as url, device_with_gateway(digits, url, **options) as device:
        until(lambda: device.link.uplink_kbps < 1000, "the link to be measured")
        yield device


def all_at_once(device: Device, pictures: list[Tensors], **options: object) -> list[Result]:
    """Each of the callers asks for so many, one after the other."""

    async def one(caller: int) -> list[Result]:
        mine = itertools.islice(itertools.cycle(pictures), caller, caller + ROUNDS)
        return [await device.infer_async(picture, cut="input", **options) for picture in mine]

    async def together() -> list[list[Result]]:
        return await asyncio.gather(*map(one, range(CALLERS)))

    return [result for results in asyncio.run(together()) for result in results]


def wanted(digits: Bundle, pictures: list[Tensors]) -> list[np.ndarray]:
    answers = [next(iter(digits.run(picture).values())) for picture in pictures]
    return [answers[(caller + turn) % len(pictures)] for caller in range(CALLERS) for turn in range(ROUNDS)]


def answers(results: list[Result]) -> list[np.ndarray]:
    return [next(iter(result.outputs.values())) for result in results]


def test_many_at_once_are_packed_and_answered_exactly(
    broker: Broker, start_gateway: Callable[..., object], digits_path: Path, digits: Bundle, pictures: list[Tensors]
) -> None:
    start_gateway(broker, bundle=digits_path)
    with (
        watching(broker.url, topics.request_topic("gw-test", "packs")) as asked,
        watching(broker.url, topics.reply_topic("gw-test", "packs")) as replied,
        slow_device(broker, digits, device_id="packs") as device,
    ):
        results = all_at_once(device, pictures)
        sent = len(results) - device.packed_requests + device.packs
        until(lambda: len(asked) >= sent, "all messages to be seen")
        assert device.packs > 0
    assert [result.ran_on for result in results] == [("gateway",)] * len(results), [one.fallback for one in results]
    assert all(map(np.array_equal, answers(results), wanted(digits, pictures)))
    assert len(asked) == sent < len(results)
    assert len(replied) < len(results)
    assert max(result.timings_ms["pack"] for result in results) > 0
    for timings in (result.timings_ms for result in results):
        assert sum(timings[name] for name in timings if name != "total") <= timings["total"]
    payload = sum(len(message.payload) for message in asked)
    assert payload - len(results) < sum(result.sent_bytes for result in results) <= payload


def test_a_lone_caller_never_waits(
    broker: Broker, start_gateway: Callable[..., object], digits_path: Path, digits: Bundle, pictures: list[Tensors]
) -> None:
    start_gateway(broker, bundle=digits_path)
    with slow_device(broker, digits) as device:
        results = [device.infer(picture, cut="input") for picture in pictures[:12]]
        assert device.packs == device.packed_requests == 0
    assert [result.timings_ms["pack"] for result in results] == [0.0] * 12


@pytest.mark.parametrize("options", [{"packing": False}, {"deadline_ms": 50.0}])
def test_without_slack_and_where_it_is_switched_off_nothing_is_packed(
    broker: Broker,
    start_gateway: Callable[..., object],
    digits_path: Path,
    digits: Bundle,
    pictures: list[Tensors],
    options: dict[str, object],
) -> None:
    start_gateway(broker, bundle=digits_path)
    with slow_device(broker, digits, **options) as device:
        results = all_at_once(device, pictures)
        assert device.packs == device.packed_requests == 0
    assert {result.timings_ms.get("pack", 0.0) for result in results} == {0.0}
    assert all(map(np.array_equal, answers(results), wanted(digits, pictures)))


def lost(_message: Message) -> list[bytes]:
    return []


def refused(message: Message) -> list[bytes]:
    """As a gateway answers what it cannot read."""
    assert message.correlation is not None
    reply = Reply(message.correlation, Status.BAD_REQUEST, (), "raw", 0, 0, "no packs here")
    return split(encode_reply(reply), message.correlation)


def answered_as_one(message: Message) -> list[bytes]:
    assert message.correlation is not None
    return split(encode_reply(Reply(message.correlation, Status.OK, (), "raw", 0, 0)), message.correlation)


@pytest.mark.parametrize(
    ("answer", "deadline_ms", "reason"),
    [
        (lost, 500, "no answer in time"),
        (refused, 10_000, "the gateway refused: no packs here"),
        (answered_as_one, 10_000, "its reply answers several requests at once"),
    ],
)
def test_when_a_pack_fails_each_of_its_requests_is_answered_here(
    broker: Broker,
    digits: Bundle,
    pictures: list[Tensors],
    answer: Callable[[Message], list[bytes]],
    deadline_ms: float,
    reason: str,
) -> None:
    with fake_gateway(broker, digits, answer), slow_device(broker, digits, deadline_ms=deadline_ms) as device:
        results = all_at_once(device, pictures)
        assert device.packs > 0
        assert device.pending == 0
    assert all(result.ran_on == ("device",) for result in results)
    assert reason in {result.fallback for result in results}
    assert all(map(np.array_equal, answers(results), wanted(digits, pictures)))


@contextmanager
def talking(url: str) -> Iterator[tuple[Callable[[bytes], None], Callable[[int], dict[bytes, Reply]]]]:
    """Sends the gateway messages, and collects so many replies by their request ids, out of packs too."""
    seen: list[Reply] = []

    def take(message: Message) -> None:
        whole = Reassembler().add("gateway", message.payload)
        assert whole is not None
        if is_pack(whole):
            seen.extend(decode_reply(part) for part in decode_pack(whole))
        else:
            seen.append(decode_reply(whole))

    def say(message: bytes) -> None:
        (chunk,) = split(message, PACK_ID)
        assert client.publish(topics.request_topic("gw-test", "talker"), chunk, correlation=PACK_ID)

    def hear(count: int) -> dict[bytes, Reply]:
        until(lambda: len(seen) >= count, f"{count} replies, not {seen}")
        assert len(seen) == count
        return {reply.request_id: reply for reply in seen}

    with MqttTransport(url, "talker", on_message=take, on_state=lambda _up: None) as client:
        client.subscribe(topics.reply_filter("talker"))
        client.start(WAIT_S, required=True)
        yield say, hear


PACK_ID = b"the pack's own.."


def request(bundle: Bundle, picture: Tensors, name: bytes, **changes: object) -> bytes:
    whole = Request(name.ljust(16), bundle.digest, "", "raw", 5000, 0.0, (), encode("raw", picture, {}))
    return encode_request(replace(whole, **changes))  # type: ignore[arg-type]


def test_the_gateway_takes_each_request_of_a_pack_as_if_it_had_come_alone(
    broker: Broker, start_gateway: Callable[..., object], digits_path: Path, digits: Bundle, pictures: list[Tensors]
) -> None:
    start_gateway(broker, bundle=digits_path)
    picture, want = pictures[0], next(iter(digits.run(pictures[0]).values()))
    damaged = bytearray(request(digits, picture, b"damaged"))
    damaged[-20] ^= 1
    inner = bytearray(encode_pack([request(digits, picture, b"in"), request(digits, picture, b"side")]))
    messages = [
        request(digits, picture, b"first"),
        bytes(damaged),
        request(digits, picture, b"stranger", bundle_digest=bytes(32)),
        request(digits, picture, b"no cut", cut="c999"),
        request(digits, picture, b"late", deadline_ms=0),
        encode_reply(Reply(b"a reply".ljust(16), Status.OK, (), "raw", 0, 0)),
        bytes(inner),
        request(digits, picture, b"last"),
    ]
    with device_with_gateway(digits, broker.url), talking(broker.url) as (say, hear):
        say(encode_pack(messages))
        replies = {name.strip(): reply for name, reply in hear(len(messages)).items()}
    for name in (b"first", b"last"):
        assert replies[name].status is Status.OK
        assert bytes(replies[name].tensors[0].data) == want.tobytes()
    assert {name: reply.status for name, reply in replies.items() if reply.status is not Status.OK} == {
        b"damaged": Status.BAD_REQUEST,
        b"stranger": Status.UNKNOWN_BUNDLE,
        b"no cut": Status.UNKNOWN_CUT,
        b"late": Status.EXPIRED,
        b"a reply": Status.BAD_REQUEST,
        request_id_of(inner).strip(): Status.BAD_REQUEST,
    }


def test_what_is_no_pack_is_refused_as_a_whole_and_the_next_one_is_served(
    broker: Broker, start_gateway: Callable[..., object], digits_path: Path, digits: Bundle, pictures: list[Tensors]
) -> None:
    start_gateway(broker, bundle=digits_path)
    pack = encode_pack([request(digits, pictures[0], name) for name in (b"one", b"two")])
    with device_with_gateway(digits, broker.url), talking(broker.url) as (say, hear):
        say(pack[:5] + bytes([0]) + pack[6:])
        refusal = hear(1)[PACK_ID]
        assert refusal.status is Status.BAD_REQUEST
        assert "pack of" in refusal.message
        say(pack)
        assert [reply.status for name, reply in hear(3).items() if name != PACK_ID] == [Status.OK] * 2
