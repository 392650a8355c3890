"""Requests that are sent again, and what is asked for again, between a device and a gateway."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from midstream.broker import Broker
from midstream.bundle import Bundle
from midstream.communication.chunks import Reassembler, split
from midstream.communication.codecs import encode
from midstream.communication.fec import fec_available
from midstream.communication.framing import WIRE_VERSION
from midstream.communication.transport import Message
from midstream.communication.versions import VersionNotice, encode_notice
from midstream.communication.wire import Reply, Request, Status, decode_request, encode_reply
from midstream.device import Device, Result
from midstream.faults import FaultMix
from midstream.faulty_link import FaultyLink
from midstream.gateway import Gateway, posting
from midstream.tensors import Tensors

from .conftest import device_with_gateway, until
from .test_failures import answered_by_itself, fake_gateway

Troubled = Callable[[bytes, list[bytes]], list[bytes]]


def lost(_request_id: bytes, _answer: list[bytes]) -> list[bytes]:
    return []


def damaged(_request_id: bytes, answer: list[bytes]) -> list[bytes]:
    broken = bytearray(answer[0])
    broken[-7] ^= 0x40
    return [bytes(broken)]


def unreadable(request_id: bytes, _answer: list[bytes]) -> list[bytes]:
    return split(encode_reply(Reply(request_id, Status.BAD_REQUEST, (), "raw", 0, 0, "no request")), request_id)


def of_another_version(request_id: bytes, _answer: list[bytes]) -> list[bytes]:
    return [encode_notice(VersionNotice(request_id, (WIRE_VERSION,)))]


class Troublesome:
    """A gateway that answers right, but for the first ``times``."""

    def __init__(self, bundle: Bundle, inputs: Tensors, trouble: Troubled, times: int) -> None:
        outputs = bundle.run(inputs)
        self._tensors = encode("raw", {spec.name: outputs[spec.name] for spec in bundle.outputs}, {})
        self._places = tuple(range(len(bundle.outputs)))
        self._trouble, self._times = trouble, times
        self._parts = Reassembler()
        self.requests: list[Request] = []

    def __call__(self, message: Message) -> list[bytes]:
        whole = self._parts.add("device", message.payload)
        if whole is None:
            return []
        request = decode_request(whole)
        self.requests.append(request)
        reply = Reply(request.request_id, Status.OK, self._tensors, "raw", 0.0, 0.0, outputs=self._places)
        answer = split(encode_reply(reply), request.request_id)
        if len(self.requests) > self._times:
            return answer
        return self._trouble(request.request_id, answer)


def asked(broker: Broker, bundle: Bundle, inputs: Tensors, gateway: Troublesome, deadline_ms: float) -> Result:
    with (
        fake_gateway(broker, bundle, gateway),
        device_with_gateway(bundle, broker.url, deadline_ms=deadline_ms) as device,
    ):
        result = device.infer(inputs, cut="input")
        assert device.pending == 0
    return result


@pytest.mark.parametrize("trouble", [lost, damaged, unreadable, of_another_version])
def test_it_is_sent_again_with_what_remains(broker: Broker, faces: Bundle, inputs: Tensors, trouble: Troubled) -> None:
    gateway = Troublesome(faces, inputs, trouble, 2)
    result = asked(broker, faces, inputs, gateway, 20_000)
    assert result.ran_on == ("gateway",), result.fallback
    assert len({request.request_id for request in gateway.requests}) == 1
    remaining = [request.deadline_ms for request in gateway.requests]
    assert len(remaining) >= 3
    assert remaining == sorted(set(remaining), reverse=True)
    want = faces.run(inputs)
    assert all(np.array_equal(want[name], result.outputs[name]) for name in want)


def test_what_is_refused_again_and_again_is_not_sent_for_ever(broker: Broker, faces: Bundle, inputs: Tensors) -> None:
    gateway = Troublesome(faces, inputs, unreadable, 100)
    answered_by_itself(asked(broker, faces, inputs, gateway, 20_000), faces.run(inputs), "no request")
    assert len(gateway.requests) == 3


def test_nothing_is_sent_again_that_could_not_be_answered_in_time(
    broker: Broker, faces: Bundle, inputs: Tensors
) -> None:
    gateway = Troublesome(faces, inputs, lost, 100)
    result = asked(broker, faces, inputs, gateway, 1500)
    answered_by_itself(result, faces.run(inputs), "no answer in time")
    assert 2 <= len(gateway.requests) <= 4


def test_a_presence_that_was_lost_is_asked_for_again(broker: Broker, faces: Bundle, inputs: Tensors) -> None:
    with (
        fake_gateway(broker, faces, lambda _message: []),
        FaultyLink(("127.0.0.1", broker.port), down=FaultMix(drop=1)) as link,
        Device(faces, link.url) as device,
    ):
        until(lambda: link.down.dropped > 0, "the presence to be lost")
        assert device.gateways == 0
        link.set(down=FaultMix())

        def seen() -> bool:
            device.infer(inputs)
            return device.gateways > 0

        until(seen, "the gateway's presence")


def test_chunks_of_replies_are_asked_for_again(
    broker: Broker, faces_path: Path, faces: Bundle, inputs: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replies of some seven chunks; without these repairs not one in ten would come through."""
    monkeypatch.setattr(posting, "CHUNK_BYTES", 8 << 10)
    if fec_available():
        monkeypatch.setattr("midstream.answering.fec_available", lambda: False)
    want = faces.run(inputs)
    with (
        Gateway([faces_path], broker.url, gateway_id="chunky", workers=1) as gateway,
        FaultyLink(("127.0.0.1", broker.port), seed=4, rtt_ms=2) as link,
    ):
        gateway.wait_connected(5.0)
        with device_with_gateway(faces, link.url) as device:
            link.set(down=FaultMix(drop=0.3, reorder=0.1))
            results = [device.infer(inputs, cut="input") for _ in range(4)]
            assert link.down.dropped > 0
    assert [result.ran_on for result in results] == [("gateway",)] * 4, [result.fallback for result in results]
    assert all(np.array_equal(want[name], result.outputs[name]) for result in results for name in want)
