"""Packs: several small requests, or several small replies, as one message, and back.

``docs/protocol.md`` describes it byte by byte. A pack says nothing of its own: each message in it is what it would be
alone, and is read as if it had come alone.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from midstream.communication.checksum import CRC_BYTES, Buffer
from midstream.communication.framing import MAGIC, PACK, REQUEST_ID_BYTES, WIRE_VERSION, Limits, open_message, seal
from midstream.errors import WireError

MAX_PACK_BYTES = 64 << 10
MAX_PACKED = 64

_LIMITS = Limits(MAX_PACK_BYTES, MAX_PACK_BYTES)
_HEADER = struct.Struct("<2sBBBB")
_U32 = struct.Struct("<I")
_ALIGNMENT = 8
_KIND_AT = 3
# Requests and replies have their id at the same place.
_ID_AT = 8
_SMALLEST_BYTES = _ID_AT + REQUEST_ID_BYTES + CRC_BYTES


def encode_pack(messages: Sequence[bytes]) -> bytes:
    """2 to 64 requests, or as many replies, each as it would be sent alone, as one message.

    Raises WireError where these are too many or too few, or of more than 64 KiB in all, or have an id twice.
    """
    _check_count(len(messages))
    _check_ids(messages)
    table = struct.pack(f"<{len(messages)}I", *map(len, messages))
    pack = seal(_HEADER.pack(MAGIC, WIRE_VERSION, PACK, 0, len(messages)) + table, messages)
    _check_size(len(pack))
    return pack


def packed_bytes(messages: Sequence[bytes]) -> int:
    """How long the pack of these messages is."""
    length = _HEADER.size + _U32.size * len(messages)
    for message in messages:
        length += -length % _ALIGNMENT + len(message)
    return length + CRC_BYTES


def is_pack(data: Buffer) -> bool:
    """Whether a message says that it is a pack; whether it is one, `decode_pack` finds out."""
    return len(data) > _KIND_AT and data[_KIND_AT] == PACK


def decode_pack(data: Buffer) -> tuple[memoryview, ...]:
    """The messages in a pack, as views of it that `decode_request` or `decode_reply` has yet to read.

    Raises WireError on anything that `encode_pack` does not write; what is wrong within one of them is not looked at.
    """
    _check_size(len(data))
    reader = open_message(data, _LIMITS, PACK)
    count = _check_count(reader.unpack(_HEADER)[-1])
    sizes = struct.unpack(f"<{count}I", reader.take(_U32.size * count, "table of lengths"))
    messages = tuple(reader.aligned(size, "messages") for size in sizes)
    reader.end("message")
    _check_ids(messages)
    return messages


def request_id_of(message: Buffer) -> bytes:
    """The request id in a message out of a pack, which was not read yet."""
    return bytes(message[_ID_AT : _ID_AT + REQUEST_ID_BYTES])


def _check_count(count: int) -> int:
    if not 2 <= count <= MAX_PACKED:
        raise WireError(f"pack of {count} messages; 2 to {MAX_PACKED} are possible, and one alone is sent as it is")
    return count


def _check_size(size: int) -> None:
    if size > MAX_PACK_BYTES:
        raise WireError(f"pack of {size} bytes; {MAX_PACK_BYTES} are allowed, so send its messages in several")


def _check_ids(messages: Sequence[Buffer]) -> None:
    for message in messages:
        if len(message) < _SMALLEST_BYTES:
            raise WireError(f"pack has a message of {len(message)} bytes; none has under {_SMALLEST_BYTES}")
    if len({request_id_of(message) for message in messages}) != len(messages):
        raise WireError("pack has two messages of the same request id")
