"""Chunks: a message as MQTT payloads of at most 256 KiB, with or without parity, and back.

All data chunks of a message but the last carry the same number of bytes, so a chunk's place follows from its
index. The header repeats the message's last four bytes, its CRC-32C: so the chunks of a request that is sent
again, with less time remaining, are never mixed with those of the first attempt.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Set
from dataclasses import dataclass, field
from itertools import islice

from midstream.communication.checksum import CRC_BYTES, Buffer, is_sealed, sealed
from midstream.communication.control import MAX_RANGES, TAG_BYTES
from midstream.communication.fec import MAX_CODED_PARTS, MAX_PARITY, fec_available, parity_parts, rebuilt
from midstream.communication.framing import REQUEST_ID_BYTES, WIRE_VERSION, check_version
from midstream.errors import WireError

CHUNK_BYTES = 256 << 10

_MAGIC = b"MC"
_PREFIX = struct.Struct("<2sBB")
_HEADER = struct.Struct("<2sBB16sHHI4sB")
OVERHEAD_BYTES = _HEADER.size + CRC_BYTES
MIN_PART_BYTES = 1024
# Equal parts are at least half as large as there is room for.
MIN_CHUNK_BYTES = 2 * MIN_PART_BYTES + OVERHEAD_BYTES
_MAX_CHUNKS = 0xFFFF
_MAX_TOTAL = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Progress:
    """What has come of a message of ``count`` data and ``parity`` parity chunks: those of ``indices``, a live view.

    ``span`` is how many were sent up to the highest of them.
    """

    message_id: bytes
    tag: bytes
    count: int
    parity: int
    span: int
    indices: Set[int]

    @property
    def received(self) -> int:
        """How many chunks have come."""
        return len(self.indices)

    def lost_before(self, stop: int) -> int:
        """How many chunks of indices below ``stop`` have not come."""
        return sum(index not in self.indices for index in range(stop))

    def missing(self, before: int) -> tuple[tuple[int, int], ...]:
        """Data chunks that have not come, of indices below ``before``: as many as are needed, in at most 64 ranges."""
        ranges: list[tuple[int, int]] = []
        absent = (index for index in range(min(before, self.count)) if index not in self.indices)
        for index in islice(absent, self.count - self.received):
            if ranges and ranges[-1][1] == index - 1:
                ranges[-1] = (ranges[-1][0], index)
            elif len(ranges) == MAX_RANGES:
                break
            else:
                ranges.append((index, index))
        return tuple(ranges)


@dataclass(slots=True)
class _Partial:
    """A half-finished message; the parts are views of the chunks that brought them."""

    count: int
    total: int
    tag: bytes
    parity: int
    span: int = 0
    parts: dict[int, memoryview] = field(default_factory=dict)

    @property
    def declared(self) -> tuple[int, int, int]:
        return self.count, self.total, self.parity

    def message(self) -> bytes:
        """The message, as soon as there are as many parts as it has: then a parity part stands for each missing one."""
        if all(index < self.count for index in self.parts):
            return b"".join(self.parts[place] for place in range(self.count))
        size = -(-self.total // self.count)
        # A data part that is too short can only be the last.
        whole = {at: part if len(part) == size else bytes(part).ljust(size, b"\0") for at, part in self.parts.items()}
        return b"".join(rebuilt(whole, self.count))[: self.total]


def message_id_of(chunk: bytes) -> bytes | None:
    """The message id in a chunk's header, unread; None where it is too short to have one."""
    return bytes(_HEADER.unpack_from(chunk)[3]) if len(chunk) >= _HEADER.size else None


@dataclass(frozen=True, slots=True)
class Peeked:
    """What a chunk's header says of it, true or not."""

    message_id: bytes
    index: int
    count: int
    tag: bytes
    parity: int

    @property
    def alone(self) -> bool:
        """Whether it brings all of its message, and there is no parity."""
        return (self.index, self.count, self.parity) == (0, 1, 0)


def peek(chunk: bytes) -> Peeked | None:
    """The header of a chunk of this version, before anything of it is checked; None where it has none."""
    if len(chunk) < OVERHEAD_BYTES or _PREFIX.unpack_from(chunk) != (_MAGIC, WIRE_VERSION, 0):
        return None
    _, _, _, message_id, index, count, _, tag, parity = _HEADER.unpack_from(chunk)
    return Peeked(message_id, index, count, tag, parity)


