"""One MQTT 5 connection, from CONNECT to its end, all on one thread: the only module that imports paho-mqtt.

A connection is a session (clean start, expiry 0): what was in flight when it ends is lost.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from midstream.communication.address import BrokerAddress, Refusal, refused, turned_away, unreachable
from midstream.communication.credentials import tls_context
from midstream.communication.outbox import Publish, Subscribe

logger = logging.getLogger("midstream.transport")

CONNECT_TIMEOUT_S: Final = 5.0
MAX_PACKET_BYTES: Final = 2 << 20
MAX_IN_FLIGHT: Final = 64

_KEEPALIVE_TIMEOUT: Final = 0x8D
_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
# Windows has neither.
_FCNTL, _TERMIOS = (import_module(name) if find_spec(name) else None for name in ("fcntl", "termios"))


@dataclass(frozen=True, slots=True)
class Message:
    """What came from the broker. ``retained`` is true for what it had kept from before the subscription."""

    topic: str
    payload: bytes
    retained: bool = False
    correlation: bytes | None = None
    response_topic: str | None = None
    expiry_s: int | None = None


class PublishProperties(Properties):
    """PUBLISH properties that are encoded already: paho's own take 48 µs a message, these 2."""

    def __init__(self, packed: bytes) -> None:
        self.__dict__["packed"] = packed

    def pack(self) -> bytes:
        """The bytes on the wire."""
        return bytes(self.__dict__["packed"])

    def __str__(self) -> str:
        return self.pack().hex()


