"""Chunks: a message as MQTT payloads of at most 256 KiB, and back.

All chunks of a message but the last carry the same number of bytes, so a chunk's place follows from its
index. The header repeats the message's last four bytes, its CRC-32: so the chunks of a request that is sent
again, with less time remaining, are never mixed with those of the first attempt.
"""

from __future__ import annotations

import struct
import zlib
from collections import defaultdict
from dataclasses import dataclass, field

from midstream.communication.wire import REQUEST_ID_BYTES, WIRE_VERSION, WIRE_VERSIONS
from midstream.errors import WireError

CHUNK_BYTES = 256 << 10

_MAGIC = b"MC"
_PREFIX = struct.Struct("<2sBB")
_HEADER = struct.Struct("<2sBB16sHHI4s")
_CRC = struct.Struct("<I")
OVERHEAD_BYTES = _HEADER.size + _CRC.size
MIN_PART_BYTES = 1024
# Equal parts are at least half as large as there is room for.
MIN_CHUNK_BYTES = 2 * MIN_PART_BYTES + OVERHEAD_BYTES
_TAG_BYTES = 4
_MAX_CHUNKS = 0xFFFF
_MAX_TOTAL = 0xFFFF_FFFF


@dataclass(slots=True)
class _Partial:
    """A half-finished message; the parts are views of the chunks that brought them."""

    count: int
    total: int
    tag: bytes
    parts: dict[int, memoryview] = field(default_factory=dict)


