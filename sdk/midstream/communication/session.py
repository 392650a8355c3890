"""One MQTT 5 connection, from CONNECT to its end: a stream, the packets on it, and what was acknowledged.

A connection is a session (clean start, expiry 0): what was in flight when it ends is lost. Not thread-safe: whoever
uses it holds the transport's turn.
"""

from __future__ import annotations

import logging
import ssl
import sys
import time
from collections import deque
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from typing import Final

from midstream.communication import mqtt
from midstream.communication.address import BrokerAddress, Refusal, denied, refused, turned_away, unreachable
from midstream.communication.outbox import Item, Publish, Subscribe, Unsubscribe
from midstream.communication.streams import Stream, open_stream

logger = logging.getLogger("midstream.transport")

MAX_IN_FLIGHT: Final = 64

# What is written at once, and what may wait for that: beyond the first, nothing more is sent; beyond the second, a
# broker that sends on does not read that its messages are taken.
_ROUND_PARTS: Final = 64
_MANY_UNWRITTEN: Final = 1024
_MOST_UNWRITTEN: Final = 4096
_FAILED: Final = 0x80
_LAST_ID: Final = 0xFFFF
# Windows has neither.
_FCNTL, _TERMIOS = (import_module(name) if find_spec(name) else None for name in ("fcntl", "termios"))


