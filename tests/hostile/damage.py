"""Damage bytes. Pure but for the source of randomness."""

from __future__ import annotations

from random import Random

INTEGERS = (0, 1, -1, 2, 3, 5, 7, 16, 64, 127, 128, 255, -128, 10**4, 10**6, 1 << 30, (1 << 31) - 1, -(1 << 31))


def damaged_bytes(data: bytes, random: Random) -> bytes:
    """Bytes changed, cut off, left out, repeated or put elsewhere."""
    damaged = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        at, other = random.randrange(len(damaged) + 1), random.randrange(len(damaged) + 1)
        length = random.choice((1, 2, 4, 8, 64))
        change = random.randrange(6)
        if change < 2 and at < len(damaged):
            damaged[at] = random.choice((0, 1, 2, 127, 128, 255, damaged[at] ^ (1 << random.randrange(8))))
        elif change == 2:
            damaged[at : at + 4] = (random.choice(INTEGERS) & 0xFFFFFFFF).to_bytes(4, "little")
        elif change == 3:
            damaged[at : at + length] = damaged[other : other + length]
        elif change == 4:
            del damaged[at : at + length]
        elif at > 8:
            del damaged[at:]
        if not damaged:
            break
    return bytes(damaged)
