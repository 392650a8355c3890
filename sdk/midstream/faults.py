"""What a bad radio link does to MQTT messages, as pure decisions: dropped, doubled, out of order, with flipped bits.

TCP hides losses, so a link is only as bad as it can be where whole PUBLISH packets are lost above it. Every other
packet passes as it is, so the stream that comes out is valid MQTT 5.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from midstream.communication.mqtt import variable_length
from midstream.errors import InputError

_PUBLISH, _PUBACK = 3, 4
# A message that is overtaken waits for at most so many others.
_MOST_OVERTAKING = 4
_MOST_FLIPPED_BITS = 8


@dataclass(frozen=True, slots=True)
class FaultMix:
    """The shares, 0 to 1, of PUBLISH packets that are dropped, sent twice, overtaken, and damaged in their payload.

    Raises InputError for a share outside that.
    """

    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    flip: float = 0.0

    def __post_init__(self) -> None:
        for name in ("drop", "duplicate", "reorder", "flip"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise InputError(f"the share of messages to {name} is {share:g}; it takes 0 to 1")


@dataclass(slots=True)
class FaultCounts:
    """How many PUBLISH packets came, and what was done to how many of them."""

    messages: int = 0
    dropped: int = 0
    duplicated: int = 0
    reordered: int = 0
    flipped: int = 0


@dataclass(frozen=True, slots=True)
class Passed:
    """What goes on to the receiver instead of a packet, and what its sender gets for it, if anything."""

    onward: list[bytes]
    answer: bytes = b""


class Dice:
    """Decides which messages of one direction suffer what: one sequence of random numbers for each fault."""

    def __init__(self, mix: FaultMix, seed: int) -> None:
        self.mix = mix
        self.counts = FaultCounts()
        self._random = {name: Random(f"{name} {seed}") for name in ("drop", "duplicate", "reorder", "flip")}  # noqa: S311

    def falls(self, fault: str) -> bool:
        """Whether this fault happens to the next message."""
        return self._random[fault].random() < float(getattr(self.mix, fault))

    def below(self, fault: str, stop: int) -> int:
        """A number from 0 up to, not including, ``stop``."""
        return self._random[fault].randrange(stop)


class Packets:
    """Cuts a stream of bytes into MQTT packets."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The packets that are whole with these bytes; raises ValueError where the stream is not MQTT."""
        self._rest += data
        packets = []
        while (size := _packet_bytes(self._rest)) and len(self._rest) >= size:
            packets.append(bytes(self._rest[:size]))
            del self._rest[:size]
        return packets


@dataclass(slots=True)
class _Held:
    packet: bytes
    others: int


@dataclass(slots=True)
class Scrambler:
    """One direction of one connection: packets in, packets out. Not thread-safe."""

    dice: Dice
    _held: list[_Held] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether a message waits to be overtaken: `release` it after a while in any case."""
        return bool(self._held)

    def passed(self, packet: bytes) -> Passed:
        """What becomes of a packet. A dropped one of QoS 1 is acknowledged, so that nobody sends it again."""
        if packet[0] >> 4 != _PUBLISH:
            return Passed([packet])
        counts, dice = self.dice.counts, self.dice
        counts.messages += 1
        overtaken = self._overtaken()
        if dice.falls("drop"):
            counts.dropped += 1
            return Passed(overtaken, _acknowledgement(packet))
        if dice.falls("flip") and (damaged := self._damaged(packet)) is not None:
            counts.flipped += 1
            packet = damaged
        copies = [packet]
        if dice.falls("duplicate"):
            counts.duplicated += 1
            copies.append(_unacknowledged(packet))
        if dice.falls("reorder"):
            counts.reordered += 1
            others = 1 + dice.below("reorder", _MOST_OVERTAKING)
            self._held += [_Held(copy, others) for copy in copies]
            return Passed(overtaken)
        return Passed(copies + overtaken)

    def release(self) -> list[bytes]:
        """Whatever waits to be overtaken."""
        held, self._held = self._held, []
        return [one.packet for one in held]

    def _overtaken(self) -> list[bytes]:
        for one in self._held:
            one.others -= 1
        done = [one.packet for one in self._held if one.others <= 0]
        self._held = [one for one in self._held if one.others > 0]
        return done

    def _damaged(self, packet: bytes) -> bytes | None:
        """The packet with up to eight bits of its payload flipped; None where there is no payload."""
        start = _Publish.of(packet).payload
        if start == len(packet):
            return None
        damaged = bytearray(packet)
        for _ in range(1 + self.dice.below("flip", _MOST_FLIPPED_BITS)):
            bit = self.dice.below("flip", 8 * (len(packet) - start))
            damaged[start + bit // 8] ^= 1 << bit % 8
        # Two of them may have been the same.
        return bytes(damaged) if damaged != packet else self._damaged(packet)


@dataclass(frozen=True, slots=True)
class _Publish:
    """Where the parts of a PUBLISH packet begin (section 3.3 of the MQTT 5 standard)."""

    body: int
    packet_id: int
    properties: int
    payload: int

    @classmethod
    def of(cls, packet: bytes) -> _Publish:
        body = 1 + _varint(packet, 1)[1]
        packet_id = body + 2 + int.from_bytes(packet[body : body + 2], "big")
        properties = packet_id + (2 if packet[0] & 0x06 else 0)
        size, width = _varint(packet, properties)
        return cls(body, packet_id, properties, properties + width + size)


def _acknowledgement(packet: bytes) -> bytes:
    if not packet[0] & 0x06:
        return b""
    start = _Publish.of(packet).packet_id
    return bytes([_PUBACK << 4, 2]) + packet[start : start + 2]


def _unacknowledged(packet: bytes) -> bytes:
    """The same message with QoS 0, which a second copy needs: nobody waits for its acknowledgement."""
    if not packet[0] & 0x06:
        return packet
    at = _Publish.of(packet)
    body = packet[at.body : at.packet_id] + packet[at.properties :]
    return bytes([packet[0] & 0xF1]) + variable_length(len(body)) + body


def _packet_bytes(data: bytearray) -> int:
    """The length of the packet that these bytes begin; 0 where that is not there yet."""
    if len(data) < 2 or (all(byte & 0x80 for byte in data[1:5]) and len(data) < 5):
        return 0
    size, width = _varint(data, 1)
    return 1 + width + size


def _varint(data: bytes | bytearray, start: int) -> tuple[int, int]:
    """A variable byte integer (section 1.5.5), and how many bytes it takes."""
    value = 0
    for place, byte in enumerate(data[start : start + 4]):
        value |= (byte & 0x7F) << 7 * place
        if not byte & 0x80:
            return value, place + 1
    raise ValueError("this is no MQTT: a variable byte integer does not end")
