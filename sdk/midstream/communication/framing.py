"""What every message of wire version 1 has: a header, tensors that lie where they can be used, and a checksum.

``docs/protocol.md`` describes it byte by byte. `wire` makes requests and replies of it, `packs` packs, `control`
control messages. Every message has exactly one encoding; anything else is refused with WireError, before memory is
taken for it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from midstream.communication.checksum import CRC_BYTES, Buffer, is_sealed, sealed
from midstream.errors import WireError, WireVersionError

WIRE_VERSION = 1
WIRE_VERSIONS = (WIRE_VERSION,)
REQUEST_ID_BYTES = 16
MAX_TENSORS = 64
MAX_DIMS = 8
MAX_NAME_BYTES = 32
# No time in ms, nor any other figure that a gateway tells, is larger: sums and products of them stay finite.
MAX_FIGURE = 1e12
DTYPES: tuple[np.dtype[np.generic], ...] = tuple(
    np.dtype(code) for code in ("?", "<i1", "<i2", "<i4", "<i8", "<u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8")
)

MAGIC = b"MS"
VERSIONS, REQUEST, REPLY, PACK, CONTROL = range(5)

_KINDS = {
    VERSIONS: "notice of versions",
    REQUEST: "request",
    REPLY: "reply",
    PACK: "pack",
    CONTROL: "control message",
}
_ALIGNMENT = 8
_UINT32 = 0xFFFF_FFFF
_PREFIX = struct.Struct("<2sBBB")
_ENTRY = struct.Struct("<BB")
_DTYPE_CODES = {dtype: code for code, dtype in enumerate(DTYPES)}


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


def decoded_bytes(shape: Sequence[int], dtype: np.dtype[np.generic]) -> int:
    """Bytes a shape stands for, its empty dimensions counted as one: what numpy, too, must be able to count."""
    return math.prod(max(size, 1) for size in shape) * dtype.itemsize


def seal_tensors(head: bytes, tensors: Sequence[EncodedTensor]) -> bytes:
    """A message of this head, the table of these tensors, and their data. Raises WireError."""
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
    if length + CRC_BYTES > _UINT32:
        raise WireError(f"message of {length} bytes is larger than wire version {WIRE_VERSION} can carry (4 GiB)")
    return sealed(*parts)


def _entry(tensor: EncodedTensor) -> bytes:
    code = _DTYPE_CODES.get(tensor.dtype)
    if code is None:
        names = ", ".join(dtype.name for dtype in DTYPES)
        raise WireError(f"a tensor of dtype {tensor.dtype} cannot be sent; these can: {names}, little-endian")
    check_count(len(tensor.shape), "dimensions", MAX_DIMS)
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

    def byte(self, what: str) -> int:
        """The next byte, a number."""
        return self.take(1, what)[0]

    def text(self, count: int, what: str) -> str:
        """UTF-8 of so many bytes."""
        try:
            return str(self.take(count, what), "utf-8")
        except UnicodeDecodeError:
            raise WireError(f"{what} of {count} bytes is not UTF-8") from None

    def name(self, count: int, what: str) -> str:
        """Printable ASCII."""
        text = self.text(count, what)
        name_bytes(text, what)
        return text

    def tensors(self, count: int, limits: Limits) -> tuple[EncodedTensor, ...]:
        """The table and the data, which must be all that is left."""
        check_count(count, "tensors", MAX_TENSORS)
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
        check_count(dims, f"dimensions of tensor {index}", MAX_DIMS)
        *shape, size = struct.unpack(f"<{dims + 1}I", self.take(4 * dims + 4, "tensor table"))
        needed = max(size, decoded_bytes(shape, DTYPES[code]))
        if needed > limits.max_tensor_bytes:
            raise WireError(
                f"tensor {index} of shape {shape} needs {needed} bytes; {limits.max_tensor_bytes} are allowed. "
                "Send a smaller tensor, or raise max_tensor_bytes"
            )
        return tuple(shape), DTYPES[code], size


def check_version(version: int, what: str) -> None:
    """Raises WireVersionError for a version that is not spoken here."""
    if version not in WIRE_VERSIONS:
        spoken = ", ".join(map(str, WIRE_VERSIONS))
        raise WireVersionError(
            f"{what} has wire version {version}; spoken here: {spoken}. Update the older of the two ends"
        )


def open_message(data: Buffer, limits: Limits, kind: int, known_flags: int = 0) -> Reader:
    """A reader of the body, after what every message has was checked. Raises WireError."""
    view = memoryview(data)
    if len(view) > limits.max_message_bytes:
        raise WireError(
            f"message of {len(view)} bytes is larger than the {limits.max_message_bytes} allowed. "
            "Send less, or raise max_message_bytes"
        )
    if len(view) < _PREFIX.size + CRC_BYTES:
        raise WireError(f"message of {len(view)} bytes is too short to be a {_KINDS[kind]}")
    magic, version, found, flags = _PREFIX.unpack_from(view)
    if magic != MAGIC:
        raise WireError(f"message begins with {magic!r}, not {MAGIC!r}: it is not midstream's")
    check_version(version, "message")
    if found != kind:
        raise WireError(
            f"message is a {_KINDS.get(found, f'message of unknown kind {found}')}, needed a {_KINDS[kind]}"
        )
    if flags & ~known_flags:
        raise WireError(f"message has the unknown flags 0x{flags & ~known_flags:02x}; update the older of the two ends")
    if not is_sealed(view):
        raise WireError(f"{_KINDS[kind]} of {len(view)} bytes is damaged: its CRC-32C does not match")
    return Reader(view[:-CRC_BYTES])


def text_bytes(text: str, what: str, most: int) -> bytes:
    """UTF-8 of at most so many bytes. Raises WireError."""
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise WireError(f"{what} {text!r} cannot be written as UTF-8") from None
    if len(encoded) > most:
        raise WireError(f"{what} has {len(encoded)} bytes; {most} are allowed")
    return encoded


def name_bytes(text: str, what: str) -> bytes:
    """Printable ASCII of 1 to 32 characters. Raises WireError."""
    if not (0 < len(text) <= MAX_NAME_BYTES and text.isascii() and text.isprintable()):
        raise WireError(f"{what} {text[:64]!r} is not 1…{MAX_NAME_BYTES} printable ASCII characters")
    return text.encode("ascii")


def check_length(value: bytes, what: str, needed: int) -> None:
    """A field has this many bytes. Raises WireError."""
    if len(value) != needed:
        raise WireError(f"{what} has {len(value)} bytes, needed {needed}")


def check_count(count: int, what: str, most: int) -> int:
    """There are at most so many. Raises WireError."""
    if count > most:
        raise WireError(f"{count} {what}; wire version {WIRE_VERSION} carries at most {most}")
    return count


def check_number(value: float, what: str) -> float:
    """A finite number. Raises WireError."""
    if not math.isfinite(value):
        raise WireError(f"{what} is {value}; a finite number is needed")
    return value


def check_time(value: float, what: str) -> float:
    """A number of ms from 0 to 10¹². Raises WireError."""
    if not 0 <= check_number(value, what) <= MAX_FIGURE:
        raise WireError(f"{what} is {value} ms; 0 to {MAX_FIGURE:.0e} are possible")
    return value
