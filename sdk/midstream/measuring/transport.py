"""How long tensors take to another process and back, through a broker and over the link to it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from midstream.child import module_path
from midstream.communication import topics
from midstream.communication.address import parse_broker_url
from midstream.communication.chunks import CHUNK_BYTES, Reassembler, split
from midstream.communication.codecs import decode, encode
from midstream.communication.transport import Message, MqttTransport
from midstream.communication.wire import Limits, Reply, Request, Status, decode_reply, encode_request
from midstream.errors import InputError, PeerError, WireError
from midstream.measuring.echo import MAX_BYTES
from midstream.tensors import Tensor, TensorSpec

_log = logging.getLogger("midstream.measuring")

SIZES_BYTES = (1_000, 50_000, 3_000_000)
STEPS = ("encode", "send", "wait", "decode")
_WAIT_S = 10.0
_TRY_S = 0.2


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """Round trips of one size. ``times_ms`` are whole; ``steps_ms`` are the medians of what they consist of."""

    size_bytes: int
    times_ms: tuple[float, ...]
    steps_ms: dict[str, float]

    def percentile_ms(self, share: float) -> float:
        """What this share of them, in percent, took at most."""
        return float(np.percentile(self.times_ms, share))


class Pair:
    """This process and another one, which sends back what it gets; made by `paired`."""

    def __init__(self, transport: MqttTransport, device_id: str, peer_id: str) -> None:
        self._transport = transport
        self._device_id = device_id
        self._peer_id = peer_id
        self._reassembler = Reassembler(MAX_BYTES)
        self._asked = b""
        self._reply: Reply | None = None

    def there_and_back(self, value: Tensor, wait_s: float = _WAIT_S) -> dict[str, float]:
        """One round trip of a tensor of float32: the milliseconds of each step.

        Raises PeerError without an answer, InputError where a gateway answers instead of the other process.
        """
        marks = [time.perf_counter()]
        request = Request(
            uuid.uuid4().bytes, bytes(32), "", "raw", int(wait_s * 1e3), 0.0, (), encode("raw", {"x": value}, {})
        )
        topic = topics.request_topic(self._peer_id, self._device_id)
        limit = self._transport.payload_limit(topic, correlation=request.request_id, expiry_s=10)
        chunks = split(encode_request(request), request.request_id, min(limit, CHUNK_BYTES))
        marks.append(time.perf_counter())
        self._asked, self._reply = request.request_id, None
        with self._transport.attended() as attend:
            for chunk in chunks:
                self._transport.publish(topic, chunk, correlation=request.request_id, expiry_s=10)
            marks.append(time.perf_counter())
            until = marks[0] + wait_s
            while self._reply is None and (left_s := until - time.perf_counter()) > 0:
                if not attend(lambda: self._reply is not None, left_s):
                    time.sleep(0.001)
        marks.append(time.perf_counter())
        if self._reply is None:
            why = self._transport.last_error or (
                "what was sent did not come back in time; where the broker has accounts, the other process needs a "
                "gateway's (--peer-credentials)"
            )
            raise PeerError(f"the transport cannot be measured: {why}")
        if self._reply.status is not Status.OK:
            raise InputError(
                f"the transport cannot be measured: gateway {self._peer_id} answers by itself on this broker; stop it, "
                "or give the credentials of another gateway (--peer-credentials)"
            )
        spec = TensorSpec("x", value.dtype, value.shape)
        (back,) = decode("raw", self._reply.tensors, [spec], {}, MAX_BYTES).values()
        marks.append(time.perf_counter())
        if back.shape != value.shape:
            raise PeerError("the transport cannot be measured: something else came back than was sent")
        return {step: (end - start) * 1e3 for step, start, end in zip(STEPS, marks[:-1], marks[1:], strict=True)}

    def measure(self, size_bytes: int, rounds: int) -> RoundTrips:
        """So many round trips of a tensor of this size."""
        value = tensor_of(size_bytes)
        self.there_and_back(value)
        return round_trips(size_bytes, [self.there_and_back(value) for _ in range(rounds)])

    def take(self, message: Message) -> None:
        """What came from the broker."""
        try:
            whole = self._reassembler.add(self._peer_id, message.payload)
            reply = None if whole is None else decode_reply(whole, Limits(MAX_BYTES, MAX_BYTES))
        except WireError as error:
            _log.warning("ignored a message: %s", error)
            return
        if reply is not None and reply.request_id == self._asked:
            self._reply = reply


@contextmanager
def paired(broker: str, credentials: Path | None = None, peer_credentials: Path | None = None) -> Iterator[Pair]:
    """Start the other process, and wait for it; where the broker has accounts, it needs those of a gateway.

    Raises InputError for wrong credentials, PeerError where the broker, or the other process, does not answer.
    """
    address = parse_broker_url(broker, credentials=credentials)
    device_id = address.client_name("device", None) or f"bench-{uuid.uuid4().hex[:12]}"
    peer_address = parse_broker_url(broker, credentials=peer_credentials)
    peer_id = peer_address.client_name("gateway", None) or f"echo-{uuid.uuid4().hex[:12]}"
    command = [sys.executable, "-m", "midstream.measuring.echo", peer_id]
    transport = MqttTransport(
        address, f"midstream-bench-{device_id}", on_message=lambda message: pair.take(message), on_state=_ignore
    )
    pair = Pair(transport, device_id, peer_id)
    transport.subscribe(topics.reply_filter(device_id))
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=_environ(), text=True) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(f"{broker}\n{peer_credentials or ''}\n")
            process.stdin.flush()
            transport.start(_WAIT_S, required=True)
            with transport:
                _await_peer(pair)
                yield pair
        finally:
            process.terminate()


def tensor_of(size_bytes: int) -> Tensor:
    """A tensor of float32 that no codec could make smaller."""
    return np.random.default_rng(0).standard_normal(size_bytes // 4).astype(np.float32)


def round_trips(size_bytes: int, steps: Sequence[dict[str, float]]) -> RoundTrips:
    """What was measured of this size."""
    medians = {name: float(np.median([each[name] for each in steps])) for name in STEPS}
    return RoundTrips(size_bytes, tuple(sum(each.values()) for each in steps), medians)


def _await_peer(pair: Pair) -> None:
    until = time.monotonic() + _WAIT_S
    while True:
        try:
            pair.there_and_back(tensor_of(4), _TRY_S)
        except PeerError:
            if time.monotonic() > until:
                raise
        else:
            return


def _environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": module_path()}


def _ignore(_up: bool) -> None:
    """The transport says by itself what is wrong."""
