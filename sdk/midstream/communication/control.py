"""Control messages: chunks asked for again, an answer that nobody wants any more, a request that somebody has taken.

Each is the whole payload of one MQTT message, on a control topic. ``docs/protocol.md`` describes them byte by byte.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from midstream.communication.checksum import CRC_BYTES, Buffer, sealed
from midstream.communication.framing import (
    CONTROL,
    MAGIC,
    REQUEST_ID_BYTES,
    WIRE_VERSION,
    Limits,
    Reader,
    check_length,
    open_message,
)
from midstream.errors import WireError

MAX_RANGES = 64
TAG_BYTES = 4

_HEADER = struct.Struct("<2sBBBBH16s")
_PROGRESS = struct.Struct("<4sHH")
_RANGE = struct.Struct("<HH")
MAX_CONTROL_BYTES = _HEADER.size + _PROGRESS.size + MAX_RANGES * _RANGE.size + CRC_BYTES
_LIMITS = Limits(MAX_CONTROL_BYTES, 0)


class _Code(IntEnum):
    MISSING = 1
    CANCEL = 2
    TAKEN = 3


@dataclass(frozen=True, slots=True)
class Missing:
    """Send these chunks of a message again: those of the data parts from ``first`` to ``last``, both included.

    ``message_id`` (16 bytes) and ``tag`` (4) are in the chunks' headers. Of the chunks up to the highest index that has
    come, ``span`` were sent, parity chunks included, and ``received`` have come: so the sender learns what is lost.
    """

    message_id: bytes
    tag: bytes
    received: int
    span: int
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody waits for the answer to this message any more: drop what has come of it, and do not run it."""

    message_id: bytes


@dataclass(frozen=True, slots=True)
class Taken:
    """The sender of this has the whole message, and answers for it; ``received`` and ``span`` are as in `Missing`."""

    message_id: bytes
    tag: bytes
    received: int
    span: int


Control = Missing | Cancel | Taken


def encode_control(control: Control) -> bytes:
    """The control message as an MQTT payload. Raises WireError where a field is outside what the format can carry."""
    check_length(control.message_id, "message id", REQUEST_ID_BYTES)
    match control:
        case Cancel():
            return sealed(_header(_Code.CANCEL, 0, control.message_id))
        case Taken():
            return sealed(_header(_Code.TAKEN, 0, control.message_id), _progress(control))
        case Missing():
            _check_ranges(control.ranges)
            ranges = b"".join(_RANGE.pack(*pair) for pair in control.ranges)
            return sealed(_header(_Code.MISSING, len(control.ranges), control.message_id), _progress(control), ranges)


def decode_control(payload: Buffer) -> Control:
    """The control message in an MQTT payload. Raises WireError on anything that `encode_control` does not write."""
    reader = open_message(payload, _LIMITS, CONTROL)
    code, count, message_id = reader.unpack(_HEADER)[4:]
    if count and code != _Code.MISSING:
        raise WireError(f"control message of code {code} has {count} ranges of chunks; only MISSING has any")
    control: Control
    match code:
        case _Code.CANCEL:
            control = Cancel(message_id)
        case _Code.TAKEN:
            control = Taken(message_id, *_read_progress(reader))
        case _Code.MISSING:
            if not 1 <= count <= MAX_RANGES:
                raise WireError(f"MISSING has {count} ranges of chunks; 1 to {MAX_RANGES} are possible")
            progress = _read_progress(reader)
            ranges = tuple(_RANGE.iter_unpack(reader.take(count * _RANGE.size, "ranges")))
            _check_ranges(ranges)
            control = Missing(message_id, *progress, ranges)
        case _:
            raise WireError(f"control message has the unknown code {code}; known are 1…{max(_Code)}")
    reader.end("field")
    return control


def _header(code: _Code, ranges: int, message_id: bytes) -> bytes:
    return _HEADER.pack(MAGIC, WIRE_VERSION, CONTROL, 0, code, ranges, message_id)


def _progress(control: Missing | Taken) -> bytes:
    check_length(control.tag, "tag", TAG_BYTES)
    _check_progress(control.received, control.span)
    return _PROGRESS.pack(control.tag, control.received, control.span)


def _read_progress(reader: Reader) -> tuple[bytes, int, int]:
    tag, received, span = reader.unpack(_PROGRESS)
    _check_progress(received, span)
    return tag, received, span


def _check_progress(received: int, span: int) -> None:
    if not 1 <= received <= span <= 0xFFFF:
        raise WireError(f"{received} chunks of {span} cannot have come; 1 to all of up to 65535 can")


def _check_ranges(ranges: tuple[tuple[int, int], ...]) -> None:
    if not 1 <= len(ranges) <= MAX_RANGES:
        raise WireError(f"MISSING has {len(ranges)} ranges of chunks; 1 to {MAX_RANGES} are possible")
    before = -2
    for first, last in ranges:
        # Two that touch would be one.
        if not before + 1 < first <= last <= 0xFFFF:
            raise WireError(f"ranges of missing chunks {list(ranges)[:4]} are not ascending, apart and of 0…65535")
        before = last
