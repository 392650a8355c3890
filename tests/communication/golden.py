"""What the golden files hold. After a wanted change of the format: ``python tests/communication/golden.py``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from midstream.communication.checksum import sealed
from midstream.communication.chunks import split
from midstream.communication.control import Cancel, Missing, Taken, encode_control
from midstream.communication.packs import encode_pack
from midstream.communication.versions import VersionNotice, encode_notice
from midstream.communication.wire import (
    EncodedTensor,
    Priority,
    Reply,
    Request,
    Runner,
    Stage,
    Status,
    encode_reply,
    encode_request,
)

FOLDER = Path(__file__).parent.parent / "golden"
ID = bytes(range(16))

REQUEST = Request(
    request_id=ID,
    bundle_digest=bytes(range(32, 64)),
    cut="c12",
    codec="raw",
    deadline_ms=250,
    score=37.5,
    features=(("entropy", 6.25), ("edge_density", 0.125)),
    tensors=(
        EncodedTensor((1, 2, 2), np.dtype(np.float32), np.array([0, 1, -2, 0.5], "<f4").tobytes()),
        EncodedTensor((3,), np.dtype(np.bool_), b"\x01\x00\x01"),
        EncodedTensor((), np.dtype(np.int64), (-7).to_bytes(8, "little", signed=True)),
        EncodedTensor((0, 4), np.dtype(np.uint8), b""),
    ),
    priority=Priority.CRITICAL,
    onward=(Stage("c40", Runner.POOL, "attic"),),
    takes_parity=True,
)
REPLY = Reply(
    request_id=ID,
    status=Status.OK,
    tensors=(EncodedTensor((1, 2), np.dtype(np.float16), b"\x00\x3c\x00\xc0"),),
    codec="lossless",
    queue_ms=1.5,
    compute_ms=12.25,
    message="größer",
    outputs=(2,),
)
PARTIAL = replace(REPLY, message="", outputs=(0,), partial=True)
MISSING = Missing(ID, b"tag!", received=9, span=14, ranges=((2, 2), (5, 7)))
TAKEN = Taken(ID, b"tag!", received=13, span=14)
CANCEL = Cancel(ID)
NOTICE = VersionNotice(ID, (1, 2))


def numbered(number: int, message: bytes) -> bytes:
    """The message with another request id."""
    return sealed(message[:8] + number.to_bytes(16, "big") + message[24:-4])


def shorter(message: bytes) -> bytes:
    """The message without its last byte of data: damaged, and no multiple of 8."""
    return message[:-5] + message[-4:]


def pack_parts() -> tuple[bytes, ...]:
    """Of the golden pack: a request, a damaged one, and another."""
    request = encode_request(REQUEST)
    return numbered(1, request), shorter(numbered(2, request)), numbered(3, request)


def in_parts() -> bytes:
    """A message of which two chunks of at most 2,085 bytes are made, and a parity chunk."""
    data = bytes(at * 7 & 0xFF for at in range(3001))
    return encode_request(replace(REQUEST, tensors=(EncodedTensor((3001,), np.dtype(np.uint8), data),)))


def files() -> dict[str, bytes]:
    """The golden files by name."""
    request = encode_request(REQUEST)
    return {
        "request-v1.bin": request,
        "reply-v1.bin": encode_reply(REPLY),
        "partial-v1.bin": encode_reply(PARTIAL),
        "pack-v1.bin": encode_pack(pack_parts()),
        "chunk-v1.bin": split(request, ID)[0],
        "parity-v1.bin": split(in_parts(), ID, 2085, parity=1)[2],
        "missing-v1.bin": encode_control(MISSING),
        "cancel-v1.bin": encode_control(CANCEL),
        "taken-v1.bin": encode_control(TAKEN),
        "versions.bin": encode_notice(NOTICE),
    }


if __name__ == "__main__":
    for name, content in files().items():
        (FOLDER / name).write_bytes(content)
