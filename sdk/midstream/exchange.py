"""The device's side of the conversation: which gateways are there, how the link is, and what became of each request."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace

from midstream.breaker import Breaker
from midstream.cancelling import Cancellation
from midstream.communication import topics
from midstream.communication.address import BrokerAddress
from midstream.communication.chunks import CHUNK_BYTES, OVERHEAD_BYTES, Reassembler, split
from midstream.communication.fec import FEC_LIBRARY
from midstream.communication.framing import WIRE_VERSION
from midstream.communication.load import LoadReport, decode_load
from midstream.communication.mail import Mail
from midstream.communication.packs import MAX_PACK_BYTES, decode_pack, request_id_of
from midstream.communication.presence import Presence, decode_presence
from midstream.communication.sending import Expected, Pending, Sender, fail
from midstream.communication.transport import Message, MqttTransport
from midstream.communication.versions import common_version, decode_notice, disagreement, is_notice
from midstream.communication.wire import Buffer, Limits, Request, Status, decode_reply, encode_request
from midstream.errors import WireError
from midstream.partitioning import LinkEstimate, LinkState

_log = logging.getLogger("midstream.exchange")

# A probe is one small message for the round trip, and one large enough to say something about bandwidth.
_PROBE_BYTES = (64, 32 << 10)
# A chunk is what the link takes in this time, but not less than says something about its bandwidth; two are under way.
_CHUNK_MS = 100.0
_SMALLEST_CHUNK_BYTES = 8 << 10
_CHUNKS_IN_FLIGHT = 2
PROBE_EVERY_S = 2.0
# A device that sees no gateway asks the broker again for what it keeps: the presence may have been lost on the way.
_LOOK_AGAIN_S = 2.0
_CONTROL_EXPIRY_S = 1
_MAX_PROBES = 64
_MAX_GATEWAYS = 256
_NAMED = 3


class Exchange:
    """Requests out, replies in, over one connection. Thread-safe; `start` and `close` bracket its life.

    With ``packing``, small requests that are asked at the same time may go out in one message.
    """

    def __init__(
        self, broker: BrokerAddress, device_id: str, bundle_digest: bytes, limits: Limits, *, packing: bool = True
    ) -> None:
        self._device_id = topics.check_id(device_id)
        self._digest = bundle_digest
        self._limits = limits
        self._lock = threading.Condition()
        self._gateways: dict[str, Presence] = {}
        self._loads: dict[str, LoadReport] = {}
        self._breakers: dict[str, Breaker] = {}
        self._probes: dict[bytes, str] = {}
        self._looked = 0.0
        self._link = LinkEstimate()
        self._probed = 0.0
        self._mail = Mail(
            Reassembler(limits.max_message_bytes), self._send_chunks_again, self._send_control, answers=False
        )
        self._transport = MqttTransport(
            broker, f"midstream-dev-{device_id}", on_message=self._on_message, on_state=self._on_state
        )
        self._transport.in_flight_bytes = _CHUNKS_IN_FLIGHT * self._chunk_bytes()
        self._sender = Sender(
            self._transport, self._mail, device_id, self._chunk_bytes, on_transfer=self._after_transfer, packing=packing
        )

    def start(self, wait_s: float) -> None:
        """Connect in the background and wait up to ``wait_s`` seconds for a gateway that has this bundle."""
        self._transport.subscribe(topics.presence_filter())
        self._transport.subscribe(topics.load_filter())
        self._transport.subscribe(topics.reply_filter(self._device_id))
        self._transport.subscribe(topics.device_control_filter(self._device_id))
        self._transport.start()
        with self._lock:
            self._lock.wait_for(lambda: self._serving() is not None, wait_s)

    def close(self) -> None:
        """Disconnect; whoever still waits is told."""
        self._transport.close()
        self._mail.close()
        self._sender.fail("the device is closing")

    def wait_connected(self, wait_s: float) -> bool:
        """Wait until the broker is reached, or refuses for good; returns whether it is."""
        self._transport.start(wait_s)
        return self.connected

    @property
    def connected(self) -> bool:
        """Whether the broker can be reached."""
        return self._transport.connected

    @property
    def gateways(self) -> int:
        """How many gateways that have this bundle are there."""
        with self._lock:
            return len(self._able()) if self._transport.connected else 0

    @property
    def pending(self) -> int:
        """How many requests are under way."""
        return len(self._sender)

    @property
    def packs(self) -> int:
        """How many messages were sent that carried several requests."""
        return self._sender.packs

    @property
    def packed_requests(self) -> int:
        """How many requests were sent in those."""
        return self._sender.packed_requests

    @property
    def last_error(self) -> str | None:
        """Why the broker cannot be reached, if that is known."""
        return self._transport.last_error

    def gateway(self) -> Presence | None:
        """The least busy gateway that has this bundle and is not resting after a failure."""
        with self._lock:
            return self._serving(resting=False) if self._transport.connected else None

    def any_gateway(self) -> Presence | None:
        """The same, resting ones included: for forced plans."""
        with self._lock:
            return self._serving() if self._transport.connected else None

    def wait_ms(self, gateway_id: str) -> float:
        """What a request that came now would wait at this gateway, by its last load report; 0 without one."""
        with self._lock:
            return self._wait_ms(gateway_id)

    def absence(self) -> str:
        """Why there is no gateway to plan with, for a person."""
        with self._lock:
            foreign = min(
                (gateway for gateway in self._gateways.values() if common_version(gateway.wire_versions) is None),
                key=lambda gateway: gateway.gateway_id,
                default=None,
            )
            others = sorted(self._gateways)[:_NAMED]
            now = time.monotonic()
            breakers = [self._breakers.get(gateway.gateway_id) for gateway in self._able()]
            rests = [breaker.rest_left_s(now) for breaker in breakers if breaker is not None and not breaker.closed]
        if self._transport.connected and rests:
            return f"the gateway rests for {min(rests):.1f} s after a failure, and until it answers a probe"
        if self._transport.connected and foreign is not None:
            return f"no gateway can be asked: {disagreement(foreign.gateway_id, foreign.wire_versions)}"
        if self._transport.connected and others:
            return f"no gateway has this bundle; there are {', '.join(others)} with others"
        return f"no gateway is there{f': {self.last_error}' if self.last_error else ''}"

    def link(self) -> LinkState:
        """The link as transfers and probes have shown it."""
        with self._lock:
            return self._link.state()

    def probe(self) -> None:
        """Measure the link beside the requests, if that was not done lately, and see how gateways are that failed."""
        now = time.monotonic()
        self._probe_resting(now)
        self._look_again(now)
        with self._lock:
            if now - self._probed < PROBE_EVERY_S:
                return
            self._probed = now
        topic = topics.probe_topic(self._device_id)
        limit = self._transport.payload_limit(topic, expiry_s=1)
        small, large = (max(0, min(size, limit)) for size in _PROBE_BYTES)
        self._transport.publish(topic, bytes(small), expiry_s=1, on_ack=self._after_echo)
        self._transport.publish(topic, bytes(large), expiry_s=1, on_ack=lambda ms: self._after_transfer(large, ms))

    def ask(
        self, request: Request, gateway_id: str, timeout_s: float, cancellation: Cancellation | None = None
    ) -> Pending:
        """Send a request and wait for its reply; where there is none in time, ``problem`` says why.

        Nothing of it is left when this returns: what was not sent yet is not sent any more.
        """
        pending = self._sender.ask(request, gateway_id, timeout_s, self._expected(gateway_id, request), cancellation)
        with self._lock:
            if pending.reply is not None:
                self._breakers.pop(gateway_id, None)
            elif cancellation is None or not cancellation.cancelled:
                self._breakers.setdefault(gateway_id, Breaker()).failed(time.monotonic())
        return pending

    def _expected(self, gateway_id: str, request: Request) -> Expected:
        """What the link and the gateway's presence say that this request will take."""
        with self._lock:
            presence, link = self._gateways.get(gateway_id), self._link.state()
            report = self._loads.get(gateway_id)
        if presence is None:
            return Expected(link.rtt_ms, 0.0, 0.0, link.uplink_kbps)
        digest, cut = request.bundle_digest.hex(), request.cut or "whole"
        wait_ms = 0.0 if report is None else report.wait_at(digest, cut)
        work_ms = presence.tail_ms.get(digest, {}).get(cut, 0.0)
        return Expected(link.rtt_ms, wait_ms, work_ms, link.uplink_kbps, FEC_LIBRARY in presence.knows)

    def _chunk_bytes(self) -> int:
        """As much as the link takes in a while; a link that was not measured yet counts as a slow one."""
        wanted = self._link.uplink_kbps / 8 * _CHUNK_MS if self._link.uplink_samples else 0.0
        return min(CHUNK_BYTES, max(_SMALLEST_CHUNK_BYTES, int(wanted)))

    def _serving(self, *, resting: bool = True) -> Presence | None:
        awake = [gateway for gateway in self._able() if resting or self._closed(gateway.gateway_id)]
        return min(awake, key=lambda gateway: (self._wait_ms(gateway.gateway_id), gateway.gateway_id), default=None)

    def _wait_ms(self, gateway_id: str) -> float:
        report = self._loads.get(gateway_id)
        return 0.0 if report is None else report.wait_ms

    def _able(self) -> list[Presence]:
        return [
            gateway
            for gateway in self._gateways.values()
            if self._digest in gateway.bundles and common_version(gateway.wire_versions) is not None
        ]

    def _closed(self, gateway_id: str) -> bool:
        breaker = self._breakers.get(gateway_id)
        return breaker is None or breaker.closed

    def _probe_resting(self, now: float) -> None:
        """Ask gateways that failed something that any would refuse at once: a request whose time is over."""
        with self._lock:
            due = [
                gateway.gateway_id
                for gateway in self._able()
                if gateway.gateway_id in self._breakers and self._breakers[gateway.gateway_id].probe_due(now)
            ]
            for gateway_id in due:
                self._breakers[gateway_id].probed(now)
        for gateway_id in due:
            request = Request(uuid.uuid4().bytes, self._digest, "", "raw", 0, 0.0, (), ())
            with self._lock:
                self._probes[request.request_id] = gateway_id
                if len(self._probes) > _MAX_PROBES:
                    del self._probes[next(iter(self._probes))]
            self._send_chunks_again(gateway_id, request.request_id, split(encode_request(request), request.request_id))

    def _echoed(self, gateway_id: str, request_id: bytes | None) -> bool:
        """Whether this is the answer to a probe, which is then over."""
        with self._lock:
            if request_id is None or self._probes.get(request_id) != gateway_id:
                return False
            del self._probes[request_id]
            breaker = self._breakers.get(gateway_id)
            if breaker is not None and breaker.echoed():
                _log.info("gateway %s answers again", gateway_id)
        return True

    def _look_again(self, now: float) -> None:
        with self._lock:
            if self._able() or now - self._looked < _LOOK_AGAIN_S or not self._transport.connected:
                return
            self._looked = now
        self._transport.subscribe(topics.presence_filter())

    def _send_chunks_again(self, gateway_id: str, message_id: bytes, chunks: list[bytes]) -> None:
        topic = topics.request_topic(gateway_id, self._device_id)
        for chunk in chunks:
            self._transport.publish(topic, chunk, correlation=message_id, expiry_s=_CONTROL_EXPIRY_S)

    def _send_control(self, gateway_id: str, payload: bytes) -> None:
        topic = topics.gateway_control_topic(gateway_id, self._device_id)
        self._transport.publish(topic, payload, expiry_s=_CONTROL_EXPIRY_S)

    def _on_state(self, connected: bool) -> None:
        if connected:
            self.probe()
        else:
            with self._lock:
                self._gateways.clear()
                self._loads.clear()
            self._sender.fail("the connection to the broker was lost")

    def _on_message(self, message: Message) -> None:
        try:
            if message.topic.startswith(topics.PRESENCE_PREFIX):
                self._on_presence(topics.parse_presence_topic(message.topic), decode_presence(message.payload))
            elif message.topic.startswith(topics.LOAD_PREFIX):
                self._on_load(topics.parse_load_topic(message.topic), decode_load(message.payload))
            elif message.retained:
                return
            elif "/ctl/" in message.topic:
                gateway_id = topics.parse_device_control_topic(message.topic).gateway_id
                control = self._mail.control(gateway_id, message.payload)
                self._sender.heard(control.message_id, gateway_id)
            else:
                self._on_reply(message)
        except WireError as error:
            _log.warning("ignored a message on %s: %s", message.topic, error)

    def _on_presence(self, gateway_id: str, presence: Presence | None) -> None:
        with self._lock:
            if presence is None:
                self._gateways.pop(gateway_id, None)
                self._loads.pop(gateway_id, None)
            elif gateway_id in self._gateways or len(self._gateways) < _MAX_GATEWAYS:
                if gateway_id not in self._gateways:
                    self._breakers.pop(gateway_id, None)  # it is another one, or on another connection
                self._gateways[gateway_id] = replace(presence, gateway_id=gateway_id)
            self._lock.notify_all()
        if presence is None:
            self._sender.fail(f"gateway {gateway_id} is gone", gateway_id)

    def _on_load(self, gateway_id: str, report: LoadReport | None) -> None:
        with self._lock:
            if report is None:
                self._loads.pop(gateway_id, None)
            elif (gateway_id in self._loads or len(self._loads) < _MAX_GATEWAYS) and report.follows(
                self._loads.get(gateway_id)
            ):
                self._loads[gateway_id] = report

    def _on_reply(self, message: Message) -> None:
        route = topics.parse_reply_topic(message.topic)
        if self._echoed(route.gateway_id, message.correlation):
            return
        if is_notice(message.payload):
            notice = decode_notice(message.payload)
            asked = self._sender.asked(notice.request_id, route.gateway_id)
            if WIRE_VERSION in notice.versions:
                # It speaks ours: the link has damaged what we sent.
                self._sender.damaged(asked, "its request was damaged on the way")
                return
            fail(asked, f"it was not understood: {disagreement(route.gateway_id, notice.versions)}")
            return
        if message.correlation is None:
            self._on_pack(route.gateway_id, message.payload)
            return
        asked = self._sender.asked(message.correlation, route.gateway_id)
        if not asked:
            return
        try:
            whole = self._mail.add(route.gateway_id, message.payload)
            if whole is not None:
                self._take(whole, message.correlation, asked)
        except WireError as error:
            self._sender.damaged(asked, f"its reply is damaged: {error}")

    def _on_pack(self, gateway_id: str, payload: bytes) -> None:
        """Replies that came together. Raises WireError where there is nothing to be found of them."""
        if len(payload) > MAX_PACK_BYTES + OVERHEAD_BYTES or not len(self._sender):
            return
        whole = self._mail.add(gateway_id, payload)
        for data in () if whole is None else decode_pack(whole):
            request_id = request_id_of(data)
            asked = self._sender.asked(request_id, gateway_id)
            try:
                if asked:
                    self._take(data, request_id, asked)
            except WireError as error:
                self._sender.damaged(asked, f"its reply is damaged: {error}")

    def _take(self, data: Buffer, request_id: bytes, asked: Sequence[Pending]) -> None:
        """Read a reply, and hand it to those who asked."""
        reply = decode_reply(data, self._limits)
        if reply.request_id != request_id:
            fail(asked, "its reply answers another request")
        elif reply.status is Status.OK and len(asked) > 1:
            fail(asked, "its reply answers several requests at once")
        else:
            for pending in asked:
                self._sender.answer(pending, reply, len(data))

    def _after_echo(self, ms: float) -> None:
        with self._lock:
            self._link = self._link.after_echo(ms)
            self._mail.round_trip_s = self._link.rtt_ms / 1e3

    def _after_transfer(self, size: int, ms: float) -> None:
        """An acknowledged transfer holds one round trip to the broker; the downlink counts as fast until shown."""
        with self._lock:
            link = self._link
            link = link.after_transfer(size, max(ms - link.rtt_ms, 0.1 * ms))
            if link.downlink_samples == 0:
                link = replace(link, downlink_kbps=link.uplink_kbps)
            self._link = link
            self._probed = time.monotonic()
            self._transport.in_flight_bytes = _CHUNKS_IN_FLIGHT * self._chunk_bytes()
