"""The other end of a measurement of the transport: a process that sends every tensor back, as a gateway would.

``python -m midstream.measuring.echo ID`` with the broker's URL and a folder of credentials, which may be empty, on two
lines of stdin, so that no password is in a list of processes.
"""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path

from midstream.communication import topics
from midstream.communication.address import parse_broker_url
from midstream.communication.chunks import Reassembler, split
from midstream.communication.transport import Message, MqttTransport
from midstream.communication.wire import Limits, Reply, Status, decode_request, encode_reply
from midstream.errors import WireError

MAX_BYTES = 16 << 20
_ATTEND_S = 60.0

_log = logging.getLogger("midstream.echo")


class Echo:
    """Answers each request with its own tensors, on the topic on which a gateway answers."""

    def __init__(self, broker: str, peer_id: str, credentials: Path | None) -> None:
        self._id = peer_id
        self._reassembler = Reassembler(MAX_BYTES)
        self.transport = MqttTransport(
            parse_broker_url(broker, credentials=credentials),
            f"midstream-echo-{peer_id}",
            on_message=self._on_message,
            on_state=lambda _up: None,
        )
        self.transport.subscribe(topics.request_filter(peer_id))

    def _on_message(self, message: Message) -> None:
        try:
            device_id = topics.parse_request_topic(message.topic).device_id
            whole = self._reassembler.add(device_id, message.payload)
            if message.retained or whole is None:
                return
            request = decode_request(whole, Limits(MAX_BYTES, MAX_BYTES))
        except WireError as error:
            _log.warning("ignored a message: %s", error)
            return
        places = tuple(range(len(request.tensors)))
        reply = Reply(request.request_id, Status.OK, request.tensors, request.codec, 0.0, 0.0, outputs=places)
        topic = topics.reply_topic(self._id, device_id)
        for chunk in split(encode_reply(reply), request.request_id):
            self.transport.publish(topic, chunk, correlation=request.request_id, expiry_s=10)


def main() -> None:
    """Echo until stdin ends or this process is told to."""
    broker, credentials = sys.stdin.readline().strip(), sys.stdin.readline().strip()
    echo = Echo(broker, sys.argv[1], Path(credentials) if credentials else None)
    closed = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        closed.set()
        echo.transport.rouse()

    with echo.transport:
        threading.Thread(target=wait_for_the_end, daemon=True).start()
        while not closed.is_set():
            with echo.transport.attended() as attend:
                if not attend(closed.is_set, _ATTEND_S):
                    closed.wait(0.1)


if __name__ == "__main__":
    main()
