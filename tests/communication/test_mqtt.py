"""MQTT 5 packets: as the standard has them, however they are cut, and bounded whatever a broker sends."""

from __future__ import annotations

import tracemalloc

import pytest
from hostile.mqtt import run
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from midstream.communication import mqtt
from midstream.communication.outbox import pack_properties

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0+#"), min_size=1, max_size=40)


def packets(data: bytes, cuts: list[int] | None = None, max_packet_bytes: int = 1 << 20) -> list[mqtt.Packet]:
    """What comes out when this comes in, a piece at a time."""
    receiver, found, at = mqtt.Receiver(max_packet_bytes), [], 0
    for cut in [*sorted(min(place, len(data)) for place in cuts or ()), len(data)]:
        while at < cut:
            room = receiver.room()
            count = min(len(room), cut - at)
            room[:count] = data[at : at + count]
            receiver.received(count)
            at += count
            while (packet := receiver.next()) is not None:
                found.append(packet)
    return found


@given(
    TEXT,
    st.binary(max_size=2000),
    st.one_of(st.none(), st.integers(1, 0xFFFF)),
    st.booleans(),
    st.one_of(st.none(), st.binary(max_size=20)),
    st.one_of(st.none(), TEXT),
    st.one_of(st.none(), st.integers(0, 0xFFFF_FFFF)),
    st.lists(st.integers(0, 2500), max_size=8),
)
def test_a_message_comes_out_as_it_went_in_however_it_is_cut(
    topic: str,
    payload: bytes,
    packet_id: int | None,
    retain: bool,
    correlation: bytes | None,
    response: str | None,
    expiry_s: int | None,
    cuts: list[int],
) -> None:
    beside = pack_properties(correlation, response, expiry_s)
    data = mqtt.publish_header(topic, len(payload), packet_id, retain, beside) + payload
    message = mqtt.Message(topic, payload, retain, correlation, response, expiry_s)
    assert packets(data * 3, cuts) == [mqtt.Published(message, packet_id)] * 3


def test_connect_is_what_another_implementation_sends() -> None:
    written = bytearray()

    class Other(Client):
        def _packet_queue(self, command: int, packet: bytes, mid: int, qos: int, info: object = None) -> int:
            written.extend(packet)
            return 0

    for username, password, will in (
        (None, None, None),
        ("kitchen", "hunter2", ("a/b", b"gone")),
        ("kitchen", None, ("a/b", b"")),
    ):
        written.clear()
        other = Other(CallbackAPIVersion.VERSION2, "ä", protocol=5)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 0
        properties.MaximumPacketSize = mqtt.MAX_PACKET_BYTES
        other._connect_properties, other._clean_start = properties, True
        if username is not None:
            other.username_pw_set(username, password)
        if will is not None:
            other.will_set(*will, qos=1, retain=True)
        other._send_connect(7)
        assert mqtt.connect("ä", 7, username=username, password=password, will=will) == bytes(written)


def test_what_else_is_sent_is_as_in_the_standard() -> None:
    assert mqtt.subscribe(10, "a/b", 1) == bytes.fromhex("82 09 000a 00 0003 612f62 01")
    assert mqtt.unsubscribe(10, "a/b") == bytes.fromhex("a2 08 000a 00 0003 612f62")
    assert mqtt.puback(0x1234) == bytes.fromhex("40 02 1234")
    assert bytes.fromhex("c000") == mqtt.PINGREQ
    assert bytes.fromhex("e000") == mqtt.DISCONNECT
    for value, encoded in ((0, "00"), (127, "7f"), (128, "8001"), (16_384, "808001"), (268_435_455, "ffffff7f")):
        assert mqtt.variable_length(value) == bytes.fromhex(encoded)


