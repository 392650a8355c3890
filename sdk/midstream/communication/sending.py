"""Requests on their way out: each by itself or small ones together, and who waits for what was sent."""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

from midstream.cancelling import Cancellation
from midstream.communication import topics
from midstream.communication.attempts import Attempts
from midstream.communication.chunks import OVERHEAD_BYTES
from midstream.communication.control import Cancel, encode_control
from midstream.communication.mail import Mail
from midstream.communication.packing import Packer, SmallRequest, Way
from midstream.communication.packs import MAX_PACK_BYTES, encode_pack
from midstream.communication.redundancy import Way as LossyWay
from midstream.communication.transport import MqttTransport
from midstream.communication.wire import REQUEST_ID_BYTES, Reply, Request, Status, encode_request
from midstream.errors import MidstreamError

_CANCEL_EXPIRY_S = 1
# A request that the gateway cannot read is sent no more often than this: the link may have damaged it, or we.
_MOST_REFUSALS = 3


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known of the way to a gateway: round trip, queue and the request's work there, ms; the uplink, kbit/s.

    ``takes_parity`` says that the gateway can use parity chunks.
    """

    round_trip_ms: float
    queue_ms: float
    work_ms: float
    uplink_kbps: float
    takes_parity: bool = False

    def answer_s(self, size_bytes: int) -> float:
        """When the answer to so many bytes should be there."""
        transfer_ms = size_bytes * 8 / self.uplink_kbps if self.uplink_kbps > 0 else 0.0
        return (self.round_trip_ms + self.queue_ms + self.work_ms + transfer_ms) / 1e3


@dataclass
class _Transfer:
    """A message of which the broker has not acknowledged every chunk."""

    size_bytes: int
    chunks: int
    unacked: int
    began: float


@dataclass
class Pending:
    """A request, under way or done. ``problem`` says why there is no reply.

    ``held_ms`` is how long it waited for others to be sent with; ``sent_bytes`` is its share of what they took.
    ``attempts`` is there once it was sent, ``trouble`` says what came instead of an answer, ``damaged`` how many
    answers could not be read.
    """

    request: Request
    gateway_id: str
    expected: Expected
    started: float
    until: float
    reply: Reply | None = None
    sent_bytes: int = 0
    received_bytes: int = 0
    problem: str | None = None
    held_ms: float = 0.0
    message_id: bytes | None = None
    attempts: Attempts | None = None
    transfer: _Transfer | None = None
    trouble: str | None = None
    damaged: int = 0
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def request_id(self) -> bytes:
        """The id of the request."""
        return self.request.request_id

    def fail(self, problem: str) -> None:
        """No reply will come, for this reason."""
        if not self.done.is_set():
            self.problem = problem
            self.done.set()


class Sender:
    """Sends requests over a transport, and keeps account of them until whoever asked leaves. Thread-safe.

    A request of which nothing is heard is sent again under the same id, as long as an answer could come in time.
    ``chunk_bytes`` says how long a chunk may be now; ``on_transfer`` hears how many bytes were acknowledged in how many
    ms. With ``packing``, small requests that are asked at the same time go out in one message where that costs none of
    them its deadline: ``packs`` counts these messages, ``packed_requests`` what was in them.
    """

    def __init__(
        self,
        transport: MqttTransport,
        mail: Mail,
        device_id: str,
        chunk_bytes: Callable[[], int],
        on_transfer: Callable[[int, float], None],
        *,
        packing: bool,
    ) -> None:
        self._transport = transport
        self._mail = mail
        self._device_id = device_id
        self._chunk_bytes = chunk_bytes
        self._on_transfer = on_transfer
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
        gateway_id: str,
        timeout_s: float,
        expected: Expected,
        cancellation: Cancellation | None = None,
    ) -> Pending:
        """Send a request and wait for its reply; where there is none in time, ``problem`` says why.

        Nothing of it is left when this returns: what was not sent yet is not sent any more, unless others wait for it.
        """
        started = time.monotonic()
        pending = Pending(request, gateway_id, expected, started, started + timeout_s)
        watched = nullcontext() if cancellation is None else cancellation.calls(lambda: pending.fail("cancelled"))
        with self._lock:
            self._pending[request.request_id] = pending
        try:
            with watched:
                if not pending.done.is_set():
                    self._send(request, pending, expected)
                while not pending.done.wait(self._patience_s(pending)):
                    if time.monotonic() >= pending.until:
                        pending.problem = "no answer in time"
                        if pending.trouble is not None:
                            pending.problem += f", and before that: {pending.trouble}"
                        break
                    self._send_overdue(gateway_id)
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
        return [pending for pending in found if pending.gateway_id == gateway_id]

    def answer(self, pending: Pending, reply: Reply, size_bytes: int) -> None:
        """The reply has come; where it says that the request could not be read, the link may have damaged that."""
        attempts = pending.attempts
        if reply.status is Status.BAD_REQUEST and attempts is not None and attempts.count < _MOST_REFUSALS:
            pending.trouble = f"the gateway refused: {reply.message}"
            if self._again(pending):
                return
        self._note_losses(pending, reply)
        pending.received_bytes = size_bytes
        pending.reply = reply
        pending.done.set()
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
            if pending.attempts is not None:
                pending.attempts.heard(now)

    def fail(self, problem: str, gateway_id: str | None = None) -> None:
        """No request is answered any more, or none of those to this gateway."""
        with self._lock:
            waiting = list(self._pending.values())
        fail(waiting if gateway_id is None else [one for one in waiting if one.gateway_id == gateway_id], problem)

    def _patience_s(self, pending: Pending) -> float:
        """How long to wait for an answer, or until this request, or those with which it waits, must be sent."""
        until = pending.until
        with self._lock:
            packer = self._packers.get(pending.gateway_id)
            if packer is not None and packer.due_s is not None and packer.holds(pending.request_id):
                until = min(until, packer.due_s)
        if pending.attempts is not None and pending.attempts.due_s is not None:
            until = min(until, pending.attempts.due_s)
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
        if pending.request_id != unwanted:
            self._transport.withdraw(pending.request_id)
        self._mail.forget(pending.gateway_id, pending.request_id)
        if pending.reply is None and pending.attempts is not None:
            self._cancel(pending)
        self._no_longer_under_way(pending)

    def _send(self, request: Request, pending: Pending, expected: Expected) -> None:
        """Send it, or keep it for others. Raises WireError or ValueError where it, or any request, is too large."""
        message = encode_request(request)
        pack_bytes = min(self._payload_limit(pending.gateway_id, request.deadline_ms), self._chunk_bytes())
        way = Way(
            expected.round_trip_ms,
            expected.queue_ms,
            expected.uplink_kbps,
            min(MAX_PACK_BYTES, pack_bytes - OVERHEAD_BYTES),
        )
        if not self._packing or len(message) > way.small_bytes:
            with self._lock:
                message_id = self._register([pending])
            self._publish([message], message_id, [pending], request.deadline_ms)
            return
        with self._lock:
            now = time.monotonic()
            small = SmallRequest(request.request_id, message, now, request.deadline_ms, expected.work_ms)
            due = self._packers.setdefault(pending.gateway_id, Packer()).offer(small, way, now)
        self._send_together(due, now)

    def _cancel(self, pending: Pending) -> None:
        """Nobody waits for it any more: the gateway need not run it."""
        topic = topics.gateway_control_topic(pending.gateway_id, self._device_id)
        self._transport.publish(topic, encode_control(Cancel(pending.request_id)), expiry_s=_CANCEL_EXPIRY_S)

    def _again_if_due(self, pending: Pending) -> None:
        attempts, now = pending.attempts, time.monotonic()
        if attempts is None or attempts.due_s is None or now < attempts.due_s:
            return
        if pending.transfer is not None and pending.transfer.unacked:
            attempts.heard(now)  # it is still on its way to the broker
        else:
            self._again(pending)

    def _again(self, pending: Pending) -> bool:
        """Send it again, alone, with the time that remains now; False where that is of no more use."""
        now = time.monotonic()
        with self._lock:
            attempts = pending.attempts
            if attempts is None or pending.done.is_set() or not attempts.may_send(now):
                return False
            # Never the same number twice: what is sent again has another tag.
            left_ms = pending.request.deadline_ms - int((now - pending.started) * 1e3) - attempts.count
            if left_ms <= 0:
                return False
            attempts.sent(now)
        message = encode_request(replace(pending.request, deadline_ms=left_ms))
        self._publish([message], pending.request_id, [pending], left_ms)
        return True

    def _note_losses(self, pending: Pending, reply: Reply) -> None:
        """What the answer to a request of a single chunk says of the link; of several, the gateway says it itself."""
        attempts, transfer = pending.attempts, pending.transfer
        if attempts is None or transfer is None or transfer.chunks > 1:
            return
        busy_s = (reply.queue_ms + reply.compute_ms) / 1e3
        if attempts.count > 1 and time.monotonic() - attempts.sent_s < busy_s:
            return  # it answers an earlier attempt: nothing was lost, it was slow
        self._mail.observed(pending.gateway_id, 1, attempts.count)

    def _send_overdue(self, gateway_id: str) -> None:
        now = time.monotonic()
        with self._lock:
            packer = self._packers.get(gateway_id)
            due = () if packer is None else packer.overdue(now)
        self._send_together(due, now)

    def _no_longer_under_way(self, pending: Pending) -> None:
        now = time.monotonic()
        with self._lock:
            packer = self._packers.get(pending.gateway_id)
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
        self._publish([request.at(now) for request in wanted], message_id, asked, latest_ms)

    def _register(self, asked: Sequence[Pending]) -> bytes:
        """The id of the message that carries these requests; of several, a new one, which no request has."""
        message_id = asked[0].request_id if len(asked) == 1 else uuid.uuid4().bytes
        self._sent[message_id] = list(asked)
        for pending in asked:
            pending.message_id = message_id
        return message_id

    def _publish(
        self, messages: Sequence[bytes], message_id: bytes, asked: Sequence[Pending], deadline_ms: int
    ) -> None:
        """All chunks of these requests; where they cannot be sent, each is told why."""
        gateway_id = asked[0].gateway_id
        try:
            whole = messages[0] if len(messages) == 1 else encode_pack(messages)
            limit = min(self._payload_limit(gateway_id, deadline_ms), self._chunk_bytes())
            expected = asked[0].expected
            chunks = self._mail.chunks(
                gateway_id,
                whole,
                message_id,
                limit,
                deadline_ms / 1e3,
                parity=expected.takes_parity,
                way=LossyWay(expected.round_trip_ms, expected.uplink_kbps or math.inf),
            )
            qos, now = self._mail.qos(gateway_id, len(whole)), time.monotonic()
            transfer = _Transfer(sum(map(len, chunks)), len(chunks), qos * len(chunks), now)
            for message, pending in zip(messages, asked, strict=True):
                pending.sent_bytes += transfer.size_bytes * len(message) // sum(map(len, messages))
                pending.transfer = transfer
                if pending.attempts is None:
                    pending.attempts = Attempts(now, pending.expected.answer_s(len(whole)), pending.until)
            for chunk in chunks:
                if not self._transport.publish(
                    topics.request_topic(gateway_id, self._device_id),
                    chunk,
                    qos=qos,
                    correlation=message_id,
                    response_topic=topics.reply_topic(gateway_id, self._device_id),
                    expiry_s=_expiry_s(deadline_ms),
                    on_ack=lambda _ms: self._acked(transfer),
                ):
                    up = self._transport.connected
                    fail(asked, "too much waits to be sent already" if up else "the broker cannot be reached")
                    break
        except (ValueError, MidstreamError) as error:
            fail(asked, _cannot_be_sent(error))

    def _payload_limit(self, gateway_id: str, deadline_ms: int) -> int:
        """How many bytes the broker takes at once of what goes to this gateway."""
        return self._transport.payload_limit(
            topics.request_topic(gateway_id, self._device_id),
            correlation=bytes(REQUEST_ID_BYTES),
            response_topic=topics.reply_topic(gateway_id, self._device_id),
            expiry_s=_expiry_s(deadline_ms),
        )

    def _acked(self, transfer: _Transfer) -> None:
        transfer.unacked -= 1
        if not transfer.unacked:
            self._on_transfer(transfer.size_bytes, (time.monotonic() - transfer.began) * 1e3)


def fail(asked: Sequence[Pending], problem: str) -> None:
    """No reply will come to these, for this reason."""
    for pending in asked:
        pending.fail(problem)


def _cannot_be_sent(error: Exception) -> str:
    return f"the request cannot be sent: {error}"


def _expiry_s(deadline_ms: int) -> int:
    return max(1, -(-deadline_ms // 1000))