class Session:
    """One connection. ``receive`` is called, by `read`, for every message.

    ``accepted`` is set by the broker's CONNACK, ``refusal`` where it, or the network, ended the connection, ``denied``
    where the client has too few rights on it.
    """

    def __init__(
        self,
        address: BrokerAddress,
        client_id: str,
        will: tuple[str, bytes] | None,
        keepalive_s: int,
        receive: Callable[[mqtt.Message], None],
    ) -> None:
        self.accepted = False
        self.refusal: Refusal | None = None
        self.denied: str | None = None
        self.packet_limit = mqtt.MAX_PACKET_BYTES
        self.shares_subscriptions = True
        self._address = address
        self._client_id = client_id
        self._will = will
        self._keepalive_s = keepalive_s
        self._receive = receive
        self._stream: Stream | None = None
        self._ended = False
        # Why nothing can be written any more.
        self._broken: OSError | None = None
        self._receiver = mqtt.Receiver()
        self._out: deque[memoryview] = deque()
        self._window = MAX_IN_FLIGHT
        self._last_id = 0
        self._unacked: dict[int, Publish] = {}
        self._unacked_bytes = 0
        self._acks: list[tuple[Callable[[float], None], float]] = []
        self._asked: dict[int, str] = {}
        self._unsent_bytes = 0
        self._moved_s = 0.0
        self._heard_s = self._said_s = 0.0
        self._pinged_s: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether it may still carry anything."""
        return self._stream is not None and not self._ended

    @property
    def fileno(self) -> int:
        """The socket's file descriptor; -1 when there is none."""
        return -1 if self._stream is None else self._stream.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether something waits for the socket to take it."""
        if self._broken is not None:
            return False
        return bool(self._out) or (self._stream is not None and self._stream.unwritten)

    @property
    def has_room(self) -> bool:
        """Whether it takes another message before the broker acknowledges one, or reads."""
        return self._broken is None and len(self._unacked) < self._window and len(self._out) < _MANY_UNWRITTEN

    @property
    def unacked_bytes(self) -> int:
        """Bytes of payload that the broker has yet to acknowledge."""
        return self._unacked_bytes

    @property
    def idle(self) -> bool:
        """Whether everything was written, and acknowledged where that was asked for."""
        return not self._unacked and not self.wants_write

    @property
    def has_buffered(self) -> bool:
        """Whether there is something to be read that has left the socket already, or an end to be found."""
        if self._stream is None or self._ended:
            return False
        return self._broken is not None or self._stream.buffered

    def connect(self) -> None:
        """Open the stream and queue CONNECT; raises OSError, and InputError for certificates that cannot be used."""
        self._stream = open_stream(self._address)
        self._heard_s = self._said_s = time.monotonic()
        address = self._address
        self._put(
            mqtt.connect(
                self._client_id,
                self._keepalive_s,
                username=address.username,
                password=address.password,
                will=self._will,
            )
        )

    def send(self, item: Item) -> None:
        """Queue it; `write` sends it."""
        if isinstance(item, Subscribe):
            asked_id = self._next_id()
            self._asked[asked_id] = item.topic_filter
            self._put(mqtt.subscribe(asked_id, item.topic_filter, item.qos))
            return
        if isinstance(item, Unsubscribe):
            self._put(mqtt.unsubscribe(self._next_id(), item.topic_filter))
            return
        packet_id = self._next_id() if item.qos else None
        self._put(mqtt.publish_header(item.topic, len(item.payload), packet_id, item.retain, item.properties))
        if item.payload:
            self._put(item.payload)
        if packet_id is not None:
            self._unacked[packet_id] = item
            self._unacked_bytes += len(item.payload)

    def write(self) -> None:
        """Write as much as the socket takes now; where it takes nothing any more, the next `read` is the last.

        It reads nothing itself: whoever publishes may be a callback, and is not to be called again meanwhile.
        """
        if self._stream is None or self._ended:
            return
        try:
            while self.wants_write:
                count = self._stream.write(list(islice(self._out, _ROUND_PARTS)))
                self._said_s = time.monotonic()
                while count and count >= len(self._out[0]):
                    count -= len(self._out.popleft())
                if count:
                    self._out[0] = self._out[0][count:]
        except BlockingIOError:
            pass
        except OSError as error:
            self._broken = error

    def read(self) -> None:
        """Read what is there, for a while, and act on it; `write` what that makes before the next time."""
        if self._stream is None or self._ended:
            return
        try:
            if len(self._out) > _MOST_UNWRITTEN:
                raise mqtt.ProtocolError("it sends on, and does not read that its messages are taken")
            count = self._stream.read_into(self._receiver.room())
            if not count:
                self._end(self._broken)
                return
            self._heard_s = time.monotonic()
            self._receiver.received(count)
            while not self._ended and (packet := self._receiver.next()) is not None:
                self._act(packet)
        except BlockingIOError:
            pass
        except OSError as error:
            self._end(error)
        except mqtt.ProtocolError as error:
            if self.accepted and self.refusal is None:
                self.refusal = Refusal(f"the broker at {self._address} sent what is not MQTT 5: {error}")
            self._end(None)
        if self._broken is not None:
            # What the broker said last, such as why it ends the connection, was there still.
            self._end(self._broken)

    def check_keepalive(self) -> None:
        """Ping a quiet broker, and end the connection where it no longer answers; call it every second.

        While a large message goes out over a slow link, a ping would only wait behind it.
        """
        now_s = time.monotonic()
        unsent_bytes = _unsent_bytes(self.fileno)
        if unsent_bytes != self._unsent_bytes:
            self._unsent_bytes, self._moved_s = unsent_bytes, now_s
        if self._ended or (unsent_bytes and now_s - self._moved_s < self._keepalive_s):
            return
        if now_s - min(self._heard_s, self._said_s) < self._keepalive_s:
            return
        if not self.accepted or self._pinged_s is not None:
            since_s = self._heard_s if self._pinged_s is None else max(self._heard_s, self._pinged_s)
            if now_s - since_s >= self._keepalive_s:
                self.refusal = self.refusal or unreachable(self._address, TimeoutError())
                self._end(None)
            return
        self._pinged_s = now_s
        self._put(mqtt.PINGREQ)
        self.write()

    def take_acks(self) -> list[tuple[Callable[[float], None], float]]:
        """The callbacks that are due, with their milliseconds."""
        acks, self._acks = self._acks, []
        return acks

    def disconnect(self) -> None:
        """Say goodbye, so that the will is not published, as far as the socket takes it now; then end."""
        self._put(mqtt.DISCONNECT)
        self.write()
        self.end()

    def end(self) -> None:
        """Carry nothing any more, and let go whoever waits for it; a will is then published."""
        self._ended = True
        if self._stream is not None:
            self._stream.shut()

    def close(self) -> None:
        """Give the socket back to the system; nobody may wait for it any more."""
        self._ended = True
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _put(self, data: bytes) -> None:
        self._out.append(memoryview(data))

    def _next_id(self) -> int:
        """A packet identifier that is not in use; there are many more than may be in flight."""
        while True:
            self._last_id = self._last_id % _LAST_ID + 1
            if self._last_id not in self._unacked and self._last_id not in self._asked:
                return self._last_id

    def _end(self, error: OSError | None) -> None:
        """The network or the broker ended it."""
        if self.refusal is None and self.accepted:
            self.refusal = Refusal(f"the connection to the broker at {self._address} was lost")
        elif self.refusal is None and isinstance(error, ssl.SSLError):
            self.refusal = turned_away(self._address, error)
        self.end()

    def _act(self, packet: mqtt.Packet) -> None:
        if not self.accepted and not isinstance(packet, mqtt.Connected | mqtt.Disconnected):
            raise mqtt.ProtocolError("it did not say first whether it accepts")
        match packet:
            case mqtt.Published(message, packet_id):
                if message is None:
                    logger.warning("a message whose topic or properties cannot be used was dropped")
                else:
                    self._receive(message)
                if packet_id is not None:
                    self._put(mqtt.puback(packet_id))
            case mqtt.Acknowledged(packet_id, reason):
                self._acknowledged(packet_id, reason)
            case mqtt.Subscribed(packet_id, reasons):
                self._subscribed(packet_id, reasons)
            case mqtt.Pong():
                self._pinged_s = None
            case mqtt.Unsubscribed():
                pass
            case mqtt.Connected():
                self._connected(packet)
            case mqtt.Disconnected(reason):
                self.refusal = self.refusal or refused(self._address, reason, mqtt.reason_name(reason))
                self.end()

    def _connected(self, packet: mqtt.Connected) -> None:
        if self.accepted:
            raise mqtt.ProtocolError("it accepted twice")
        if packet.reason >= _FAILED:
            self.refusal = refused(self._address, packet.reason, mqtt.reason_name(packet.reason))
            self.end()
            return
        self.accepted = True
        self._window = min(MAX_IN_FLIGHT, packet.receive_maximum)
        self.packet_limit = packet.maximum_packet_bytes
        self.shares_subscriptions = packet.shares_subscriptions
        if packet.server_keepalive_s is not None:
            self._keepalive_s = min(self._keepalive_s, packet.server_keepalive_s or self._keepalive_s)

    def _acknowledged(self, packet_id: int, reason: int) -> None:
        # The callback is called later, by whoever has the turn.
        message = self._unacked.pop(packet_id, None)
        if message is None:
            return
        self._unacked_bytes -= len(message.payload)
        if reason >= _FAILED:
            name = mqtt.reason_name(reason)
            # Of a client without rights one line has said it.
            level = logging.WARNING if self.denied is None else logging.INFO
            logger.log(level, "the broker at %s refused a message to %s: %s", self._address, message.topic, name)
        elif message.on_ack is not None:
            self._acks.append((message.on_ack, (time.perf_counter() - message.sent_s) * 1000))

    def _subscribed(self, packet_id: int, reasons: bytes) -> None:
        topic_filter = self._asked.pop(packet_id, "?")
        for reason in reasons:
            if reason < _FAILED:
                continue
            why = denied(self._address, topic_filter, reason)
            if why is None:
                name = mqtt.reason_name(reason)
                logger.warning("the broker at %s refused to subscribe to %s: %s", self._address, topic_filter, name)
            else:
                # Who lacks one right mostly lacks the others as well.
                logger.log(logging.WARNING if self.denied is None else logging.INFO, "%s", why)
                self.denied = self.denied or why


def _unsent_bytes(fileno: int) -> int:
    """What the system holds of this socket that the other end has not acknowledged; 0 where that is not known."""
    if _FCNTL is None or _TERMIOS is None:
        return 0
    try:
        return int.from_bytes(_FCNTL.ioctl(fileno, _TERMIOS.TIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, ValueError):
        return 0