class Session:
    """One connection. ``receive`` is called, by `read`, for every message.

    ``accepted`` is set by the broker's CONNACK, ``refusal`` where it, or the network, ended the connection.
    """

    def __init__(
        self,
        address: BrokerAddress,
        client_id: str,
        will: tuple[str, bytes] | None,
        keepalive_s: int,
        receive: Callable[[Message], None],
    ) -> None:
        self.accepted = False
        self.refusal: Refusal | None = None
        self.packet_limit = MAX_PACKET_BYTES
        self.shares_subscriptions = True
        self._address = address
        self._keepalive_s = keepalive_s
        self._receive = receive
        self._closed = False
        self._window = MAX_IN_FLIGHT
        self._unacked: dict[int, Publish] = {}
        self._unacked_bytes = 0
        self._acks: list[tuple[Callable[[float], None], float]] = []
        self._asked: dict[int, str] = {}
        self._unsent_bytes = 0
        self._moved_s = 0.0
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=mqtt.MQTTv5,
            transport="websockets" if address.websocket else "tcp",
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(0)  # `has_room` keeps to what the broker takes
        if address.tls:
            client.tls_set_context(tls_context(address.credentials, self._failed))
        if address.websocket:
            client.ws_set_options(path=address.path)
        if address.username is not None:
            client.username_pw_set(address.username, address.password)
        if will is not None:
            client.will_set(will[0], will[1], qos=1, retain=True)
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_message = self._received
        client.on_publish = self._published
        client.on_subscribe = self._subscribed
        client.on_socket_open = _prepare_socket
        # Without this paho would write inside publish(); the loop writes all of a round at once instead.
        client.on_socket_register_write = _ignore
        self._client = client

    @property
    def is_open(self) -> bool:
        """Whether it may still carry anything."""
        return not self._closed and self._client.socket() is not None

    @property
    def fileno(self) -> int:
        """The socket's file descriptor; -1 when there is none."""
        sock = self._client.socket()
        return -1 if sock is None else sock.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether something waits for the socket to take it."""
        return self._client.want_write()

    @property
    def has_room(self) -> bool:
        """Whether the broker takes another message before it acknowledges one."""
        return len(self._unacked) < self._window

    @property
    def unacked_bytes(self) -> int:
        """Bytes of payload that the broker has yet to acknowledge."""
        return self._unacked_bytes

    @property
    def idle(self) -> bool:
        """Whether everything was written, and acknowledged where that was asked for."""
        return not self._unacked and not self._client.want_write()

    @property
    def has_buffered(self) -> bool:
        """Whether TLS has already taken from the socket what was not read yet."""
        pending: Callable[[], int] | None = getattr(self._client.socket(), "pending", None)
        return pending is not None and pending() > 0

    def connect(self) -> None:
        """Open the socket and queue CONNECT; raises OSError."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 0
        properties.MaximumPacketSize = MAX_PACKET_BYTES
        self._client.connect(
            self._address.host, self._address.port, self._keepalive_s, clean_start=True, properties=properties
        )

    def send(self, item: Publish | Subscribe) -> None:
        """Queue it; `write` sends it."""
        if isinstance(item, Subscribe):
            _, mid = self._client.subscribe(item.topic_filter, item.qos)
            if mid is not None:
                self._asked[mid] = item.topic_filter
            return
        properties = PublishProperties(item.properties) if item.properties else None
        info = self._client.publish(item.topic, item.payload, item.qos, item.retain, properties)
        if item.qos:
            self._unacked[info.mid] = item
            self._unacked_bytes += len(item.payload)

    def write(self) -> None:
        """Write as much as the socket takes now."""
        self._client.loop_write()

    def read(self) -> None:
        """Read what is there, up to the end of one packet, and act on it."""
        self._client.loop_read()
        sock = self._client.socket()
        if _QUICKACK is not None and isinstance(sock, socket.socket):
            sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def check_keepalive(self) -> None:
        """Ping a quiet broker, and end the connection where it no longer answers; call it every second.

        While a large message goes out over a slow link, a ping would only wait behind it.
        """
        now_s = time.monotonic()
        unsent_bytes = _unsent_bytes(self.fileno)
        if unsent_bytes != self._unsent_bytes:
            self._unsent_bytes, self._moved_s = unsent_bytes, now_s
        if not unsent_bytes or now_s - self._moved_s >= self._keepalive_s:
            self._client.loop_misc()

    def take_acks(self) -> list[tuple[Callable[[float], None], float]]:
        """The callbacks that are due, with their milliseconds."""
        acks, self._acks = self._acks, []
        return acks

    def disconnect(self) -> None:
        """Say goodbye, so that the will is not published, as far as the socket takes it now; then close."""
        self._client.disconnect()
        self._client.loop_write()
        self.close()

    def close(self) -> None:
        """Close the socket as it is; a will is then published."""
        self._closed = True
        if (sock := self._client.socket()) is not None:
            sock.close()

    def _connected(
        self, _client: object, _data: object, _flags: object, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self.refusal = refused(self._address, reason.value, str(reason))
            return
        self.accepted = True
        self._window = min(MAX_IN_FLIGHT, getattr(properties, "ReceiveMaximum", MAX_IN_FLIGHT))
        self.packet_limit = getattr(properties, "MaximumPacketSize", MAX_PACKET_BYTES)
        self.shares_subscriptions = bool(getattr(properties, "SharedSubscriptionAvailable", 1))

    def _disconnected(
        self, _client: object, _data: object, flags: mqtt.DisconnectFlags, reason: ReasonCode, _props: object
    ) -> None:
        if self.refusal is None and flags.is_disconnect_packet_from_server:
            self.refusal = refused(self._address, reason.value, str(reason))
        elif self.refusal is None and reason.value == _KEEPALIVE_TIMEOUT:
            self.refusal = unreachable(self._address, TimeoutError())
        elif self.refusal is None and self.accepted:
            self.refusal = Refusal(f"the connection to the broker at {self._address} was lost")

    def _failed(self, error: ssl.SSLError) -> None:
        # paho only tells that the connection was lost, not why.
        if self.refusal is None and not self.accepted:
            self.refusal = turned_away(self._address, error)

    def _received(self, _client: object, _data: object, packet: mqtt.MQTTMessage) -> None:
        try:
            topic = packet.topic
        except UnicodeDecodeError:
            logger.warning("a message whose topic is not UTF-8 was dropped")
            return
        properties = packet.properties
        self._receive(
            Message(
                topic,
                bytes(packet.payload),
                packet.retain,
                getattr(properties, "CorrelationData", None),
                getattr(properties, "ResponseTopic", None),
                getattr(properties, "MessageExpiryInterval", None),
            )
        )

    def _published(self, _client: object, _data: object, mid: int, reason: ReasonCode, _props: object) -> None:
        # paho holds its locks here: the callback is called later, by the loop.
        message = self._unacked.pop(mid, None)
        if message is None:
            return
        self._unacked_bytes -= len(message.payload)
        if reason.is_failure:
            logger.warning("the broker at %s refused a message to %s: %s", self._address, message.topic, reason)
        elif message.on_ack is not None:
            self._acks.append((message.on_ack, (time.perf_counter() - message.sent_s) * 1000))

    def _subscribed(self, _client: object, _data: object, mid: int, reasons: list[ReasonCode], _props: object) -> None:
        topic_filter = self._asked.pop(mid, "?")
        for reason in reasons:
            if reason.is_failure:
                logger.warning("the broker at %s refused to subscribe to %s: %s", self._address, topic_filter, reason)


def _unsent_bytes(fileno: int) -> int:
    """What the system holds of this socket that the other end has not acknowledged; 0 where that is not known."""
    if _FCNTL is None or _TERMIOS is None:
        return 0
    try:
        return int.from_bytes(_FCNTL.ioctl(fileno, _TERMIOS.TIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, ValueError):
        return 0


def _ignore(*_: object) -> None:
    """Nothing to do."""


def _prepare_socket(_client: object, _data: object, sock: Any) -> None:
    # A WebSocket is wrapped: a second handle on the same socket reaches its options. Windows cannot make one so.
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        plain = isinstance(sock, socket.socket)
        raw = sock if plain else stack.enter_context(socket.socket(fileno=os.dup(sock.fileno())))
        if raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
