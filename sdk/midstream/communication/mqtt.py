"""The packets of MQTT 5 that a client of QoS 0 and 1 needs: bytes in, packets out, no sockets anywhere.

Section numbers are those of the OASIS standard, MQTT version 5.0. What a broker sends is bounded before memory is
taken for it; what other clients may have caused in it (topics, properties) costs the message at most, never the
connection.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

__all__ = [
    "DISCONNECT",
    "MAX_PACKET_BYTES",
    "PINGREQ",
    "PROPERTY",
    "Acknowledged",
    "Connected",
    "Disconnected",
    "Message",
    "Packet",
    "Pong",
    "ProtocolError",
    "Published",
    "Receiver",
    "Subscribed",
    "Unsubscribed",
    "connect",
    "puback",
    "publish_header",
    "reason_name",
    "subscribe",
    "unsubscribe",
    "variable_length",
]

MAX_PACKET_BYTES: Final = 2 << 20
# Of all packets but PUBLISH, and of the properties beside a payload: far more than any of them needs.
_MAX_OTHER_BYTES: Final = 64 << 10
_MAX_PROPERTIES_BYTES: Final = 16 << 10
_FIRST_BUFFER_BYTES: Final = 320 << 10
_MAX_LENGTH_BYTES: Final = 4

_CONNECT, _CONNACK, _PUBLISH, _PUBACK = 1, 2, 3, 4
_SUBSCRIBE, _SUBACK, _UNSUBSCRIBE, _UNSUBACK, _PINGRESP, _DISCONNECT = 8, 9, 10, 11, 13, 14
UNSUPPORTED_VERSION: Final = 0x84
PINGREQ: Final = b"\xc0\x00"
DISCONNECT: Final = b"\xe0\x00"

_U16 = struct.Struct("!H")
_U32 = struct.Struct("!I")


class PROPERTY(IntEnum):
    """Properties that are read or sent (section 2.2.2.2)."""

    MESSAGE_EXPIRY = 0x02
    RESPONSE_TOPIC = 0x08
    CORRELATION_DATA = 0x09
    SESSION_EXPIRY = 0x11
    SERVER_KEEPALIVE = 0x13
    RECEIVE_MAXIMUM = 0x21
    MAXIMUM_PACKET_SIZE = 0x27
    SHARED_SUBSCRIPTIONS = 0x2A


# How the values of all properties are encoded: a number of bytes, or one of these.
_BINARY, _PAIR, _VARIABLE = -1, -2, -3
_KINDS: Final[dict[int, int]] = {
    **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), 1),
    **dict.fromkeys((0x13, 0x21, 0x22, 0x23), 2),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), 4),
    **dict.fromkeys((0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F), _BINARY),
    0x26: _PAIR,
    0x0B: _VARIABLE,
}

# Section 2.4, those that a client may be answered with.
_REASONS: Final[dict[int, str]] = {
    0x80: "Unspecified error",
    0x81: "Malformed packet",
    0x82: "Protocol error",
    0x83: "Implementation specific error",
    0x84: "Unsupported protocol version",
    0x85: "Client identifier not valid",
    0x86: "Bad user name or password",
    0x87: "Not authorized",
    0x88: "Server unavailable",
    0x89: "Server busy",
    0x8A: "Banned",
    0x8B: "Server shutting down",
    0x8C: "Bad authentication method",
    0x8D: "Keep alive timeout",
    0x8E: "Session taken over",
    0x8F: "Topic filter invalid",
    0x90: "Topic name invalid",
    0x91: "Packet identifier in use",
    0x93: "Receive maximum exceeded",
    0x94: "Topic alias invalid",
    0x95: "Packet too large",
    0x96: "Message rate too high",
    0x97: "Quota exceeded",
    0x98: "Administrative action",
    0x99: "Payload format invalid",
    0x9A: "Retain not supported",
    0x9B: "QoS not supported",
    0x9C: "Use another server",
    0x9D: "Server moved",
    0x9E: "Shared subscription not supported",
    0x9F: "Connection rate exceeded",
    0xA0: "Maximum connect time",
    0xA1: "Subscription identifiers not supported",
    0xA2: "Wildcard subscription not supported",
}


class ProtocolError(ValueError):
    """What came is not MQTT 5, or more than this client takes: the connection cannot go on."""


@dataclass(frozen=True, slots=True)
class Message:
    """What came from the broker. ``retained`` is true for what it had kept from before the subscription."""

    topic: str
    payload: bytes
    retained: bool = False
    correlation: bytes | None = None
    response_topic: str | None = None
    expiry_s: int | None = None


@dataclass(frozen=True, slots=True)
class Connected:
    """CONNACK: whether the broker accepts (``reason`` below 0x80), and what it takes."""

    reason: int
    receive_maximum: int
    maximum_packet_bytes: int
    server_keepalive_s: int | None = None
    shares_subscriptions: bool = True


@dataclass(frozen=True, slots=True)
class Published:
    """PUBLISH; ``message`` is None where it cannot be used. ``packet_id`` is to be acknowledged; None with QoS 0."""

    message: Message | None
    packet_id: int | None


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """PUBACK."""

    packet_id: int
    reason: int


@dataclass(frozen=True, slots=True)
class Subscribed:
    """SUBACK, with a reason for each filter."""

    packet_id: int
    reasons: bytes


@dataclass(frozen=True, slots=True)
class Unsubscribed:
    """UNSUBACK."""


@dataclass(frozen=True, slots=True)
class Pong:
    """PINGRESP."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """DISCONNECT: the broker ends the connection."""

    reason: int


Packet = Connected | Published | Acknowledged | Subscribed | Unsubscribed | Pong | Disconnected


def reason_name(reason: int) -> str:
    """What a reason code of 0x80 or more means."""
    return _REASONS.get(reason, f"Reason 0x{reason:02x}")


def variable_length(value: int) -> bytes:
    """MQTT's variable byte integer (section 1.5.5), of at most 268,435,455."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def connect(
    client_id: str,
    keepalive_s: int,
    *,
    username: str | None = None,
    password: str | None = None,
    will: tuple[str, bytes] | None = None,
) -> bytes:
    """CONNECT (section 3.1): clean start, session expiry 0, packets of at most 2 MiB; the will retained, QoS 1."""
    flags = 0x02 | (0x80 if username is not None else 0) | (0x40 if password is not None else 0)
    properties = struct.pack("!BIBI", PROPERTY.SESSION_EXPIRY, 0, PROPERTY.MAXIMUM_PACKET_SIZE, MAX_PACKET_BYTES)
    payload = _binary(client_id.encode())
    if will is not None:
        flags |= 0x04 | 0x08 | 0x20
        payload += b"\0" + _binary(will[0].encode()) + _binary(will[1])
    for text in (username, password):
        if text is not None:
            payload += _binary(text.encode())
    head = b"\0\x04MQTT\x05" + bytes([flags]) + _U16.pack(keepalive_s)
    body = head + variable_length(len(properties)) + properties + payload
    return bytes([_CONNECT << 4]) + variable_length(len(body)) + body


