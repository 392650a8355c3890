"""Fuzz the MQTT client: ``python -m hostile.mqtt [--frames N] [--seed N]``. What a broker sends is taken or refused."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from random import Random, SystemRandom

from hostile.damage import damaged_bytes
from midstream.communication import mqtt
from midstream.communication.outbox import pack_properties

MAX_BYTES = 64 << 10


def _sources() -> list[bytes]:
    beside = pack_properties(bytes(16), "midstream/1/dev/d/rep/g", 30)
    more = bytes.fromhex("01 00 03 0001 61 0b 8001 0b 01 26 0001 61 0001 62") + b"\x09\0\x02ab"
    answer = bytes.fromhex("21 0014 27 00100000 13 000a 22 000a 26 0001 61 0001 62 12 0001 78 24 01 2a 01")
    return [
        mqtt.publish_header("midstream/1/gw/g/req/d", 40, 7, False, beside) + bytes(40),
        mqtt.publish_header("midstream/presence/gw", 300, None, True, mqtt.variable_length(len(more)) + more)
        + bytes(300),
        b"\x20" + bytes([3 + len(answer)]) + b"\0\0" + bytes([len(answer)]) + answer,
        bytes.fromhex("40 02 0007"),
        bytes.fromhex("40 04 0008 87 00"),
        bytes.fromhex("90 05 0009 00 01 87"),
        bytes.fromhex("d0 00"),
        bytes.fromhex("e0 02 8e 00"),
    ]


def run(frames: int, seed: int) -> Counter[str]:
    """Read at least so many packets; counts by what became of them. Names the bytes that raised something else."""
    random, sources = Random(seed), _sources()
    counts: Counter[str] = Counter()
    receiver = mqtt.Receiver(MAX_BYTES)
    while counts.total() < frames:
        data = random.choice(sources)
        if random.random() < 0.8:
            data = damaged_bytes(data, random)
        try:
            _feed(receiver, data, counts, random)
        except mqtt.ProtocolError:
            counts["refused"] += 1
            receiver = mqtt.Receiver(MAX_BYTES)
        except Exception as error:
            raise AssertionError(f"seed {seed}, packet {counts.total()}: {data.hex()}") from error
    return counts


def _feed(receiver: mqtt.Receiver, data: bytes, counts: Counter[str], random: Random) -> None:
    while data:
        room = receiver.room()
        assert len(room) <= MAX_BYTES + (320 << 10)
        count = min(len(room), len(data), random.choice((1, 5, 1000)))
        room[:count] = data[:count]
        receiver.received(count)
        data = data[count:]
        while (packet := receiver.next()) is not None:
            dropped = isinstance(packet, mqtt.Published) and packet.message is None
            counts["dropped" if dropped else type(packet).__name__] += 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="hostile.mqtt", description="Fuzz the MQTT client.")
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    options = parser.parse_args()
    seed = SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    counts = run(options.frames, seed)
    print(f"seed {seed}: " + ", ".join(f"{what} {count}" for what, count in sorted(counts.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
