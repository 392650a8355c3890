"""Wire format version 1: a request or a reply as bytes, and back; `packs` puts several of them into one.

``docs/protocol.md`` describes it byte by byte; `framing` has what all messages have in common.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import pairwise

from midstream.communication.checksum import CRC_BYTES, Buffer, crc32c, sealed
from midstream.communication.framing import (
    DTYPES,
    MAGIC,
    MAX_NAME_BYTES,
    MAX_TENSORS,
    REPLY,
    REQUEST,
    REQUEST_ID_BYTES,
    WIRE_VERSION,
    EncodedTensor,
    Limits,
    Reader,
    check_count,
    check_length,
    check_number,
    check_time,
    decoded_bytes,
    name_bytes,
    open_message,
    seal_tensors,
    text_bytes,
)
from midstream.communication.topics import check_id
from midstream.errors import WireError

__all__ = [
    "DTYPES",
    "MAX_NAME_BYTES",
    "REQUEST_ID_BYTES",
    "Buffer",
    "EncodedTensor",
    "Limits",
    "Priority",
    "Reply",
    "Request",
    "Runner",
    "Stage",
    "Status",
    "content_tag",
    "decode_reply",
    "decode_request",
    "decoded_bytes",
    "encode_reply",
    "encode_request",
    "forwarded",
    "with_deadline",
]

DIGEST_BYTES = 32
MAX_FEATURES = 32
MAX_STAGES = 8
MAX_CUT_BYTES = 255
MAX_TEXT_BYTES = 1024
MAX_DEADLINE_MS = 0xFFFF_FFFF

_REQUEST_HEADER = struct.Struct("<2sBBBBBB16s32sIBBd")
_REPLY_HEADER = struct.Struct("<2sBBBBBB16sddH")
_F64 = struct.Struct("<d")
_U32 = struct.Struct("<I")
_DEADLINE_AT = 56
_TAKES_PARITY = _PARTIAL = 1
_LIMITS = Limits()


class Priority(IntEnum):
    """What waits for what: a critical request never for a bulk one."""

    CRITICAL = 0
    NORMAL = 1
    BULK = 2


class Status(IntEnum):
    """How a request ended."""

    OK = 0
    EXPIRED = 1
    UNKNOWN_BUNDLE = 2
    UNKNOWN_CUT = 3
    BAD_REQUEST = 4
    BUSY = 5
    FAILED = 6
    CANNOT_FORWARD = 7


class Runner(IntEnum):
    """Who runs a stage: one gateway, or any of a pool."""

    GATEWAY = 1
    POOL = 2


@dataclass(frozen=True, slots=True)
class Stage:
    """A later stage of a plan: it begins at ``cut``, and the gateway or pool of this id runs it."""

    cut: str
    runner: Runner
    runner_id: str


@dataclass(frozen=True, slots=True)
class Request:
    """Run what follows ``cut`` (empty: the whole model) of the bundle with this digest, up to the first of ``onward``.

    ``request_id`` has 16 bytes, ``bundle_digest`` 32. ``deadline_ms`` is the time that remains, because
    clocks differ. ``score`` is the input's complexity score and ``features`` its feature vector: finite,
    names unique. ``onward`` are the stages after the receiver's own, up to 7. With ``takes_parity`` the device can
    rebuild a reply from parity chunks.
    """

    request_id: bytes
    bundle_digest: bytes
    cut: str
    codec: str
    deadline_ms: int
    score: float
    features: tuple[tuple[str, float], ...]
    tensors: tuple[EncodedTensor, ...]
    priority: Priority = Priority.NORMAL
    onward: tuple[Stage, ...] = ()
    takes_parity: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of a request, how long it waited and how long it ran.

    ``outputs`` says which of the bundle's outputs each tensor is, by place in its manifest, ascending. A ``partial``
    reply comes from a gateway that has passed the request on: the other outputs come from later stages. ``message``
    says to a person what went wrong; beyond 1 KiB of UTF-8 it is cut off.
    """

    request_id: bytes
    status: Status
    tensors: tuple[EncodedTensor, ...]
    codec: str
    queue_ms: float
    compute_ms: float
    message: str = ""
    outputs: tuple[int, ...] = ()
    partial: bool = False


