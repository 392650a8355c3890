"""Faults of MQTT messages: what comes out is valid MQTT 5, and nothing but what was asked for happens to it."""

from __future__ import annotations

import pytest

from midstream.communication.outbox import pack_properties
from midstream.errors import InputError
from midstream.faults import Dice, FaultMix, Packets, Scrambler

CONNECT = b"\x10\x02\x00\x00"


def publish(payload: bytes, qos: int = 1, packet_id: int = 7, topic: bytes = b"a/b") -> bytes:
    """A PUBLISH packet, written from section 3.3 of the standard."""
    properties = pack_properties(bytes(16), None, 5) or b"\0"
    body = len(topic).to_bytes(2, "big") + topic + (packet_id.to_bytes(2, "big") if qos else b"") + properties + payload
    size, length = len(body), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([0x30 | qos << 1]) + bytes(length) + bytes([size]) + body


def test_packets_are_found_however_the_stream_is_cut() -> None:
    sent = [CONNECT, publish(b"x" * 10), publish(b"y" * 300, 0), publish(b"z" * 20_000), b"\xc0\x00"]
    stream = b"".join(sent)
    for size in (1, 2, 3, 7, 1000, len(stream)):
        packets = Packets()
        found = [packet for at in range(0, len(stream), size) for packet in packets.feed(stream[at : at + size])]
        assert found == sent


def test_what_is_no_mqtt_is_refused() -> None:
    with pytest.raises(ValueError, match="no MQTT"):
        Packets().feed(b"\x30\xff\xff\xff\xff\xff")


def test_without_faults_everything_passes() -> None:
    scrambler = Scrambler(Dice(FaultMix(), 0))
    for packet in (CONNECT, publish(b"1"), publish(b"", 0)):
        assert scrambler.passed(packet).onward == [packet]
    assert scrambler.dice.counts.messages == 2


def test_a_dropped_message_is_acknowledged_where_somebody_waits_for_that() -> None:
    scrambler = Scrambler(Dice(FaultMix(drop=1), 0))
    lost = scrambler.passed(publish(b"x", packet_id=0x1234))
    assert (lost.onward, lost.answer) == ([], b"\x40\x02\x12\x34")
    lost = scrambler.passed(publish(b"x", 0))
    assert (lost.onward, lost.answer) == ([], b"")
    assert scrambler.passed(CONNECT).onward == [CONNECT]
    assert scrambler.dice.counts.dropped == 2


@pytest.mark.parametrize("size", [1, 110, 120, 127, 128, 16_380, 100_000])
def test_a_copy_waits_for_no_acknowledgement(size: int) -> None:
    scrambler = Scrambler(Dice(FaultMix(duplicate=1), 0))
    assert scrambler.passed(publish(b"x" * size)).onward == [publish(b"x" * size), publish(b"x" * size, 0)]
    assert scrambler.passed(publish(b"x" * size, 0)).onward == [publish(b"x" * size, 0)] * 2


def test_bits_flip_in_the_payload_alone() -> None:
    scrambler = Scrambler(Dice(FaultMix(flip=1), 0))
    payload = bytes(range(40))
    whole = publish(payload)
    for _ in range(200):
        (damaged,) = scrambler.passed(whole).onward
        assert damaged[: -len(payload)] == whole[: -len(payload)]
        assert len(damaged) == len(whole)
        flipped = sum((a ^ b).bit_count() for a, b in zip(damaged, whole, strict=True))
        assert 1 <= flipped <= 8
    assert scrambler.passed(publish(b"")).onward == [publish(b"")]
    assert scrambler.dice.counts.flipped == 200


def test_messages_overtake_and_none_is_lost() -> None:
    scrambler = Scrambler(Dice(FaultMix(reorder=0.3), 1))
    sent = [publish(bytes([number])) for number in range(100)]
    came = [packet for packet in sent for packet in scrambler.passed(packet).onward] + scrambler.release()
    assert came != sent
    assert sorted(came) == sorted(sent)
    assert max(abs(came.index(packet) - place) for place, packet in enumerate(sent)) <= 8
    assert not scrambler.holds


def test_each_fault_has_its_own_dice() -> None:
    def dropped(mix: FaultMix) -> list[bool]:
        scrambler = Scrambler(Dice(mix, 5))
        return [not scrambler.passed(publish(b"x")).onward for _ in range(300)]

    alone = dropped(FaultMix(drop=0.2))
    assert alone == dropped(FaultMix(drop=0.2, duplicate=0.5, flip=0.5))
    assert 30 < sum(alone) < 90


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_shares_are_shares(share: float) -> None:
    with pytest.raises(InputError, match="takes 0 to 1"):
        FaultMix(flip=share)
