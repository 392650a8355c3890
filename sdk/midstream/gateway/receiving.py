"""What comes to a gateway from the broker: read strictly, and handed on as requests."""

from __future__ import annotations

import logging
from collections.abc import Callable

from midstream.communication import topics
from midstream.communication.chunks import Reassembler
from midstream.communication.framing import WIRE_VERSION, check_version
from midstream.communication.packs import decode_pack, is_pack, request_id_of
from midstream.communication.transport import Message
from midstream.communication.wire import Buffer, Limits, Request, Status, decode_request
from midstream.errors import WireError, WireVersionError
from midstream.gateway.posting import Post

_log = logging.getLogger("midstream.gateway")

Admit = Callable[[str, Request, Buffer, bool], tuple[Status, str] | None]


class Receiver:
    """Reads messages, and answers at once what cannot be read. Belongs to the transport's thread.

    ``admit`` gets a request: its device, what it says, its bytes, and whether it came in a pack; it returns why it
    refuses, None where it does not.
    """

    def __init__(self, post: Post, limits: Limits, admit: Admit) -> None:
        self._post = post
        self._limits = limits
        self._admit = admit
        self._reassembler = Reassembler(limits.max_message_bytes)

    def take(self, message: Message) -> None:
        """Act on a message."""
        if message.retained:
            return
        try:
            route = topics.parse_request_topic(message.topic)
        except WireError as error:
            _log.warning("ignored a message: %s", error)
            return
        device_id = route.device_id
        try:
            check_version(route.version, "topic")
            whole = self._reassembler.add(device_id, message.payload)
            if whole is None:
                return
            if not is_pack(whole):
                self._read(device_id, whole, message.correlation, packed=False)
                return
            requests = decode_pack(whole)
        except WireVersionError as error:
            self._post.other_version(device_id, message.correlation, error, route.version)
            return
        except WireError as error:
            self._post.unreadable(device_id, message.correlation, error)
            return
        for request in requests:
            self._read(device_id, request, request_id_of(request), packed=True)

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
