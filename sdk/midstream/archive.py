"""The slices of a bundle, unpacked once when the first of them is needed, and never to more than was announced."""

from __future__ import annotations

import lzma
import tarfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

from midstream.errors import BundleError

# What is unpacked stays in memory up to this size, else in a temporary file without a name.
_IN_MEMORY_BYTES = 2 << 20
_STEP_BYTES = 1 << 20
_MAX_DECODER_BYTES = 256 << 20


class Archive:
    """A ``.tar.xz`` file, for any thread."""

    def __init__(self, path: Path, unpacked_bytes: int) -> None:
        self._path = path
        self._unpacked_bytes = unpacked_bytes
        self._lock = threading.Lock()
        self._unpacked: BinaryIO | None = None
        self._places: dict[str, tuple[int, int]] = {}

    def read(self, member: str, limit: int) -> bytes:
        """One member of at most ``limit`` bytes. Raises BundleError where it is missing, larger, or damaged."""
        with self._lock:
            if self._unpacked is None:
                self._unpack()
            offset, size = self._places.get(member, (0, limit + 1))
            if self._unpacked is None or size > limit:
                raise BundleError(f"{self._path} lacks the slice {member!r}; convert the model again")
            self._unpacked.seek(offset)
            return self._unpacked.read(size)

    def _unpack(self) -> None:
        unpacked = cast("BinaryIO", SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES))  # noqa: SIM115  closed with self
        weakref.finalize(self, unpacked.close)
        try:
            with self._path.open("rb") as packed:
                _decompress(packed, unpacked, self._unpacked_bytes)
            unpacked.seek(0)
            with tarfile.open(fileobj=unpacked, mode="r:") as archive:
                self._places = {entry.name: (entry.offset_data, entry.size) for entry in _members(archive)}
        except (OSError, EOFError, ValueError, lzma.LZMAError, tarfile.TarError) as error:
            raise BundleError(f"{self._path} cannot be unpacked: {error}; convert the model again") from None
        self._unpacked = unpacked


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The files in the archive. Raises TarError for anything else, and for a size that leads back into it."""
    for entry in archive:
        if entry.type not in tarfile.REGULAR_TYPES or entry.size < 0:
            raise tarfile.TarError(f"{entry.name!r} is not a plain file")
        yield entry


def _decompress(packed: BinaryIO, unpacked: BinaryIO, limit: int) -> None:
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_DECODER_BYTES)
    written = 0
    while not decoder.eof:
        more = packed.read(_STEP_BYTES) if decoder.needs_input else b""
        if decoder.needs_input and not more:
            raise EOFError("it ends early")
        piece = decoder.decompress(more, max_length=_STEP_BYTES)
        written += len(piece)
        if written > limit:
            raise lzma.LZMAError(f"it holds more than the {limit} bytes its manifest announces")
        unpacked.write(piece)
