"""What comes to a gateway from the broker: read strictly, bounded by sender, and handed on as requests."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from midstream.allocation.rates import Rates, Throttle, Verdict
from midstream.communication import topics
from midstream.communication.chunks import Reassembler, message_id_of, peek
from midstream.communication.control import Cancel
from midstream.communication.directory import is_announcement
from midstream.communication.framing import WIRE_VERSION, check_version
from midstream.communication.packs import decode_pack, is_pack, request_id_of
from midstream.communication.topics import Inbound
from midstream.communication.transport import Message
from midstream.communication.wire import REQUEST_ID_BYTES, Buffer, Limits, Request, Status, decode_request
from midstream.errors import WireError, WireVersionError
from midstream.gateway.logs import about
from midstream.gateway.peers import Peers
from midstream.gateway.posting import Post

_log = logging.getLogger("midstream.gateway")

Admit = Callable[[str, Request, Buffer, bool], tuple[Status, str] | None]
Drop = Callable[[str, bytes], None]


class Receiver:
    """Reads messages, and answers at once what cannot be read. Belongs to the transport's thread.

    ``admit`` gets a request: its device, what it says, its bytes, and whether it came in a pack; it returns why it
    refuses, None where it does not. ``cancel`` gets a device and the id of a request that it no longer waits for.
    """

    def __init__(self, post: Post, peers: Peers, limits: Limits, rates: Rates, admit: Admit, cancel: Drop) -> None:
        self._post = post
        self._peers = peers
        self._limits = limits
        self._admit = admit
        self._cancel = cancel
        self._rates = rates
        self._throttle = Throttle(rates)
        # What other gateways pass on is not asked for again.
        self._forwarded = Reassembler(limits.max_message_bytes)

    def take(self, message: Message) -> None:
        """Act on a message."""
        if is_announcement(message.topic):
            self._peers.hear(message.topic, message.payload)
            return
        # Announcements alone are kept by a broker; whatever else it has kept, somebody means to be run again.
        if message.retained:
            return
        try:
            inbound = topics.parse_inbound(message.topic)
        except WireError as error:
            _log.warning("ignored a message: %s", error)
            return
        if not self._may_send(inbound, message):
            return
        if inbound.kind == "control":
            self._control(inbound, message.payload)
        elif inbound.kind in ("request", "forward"):
            self._part(inbound, message)

    def _may_send(self, inbound: Inbound, message: Message) -> bool:
        """Whether the sender is within its rate; where not, it is told now and then."""
        verdict = self._throttle.judge(_sender(inbound), len(message.payload), time.monotonic())
        if verdict is Verdict.TAKE:
            return True
        request_id = message.correlation or message_id_of(message.payload)
        if verdict is Verdict.REFUSE and request_id is not None and len(request_id) == REQUEST_ID_BYTES:
            why = (
                f"this device has sent more than the {self._rates.messages_per_s:g} messages or "
                f"{self._rates.bytes_per_s:g} bytes a second that this gateway takes of one; send less"
            )
            extra = about(inbound.device_id, request_id)
            _log.info("refused a request of %s: %s", inbound.device_id, why, extra=extra)
            self._post.refuse(inbound.device_id, request_id, Status.BUSY, why)
        return False

    def _control(self, inbound: Inbound, payload: bytes) -> None:
        try:
            check_version(inbound.version, "topic")
            control = self._post.mail.control(inbound.device_id, payload)
        except WireError as error:
            extra = about(inbound.device_id, None)
            _log.warning("ignored a control message of %s: %s", inbound.device_id, error, extra=extra)
            return
        if isinstance(control, Cancel):
            self._cancel(inbound.device_id, control.message_id)

    def _part(self, inbound: Inbound, message: Message) -> None:
        """A chunk of a request, or of a pack of them."""
        device_id = inbound.device_id
        try:
            check_version(inbound.version, "topic")
            chunk = peek(message.payload)
            if inbound.pool_id and chunk is not None and not chunk.alone:
                raise WireError("a request of several chunks was sent to a pool; send it to one gateway")
            whole = self._add(inbound, message.payload)
            if whole is None:
                return
            if inbound.pool_id and chunk is not None:
                self._post.taken(device_id, chunk.message_id, chunk.tag)
            if not is_pack(whole):
                self._read(device_id, whole, message.correlation, packed=False)
                return
            requests = decode_pack(whole)
        except WireVersionError as error:
            self._post.other_version(device_id, message.correlation, error, inbound.version)
            return
        except WireError as error:
            self._post.unreadable(device_id, message.correlation, error)
            return
        for request in requests:
            self._read(device_id, request, request_id_of(request), packed=True)

    def _add(self, inbound: Inbound, chunk: bytes) -> Buffer | None:
        """The message that this chunk completes, or None. Raises WireError."""
        if inbound.kind == "forward":
            return self._forwarded.add(_sender(inbound), chunk)
        return self._post.mail.add(inbound.device_id, chunk)

    def _read(self, device_id: str, data: Buffer, request_id: bytes | None, *, packed: bool) -> None:
        """Take in a request, alone or out of a pack; ``request_id`` is what stands beside it."""
        try:
            request = decode_request(data, self._limits)
            if request_id not in (None, request.request_id):
                raise WireError("the correlation data is not the request's own id")
        except WireVersionError as error:
            self._post.other_version(device_id, request_id, error, WIRE_VERSION)
        except WireError as error:
            self._post.unreadable(device_id, request_id, error)
        else:
            refusal = self._admit(device_id, request, data, packed)
            if refusal is not None:
                self._post.refuse(device_id, request.request_id, *refusal, request.deadline_ms / 1e3)


def _sender(inbound: Inbound) -> str:
    """Who has sent it: a device, or a gateway for a device, which no device's id can look like."""
    if inbound.kind in ("request", "control"):
        return inbound.device_id
    return f"{inbound.sender_id}/{inbound.device_id}"
