"""Requests on their way out: each by itself or small ones together, and who waits for what was sent."""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from midstream.cancelling import Cancellation
from midstream.communication.attempts import Attempts
from midstream.communication.chunks import CHUNK_BYTES, OVERHEAD_BYTES
from midstream.communication.destination import Destination, to_gateway
from midstream.communication.lanes import Lanes
from midstream.communication.mail import Mail
from midstream.communication.packing import SMALL_BYTES, Packer, SmallRequest, Way
from midstream.communication.packs import MAX_PACK_BYTES, encode_pack
from midstream.communication.pending import Expected, InFlight, Pending, fail
from midstream.communication.redundancy import Way as LossyWay
from midstream.communication.wire import REQUEST_ID_BYTES, Priority, Reply, Request, Status, encode_request
from midstream.errors import MidstreamError

# A request that the gateway cannot read is sent no more often than this: the link may have damaged it, or we.
_MOST_REFUSALS = 3
# An answer that comes sooner after another attempt than this share of what one is expected to take is an earlier one's.
_SOON = 0.7


class Sender:
    """Sends requests over a transport, and keeps account of them until whoever asked leaves. Thread-safe.

    A request to one gateway of which nothing is heard is sent again under the same id, as long as an answer could come
    in time; so is one to a pool, to the member that has taken it. Where nothing is heard of that either, it is lost if
    somebody else can be asked. Whoever passes requests on is sent each once only.

    ``chunk_bytes`` says how long a chunk may be now; ``begins`` is told how many bytes are sent, and ``ends``, with
    what that gave, whether they were acknowledged or nobody waits for them any more; ``gone`` names one of these
    gateways that is not there any more. With ``packing``, small requests that are asked at the same time go out in one
    message where that costs none of them its deadline: ``packs`` counts these messages, ``packed_requests`` what was in
    them.
    """

    def __init__(
        self,
        transport: Lanes,
        mail: Mail,
        device_id: str,
        chunk_bytes: Callable[[], int],
        begins: Callable[[int], Any],
        ends: Callable[[Any, bool], None],
        gone: Callable[[Iterable[str]], str | None],
        *,
        packing: bool,
    ) -> None:
        self._transport = transport
        self._mail = mail
        self._device_id = device_id
        self._chunk_bytes = chunk_bytes
        self._begins = begins
        self._ends = ends
        self._gone = gone
        self._packing = packing
        self._lock = threading.Lock()
        self._pending: dict[bytes, Pending] = {}
        self._packers: dict[str, Packer] = {}
        # By the id of a message: the requests in it that somebody still waits for.
        self._sent: dict[bytes, list[Pending]] = {}
        self.packs = 0
        self.packed_requests = 0

    def __len__(self) -> int:
        return len(self._pending)

    def ask(
        self,
        request: Request,
        destination: Destination,
        timeout_s: float,
        expected: Expected,
        elsewhere: Callable[[frozenset[str], float], bool],
        outputs: int | None = None,
        cancellation: Cancellation | None = None,
    ) -> Pending:
        """Send a request and wait for its reply; where there is none in time, ``problem`` says why.

        With ``outputs``, wait for partial replies too, until they bring so many. ``elsewhere`` says whether these
        are silent since then, and somebody else could be asked. Nothing of it is left when this returns: what was not
        sent yet is not sent any more, unless others wait for it.
        """
        urgent = request.priority is Priority.CRITICAL and self._transport.urgent.connected
        started = time.monotonic()
        pending = Pending(
            request,
            destination,
            expected,
            started,
            started + timeout_s,
            destination.bearers,
            outputs,
            urgent=urgent,
            elsewhere=elsewhere,
            rouse=self._transport.rouse,
        )
        watched = nullcontext() if cancellation is None else cancellation.calls(lambda: pending.fail("cancelled"))
        with self._lock:
            self._pending[request.request_id] = pending
        try:
            with self._transport.attended(urgent) as attend, watched:
                # Whoever has gone since it was chosen is not told of any more: `lose` did not find this request.
                gone = self._gone(destination.bearers)
                if gone is not None:
                    pending.lost = True
                    pending.fail(f"gateway {gone} is gone")
                elif not pending.done.is_set():
                    self._send(request, pending, expected)
                while not pending.done.is_set():
                    if not attend(pending.done.is_set, self._patience_s(pending)):
                        pending.done.wait(self._patience_s(pending))
                    if pending.done.is_set():
                        break
                    now = time.monotonic()
                    if now >= pending.until:
                        if not pending.done.is_set():
                            before = "" if pending.trouble is None else f", and before that: {pending.trouble}"
                            pending.reply, pending.problem = None, f"no answer in time{before}"
                        break
                    if now >= _take_by(pending):
                        pending.lost = True
                        pending.fail(f"no gateway of pool {destination.pool_id} has taken it")
                    self._send_overdue(destination.key)
                    self._again_if_due(pending)
        except (ValueError, MidstreamError) as error:
            pending.fail(_cannot_be_sent(error))
        finally:
            self._leave(pending)
        return pending

    def asked(self, request_id: bytes, gateway_id: str) -> list[Pending]:
        """Whom a reply to this id is for: one request, or all of a pack, which can only be refused as a whole."""
        with self._lock:
            pending = self._pending.get(request_id)
            found = [pending] if pending is not None else list(self._sent.get(request_id, ()))
        return [pending for pending in found if gateway_id in pending.destination.answerers]

    def answer(self, pending: Pending, reply: Reply, size_bytes: int, gateway_id: str) -> None:
        """This gateway's reply has come; where it could not read the request, the link may have damaged that."""
        attempts = pending.attempts
        if reply.status is Status.BAD_REQUEST and attempts is not None and attempts.count < _MOST_REFUSALS:
            pending.trouble = f"the gateway refused: {reply.message}"
            if self._again(pending):
                return
        if gateway_id in pending.destination.bearers:
            self._note_losses(pending, reply)
        if not pending.request.onward:
            pending.bearers = frozenset((gateway_id,))
        pending.received_bytes += size_bytes
        if pending.add(reply):
            pending.finish()
            self._no_longer_under_way(pending)

    def damaged(self, asked: Sequence[Pending], problem: str) -> None:
        """What came for these cannot be read: they are sent again, or fail where no other answer is to be expected."""
        for pending in asked:
            pending.trouble = problem
            pending.damaged += 1
            if not self._again(pending) and (pending.attempts is None or pending.damaged >= pending.attempts.count):
                pending.fail(problem)

    def heard(self, message_id: bytes, gateway_id: str) -> None:
        """This gateway is getting a message, or has it."""
        now = time.monotonic()
        for pending in self.asked(message_id, gateway_id):
            if pending.attempts is not None and gateway_id in pending.bearers:
                pending.attempts.heard(now)

    def take(self, message_id: bytes, gateway_id: str) -> None:
        """This gateway has said that it has a message that went to its pool."""
        for pending in self.asked(message_id, gateway_id):
            if pending.destination.pool_id and not pending.done.is_set():
                pending.bearers = frozenset((gateway_id,))
                pending.taken = True

    def fail(self, problem: str, *, urgent: bool | None = None) -> None:
        """No request is answered any more, or none of those that are, or are not, urgent."""
        with self._lock:
            waiting = [pending for pending in self._pending.values() if urgent in (None, pending.urgent)]
        fail(waiting, problem)

    def lose(self, gateway_id: str) -> None:
        """This gateway is gone, and with it what it has, or may have."""
        with self._lock:
            lost = [pending for pending in self._pending.values() if gateway_id in pending.bearers]
        for pending in lost:
            pending.lost = True
        fail(lost, f"gateway {gateway_id} is gone")

    def _patience_s(self, pending: Pending) -> float:
        """How long to wait for an answer, or until this request, or those with which it waits, must be sent."""
        until = pending.until
        with self._lock:
            packer = self._packers.get(pending.destination.key)
            if packer is not None and packer.due_s is not None and packer.holds(pending.request_id):
                until = min(until, packer.due_s)
        until = min(until, _take_by(pending))
        attempts = pending.attempts
        if attempts is not None and attempts.due_s is not None and self._again_to(pending):
            until = min(until, attempts.due_s)
        return min(max(0.0, until - time.monotonic()), threading.TIMEOUT_MAX)

    def _leave(self, pending: Pending) -> None:
        """Nobody waits for this request any more; a message that nobody waits for is not sent."""
        with self._lock:
            del self._pending[pending.request_id]
            unwanted = pending.message_id
            if unwanted is not None:
                self._sent[unwanted].remove(pending)
                if self._sent[unwanted]:
                    unwanted = None
                else:
                    del self._sent[unwanted]
        if unwanted is not None:
            self._transport.withdraw(unwanted)
        if pending.transfer is not None and unwanted is not None:
            self._ends(pending.transfer.way, False)
        if pending.request_id != unwanted:
            self._transport.withdraw(pending.request_id)
        for gateway_id in pending.destination.answerers:
            self._mail.forget(gateway_id, pending.request_id)
        self._no_longer_under_way(pending)

    def _send(self, request: Request, pending: Pending, expected: Expected) -> None:
        """Send it, or keep it for others. Raises WireError or ValueError where it, or any request, is too large."""
        message = encode_request(request)
        if not self._packing or pending.urgent or len(message) > SMALL_BYTES:
            self._send_alone(message, pending, request.deadline_ms)
            return
        pack_bytes = self.chunk_bytes(pending.destination, request.deadline_ms)
        way = Way(
            expected.round_trip_ms,
            expected.queue_ms,
            expected.uplink_kbps,
            min(MAX_PACK_BYTES, pack_bytes - OVERHEAD_BYTES),
        )
        if len(message) > way.small_bytes:
            self._send_alone(message, pending, request.deadline_ms)
            return
        with self._lock:
            now = time.monotonic()
            small = SmallRequest(request.request_id, message, now, request.deadline_ms, expected.work_ms)
            due = self._packers.setdefault(pending.destination.key, Packer()).offer(small, way, now)
        self._send_together(due, now)

    def _again_if_due(self, pending: Pending) -> None:
        attempts, now = pending.attempts, time.monotonic()
        if attempts is None or attempts.due_s is None or now < attempts.due_s:
            return
        transfer, bearers = pending.transfer, pending.bearers
        if transfer is not None and transfer.unacked:
            attempts.heard(now)  # it is still on its way to the broker
        elif (
            attempts.ignored
            and transfer is not None
            and transfer.qos
            and self._again_to(pending) is not None
            and pending.elsewhere(bearers, attempts.sent_s)
        ):
            pending.lost = pending.silent = True
            pending.fail(f"gateway {', '.join(bearers)} is silent")
        elif not self._again(pending):
            attempts.put_off(now)

    def _again(self, pending: Pending) -> bool:
        """Send it again, alone, with the time that remains now; False where that is of no more use."""
        now = time.monotonic()
        destination = self._again_to(pending)
        with self._lock:
            attempts = pending.attempts
            if destination is None or attempts is None or pending.done.is_set() or not attempts.may_send(now):
                return False
            # Never the same number twice: what is sent again has another tag.
            left_ms = pending.request.deadline_ms - int((now - pending.started) * 1e3) - attempts.count
            if left_ms <= 0:
                return False
            attempts.sent(now)
        message = encode_request(replace(pending.request, deadline_ms=left_ms))
        self._publish([message], pending.request_id, [pending], left_ms, destination)
        return True

    def _again_to(self, pending: Pending) -> Destination | None:
        """Where a request is sent again: of a pool, to the member that has it; None where that is not known."""
        if not pending.destination.pool_id:
            return pending.destination
        return to_gateway(next(iter(pending.bearers))) if pending.taken else None

    def _note_losses(self, pending: Pending, reply: Reply) -> None:
        """What the answer to a request of a single chunk says of the link; of several, the gateway says it itself."""
        attempts, transfer = pending.attempts, pending.transfer
        if attempts is None or transfer is None or transfer.chunks > 1:
            return
        busy_s = (reply.queue_ms + reply.compute_ms) / 1e3
        soon_s = max(busy_s, _SOON * pending.expected.answer_s(transfer.size_bytes))
        if attempts.count > 1 and time.monotonic() - attempts.sent_s < soon_s:
            return  # it answers an earlier attempt: nothing was lost, it was slow
        self._mail.observed(pending.destination.key, 1, attempts.count)

    def _send_alone(self, message: bytes, pending: Pending, deadline_ms: int) -> None:
        with self._lock:
            message_id = self._register([pending])
        self._publish([message], message_id, [pending], deadline_ms, pending.destination)

    def _send_overdue(self, key: str) -> None:
        now = time.monotonic()
        with self._lock:
            packer = self._packers.get(key)
            due = () if packer is None else packer.overdue(now)
        self._send_together(due, now)

    def _no_longer_under_way(self, pending: Pending) -> None:
        now = time.monotonic()
        with self._lock:
            packer = self._packers.get(pending.destination.key)
            due = () if packer is None else packer.forget(pending.request_id, now)
        self._send_together(due, now)

    def _send_together(self, requests: Sequence[SmallRequest], now: float) -> None:
        """Send small requests in one message, but for those that nobody waits for any more."""
        with self._lock:
            wanted = [request for request in requests if request.request_id in self._pending]
            if not wanted:
                return
            asked = [self._pending[request.request_id] for request in wanted]
            for request, pending in zip(wanted, asked, strict=True):
                pending.held_ms = (now - request.ready_s) * 1e3
            message_id = self._register(asked)
            if len(asked) > 1:
                self.packs += 1
                self.packed_requests += len(asked)
        latest_ms = max(request.deadline_ms for request in wanted)
        self._publish([request.at(now) for request in wanted], message_id, asked, latest_ms, asked[0].destination)

    def _register(self, asked: Sequence[Pending]) -> bytes:
        """The id of the message that carries these requests; of several, a new one, which no request has."""
        message_id = asked[0].request_id if len(asked) == 1 else uuid.uuid4().bytes
        self._sent[message_id] = list(asked)
        for pending in asked:
            pending.message_id = message_id
        return message_id

    def _publish(
        self,
        messages: Sequence[bytes],
        message_id: bytes,
        asked: Sequence[Pending],
        deadline_ms: int,
        destination: Destination,
    ) -> None:
        """All chunks of these requests; where they cannot be sent, each is told why."""
        try:
            whole = messages[0] if len(messages) == 1 else encode_pack(messages)
            limit = self.chunk_bytes(destination, deadline_ms)
            if destination.pool_id:  # which takes one chunk, and was chosen because one was enough
                limit = min(self._payload_limit(destination, deadline_ms), CHUNK_BYTES)
            expected = asked[0].expected
            chunks = self._mail.chunks(
                destination.key,
                whole,
                message_id,
                limit,
                deadline_ms / 1e3,
                parity=expected.takes_parity and not destination.pool_id,
                way=LossyWay(expected.round_trip_ms, expected.uplink_kbps or math.inf),
            )
            qos, now = self._mail.qos(destination.key, len(whole)), time.monotonic()
            size_bytes = sum(map(len, chunks))
            for way in {id(each.transfer): each.transfer.way for each in asked if each.transfer is not None}.values():
                self._ends(way, False)
            transfer = InFlight(size_bytes, len(chunks), qos, qos * len(chunks), self._begins(size_bytes))
            for message, pending in zip(messages, asked, strict=True):
                pending.sent_bytes += transfer.size_bytes * len(message) // sum(map(len, messages))
                pending.transfer = transfer
                pending.first = pending.first or transfer
                if pending.attempts is None and not pending.request.onward:
                    pending.attempts = Attempts(now, pending.expected.answer_s(len(whole)), pending.until)
            priority = min(pending.request.priority for pending in asked)
            for chunk in chunks:
                if not self._transport.publish(
                    destination.request_topic(self._device_id),
                    chunk,
                    qos=qos,
                    correlation=message_id,
                    response_topic=destination.reply_topic(self._device_id),
                    expiry_s=_expiry_s(deadline_ms),
                    on_ack=lambda _ms: self._acked(transfer),
                    priority=priority,
                ):
                    up = self._transport.connected
                    fail(asked, "too much waits to be sent already" if up else "the broker cannot be reached")
                    break
        except (ValueError, MidstreamError) as error:
            fail(asked, _cannot_be_sent(error))

    def chunk_bytes(self, destination: Destination, deadline_ms: int) -> int:
        """How long a chunk may be that goes there now."""
        return min(self._payload_limit(destination, deadline_ms), self._chunk_bytes())

    def _payload_limit(self, destination: Destination, deadline_ms: int) -> int:
        """How many bytes the broker takes at once of what goes there."""
        return self._transport.payload_limit(
            destination.request_topic(self._device_id),
            correlation=bytes(REQUEST_ID_BYTES),
            response_topic=destination.reply_topic(self._device_id),
            expiry_s=_expiry_s(deadline_ms),
        )

    def _acked(self, transfer: InFlight) -> None:
        transfer.unacked -= 1
        if not transfer.unacked:
            self._ends(transfer.way, True)


def _take_by(pending: Pending) -> float:
    """Until when somebody of a pool must have said that it has this request."""
    within_s = pending.destination.take_within_s
    return math.inf if within_s is None or pending.taken or pending.done.is_set() else pending.started + within_s


def _cannot_be_sent(error: Exception) -> str:
    return f"the request cannot be sent: {error}"


def _expiry_s(deadline_ms: int) -> int:
    return max(1, -(-deadline_ms // 1000))