def forwarded(
    request: Request, codec: str, tensors: tuple[EncodedTensor, ...], deadline_ms: int
) -> tuple[Stage, Request]:
    """What a gateway that has run its stage sends to the next: who that is, and the request from there on.

    ``tensors`` are those of the next stage's cut. Id, digest, score, features and priority stay; the list of stages is
    one shorter, and ``deadline_ms`` is what remains now. Raises WireError where the gateway's own stage was the last.
    """
    if not request.onward:
        raise WireError(f"request {request.request_id.hex()} has no further stage: answer it")
    following, *rest = request.onward
    onward = tuple(rest)
    return following, replace(
        request, cut=following.cut, codec=codec, tensors=tensors, deadline_ms=deadline_ms, onward=onward
    )


def encode_request(request: Request) -> bytes:
    """The request as one message. Raises WireError where a field is outside what the format can carry."""
    codec = name_bytes(request.codec, "codec name")
    check_length(request.request_id, "request id", REQUEST_ID_BYTES)
    check_length(request.bundle_digest, "bundle digest", DIGEST_BYTES)
    if not 0 <= request.deadline_ms <= MAX_DEADLINE_MS:
        raise WireError(f"deadline of {request.deadline_ms} ms is outside 0…{MAX_DEADLINE_MS}; send a shorter one")
    stages = _stage_bytes(request)
    check_count(len(request.features), "features", MAX_FEATURES)
    _check_unique([name for name, _ in request.features])
    features = bytearray()
    for name, value in request.features:
        text = name_bytes(name, "feature name")
        features += bytes([len(text)]) + text + _F64.pack(check_number(value, f"feature {name!r}"))
    header = _REQUEST_HEADER.pack(
        MAGIC,
        WIRE_VERSION,
        REQUEST,
        _TAKES_PARITY if request.takes_parity else 0,
        check_count(len(request.tensors), "tensors", MAX_TENSORS),
        len(codec),
        request.priority,
        request.request_id,
        request.bundle_digest,
        request.deadline_ms,
        len(request.features),
        1 + len(request.onward),
        check_number(request.score, "complexity score"),
    )
    return seal_tensors(header + codec + stages + features, request.tensors)


def encode_reply(reply: Reply) -> bytes:
    """The reply as one message. Raises WireError where a field is outside what the format can carry."""
    codec = name_bytes(reply.codec, "codec name")
    text = reply.message.encode(errors="replace")[:MAX_TEXT_BYTES].decode(errors="ignore").encode()
    check_length(reply.request_id, "request id", REQUEST_ID_BYTES)
    _check_outputs(reply.outputs, len(reply.tensors))
    _check_partial(reply.partial, reply.status, len(reply.tensors))
    header = _REPLY_HEADER.pack(
        MAGIC,
        WIRE_VERSION,
        REPLY,
        _PARTIAL if reply.partial else 0,
        check_count(len(reply.tensors), "tensors", MAX_TENSORS),
        len(codec),
        reply.status,
        reply.request_id,
        check_time(reply.queue_ms, "queue time"),
        check_time(reply.compute_ms, "compute time"),
        len(text),
    )
    return seal_tensors(header + codec + text + _numbers(len(reply.outputs)).pack(*reply.outputs), reply.tensors)


def with_deadline(request: bytes, deadline_ms: int) -> bytes:
    """A request as `encode_request` wrote it, with another time that remains."""
    view = memoryview(request)
    return sealed(view[:_DEADLINE_AT], _U32.pack(deadline_ms), view[_DEADLINE_AT + _U32.size : -CRC_BYTES])


def content_tag(request: Buffer, deadline_ms: int) -> bytes:
    """The last four bytes, the CRC-32C, that this request would have if so much time remained.

    So two attempts at one request are known to ask the same.
    """
    view = memoryview(request)
    remaining = _U32.pack(deadline_ms)
    if view[_DEADLINE_AT : _DEADLINE_AT + _U32.size] == remaining:
        return bytes(view[-CRC_BYTES:])
    crc = crc32c(view[_DEADLINE_AT + _U32.size : -CRC_BYTES], crc32c(remaining, crc32c(view[:_DEADLINE_AT])))
    return _U32.pack(crc)


