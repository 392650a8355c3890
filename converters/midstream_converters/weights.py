"""Every weight once: ``weights.bin`` in the making, addressed by what it holds."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from midstream.manifest import WEIGHT_ALIGNMENT

_PIECE_BYTES = 1 << 20
_HOLE = bytes(_PIECE_BYTES)


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
    """Writes weights to a file, each kept once and aligned to ``WEIGHT_ALIGNMENT`` bytes; none stays in memory.

    What was added is in the file at once, so that a runtime can read it while more is added. Thread-safe.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ranges: dict[bytes, WeightRange] = {}
        self._file: BinaryIO = path.open("wb")
        self._end = 0
        self._lock = threading.Lock()

    def __enter__(self) -> WeightStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, data: bytes | memoryview) -> WeightRange:
        """Where this weight lies, after adding it if it is new."""
        return self._place(hashlib.sha256(data).digest(), len(data), (data,))

    def add_range(self, source: Path, offset: int, length: int) -> WeightRange:
        """The same for a part of another file, piece by piece. Raises OSError, EOFError where the file ends early."""
        digest = hashlib.sha256()
        for piece in _pieces(source, offset, length):
            digest.update(piece)
        return self._place(digest.digest(), length, _pieces(source, offset, length))

    def _place(self, key: bytes, length: int, pieces: Iterable[bytes | memoryview]) -> WeightRange:
        with self._lock:
            known = self._ranges.get(key)
            if known is None:
                known = WeightRange(self._end, length)
                self._file.seek(self._end)
                for piece in pieces:
                    # Pieces of zeros stay holes in the file, where the file system knows such a thing.
                    if piece == _HOLE:
                        self._file.seek(len(piece), 1)
                    else:
                        self._file.write(piece)
                self._end += known.padded
                self._file.truncate(self._end)
                self._file.flush()
                self._ranges[key] = known
            return known


def merge_ranges(ranges: Iterable[WeightRange]) -> tuple[tuple[int, int], ...]:
    """The ranges in order of offset as (offset, padded length), neighbours joined."""
    merged: list[list[int]] = []
    for part in sorted(set(ranges), key=lambda part: part.offset):
        if merged and merged[-1][0] + merged[-1][1] == part.offset:
            merged[-1][1] += part.padded
        else:
            merged.append([part.offset, part.padded])
    return tuple((offset, length) for offset, length in merged)


def _pieces(source: Path, offset: int, length: int) -> Iterator[bytes]:
    with source.open("rb") as file:
        file.seek(offset)
        while length > 0:
            piece = file.read(min(_PIECE_BYTES, length))
            if not piece:
                raise EOFError(f"{source} ends early")
            length -= len(piece)
            yield piece
