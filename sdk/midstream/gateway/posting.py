"""What a gateway sends: replies, alone or together, refusals, which wire versions it speaks, what it passes on."""

from __future__ import annotations

import logging
import math
import time
import uuid

from midstream.communication import topics
from midstream.communication.chunks import CHUNK_BYTES, OVERHEAD_BYTES, Reassembler, split
from midstream.communication.control import Taken, encode_control
from midstream.communication.lanes import Lanes
from midstream.communication.mail import Mail
from midstream.communication.packs import encode_pack, request_id_of
from midstream.communication.redundancy import Way
from midstream.communication.versions import VersionNotice, encode_notice
from midstream.communication.wire import REQUEST_ID_BYTES, Priority, Reply, Status, encode_reply, encode_request
from midstream.errors import MidstreamError
from midstream.gateway.logs import about
from midstream.gateway.metering import LinkMeter
from midstream.gateway.replies import HeldReplies
from midstream.gateway.stages import Onward

_log = logging.getLogger("midstream.gateway")

# Who sent what cannot be read is answered, too, but how long it waits is not known.
REFUSAL_S = 10.0
_REPAIR_EXPIRY_S = 1


class Post:
    """Sends what is for devices, on the topics that follow from their ids. Thread-safe, but for the `HeldReplies`.

    ``mail`` are the messages from and to devices, of at most ``max_message_bytes`` each, with what is lost repaired.
    The ``meter`` is told of what the broker acknowledges.
    """

    def __init__(self, transport: Lanes, gateway_id: str, max_message_bytes: int, meter: LinkMeter) -> None:
        self._transport = transport
        self._meter = meter
        self._gateway_id = gateway_id
        self.mail = Mail(Reassembler(max_message_bytes), self._send_chunks_again, self._send_control, answers=True)

    def reply(
        self,
        device_id: str,
        message: bytes,
        deadline: float,
        held: HeldReplies | None = None,
        priority: Priority = Priority.NORMAL,
        *,
        parity: bool = False,
    ) -> None:
        """Send an encoded reply, or keep it in ``held`` for the next ones. Raises ValueError, MidstreamError.

        ``deadline`` is on `time.monotonic`; with ``parity`` the device can use parity chunks.
        """
        now = time.monotonic()
        request_id = request_id_of(message)
        if held is not None:
            pack_bytes = self._chunk_bytes(device_id, None, deadline - now) - OVERHEAD_BYTES
            if not held.takes(device_id, message, deadline, now, pack_bytes):
                self.send_held(held)
            if held.takes(device_id, message, deadline, now, pack_bytes):
                held.add(device_id, message, deadline, now)
                return
        self._post(device_id, message, request_id, request_id, deadline - now, priority, parity=parity)

    def forward(self, onward: Onward, device_id: str) -> bool:
        """Send a request to the gateway that runs its next stage; False where it cannot go out."""
        request, wait_s = onward.request, onward.request.deadline_ms / 1e3
        topic = topics.forward_topic(onward.gateway_id, device_id, self._gateway_id)
        correlation, expires_s = request.request_id, expiry_s(wait_s)
        limit = self._transport.payload_limit(topic, correlation=correlation, expiry_s=expires_s)
        return all(
            self._transport.publish(
                topic,
                chunk,
                correlation=correlation,
                expiry_s=expires_s,
                priority=request.priority,
                on_ack=self._meter.transfer(len(chunk)),
            )
            for chunk in split(encode_request(request), request.request_id, min(limit, CHUNK_BYTES))
        )

    def taken(self, device_id: str, message_id: bytes, tag: bytes) -> None:
        """Tell a device that this gateway has its message: one that went to a pool, or that was sent again."""
        self._send_control(device_id, encode_control(Taken(message_id, tag, 1, 1)), expiry_s(REFUSAL_S))

    def send_held(self, held: HeldReplies) -> None:
        """Send what is held, together where it is several."""
        messages = held.take()
        wait_s = held.deadline - time.monotonic()
        try:
            if len(messages) == 1:
                request_id = request_id_of(messages[0])
                self._post(held.device_id, messages[0], request_id, request_id, wait_s)
            elif messages:
                self._post(held.device_id, encode_pack(messages), uuid.uuid4().bytes, None, wait_s)
        except (ValueError, MidstreamError) as error:
            for message in messages:
                extra = about(held.device_id, request_id_of(message))
                _log.warning("a reply to %s cannot be sent: %s", held.device_id, error, extra=extra)

    def refuse(
        self, device_id: str, request_id: bytes, status: Status, message: str, wait_s: float = REFUSAL_S
    ) -> None:
        """Say why there will be no answer, to a device that waits for so long."""
        try:
            refusal = encode_reply(Reply(request_id, status, (), "raw", 0.0, 0.0, message))
            self._post(device_id, refusal, request_id, request_id, wait_s)
        except (ValueError, MidstreamError) as error:
            _log.warning("a refusal to %s cannot be sent: %s", device_id, error, extra=about(device_id, request_id))

    def unreadable(self, device_id: str, request_id: bytes | None, error: MidstreamError) -> None:
        """Say what is wrong with what came, where it says what to answer to."""
        _log.warning("ignored a message of %s: %s", device_id, error, extra=about(device_id, request_id))
        if request_id is not None and len(request_id) == REQUEST_ID_BYTES:
            self.refuse(device_id, request_id, Status.BAD_REQUEST, str(error))

    def other_version(self, device_id: str, request_id: bytes | None, error: MidstreamError, version: int) -> None:
        """Say which versions are spoken here, where a device that sends on topics of this version looks for it."""
        _log.warning("ignored a message of %s: %s", device_id, error, extra=about(device_id, request_id))
        if request_id is not None and len(request_id) == REQUEST_ID_BYTES:
            topic = topics.reply_topic(self._gateway_id, device_id, version)
            notice = encode_notice(VersionNotice(request_id))
            self._transport.publish(topic, notice, correlation=request_id, expiry_s=expiry_s(REFUSAL_S))

    def _post(
        self,
        device_id: str,
        message: bytes,
        message_id: bytes,
        correlation: bytes | None,
        wait_s: float,
        priority: Priority = Priority.NORMAL,
        *,
        parity: bool = False,
    ) -> None:
        topic_of = topics.urgent_reply_topic if priority is Priority.CRITICAL else topics.reply_topic
        topic = topic_of(self._gateway_id, device_id)
        chunk_bytes = self._chunk_bytes(device_id, correlation, wait_s)
        qos, expires_s = self.mail.qos(device_id, len(message)), expiry_s(wait_s)
        for chunk in self.mail.chunks(device_id, message, message_id, chunk_bytes, wait_s, parity=parity, way=Way()):
            self._transport.publish(
                topic,
                chunk,
                qos=qos,
                correlation=correlation,
                expiry_s=expires_s,
                priority=priority,
                on_ack=self._meter.transfer(len(chunk)) if qos else None,
            )

    def _send_chunks_again(self, device_id: str, message_id: bytes, chunks: list[bytes]) -> None:
        topic = topics.reply_topic(self._gateway_id, device_id)
        for chunk in chunks:
            self._transport.publish(topic, chunk, correlation=message_id, expiry_s=_REPAIR_EXPIRY_S)

    def _send_control(self, device_id: str, payload: bytes, expires_s: int = _REPAIR_EXPIRY_S) -> None:
        topic = topics.device_control_topic(device_id, self._gateway_id)
        self._transport.publish(topic, payload, expiry_s=expires_s, priority=Priority.CRITICAL)

    def _chunk_bytes(self, device_id: str, correlation: bytes | None, wait_s: float) -> int:
        topic = topics.reply_topic(self._gateway_id, device_id)
        limit = self._transport.payload_limit(topic, correlation=correlation, expiry_s=expiry_s(wait_s))
        return min(limit, CHUNK_BYTES)


def expiry_s(wait_s: float) -> int:
    """A Message Expiry Interval: whole seconds, at least one."""
    return max(1, math.ceil(wait_s))
