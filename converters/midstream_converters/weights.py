"""Every weight once: the content of ``weights.bin``, addressed by what it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from midstream.manifest import WEIGHT_ALIGNMENT


@dataclass(frozen=True, slots=True)
class WeightRange:
    """Where a weight lies in ``weights.bin``."""

    offset: int
    length: int

    @property
    def padded(self) -> int:
        """Its length with the padding behind it."""
        return self.length + -self.length % WEIGHT_ALIGNMENT


class WeightStore:
    """Collects weights, each kept once and aligned to ``WEIGHT_ALIGNMENT`` bytes."""

    def __init__(self) -> None:
        self._ranges: dict[bytes, WeightRange] = {}
        self._parts: list[bytes] = []
        self._end = 0

    def add(self, data: bytes) -> WeightRange:
        """Where this weight lies, after adding it if it is new."""
        key = hashlib.sha256(data).digest()
        known = self._ranges.get(key)
        if known is None:
            known = WeightRange(self._end, len(data))
            self._ranges[key] = known
            self._parts.append(data + bytes(known.padded - known.length))
            self._end += known.padded
        return known

    def content(self) -> bytes:
        """The whole file."""
        return b"".join(self._parts)


def merge_ranges(ranges: Iterable[WeightRange]) -> tuple[tuple[int, int], ...]:
    """The ranges in order of offset as (offset, padded length), neighbours joined."""
    merged: list[list[int]] = []
    for part in sorted(set(ranges), key=lambda part: part.offset):
        if merged and merged[-1][0] + merged[-1][1] == part.offset:
            merged[-1][1] += part.padded
        else:
            merged.append([part.offset, part.padded])
    return tuple((offset, length) for offset, length in merged)