def test_what_a_broker_answers_is_understood() -> None:
    beside = bytes.fromhex("21 0014 27 00100000 13 000a 22 000a 26 0001 61 0001 62 12 0001 78 2a 00")
    answer = b"\x20" + bytes([3 + len(beside)]) + b"\0\0" + bytes([len(beside)]) + beside
    rest = bytes.fromhex("40 02 0007  40 03 0008 87  90 05 0009 00 01 87  b0 04 000a 00 00  d0 00  e0 01 8e  e0 00")
    assert packets(answer + rest) == [
        mqtt.Connected(0, 20, 1 << 20, 10, False),
        mqtt.Acknowledged(7, 0),
        mqtt.Acknowledged(8, 0x87),
        mqtt.Subscribed(9, b"\x01\x87"),
        mqtt.Unsubscribed(),
        mqtt.Pong(),
        mqtt.Disconnected(0x8E),
        mqtt.Disconnected(0),
    ]
    assert packets(bytes.fromhex("20 02 00 01")) == [mqtt.Connected(0x84, 0xFFFF, mqtt.MAX_PACKET_BYTES)]
    assert mqtt.reason_name(0x87) == "Not authorized"
    assert mqtt.reason_name(0xEE) == "Reason 0xee"


@pytest.mark.parametrize(
    "data",
    [
        "20 02 00 05",  # CONNACK without properties
        "20 06 00 00 03 21 0000",  # a broker that takes nothing
        "20 05 00 00 02 77 00",  # an unknown property
        "20 09 00 00 06 21 0001 21 0002",  # one that comes twice
        "20 05 00 00 03 21 00",  # one that ends too early
        "32 03 0001 61",  # PUBLISH without its packet id
        "30 04 0001 61 05",  # properties beyond its end
        "34 06 0001 61 0001 00",  # QoS 2
        "30 ff ff ff ff 01",  # a length of five bytes
        "30 ff ff ff 7f",  # a message of 268 MB
        "90 ff ff 7f",  # anything else that is large
        "10 00",  # CONNECT, from a broker
        "50 02 0001",  # PUBREC
        "40 01 00",
    ],
)
def test_what_is_not_mqtt_ends_the_connection(data: str) -> None:
    with pytest.raises(mqtt.ProtocolError):
        packets(bytes.fromhex(data))


def test_what_another_client_caused_costs_the_message_only() -> None:
    good = mqtt.publish_header("a", 1, 2, False, b"") + b"x"
    no_text = bytes.fromhex("32 07 0002 ff61 0001 00")
    user = b"\x26\0\x01a\0\x01b" * 3000
    crowded = mqtt.publish_header("a", 0, 3, False, mqtt.variable_length(len(user)) + user)
    wrong_answer = mqtt.publish_header("a", 0, 4, False, b"\x05\x08\0\x02\xff\xff")
    found = packets(no_text + crowded + wrong_answer + good)
    assert found[:3] == [mqtt.Published(None, packet_id) for packet_id in (1, 3, 4)]
    assert found[3] == mqtt.Published(mqtt.Message("a", b"x"), 2)


def test_an_announced_length_takes_memory_only_where_it_is_allowed() -> None:
    allowed = b"\x30" + mqtt.variable_length(1 << 20)
    tracemalloc.start()
    receiver = mqtt.Receiver(max_packet_bytes=1 << 20)
    receiver.room()[: len(allowed)] = allowed
    receiver.received(len(allowed))
    assert receiver.next() is None
    assert len(receiver.room()) == 1 << 20
    with pytest.raises(mqtt.ProtocolError):
        packets(b"\x30" + mqtt.variable_length((1 << 20) + 1))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 << 20


def test_large_and_small_ones_pass_through_one_buffer() -> None:
    parts = [bytes([size % 251]) * size for size in (10, 900_000, 40, 300_000, 300_000, 5)]
    data = b"".join(mqtt.publish_header("t", len(part), None, False, b"") + part for part in parts)
    found = packets(data, list(range(0, len(data), 70_001)))
    assert [one.message.payload for one in found if isinstance(one, mqtt.Published) and one.message] == parts


def test_hostile_packets_are_refused_in_bounded_memory() -> None:
    run(100, 0)  # what is loaded once
    tracemalloc.start()
    counts = run(5000, 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 << 20
    assert counts["refused"] > 500
    assert counts["Published"] > 500
    assert counts["dropped"]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_million_hostile_packets_raise_nothing_else() -> None:
    assert run(1_000_000, 2).total() >= 1_000_000
