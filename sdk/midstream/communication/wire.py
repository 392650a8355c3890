"""Wire format version 0: a request or a reply as bytes, and back; `packs` puts several of them into one.

``docs/protocol.md`` describes it byte by byte. A message is a fixed header, names, a tensor table, the
tensors' data (each starting at a multiple of 8, so that it can be used where it lies) and a CRC-32. Every
message has exactly one encoding; anything else is refused with WireError, before memory is taken for it.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from midstream.errors import WireError

CONTENT_TYPE = "application/vnd.midstream"
WIRE_VERSION = 0
WIRE_VERSIONS = (WIRE_VERSION,)
REQUEST_ID_BYTES = 16
DIGEST_BYTES = 32
MAX_TENSORS = 64
MAX_DIMS = 8
MAX_FEATURES = 32
MAX_NAME_BYTES = 32
MAX_CUT_BYTES = 255
MAX_TEXT_BYTES = 1024
MAX_DEADLINE_MS = 0xFFFF_FFFF
DTYPES: tuple[np.dtype[np.generic], ...] = tuple(
    np.dtype(code) for code in ("?", "<i1", "<i2", "<i4", "<i8", "<u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8")
)

MAGIC = b"MS"
REQUEST, REPLY, PACK = 1, 2, 3

_KINDS = {REQUEST: "request", REPLY: "reply", PACK: "pack"}
_ALIGNMENT = 8
_UINT32 = 0xFFFF_FFFF
_PREFIX = struct.Struct("<2sBBB")
_REQUEST_HEADER = struct.Struct("<2sBBBBBB16s32sIId")
_REPLY_HEADER = struct.Struct("<2sBBBBBB16sddI")
_ENTRY = struct.Struct("<BB")
_F64 = struct.Struct("<d")
_U32 = struct.Struct("<I")
_DTYPE_CODES = {dtype: code for code, dtype in enumerate(DTYPES)}
_DEADLINE_AT = 56

Buffer = bytes | bytearray | memoryview


class Status(IntEnum):
    """How a request ended."""

    OK = 0
    EXPIRED = 1
    UNKNOWN_BUNDLE = 2
    UNKNOWN_CUT = 3
    BAD_REQUEST = 4
    BUSY = 5
    FAILED = 6


@dataclass(frozen=True, slots=True)
class Limits:
    """What a decoder accepts: bytes of one message, and bytes of one tensor, both encoded and decoded."""

    max_message_bytes: int = 64 << 20
    max_tensor_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class EncodedTensor:
    """One tensor as a codec wrote it; ``shape`` and ``dtype`` are those of the decoded tensor.

    A decoded message's ``data`` is a view into that message.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Request:
    """Run the tail of ``cut`` (empty: the whole model) of the bundle with this digest.

    ``request_id`` has 16 bytes, ``bundle_digest`` 32. ``deadline_ms`` is the time that remains, because
    clocks differ. ``score`` is the input's complexity score and ``features`` its feature vector: finite,
    names unique.
    """

    request_id: bytes
    bundle_digest: bytes
    cut: str
    codec: str
    deadline_ms: int
    score: float
    features: tuple[tuple[str, float], ...]
    tensors: tuple[EncodedTensor, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of a request, how long it waited and how long it ran.

    ``message`` says to a person what went wrong; beyond 1 KiB of UTF-8 it is cut off.
    """

    request_id: bytes
    status: Status
    tensors: tuple[EncodedTensor, ...]
    codec: str
    queue_ms: float
    compute_ms: float
    message: str = ""


def encode_request(request: Request) -> bytes:
    """The request as one message. Raises WireError where a field is outside what the format can carry."""
    cut = _text_bytes(request.cut, "cut id", MAX_CUT_BYTES)
    codec = _name_bytes(request.codec, "codec name")
    _check_length(request.request_id, "request id", REQUEST_ID_BYTES)
    _check_length(request.bundle_digest, "bundle digest", DIGEST_BYTES)
    if not 0 <= request.deadline_ms <= MAX_DEADLINE_MS:
        raise WireError(f"deadline of {request.deadline_ms} ms is outside 0…{MAX_DEADLINE_MS}; send a shorter one")
    _check_number(request.score, "complexity score")
    _check_count(len(request.features), "features", MAX_FEATURES)
    _check_unique([name for name, _ in request.features])
    features = bytearray()
    for name, value in request.features:
        text = _name_bytes(name, "feature name")
        features += bytes([len(text)]) + text + _F64.pack(_check_number(value, f"feature {name!r}"))
    header = _REQUEST_HEADER.pack(
        MAGIC,
        WIRE_VERSION,
        REQUEST,
        0,
        _check_count(len(request.tensors), "tensors", MAX_TENSORS),
        len(codec),
        len(cut),
        request.request_id,
        request.bundle_digest,
        request.deadline_ms,
        len(request.features),
        request.score,
    )
    return _seal_tensors(header + codec + cut + features, request.tensors)


def encode_reply(reply: Reply) -> bytes:
    """The reply as one message. Raises WireError where a field is outside what the format can carry."""
    codec = _name_bytes(reply.codec, "codec name")
    text = reply.message.encode(errors="replace")[:MAX_TEXT_BYTES].decode(errors="ignore").encode()
    _check_length(reply.request_id, "request id", REQUEST_ID_BYTES)
    header = _REPLY_HEADER.pack(
        MAGIC,
        WIRE_VERSION,
        REPLY,
        0,
        _check_count(len(reply.tensors), "tensors", MAX_TENSORS),
        len(codec),
        reply.status,
        reply.request_id,
        _check_time(reply.queue_ms, "queue time"),
        _check_time(reply.compute_ms, "compute time"),
        len(text),
    )
    return _seal_tensors(header + codec + text, reply.tensors)


def with_deadline(request: bytes, deadline_ms: int) -> bytes:
    """A request as `encode_request` wrote it, with another time that remains."""
    body = request[:_DEADLINE_AT] + _U32.pack(deadline_ms) + request[_DEADLINE_AT + _U32.size : -_U32.size]
    return body + _U32.pack(zlib.crc32(body))


def decode_request(data: Buffer, limits: Limits = Limits()) -> Request:
    """The request in a message. Raises WireError on anything that `encode_request` does not write."""
    reader = open_message(data, limits, REQUEST)
    header = reader.unpack(_REQUEST_HEADER)
    tensors, codec_bytes, cut_bytes, request_id, digest, deadline_ms, features, score = header[4:]
    codec = reader.name(codec_bytes, "codec name")
    cut = reader.text(cut_bytes, "cut id")
    _check_count(features, "features", MAX_FEATURES)
    return Request(
        request_id,
        digest,
        cut,
        codec,
        deadline_ms,
        _check_number(score, "complexity score"),
        reader.features(features),
        reader.tensors(tensors, limits),
    )


def decode_reply(data: Buffer, limits: Limits = Limits()) -> Reply:
    """The reply in a message. Raises WireError on anything that `encode_reply` does not write."""
    reader = open_message(data, limits, REPLY)
    header = reader.unpack(_REPLY_HEADER)
    tensors, codec_bytes, status, request_id, queue_ms, compute_ms, text_bytes = header[4:]
    if status > max(Status):
        raise WireError(f"reply has the unknown status {status}; known are 0…{max(Status)}")
    codec = reader.name(codec_bytes, "codec name")
    text = reader.text(_check_count(text_bytes, "bytes of message", MAX_TEXT_BYTES), "message")
    return Reply(
        request_id,
        Status(status),
        reader.tensors(tensors, limits),
        codec,
        _check_time(queue_ms, "queue time"),
        _check_time(compute_ms, "compute time"),
        text,
    )


def decoded_bytes(shape: Sequence[int], dtype: np.dtype[np.generic]) -> int:
    """Bytes a shape stands for, its empty dimensions counted as one: what numpy, too, must be able to count."""
    return math.prod(max(size, 1) for size in shape) * dtype.itemsize


def _seal_tensors(head: bytes, tensors: Sequence[EncodedTensor]) -> bytes:
    return seal(head + b"".join(_entry(tensor) for tensor in tensors), [tensor.data for tensor in tensors])


def seal(head: bytes, aligned: Sequence[bytes | memoryview]) -> bytes:
    """A message of this head and these data, each from the next multiple of 8 on, behind zeros.

    Raises WireError where it has 4 GiB or more.
    """
    parts: list[bytes | memoryview] = [head]
    length = len(head)
    for data in aligned:
        padding = -length % _ALIGNMENT
        parts += [bytes(padding), data]
        length += padding + len(data)
    if length + _U32.size > _UINT32:
        raise WireError(f"message of {length} bytes is larger than wire version {WIRE_VERSION} can carry (4 GiB)")
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return b"".join([*parts, _U32.pack(crc)])


def _entry(tensor: EncodedTensor) -> bytes:
    code = _DTYPE_CODES.get(tensor.dtype)
    if code is None:
        names = ", ".join(dtype.name for dtype in DTYPES)
        raise WireError(f"a tensor of dtype {tensor.dtype} cannot be sent; these can: {names}, little-endian")
    _check_count(len(tensor.shape), "dimensions", MAX_DIMS)
    sizes = (*tensor.shape, len(tensor.data))
    if any(not 0 <= size <= _UINT32 for size in sizes):
        raise WireError(f"a tensor of shape {list(tensor.shape)} and {len(tensor.data)} bytes is out of range")
    return _ENTRY.pack(code, len(tensor.shape)) + struct.pack(f"<{len(sizes)}I", *sizes)


class Reader:
    """A position in the body of a message whose CRC was right; WireError on anything beyond its end."""

    def __init__(self, body: memoryview) -> None:
        self._body = body
        self._at = 0

    def take(self, count: int, what: str) -> memoryview:
        """The next bytes."""
        left = len(self._body) - self._at
        if count > left:
            raise WireError(f"message ends inside its {what}: {count} bytes needed, {left} left")
        self._at += count
        return self._body[self._at - count : self._at]

    def unpack(self, form: struct.Struct) -> tuple[Any, ...]:
        """The next fields of a header."""
        return form.unpack(self.take(form.size, "header"))

    def text(self, count: int, what: str) -> str:
        """UTF-8 of so many bytes."""
        try:
            return str(self.take(count, what), "utf-8")
        except UnicodeDecodeError:
            raise WireError(f"{what} of {count} bytes is not UTF-8") from None

    def name(self, count: int, what: str) -> str:
        """Printable ASCII."""
        text = self.text(count, what)
        _name_bytes(text, what)
        return text

    def features(self, count: int) -> tuple[tuple[str, float], ...]:
        """A feature vector."""
        found = []
        for _ in range(count):
            name = self.name(self.take(1, "features")[0], "feature name")
            found.append((name, _check_number(_F64.unpack(self.take(8, "features"))[0], f"feature {name!r}")))
        _check_unique([name for name, _ in found])
        return tuple(found)

    def tensors(self, count: int, limits: Limits) -> tuple[EncodedTensor, ...]:
        """The table and the data, which must be all that is left."""
        _check_count(count, "tensors", MAX_TENSORS)
        table = [self._entry(index, limits) for index in range(count)]
        found = []
        for shape, dtype, size in table:
            found.append(EncodedTensor(shape, dtype, self.aligned(size, "tensor data")))
        self.end("tensor")
        return tuple(found)

    def aligned(self, count: int, what: str) -> memoryview:
        """What begins at the next multiple of 8, behind zeros."""
        if any(self.take(-self._at % _ALIGNMENT, "padding")):
            raise WireError(f"padding before {what} is not zero")
        return self.take(count, what)

    def end(self, last: str) -> None:
        """Nothing may be left behind the last of its parts."""
        if left := len(self._body) - self._at:
            raise WireError(f"message has {left} bytes after its last {last}; nothing belongs there")

    def _entry(self, index: int, limits: Limits) -> tuple[tuple[int, ...], np.dtype[np.generic], int]:
        code, dims = _ENTRY.unpack(self.take(_ENTRY.size, "tensor table"))
        if code >= len(DTYPES):
            raise WireError(f"tensor {index} has the unknown dtype code {code}; known are 0…{len(DTYPES) - 1}")
        _check_count(dims, f"dimensions of tensor {index}", MAX_DIMS)
        *shape, size = struct.unpack(f"<{dims + 1}I", self.take(4 * dims + 4, "tensor table"))
        needed = max(size, decoded_bytes(shape, DTYPES[code]))
        if needed > limits.max_tensor_bytes:
            raise WireError(
                f"tensor {index} of shape {shape} needs {needed} bytes; {limits.max_tensor_bytes} are allowed. "
                "Send a smaller tensor, or raise max_tensor_bytes"
            )
        return tuple(shape), DTYPES[code], size


def open_message(data: Buffer, limits: Limits, kind: int) -> Reader:
    """A reader of the body, after what every message has was checked. Raises WireError."""
    view = memoryview(data)
    if len(view) > limits.max_message_bytes:
        raise WireError(
            f"message of {len(view)} bytes is larger than the {limits.max_message_bytes} allowed. "
            "Send less, or raise max_message_bytes"
        )
    if len(view) < _PREFIX.size + _U32.size:
        raise WireError(f"message of {len(view)} bytes is too short to be a {_KINDS[kind]}")
    magic, version, found, flags = _PREFIX.unpack_from(view)
    if magic != MAGIC:
        raise WireError(f"message begins with {magic!r}, not {MAGIC!r}: it is not midstream's")
    if version not in WIRE_VERSIONS:
        spoken = ", ".join(map(str, WIRE_VERSIONS))
        raise WireError(f"message has wire version {version}; spoken here: {spoken}. Update the older of the two ends")
    if found != kind:
        raise WireError(
            f"message is a {_KINDS.get(found, f'message of unknown kind {found}')}, needed a {_KINDS[kind]}"
        )
    if flags:
        raise WireError(f"message has the unknown flags 0x{flags:02x}; wire version {version} has none")
    body = view[: -_U32.size]
    if zlib.crc32(body) != _U32.unpack(view[-_U32.size :])[0]:
        raise WireError(f"{_KINDS[kind]} of {len(view)} bytes is damaged: its CRC-32 does not match")
    return Reader(body)


def _text_bytes(text: str, what: str, most: int) -> bytes:
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise WireError(f"{what} {text!r} cannot be written as UTF-8") from None
    if len(encoded) > most:
        raise WireError(f"{what} has {len(encoded)} bytes; {most} are allowed")
    return encoded


def _name_bytes(text: str, what: str) -> bytes:
    if not (0 < len(text) <= MAX_NAME_BYTES and text.isascii() and text.isprintable()):
        raise WireError(f"{what} {text[:64]!r} is not 1…{MAX_NAME_BYTES} printable ASCII characters")
    return text.encode("ascii")


def _check_length(value: bytes, what: str, needed: int) -> None:
    if len(value) != needed:
        raise WireError(f"{what} has {len(value)} bytes, needed {needed}")


def _check_count(count: int, what: str, most: int) -> int:
    if count > most:
        raise WireError(f"{count} {what}; wire version {WIRE_VERSION} carries at most {most}")
    return count


def _check_number(value: float, what: str) -> float:
    if not math.isfinite(value):
        raise WireError(f"{what} is {value}; a finite number is needed")
    return value


def _check_time(value: float, what: str) -> float:
    if _check_number(value, what) < 0:
        raise WireError(f"{what} is {value} ms; it cannot be negative")
    return value


def _check_unique(names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        raise WireError(f"a feature is named twice among {', '.join(names)}")