def publish_header(topic: str, payload_bytes: int, packet_id: int | None, retain: bool, properties: bytes) -> bytes:
    """PUBLISH (section 3.3) up to its payload. ``properties`` begin with their length; empty where there are none."""
    name = topic.encode()
    place = b"" if packet_id is None else _U16.pack(packet_id)
    head = _U16.pack(len(name)) + name + place + (properties or b"\0")
    kind = _PUBLISH << 4 | (0 if packet_id is None else 0x02) | retain
    return bytes([kind]) + variable_length(len(head) + payload_bytes) + head


def puback(packet_id: int) -> bytes:
    """PUBACK of a message that was taken (section 3.4)."""
    return struct.pack("!BBH", _PUBACK << 4, 2, packet_id)


def subscribe(packet_id: int, topic_filter: str, qos: int) -> bytes:
    """SUBSCRIBE to one filter (section 3.8)."""
    body = _U16.pack(packet_id) + b"\0" + _binary(topic_filter.encode()) + bytes([qos])
    return bytes([_SUBSCRIBE << 4 | 0x02]) + variable_length(len(body)) + body


def unsubscribe(packet_id: int, topic_filter: str) -> bytes:
    """UNSUBSCRIBE from one filter (section 3.10)."""
    body = _U16.pack(packet_id) + b"\0" + _binary(topic_filter.encode())
    return bytes([_UNSUBSCRIBE << 4 | 0x02]) + variable_length(len(body)) + body