def decode_request(data: Buffer, limits: Limits = _LIMITS) -> Request:
    """The request in a message. Raises WireError on anything that `encode_request` does not write."""
    reader = open_message(data, limits, REQUEST, _TAKES_PARITY)
    header = reader.unpack(_REQUEST_HEADER)
    flags, tensors, codec_bytes, priority, request_id, digest, deadline_ms, features, stages, score = header[3:]
    if priority > max(Priority):
        raise WireError(f"request has the unknown priority class {priority}; known are 0…{max(Priority)}")
    codec = reader.name(codec_bytes, "codec name")
    cut, onward = _stages(reader, stages)
    check_count(features, "features", MAX_FEATURES)
    return Request(
        request_id,
        digest,
        cut,
        codec,
        deadline_ms,
        check_number(score, "complexity score"),
        _features(reader, features),
        reader.tensors(tensors, limits),
        Priority(priority),
        onward,
        bool(flags),
    )


def decode_reply(data: Buffer, limits: Limits = _LIMITS) -> Reply:
    """The reply in a message. Raises WireError on anything that `encode_reply` does not write."""
    reader = open_message(data, limits, REPLY, _PARTIAL)
    header = reader.unpack(_REPLY_HEADER)
    flags, tensors, codec_bytes, status, request_id, queue_ms, compute_ms, text_bytes = header[3:]
    if status > max(Status):
        raise WireError(f"reply has the unknown status {status}; known are 0…{max(Status)}")
    codec = reader.name(codec_bytes, "codec name")
    text = reader.text(check_count(text_bytes, "bytes of message", MAX_TEXT_BYTES), "message")
    check_count(tensors, "tensors", MAX_TENSORS)
    outputs = reader.unpack(_numbers(tensors))
    _check_outputs(outputs, tensors)
    _check_partial(bool(flags), Status(status), tensors)
    return Reply(
        request_id,
        Status(status),
        reader.tensors(tensors, limits),
        codec,
        check_time(queue_ms, "queue time"),
        check_time(compute_ms, "compute time"),
        text,
        outputs,
        bool(flags),
    )


def _stage_bytes(request: Request) -> bytes:
    check_count(1 + len(request.onward), "stages", MAX_STAGES)
    _check_cuts([request.cut, *(stage.cut for stage in request.onward)])
    cut = text_bytes(request.cut, "cut id", MAX_CUT_BYTES)
    found = bytearray([len(cut)]) + cut + b"\0"
    for stage in request.onward:
        cut, name = text_bytes(stage.cut, "cut id", MAX_CUT_BYTES), check_id(stage.runner_id).encode()
        found += bytes([len(cut)]) + cut + bytes([stage.runner, len(name)]) + name
    return bytes(found)


def _stages(reader: Reader, count: int) -> tuple[str, tuple[Stage, ...]]:
    if not 1 <= count <= MAX_STAGES:
        raise WireError(f"request has {count} stages; 1 to {MAX_STAGES} are possible")
    first = ""
    onward = []
    for index in range(count):
        cut = reader.text(reader.byte("stages"), "cut id")
        kind = reader.byte("stages")
        if not index:
            first = cut
            if kind:
                raise WireError("request names somebody else than its receiver for the first stage")
            continue
        if kind not in (Runner.GATEWAY, Runner.POOL):
            raise WireError(f"stage {index} of a request is run by the unknown kind {kind}; known are 1 and 2")
        onward.append(Stage(cut, Runner(kind), check_id(reader.text(reader.byte("stages"), "runner's id"))))
    _check_cuts([first, *(stage.cut for stage in onward)])
    return first, tuple(onward)


def _features(reader: Reader, count: int) -> tuple[tuple[str, float], ...]:
    found = []
    for _ in range(count):
        name = reader.name(reader.byte("features"), "feature name")
        found.append((name, check_number(reader.unpack(_F64)[0], f"feature {name!r}")))
    _check_unique([name for name, _ in found])
    return tuple(found)


def _numbers(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}H")


def _check_cuts(cuts: Sequence[str]) -> None:
    if len(set(cuts)) != len(cuts) or not all(cuts[1:]):
        raise WireError("a stage of a request begins where another one does, or a later one at the whole input")


def _check_outputs(outputs: Sequence[int], tensors: int) -> None:
    ascending = all(before < after for before, after in pairwise(outputs))
    if len(outputs) != tensors or not ascending or not all(0 <= place <= 0xFFFF for place in outputs):
        raise WireError(f"reply of {tensors} tensors names the outputs {list(outputs)[:MAX_TENSORS]}, not one for each")


def _check_partial(partial: bool, status: Status, tensors: int) -> None:
    if partial and (status is not Status.OK or not tensors):
        raise WireError("a partial reply brings outputs; this one has none, or says that the request failed")


def _check_unique(names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        raise WireError(f"a feature is named twice among {', '.join(names)}")