def split(message: bytes, request_id: bytes, chunk_bytes: int = CHUNK_BYTES) -> list[bytes]:
    """The chunks of a message, in order, each of at most ``chunk_bytes`` (2,084 bytes to 256 KiB).

    Raises WireError where the message has fewer than 4 or more than 2³²-1 bytes, or needs more than 65,535
    chunks.
    """
    total = len(message)
    room = chunk_bytes - OVERHEAD_BYTES
    if len(request_id) != REQUEST_ID_BYTES:
        raise WireError(f"request id has {len(request_id)} bytes, needed {REQUEST_ID_BYTES}")
    if not MIN_CHUNK_BYTES <= chunk_bytes <= CHUNK_BYTES:
        raise WireError(
            f"chunks of {chunk_bytes} bytes; {MIN_CHUNK_BYTES} to {CHUNK_BYTES} are possible, so have the broker take "
            "at least so much at once"
        )
    count = -(-total // room)
    if not _TAG_BYTES <= total <= _MAX_TOTAL or count > _MAX_CHUNKS:
        raise WireError(f"message of {total} bytes cannot be sent in chunks of {chunk_bytes} bytes")
    size = -(-total // count)
    view = memoryview(message)
    tag = bytes(view[-_TAG_BYTES:])
    chunks = []
    for index in range(count):
        header = _HEADER.pack(_MAGIC, WIRE_VERSION, 0, request_id, index, count, total, tag)
        part = view[index * size : (index + 1) * size]
        crc = zlib.crc32(part, zlib.crc32(header))
        chunks.append(b"".join((header, part, _CRC.pack(crc))))
    return chunks


class Reassembler:
    """Puts the chunks of many senders together. Not thread-safe: it belongs to one receiver.

    Whatever is sent, it holds at most ``max_messages`` half-finished messages, whose declared lengths add
    up to at most ``max_pending_bytes`` (default: four of the largest). For a newer one the oldest is dropped
    of the sender who takes up most.
    """

    def __init__(
        self, max_message_bytes: int = 64 << 20, max_messages: int = 64, max_pending_bytes: int | None = None
    ) -> None:
        self._max_message_bytes = max_message_bytes
        self._max_messages = max_messages
        self._max_pending_bytes = max(max_message_bytes, max_pending_bytes or 4 * max_message_bytes)
        self._partial: dict[tuple[str, bytes], _Partial] = {}
        self._pending_bytes = 0

    @property
    def pending_messages(self) -> int:
        """Messages of which a chunk is still missing."""
        return len(self._partial)

    @property
    def pending_bytes(self) -> int:
        """Declared bytes of those messages."""
        return self._pending_bytes

    def add(self, sender: str, chunk: bytes) -> bytes | None:
        """The message that this chunk completes, or None.

        A chunk seen before is ignored; a chunk of another attempt at the same request drops what came
        before. The chunk's bytes are kept until the message is complete. Raises WireError on a chunk that
        is damaged, larger than allowed, or contradicts the others of its message, which is then dropped.
        """
        request_id, index, declared, part = self._open(chunk)
        key = (sender, request_id)
        partial = self._partial.get(key)
        if partial is None or partial.tag != declared.tag:
            self.forget(sender, request_id)
            if declared.count == 1:
                return bytes(part)
            partial = self._reserve(key, declared)
        elif (partial.count, partial.total) != (declared.count, declared.total):
            self.forget(sender, request_id)
            raise WireError(
                f"chunk {index} of request {request_id.hex()} announces {declared.count} chunks of "
                f"{declared.total} bytes in all, those before it {partial.count} of {partial.total}; "
                "the message is dropped and has to be sent again"
            )
        partial.parts.setdefault(index, part)
        if len(partial.parts) < partial.count:
            return None
        self.forget(sender, request_id)
        return b"".join(partial.parts[place] for place in range(partial.count))

    def forget(self, sender: str, request_id: bytes) -> None:
        """Drop what has come of this request, if anything."""
        partial = self._partial.pop((sender, request_id), None)
        if partial is not None:
            self._pending_bytes -= partial.total

    def _reserve(self, key: tuple[str, bytes], declared: _Partial) -> _Partial:
        while self._partial and (
            len(self._partial) >= self._max_messages or self._pending_bytes + declared.total > self._max_pending_bytes
        ):
            greediest = self._greediest()
            self.forget(*next(held for held in self._partial if held[0] == greediest))
        self._partial[key] = declared
        self._pending_bytes += declared.total
        return declared

    def _greediest(self) -> str:
        shares: defaultdict[str, float] = defaultdict(float)
        for (sender, _), partial in self._partial.items():
            shares[sender] += 1 / self._max_messages + partial.total / self._max_pending_bytes
        return max(shares, key=lambda sender: shares[sender])

    def _open(self, chunk: bytes) -> tuple[bytes, int, _Partial, memoryview]:
        """Request id, index, what the header declares, and the part the chunk brings."""
        view = memoryview(chunk)
        if not OVERHEAD_BYTES < len(view) <= CHUNK_BYTES:
            raise WireError(f"chunk has {len(view)} bytes; {OVERHEAD_BYTES + 1} to {CHUNK_BYTES} are possible")
        magic, version, flags = _PREFIX.unpack_from(view)
        if magic != _MAGIC:
            raise WireError(f"chunk begins with {magic!r}, not {_MAGIC!r}: it is not midstream's")
        if version not in WIRE_VERSIONS:
            spoken = ", ".join(map(str, WIRE_VERSIONS))
            raise WireError(
                f"chunk has wire version {version}; spoken here: {spoken}. Update the older of the two ends"
            )
        if flags:
            raise WireError(f"chunk has unknown flags 0x{flags:02x}; wire version {version} has none")
        if zlib.crc32(view[: -_CRC.size]) != _CRC.unpack(view[-_CRC.size :])[0]:
            raise WireError(f"chunk of {len(view)} bytes is damaged: its CRC-32 does not match")
        _, _, _, request_id, index, count, total, tag = _HEADER.unpack_from(view)
        if not _TAG_BYTES <= total <= self._max_message_bytes:
            raise WireError(
                f"chunk announces a message of {total} bytes; {_TAG_BYTES} to {self._max_message_bytes} are "
                "allowed. Send less, or raise max_message_bytes"
            )
        part = view[_HEADER.size : -_CRC.size]
        size = -(-total // max(count, 1))
        last = (count - 1) * size
        possible = index < count and last < total and (count == 1 or size >= MIN_PART_BYTES)
        if not possible or len(part) != min(size, total - index * size):
            raise WireError(
                f"chunk {index} of {count} brings {len(part)} bytes of {total}: these numbers do not belong together"
            )
        return request_id, index, _Partial(count, total, tag), part