class Receiver:
    """Makes packets of what a broker sends.

    Read into `room`, say how much came to `received`, then take packets with `next` until it is None. It holds one
    buffer, which grows with a packet whose announced length was found to be allowed, and never beyond that.
    """

    def __init__(self, max_packet_bytes: int = MAX_PACKET_BYTES) -> None:
        self._max_packet_bytes = max_packet_bytes
        self._buffer = bytearray(_FIRST_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        # How long the buffer must be from _start on for the packet that began there.
        self._needed = 0

    def room(self) -> memoryview:
        """Where the next bytes go: at least one."""
        if self._start == self._end:
            self._start = self._end = 0
        if self._start + self._needed > len(self._buffer) or self._end == len(self._buffer):
            rest = bytes(self._view[self._start : self._end])
            if max(self._needed, len(rest) + 1) > len(self._buffer):
                self._buffer = bytearray(max(self._needed, len(rest) + 1))
                self._view = memoryview(self._buffer)
            self._view[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        return self._view[self._end :]

    def received(self, count: int) -> None:
        """So many bytes were written to `room`."""
        self._end += count

    def next(self) -> Packet | None:
        """The next packet that is there as a whole. Raises ProtocolError where the connection cannot go on."""
        head = self._head()
        if head is None:
            return None
        kind, place, length = head
        self._needed = place - self._start + length
        if self._end - self._start < self._needed:
            return None
        body = self._view[place : place + length]
        self._start, self._needed = place + length, 0
        try:
            return _decode(kind, body)
        except (IndexError, struct.error):
            raise ProtocolError(f"a packet of type {kind >> 4} ends too early") from None

    def _head(self) -> tuple[int, int, int] | None:
        """Of the packet that begins: first byte, where its body begins, length; None where that has not come yet."""
        if self._end - self._start < 2:
            return None
        kind, length = self._buffer[self._start], 0
        for at in range(_MAX_LENGTH_BYTES):
            place = self._start + 1 + at
            if place >= self._end:
                return None
            byte = self._buffer[place]
            length |= (byte & 0x7F) << 7 * at
            if byte < 0x80:
                break
        else:
            raise ProtocolError("a packet's length has more than four bytes")
        limit = self._max_packet_bytes if kind >> 4 == _PUBLISH else _MAX_OTHER_BYTES
        if length > limit:
            raise ProtocolError(f"a packet of type {kind >> 4} has {length} bytes; at most {limit} are taken")
        return kind, place + 1, length


def _decode(kind: int, body: memoryview) -> Packet:
    packet_type = kind >> 4
    if packet_type == _PUBLISH:
        return _published(kind & 0x0F, body)
    if packet_type == _PUBACK:
        return Acknowledged(_U16.unpack_from(body)[0], body[2] if len(body) > 2 else 0)
    if packet_type == _CONNACK:
        return _connected(body)
    if packet_type == _SUBACK:
        length, after = _variable(body, 2)
        return Subscribed(_U16.unpack_from(body)[0], bytes(body[after + length :]))
    if packet_type == _UNSUBACK:
        return Unsubscribed()
    if packet_type == _PINGRESP:
        return Pong()
    if packet_type == _DISCONNECT:
        return Disconnected(body[0] if body else 0)
    raise ProtocolError(f"a packet of type {kind >> 4}, which no broker sends to this client")


def _published(flags: int, body: memoryview) -> Published:
    qos = flags >> 1 & 3
    if qos > 1:
        raise ProtocolError(f"a message with QoS {qos}, which was not asked for")
    after = 2 + _U16.unpack_from(body)[0]
    name, packet_id = body[2:after], None
    if qos:
        (packet_id,) = _U16.unpack_from(body, after)
        after += 2
    length, start = _variable(body, after)
    stop = start + length
    if stop > len(body):
        raise ProtocolError("a message whose properties are longer than it is")
    if length > _MAX_PROPERTIES_BYTES:
        return Published(None, packet_id)
    found = _properties(body[start:stop])
    answer_to = found.get(PROPERTY.RESPONSE_TOPIC)
    beside = found.get(PROPERTY.CORRELATION_DATA)
    expiry = found.get(PROPERTY.MESSAGE_EXPIRY)
    try:
        message = Message(
            str(name, "utf-8"),
            bytes(body[stop:]),
            bool(flags & 1),
            None if beside is None else bytes(beside),
            None if answer_to is None else str(answer_to, "utf-8"),
            None if expiry is None else int.from_bytes(expiry),
        )
    except UnicodeDecodeError:
        return Published(None, packet_id)
    return Published(message, packet_id)


def _connected(body: memoryview) -> Connected:
    reason = body[1]
    if len(body) == 2 and reason == 1:  # MQTT 3.1.1's word for a version that it does not speak
        return Connected(UNSUPPORTED_VERSION, 0xFFFF, MAX_PACKET_BYTES)
    length, start = _variable(body, 2)
    found = _properties(body[start : start + length])
    receive = _number(found, PROPERTY.RECEIVE_MAXIMUM, 0xFFFF)
    packet = _number(found, PROPERTY.MAXIMUM_PACKET_SIZE, MAX_PACKET_BYTES)
    if not receive or not packet:
        raise ProtocolError("the broker takes nothing: its receive maximum or maximum packet size is 0")
    keepalive = found.get(PROPERTY.SERVER_KEEPALIVE)
    return Connected(
        reason,
        receive,
        packet,
        None if keepalive is None else int.from_bytes(keepalive),
        bool(_number(found, PROPERTY.SHARED_SUBSCRIPTIONS, 1)),
    )


def _properties(data: memoryview) -> dict[int, memoryview]:
    """The values by identifier, without user properties and subscription identifiers, which may come several times."""
    found: dict[int, memoryview] = {}
    at = 0
    while at < len(data):
        name, at = data[at], at + 1
        kind = _KINDS.get(name)
        if kind is None:
            raise ProtocolError(f"a property 0x{name:02x}, which MQTT 5 does not know")
        if kind == _VARIABLE:
            _, at = _variable(data, at)
            continue
        if kind > 0:
            start = at
            at += kind
        else:
            start = at + 2
            at = start + _U16.unpack_from(data, at)[0]
            if kind == _PAIR:
                at += 2 + _U16.unpack_from(data, at)[0]
        if at > len(data):
            raise ProtocolError(f"a property 0x{name:02x} that is longer than all of them")
        if kind != _PAIR and name in found:
            raise ProtocolError(f"a property 0x{name:02x} that comes twice")
        if kind != _PAIR:
            found[name] = data[start:at]
    return found


def _variable(data: memoryview, at: int) -> tuple[int, int]:
    """A variable byte integer, and where it ends."""
    value = 0
    for place in range(_MAX_LENGTH_BYTES):
        byte = data[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ProtocolError("a number of more than four bytes")


def _number(found: dict[int, memoryview], name: int, default: int) -> int:
    value = found.get(name)
    return default if value is None else int.from_bytes(value)


def _binary(data: bytes) -> bytes:
    return _U16.pack(len(data)) + data
