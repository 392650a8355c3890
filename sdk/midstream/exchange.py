"""The device's side of the conversation: which gateways are there, how the link is, and what became of each request."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace

from midstream.cancelling import Cancellation
from midstream.communication import topics
from midstream.communication.address import BrokerAddress
from midstream.communication.choosing import Gateways, Route
from midstream.communication.chunks import OVERHEAD_BYTES, Reassembler, split
from midstream.communication.control import Cancel, Taken, encode_control
from midstream.communication.destination import Destination, to_gateway, to_pool
from midstream.communication.directory import WHOLE_KEY, is_announcement
from midstream.communication.fec import FEC_LIBRARY
from midstream.communication.framing import WIRE_VERSION
from midstream.communication.lanes import Lanes
from midstream.communication.load import LoadReport
from midstream.communication.mail import LOSSY, Mail
from midstream.communication.packs import MAX_PACK_BYTES, decode_pack, request_id_of
from midstream.communication.pending import Expected, Pending, fail
from midstream.communication.presence import Presence
from midstream.communication.sending import Sender
from midstream.communication.transport import Message
from midstream.communication.versions import decode_notice, disagreement, is_notice
from midstream.communication.wire import (
    REQUEST_ID_BYTES,
    Buffer,
    Limits,
    Priority,
    Request,
    Status,
    decode_reply,
    encode_request,
)
from midstream.errors import WireError
from midstream.link_watch import ECHO_BYTES, PROBE_EVERY_S, LinkWatch, Transfer
from midstream.partitioning import LinkEstimate, LinkState, Tier

_log = logging.getLogger("midstream.exchange")

_CHUNKS_IN_FLIGHT = 2
_LOST = "the connection to the broker was lost"
_CLOSING = "the device is closing"
# What a request has at most beside its tensors' data, where it is small.
_HEADERS_BYTES = 4 << 10
# Beyond what the link takes, a pool's member has so long to say that it has a request.
_TAKE_S = 0.25
_CANCEL_EXPIRY_S = 10
_REPAIR_EXPIRY_S = 1
# A device that sees no gateway asks the broker again for what it keeps: the presence may have been lost on the way.
_LOOK_AGAIN_S = 2.0
_MAX_PROBES = 64
# A gateway that has not said how far it is from the broker is taken to be on its network.
_NEAR = LinkState(100_000.0, 100_000.0, 1.0)
# So often a pool is asked the same, where its members are silent.
_POOL_TRIES = 3


class Exchange:
    """Requests out, replies in, over two connections. Thread-safe; `start` and `close` bracket its life.

    With ``packing``, small requests that are asked at the same time may go out in one message.
    """

    def __init__(
        self, broker: BrokerAddress, device_id: str, bundle_digest: bytes, limits: Limits, *, packing: bool = True
    ) -> None:
        self._device_id = topics.check_id(device_id)
        self._digest = bundle_digest
        self._limits = limits
        self._lock = threading.Condition()
        self._gateways = Gateways(bundle_digest)
        self._watch = LinkWatch()
        self._probes: dict[bytes, str] = {}
        self._probe_bytes = 0
        self._looked = 0.0
        self._mail = Mail(
            Reassembler(limits.max_message_bytes), self._send_chunks_again, self._send_control, answers=False
        )
        self._transport = Lanes(
            broker,
            f"midstream-dev-{device_id}",
            on_message=self._on_message,
            on_state=self._on_state,
            on_urgent_lost=lambda: self._sender.fail(_LOST, urgent=True),
        )
        self._transport.main.in_flight_bytes = _CHUNKS_IN_FLIGHT * self._watch.chunk_bytes()
        self._sender = Sender(
            self._transport,
            self._mail,
            device_id,
            self._watch.chunk_bytes,
            begins=self._begins,
            ends=self._ends,
            gone=self._gone,
            packing=packing,
        )

    def start(self, wait_s: float) -> None:
        """Connect in the background and wait up to ``wait_s`` seconds for a gateway that has this bundle."""
        self._transport.subscribe(topics.presence_filter())
        self._transport.subscribe(topics.load_filter())
        self._transport.subscribe(topics.reply_filter(self._device_id))
        self._transport.subscribe(topics.urgent_reply_filter(self._device_id), urgent=True)
        self._transport.subscribe(topics.device_control_filter(self._device_id), urgent=True)
        self._transport.start()
        with self._lock:
            self._lock.wait_for(lambda: bool(self._gateways.serving()), wait_s)

    def close(self) -> None:
        """Disconnect; whoever still waits is told, and who asks meanwhile."""
        self._sender.fail(_CLOSING)
        self._transport.close()
        self._mail.close()
        self._sender.fail(_CLOSING)

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
            return len(self._gateways.serving()) if self._transport.connected else 0

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

    def route(self, stages: int, machines: Sequence[str] | None, request_id: bytes, *, forced: bool) -> Route:
        """The gateways for so many stages after the device's: those named, else the least busy, all of them different.

        Only forced plans go to gateways that rest after a failure, and only where there are too few others.
        """
        if not self._transport.connected:
            return Route(())
        with self._lock:
            return self._gateways.route(stages, machines, request_id, forced=forced)

    def free_route(self, request_id: bytes, most_further: int) -> Route:
        """A gateway for an input whose plan is free, and so many others that stages can be given to."""
        if not self._transport.connected:
            return Route(())
        with self._lock:
            return self._gateways.free_route(request_id, most_further)

    def queue(self, gateway_id: str) -> int:
        """How many requests wait at this gateway, by its last load report; 0 without one."""
        report = self._report(gateway_id)
        return 0 if report is None else report.queue_length

    def tier(self, gateway_id: str) -> Tier:
        """This gateway as one that a stage can be given to: its own way to the broker, and how busy it is."""
        report = self._report(gateway_id)
        if report is None:
            return Tier(_NEAR)
        kbps = _NEAR.uplink_kbps if report.uplink_kbps is None else report.uplink_kbps
        rtt_ms = _NEAR.rtt_ms if report.rtt_ms is None else report.rtt_ms
        return Tier(LinkState(kbps, kbps, rtt_ms), wait_ms=report.wait_ms, queue=report.queue_length)

    def wait_ms(self, gateway_id: str) -> float:
        """What a request that came now would wait at this gateway, by its last load report; 0 without one."""
        report = self._report(gateway_id)
        return 0.0 if report is None else report.wait_ms

    def waits_ms(self, gateway_id: str) -> dict[str | None, float]:
        """The same for single cuts of this bundle where it differs; None is the whole input."""
        report = self._report(gateway_id)
        waits = {} if report is None else report.waits_ms.get(self._digest.hex(), {})
        return {None if cut == WHOLE_KEY else cut: wait_ms for cut, wait_ms in waits.items()}

    def _report(self, gateway_id: str) -> LoadReport | None:
        with self._lock:
            return self._gateways.report(gateway_id, time.monotonic())

    def absence(self) -> str:
        """Why there is no gateway to plan with, for a person."""
        with self._lock:
            why = self._gateways.absence(time.monotonic()) if self._transport.connected else None
        return why or f"no gateway is there{f': {self.last_error}' if self.last_error else ''}"

    def link(self) -> LinkState:
        """The link as transfers and probes have shown it."""
        with self._lock:
            return self._watch.estimate.state()

    @property
    def link_estimate(self) -> LinkEstimate:
        """The estimate of the link, with the last samples of it."""
        with self._lock:
            return self._watch.estimate

    @property
    def probe_bytes(self) -> int:
        """What was sent to measure the link."""
        return self._probe_bytes

    def backlog_ms(self) -> tuple[float, float]:
        """What is under way up, and to come down: what a transfer that began now would wait for either."""
        with self._lock:
            return self._watch.uplink_wait_ms(time.monotonic()), self._watch.downlink_wait_ms()

    def probe(self, every_s: float = PROBE_EVERY_S) -> None:
        """Measure the link beside requests, where it was not within that time, and see how gateways are that failed."""
        now = time.monotonic()
        self._probe_resting(now)
        self._look_again(now)
        with self._lock:
            most = self._watch.probe_bytes(now, every_s)
        if most is None:
            return
        topic = topics.probe_topic(self._device_id)
        limit = self._transport.payload_limit(topic, expiry_s=1)
        small, large = (max(0, min(size, limit)) for size in (ECHO_BYTES, most))
        with self._lock:
            self._probe_bytes += small + large
        echo = self._begins(small)
        self._transport.publish(topic, bytes(small), expiry_s=1, on_ack=lambda ms: self._after_echo(echo, ms))
        probe = self._begins(large)
        self._transport.publish(topic, bytes(large), expiry_s=1, on_ack=lambda _: self._ends(probe))

    def ask(
        self,
        request: Request,
        gateway: Presence,
        timeout_s: float,
        *,
        directly: bool = False,
        outputs: int | None = None,
        reply_bytes: int = 0,
        cancellation: Cancellation | None = None,
    ) -> Pending:
        """Send a request to a gateway and wait for its reply; where there is none in time, ``problem`` says why.

        Unless it has to go ``directly``, a small one goes to the gateway's pool, and one whose gateway is lost, or
        silent, to another under the same id, while there is one and there is time. With ``outputs``, wait for the
        partial replies of a plan of several stages, until they bring so many. ``reply_bytes`` are expected to come
        back: a large reply on a slow downlink is not late. Nothing of it is left when this returns: what was not sent
        yet is not sent any more, and who may still have it is told that nobody waits.
        """
        now = time.monotonic()
        self._probe_resting(now)
        # Where nothing was lost, parity would only take the downlink's time: who sends the reply does not know that.
        if request.takes_parity and self._mail.loss(gateway.gateway_id) <= LOSSY:
            request = replace(request, takes_parity=False)
        until = now + timeout_s
        asked: list[Destination] = []
        sent_bytes = received_bytes = 0
        destination: Destination | None = self._destination(request, gateway, directly)
        with self._lock:
            self._watch.awaits(reply_bytes)
        bound = directly or bool(request.onward)

        def elsewhere(bearers: frozenset[str], since_s: float) -> bool:
            if bound:
                return False
            self._probe_resting(time.monotonic())
            with self._lock:
                return self._gateways.silent(bearers, since_s) and self._gateways.another(gateway, asked, bearers)

        try:
            while destination is not None:
                began = time.monotonic()
                left_ms = max(1, int((until - began) * 1e3))
                attempt = replace(request, deadline_ms=min(request.deadline_ms, left_ms)) if asked else request
                expected = self._expected(destination.gateway_id or gateway.gateway_id, request, reply_bytes)
                pending = self._sender.ask(
                    attempt, destination, until - began, expected, elsewhere, outputs, cancellation
                )
                self._came_back(pending)
                sent_bytes += pending.sent_bytes
                received_bytes += pending.received_bytes
                asked.append(destination)
                if pending.silent and pending.reply is None:
                    self._failed(pending.bearers)
                instead = pending.lost and pending.reply is None and not bound and time.monotonic() < until
                destination = self._instead(gateway, request, asked, began) if instead else None
        finally:
            with self._lock:
                self._watch.awaits(-reply_bytes)
        pending.sent_bytes, pending.received_bytes = sent_bytes, received_bytes
        if pending.reply is not None or cancellation is None or not cancellation.cancelled:
            self._settle(pending)
        self._call_off(request.request_id, _others(asked, pending))
        return pending

    def _came_back(self, pending: Pending) -> None:
        """Learn of the downlink from a reply that one gateway has sent to one request."""
        # What was sent again was mostly not lost: a reply answers the first of them, on a slow downlink.
        reply, transfer = pending.reply, pending.first
        if reply is None or transfer is None or pending.request.onward or pending.message_id != pending.request_id:
            return
        if not pending.bearers <= pending.destination.bearers:
            return  # it answers what was sent before, to another gateway
        with self._lock:
            gateway_ms = reply.queue_ms + reply.compute_ms
            self._watch.came_back(transfer.way, pending.received_bytes, gateway_ms, time.monotonic())

    def _destination(self, request: Request, gateway: Presence, directly: bool) -> Destination:
        """Where a request goes first: to the gateway, or to its pool where that can be asked in its stead."""
        onward = [stage.runner_id for stage in request.onward]
        pool = None if directly or onward else self._pool(request, gateway)
        return to_gateway(gateway.gateway_id, onward) if pool is None else pool

    def _pool(self, request: Request, gateway: Presence, before: Iterable[str] = ()) -> Destination | None:
        """The gateway's pool, where it has one that can be asked, and the request is one chunk."""
        size = sum(len(tensor.data) for tensor in request.tensors) + _HEADERS_BYTES
        with self._lock:
            pool, link = self._gateways.pool(gateway), self._watch.estimate.state()
        if pool is None or not self._transport.shares_subscriptions:
            return None
        within_s = _TAKE_S + (4 * link.rtt_ms + 2 * size * 8 / link.uplink_kbps) / 1e3
        destination = to_pool(*pool, within_s, before)
        return destination if size <= self._sender.chunk_bytes(destination, request.deadline_ms) else None

    def _instead(
        self, gateway: Presence, request: Request, asked: Sequence[Destination], since: float
    ) -> Destination | None:
        """Another destination for a request that was lost; None where there is none.

        Where no other gateway was heard meanwhile, a pool is asked again: the broker gives it to another member.
        """
        with self._lock:
            chosen, heard = self._gateways.instead(gateway, request.request_id, asked, since)
        if chosen is not None and not heard and asked[-1].pool_id and len(asked) < _POOL_TRIES:
            return self._pool(request, gateway, asked[-1].answerers) or chosen
        return chosen

    def _settle(self, pending: Pending) -> None:
        """Leave those alone for a while who did not answer; whoever did is asked again."""
        if pending.reply is None:
            self._failed(pending.bearers)
        elif len(pending.bearers) == 1:
            with self._lock:
                self._gateways.answered(*pending.bearers)

    def _failed(self, gateway_ids: Iterable[str]) -> None:
        """Leave these alone for a while."""
        with self._lock:
            for gateway_id in gateway_ids:
                self._gateways.failed(gateway_id, time.monotonic())

    def _call_off(self, request_id: bytes, asked: Sequence[Destination]) -> None:
        """Tell those who may have a request, and are there, that nobody waits for it."""
        if not asked or not self._transport.connected:
            return
        with self._lock:
            there = set(self._gateways.gateways)
        called_off = {
            topic
            for destination in asked
            if there & destination.bearers
            for topic in destination.control_topics(self._device_id)
        }
        for topic in called_off:
            self._transport.publish(
                topic, encode_control(Cancel(request_id)), expiry_s=_CANCEL_EXPIRY_S, priority=Priority.CRITICAL
            )

    def _expected(self, gateway_id: str, request: Request, reply_bytes: int) -> Expected:
        """What the link and the gateway's presence say that this request will take."""
        with self._lock:
            presence, link = self._gateways.gateways.get(gateway_id), self._watch.estimate.state()
            wait_ms = self._gateways.wait_ms(gateway_id, request.bundle_digest, request.cut)
        reply_ms = reply_bytes * 8 / link.downlink_kbps
        if presence is None:
            return Expected(link.rtt_ms, 0.0, 0.0, link.uplink_kbps, reply_ms=reply_ms)
        tails = presence.tail_ms.get(request.bundle_digest.hex(), {})
        work_ms = tails.get(request.cut or WHOLE_KEY, 0.0)
        return Expected(link.rtt_ms, wait_ms, work_ms, link.uplink_kbps, FEC_LIBRARY in presence.knows, reply_ms)

    def _probe_resting(self, now: float) -> None:
        """Ask gateways that failed something that any would refuse at once: a request whose time is over."""
        with self._lock:
            due = self._gateways.to_probe(now)
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
            if self._gateways.echoed(gateway_id):
                _log.info("gateway %s answers again", gateway_id)
        return True

    def _look_again(self, now: float) -> None:
        with self._lock:
            if self._gateways.serving() or now - self._looked < _LOOK_AGAIN_S or not self._transport.connected:
                return
            self._looked = now
        self._transport.subscribe(topics.presence_filter())

    def _send_chunks_again(self, gateway_id: str, message_id: bytes, chunks: list[bytes]) -> None:
        topic = topics.request_topic(gateway_id, self._device_id)
        asked = self._sender.asked(message_id, gateway_id)
        priority = min((pending.request.priority for pending in asked), default=Priority.NORMAL)
        for chunk in chunks:
            self._transport.publish(topic, chunk, correlation=message_id, expiry_s=_REPAIR_EXPIRY_S, priority=priority)

    def _send_control(self, gateway_id: str, payload: bytes) -> None:
        topic = topics.gateway_control_topic(gateway_id, self._device_id)
        self._transport.publish(topic, payload, expiry_s=_REPAIR_EXPIRY_S, priority=Priority.CRITICAL)

    def _on_state(self, connected: bool) -> None:
        if connected:
            self.probe()
        else:
            with self._lock:
                self._gateways.clear()
                self._watch.nothing_under_way()
            self._sender.fail(_LOST, urgent=False)

    def _on_message(self, message: Message) -> None:
        try:
            if is_announcement(message.topic):
                self._on_announcement(message)
            elif message.retained:
                return
            elif topics.is_device_control(message.topic):
                route = topics.parse_device_control_topic(message.topic)
                self._said(route.gateway_id)
                control = self._mail.control(route.gateway_id, message.payload)
                self._sender.heard(control.message_id, route.gateway_id)
                if isinstance(control, Taken):
                    self._sender.take(control.message_id, route.gateway_id)
            else:
                self._on_reply(message)
        except WireError as error:
            extra = {"device_id": self._device_id}
            if message.correlation is not None:
                extra["request_id"] = message.correlation[:REQUEST_ID_BYTES].hex()
            _log.warning("ignored a message on %s: %s", message.topic, error, extra=extra)

    def _gone(self, gateway_ids: Iterable[str]) -> str | None:
        """One of these that has no presence any more; None where all have."""
        with self._lock:
            return next((name for name in gateway_ids if name not in self._gateways.gateways), None)

    def _said(self, gateway_id: str) -> None:
        with self._lock:
            self._gateways.said(gateway_id, time.monotonic())

    def _on_announcement(self, message: Message) -> None:
        with self._lock:
            gone = self._gateways.hear(message.topic, message.payload, time.monotonic())
            self._lock.notify_all()
        if gone is not None:
            self._sender.lose(gone)

    def _on_reply(self, message: Message) -> None:
        route = topics.parse_reply_topic(message.topic)
        self._said(route.gateway_id)
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
                self._take(whole, message.correlation, asked, route.gateway_id)
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
                    self._take(data, request_id, asked, gateway_id)
            except WireError as error:
                self._sender.damaged(asked, f"its reply is damaged: {error}")

    def _take(self, data: Buffer, request_id: bytes, asked: Sequence[Pending], gateway_id: str) -> None:
        """Read a reply, and hand it to those who asked."""
        reply = decode_reply(data, self._limits)
        if reply.request_id != request_id:
            fail(asked, "its reply answers another request")
        elif reply.status is Status.OK and len(asked) > 1:
            fail(asked, "its reply answers several requests at once")
        else:
            for pending in asked:
                self._sender.answer(pending, reply, len(data), gateway_id)

    def _after_echo(self, echo: Transfer, ms: float) -> None:
        with self._lock:
            self._watch.after_echo(ms, echo, time.monotonic())
            self._mail.round_trip_s = self._watch.estimate.rtt_ms / 1e3

    def _begins(self, size_bytes: int) -> Transfer:
        with self._lock:
            return self._watch.begins(size_bytes, time.monotonic())

    def _ends(self, transfer: Transfer, acknowledged: bool = True) -> None:
        with self._lock:
            self._watch.ends(transfer, time.monotonic(), acknowledged=acknowledged)
            self._transport.main.in_flight_bytes = _CHUNKS_IN_FLIGHT * self._watch.chunk_bytes()


def _others(asked: Sequence[Destination], pending: Pending) -> list[Destination]:
    """Of those who were asked, who may have what another one has answered, or nobody."""
    if pending.reply is None:
        return list(asked)
    if pending.bearers <= asked[-1].bearers:
        return list(asked[:-1])
    return [destination for destination in asked if destination.bearers != pending.bearers]