def chunk_count(total: int, chunk_bytes: int) -> int:
    """How many data chunks of at most ``chunk_bytes`` a message of ``total`` bytes takes."""
    return -(-total // (chunk_bytes - OVERHEAD_BYTES))


def split(message: bytes, request_id: bytes, chunk_bytes: int = CHUNK_BYTES, parity: int = 0) -> list[bytes]:
    """The chunks of a message, in order, each of at most ``chunk_bytes`` (2,085 bytes to 256 KiB).

    Behind them are ``parity`` parity chunks, at most 64, and 256 of both. Raises WireError where the message has fewer
    than 4 or more than 2³²-1 bytes, or needs too many chunks (65,535 without parity); MissingExtraError where there is
    to be parity without zfec.
    """
    total = len(message)
    if len(request_id) != REQUEST_ID_BYTES:
        raise WireError(f"request id has {len(request_id)} bytes, needed {REQUEST_ID_BYTES}")
    if not MIN_CHUNK_BYTES <= chunk_bytes <= CHUNK_BYTES:
        raise WireError(
            f"chunks of {chunk_bytes} bytes; {MIN_CHUNK_BYTES} to {CHUNK_BYTES} are possible, so have the broker take "
            "at least so much at once"
        )
    count = chunk_count(total, chunk_bytes)
    if not TAG_BYTES <= total <= _MAX_TOTAL or count > _MAX_CHUNKS:
        raise WireError(f"message of {total} bytes cannot be sent in chunks of {chunk_bytes} bytes")
    if not 0 <= parity <= MAX_PARITY or (parity and count + parity > MAX_CODED_PARTS):
        raise WireError(
            f"{parity} parity chunks beside {count} data chunks; {MAX_PARITY}, and {MAX_CODED_PARTS} of both, are the "
            "most"
        )
    size = -(-total // count)
    view = memoryview(message)
    tag = bytes(view[-TAG_BYTES:])
    parts: list[bytes | memoryview] = [view[start : start + size] for start in range(0, total, size)]
    if parity:
        padded = [part if len(part) == size else bytes(part).ljust(size, b"\0") for part in parts]
        parts += parity_parts(padded, parity)
    return [
        sealed(_HEADER.pack(_MAGIC, WIRE_VERSION, 0, request_id, index, count, total, tag, parity), part)
        for index, part in enumerate(parts)
    ]


class Reassembler:
    """Puts the chunks of many senders together. Not thread-safe: it belongs to one receiver.

    Whatever is sent, it holds at most ``max_messages`` half-finished messages, whose declared lengths add
    up to at most ``max_pending_bytes`` (default: four of the largest). For a newer one the oldest is dropped
    of the sender who takes up most. Without zfec, parity chunks are passed over.
    """

    def __init__(
        self, max_message_bytes: int = 64 << 20, max_messages: int = 64, max_pending_bytes: int | None = None
    ) -> None:
        self._max_message_bytes = max_message_bytes
        self._max_messages = max_messages
        self._max_pending_bytes = max(max_message_bytes, max_pending_bytes or 4 * max_message_bytes)
        self._partial: dict[tuple[str, bytes], _Partial] = {}
        self._pending_bytes = 0
        # Those of several chunks that were complete lately, so that what comes late of them begins nothing.
        self._finished: dict[tuple[str, bytes], bytes] = {}

    @property
    def pending_messages(self) -> int:
        """Messages of which a chunk is still missing."""
        return len(self._partial)

    @property
    def pending_bytes(self) -> int:
        """Declared bytes of those messages."""
        return self._pending_bytes

    def progress(self, sender: str, message_id: bytes) -> Progress | None:
        """What has come of a message that is not complete; None where nothing has."""
        partial = self._partial.get((sender, message_id))
        if partial is None:
            return None
        parity = partial.parity if fec_available() else 0
        return Progress(message_id, partial.tag, partial.count, parity, partial.span, partial.parts.keys())

    def add(self, sender: str, chunk: bytes) -> Buffer | None:
        """The message that this chunk completes, or None; of a single chunk, a view of it.

        A chunk seen before, or of a message of several chunks that is complete, is ignored; a chunk of another attempt
        at the same request drops what came before. The chunk's bytes are kept until the message is complete. Raises
        WireError on a chunk that is damaged, larger than allowed, or contradicts the others of its message, which is
        then dropped.
        """
        request_id, index, declared, part = self._open(chunk)
        key = (sender, request_id)
        if declared.count == 1:
            self.forget(sender, request_id)
            return part
        if self._finished.get(key) == declared.tag or (index >= declared.count and not fec_available()):
            return None
        partial = self._partial.get(key)
        if partial is None or partial.tag != declared.tag:
            self.forget(sender, request_id)
            partial = self._reserve(key, declared)
        elif partial.declared != declared.declared:
            self.forget(sender, request_id)
            raise WireError(
                f"chunk {index} of request {request_id.hex()} announces {_announced(declared)}, those before it "
                f"{_announced(partial)}; the message is dropped and has to be sent again"
            )
        partial.parts.setdefault(index, part)
        partial.span = max(partial.span, index + 1)
        if len(partial.parts) < partial.count:
            return None
        self.forget(sender, request_id)
        self._remember(key, partial.tag)
        return partial.message()

    def forget(self, sender: str, request_id: bytes) -> None:
        """Drop what has come of this request, if anything."""
        partial = self._partial.pop((sender, request_id), None)
        if partial is not None:
            self._pending_bytes -= partial.total

    def _remember(self, key: tuple[str, bytes], tag: bytes) -> None:
        self._finished.pop(key, None)
        self._finished[key] = tag
        if len(self._finished) > self._max_messages:
            del self._finished[next(iter(self._finished))]

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
        check_version(version, "chunk")
        if flags:
            raise WireError(f"chunk has unknown flags 0x{flags:02x}; wire version {version} has none")
        if not is_sealed(view):
            raise WireError(f"chunk of {len(view)} bytes is damaged: its CRC-32C does not match")
        _, _, _, request_id, index, count, total, tag, parity = _HEADER.unpack_from(view)
        if not TAG_BYTES <= total <= self._max_message_bytes:
            raise WireError(
                f"chunk announces a message of {total} bytes; {TAG_BYTES} to {self._max_message_bytes} are "
                "allowed. Send less, or raise max_message_bytes"
            )
        part = view[_HEADER.size : -CRC_BYTES]
        size = -(-total // max(count, 1))
        last = (count - 1) * size
        possible = index < count + parity and last < total and (count == 1 or size >= MIN_PART_BYTES)
        possible &= not parity or (parity <= MAX_PARITY and count + parity <= MAX_CODED_PARTS)
        if not possible or len(part) != (min(size, total - index * size) if index < count else size):
            raise WireError(
                f"chunk {index} of {count} and {parity} of parity brings {len(part)} bytes of {total}: these numbers "
                "do not belong together"
            )
        return request_id, index, _Partial(count, total, tag, parity), part


def _announced(declared: _Partial) -> str:
    return f"{declared.count} chunks of {declared.total} bytes in all and {declared.parity} of parity"
