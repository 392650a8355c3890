"""A second encoder of wire version 1, written from ``docs/protocol.md`` alone: it shares no code with the product.

Plain values in, bytes out, and what is not needed to compare the two is left out: it checks nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

Tensor = tuple[int, tuple[int, ...], bytes]
"""Dtype code, dimensions, data."""


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", crc32c(body))


def with_tensors(head: bytes, tensors: Sequence[Tensor]) -> bytes:
    body = head
    for dtype, shape, data in tensors:
        body += struct.pack(f"<BB{len(shape)}II", dtype, len(shape), *shape, len(data))
    for _, _, data in tensors:
        body += b"\0" * (-len(body) % 8) + data
    return sealed(body)


def request(
    *,
    request_id: bytes,
    digest: bytes,
    stages: Sequence[tuple[str, int, str]],
    codec: str,
    remaining_ms: int,
    score: float,
    features: Sequence[tuple[str, float]],
    tensors: Sequence[Tensor],
    priority: int,
    parity: bool,
) -> bytes:
    body = b"MS" + bytes([1, 1, int(parity), len(tensors), len(codec), priority])
    body += request_id + digest
    body += struct.pack("<IBBd", remaining_ms, len(features), len(stages), score)
    body += codec.encode("ascii")
    for cut, kind, runner in stages:
        body += bytes([len(cut.encode())]) + cut.encode() + bytes([kind])
        if kind:
            body += bytes([len(runner)]) + runner.encode("ascii")
    for name, value in features:
        body += bytes([len(name)]) + name.encode("ascii") + struct.pack("<d", value)
    return with_tensors(body, tensors)


def reply(
    *,
    request_id: bytes,
    status: int,
    codec: str,
    queue_ms: float,
    compute_ms: float,
    message: str,
    outputs: Sequence[int],
    tensors: Sequence[Tensor],
    partial: bool,
) -> bytes:
    text = message.encode()
    body = b"MS" + bytes([1, 2, int(partial), len(tensors), len(codec), status]) + request_id
    body += struct.pack("<ddH", queue_ms, compute_ms, len(text)) + codec.encode("ascii") + text
    body += b"".join(struct.pack("<H", place) for place in outputs)
    return with_tensors(body, tensors)


def pack(messages: Sequence[bytes]) -> bytes:
    body = b"MS" + bytes([1, 3, 0, len(messages)])
    body += b"".join(struct.pack("<I", len(message)) for message in messages)
    for message in messages:
        body += b"\0" * (-len(body) % 8) + message
    return sealed(body)


def notice(request_id: bytes, versions: Sequence[int]) -> bytes:
    return sealed(b"MS" + bytes([max(versions), 0, 0, len(versions)]) + request_id + bytes(sorted(versions)))


def missing(message_id: bytes, tag: bytes, received: int, span: int, ranges: Sequence[tuple[int, int]]) -> bytes:
    body = b"MS" + bytes([1, 4, 0, 1]) + struct.pack("<H", len(ranges)) + message_id + tag
    body += struct.pack("<HH", received, span)
    return sealed(body + b"".join(struct.pack("<HH", first, last) for first, last in ranges))


def cancel(message_id: bytes) -> bytes:
    return sealed(b"MS" + bytes([1, 4, 0, 2, 0, 0]) + message_id)


def taken(message_id: bytes, tag: bytes, received: int, span: int) -> bytes:
    return sealed(b"MS" + bytes([1, 4, 0, 3, 0, 0]) + message_id + tag + struct.pack("<HH", received, span))


def chunks(message: bytes, message_id: bytes, count: int, parity: int = 0) -> list[bytes]:
    """In ``count`` data chunks."""
    size = (len(message) + count - 1) // count
    parts = [message[at * size : min((at + 1) * size, len(message))] for at in range(count)]
    filled = [part + b"\0" * (size - len(part)) for part in parts]
    parts += [value_at(index, filled) for index in range(count, count + parity)]
    found = []
    for index, part in enumerate(parts):
        header = b"MC" + bytes([1, 0]) + message_id + struct.pack("<HHI", index, count, len(message))
        found.append(sealed(header + message[-4:] + bytes([parity]) + part))
    return found


def times(left: int, right: int) -> int:
    """The product in GF(2⁸)."""
    product = 0
    while right:
        if right & 1:
            product ^= left
        left = left << 1 ^ (0x11D if left & 0x80 else 0)
        right >>= 1
    return product


def inverse(value: int) -> int:
    return next(other for other in range(1, 256) if times(value, other) == 1)


def place(index: int) -> int:
    """Where the polynomial is taken for the part of this index."""
    found = 1
    for _ in range(index - 1):
        found = times(found, 2)
    return found if index else 0


def value_at(index: int, parts: Sequence[bytes]) -> bytes:
    """The part of this index: Lagrange's interpolation of the data parts, byte by byte."""
    weights = []
    for j in range(len(parts)):
        weight = 1
        for m in range(len(parts)):
            if m != j:
                weight = times(weight, times(place(index) ^ place(m), inverse(place(j) ^ place(m))))
        weights.append(weight)
    found = bytearray(len(parts[0]))
    for weight, part in zip(weights, parts, strict=True):
        table = bytes(times(weight, byte) for byte in range(256))
        for at, byte in enumerate(part.translate(table)):
            found[at] ^= byte
    return bytes(found)
