"""Wire format version 0. After a wanted change of the format: ``python tests/communication/test_wire.py`` rewrites
the golden request and reply, then ``python tests/communication/test_chunks.py`` the golden chunk."""

from __future__ import annotations

import dataclasses
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.communication.wire import (
    DTYPES,
    EncodedTensor,
    Limits,
    Reply,
    Request,
    Status,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from midstream.errors import WireError

GOLDEN = Path(__file__).parent.parent / "golden"

REQUEST = Request(
    request_id=bytes(range(16)),
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
)
REPLY = Reply(
    request_id=bytes(range(16)),
    status=Status.OK,
    tensors=(EncodedTensor((1, 2), np.dtype(np.float16), b"\x00\x3c\x00\xc0"),),
    codec="lossless",
    queue_ms=1.5,
    compute_ms=12.25,
    message="größer",
)

names = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=32)
numbers = st.floats(allow_nan=False, allow_infinity=False)
tensors = st.lists(
    st.builds(
        EncodedTensor,
        st.lists(st.integers(0, 5), max_size=8).map(tuple),
        st.sampled_from(DTYPES),
        st.binary(max_size=40),
    ),
    max_size=5,
).map(tuple)
requests = st.builds(
    Request,
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=32, max_size=32),
    st.text(st.characters(codec="utf-8"), max_size=60),
    names,
    st.integers(0, 2**32 - 1),
    numbers,
    st.lists(st.tuples(names, numbers), max_size=32, unique_by=lambda feature: feature[0]).map(tuple),
    tensors,
)
replies = st.builds(
    Reply,
    st.binary(min_size=16, max_size=16),
    st.sampled_from(Status),
    tensors,
    names,
    st.floats(0, 1e9),
    st.floats(0, 1e9),
    st.text(st.characters(codec="utf-8"), max_size=200),
)


def seal(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def patched(message: bytes, at: int, value: bytes) -> bytes:
    """The message with other bytes at ``at`` and a CRC that is right again."""
    return seal(message[:at] + value + message[at + len(value) : -4])


@settings(deadline=None)
@given(requests)
def test_a_request_survives(request: Request) -> None:
    assert decode_request(encode_request(request)) == request


@settings(deadline=None)
@given(replies)
def test_a_reply_survives(reply: Reply) -> None:
    assert decode_reply(encode_reply(reply)) == reply


def test_golden_request() -> None:
    data = (GOLDEN / "request-v0.bin").read_bytes()
    assert encode_request(REQUEST) == data
    assert decode_request(data) == REQUEST


def test_golden_reply() -> None:
    data = (GOLDEN / "reply-v0.bin").read_bytes()
    assert encode_reply(REPLY) == data
    assert decode_reply(data) == REPLY


def test_the_golden_request_lies_as_documented() -> None:
    data = (GOLDEN / "request-v0.bin").read_bytes()
    assert data[:8] == b"MS" + bytes([0, 1, 0, 4, 3, 3])
    assert data[8:24] == REQUEST.request_id
    assert data[24:56] == REQUEST.bundle_digest
    assert struct.unpack_from("<IId", data, 56) == (250, 2, 37.5)
    assert data[72:78] == b"rawc12"
    assert data[78:94] == b"\x07entropy" + struct.pack("<d", 6.25)
    assert data[94:115] == b"\x0cedge_density" + struct.pack("<d", 0.125)
    assert data[115:133] == struct.pack("<BBIIII", 10, 3, 1, 2, 2, 16)
    assert data[133:143] == struct.pack("<BBII", 0, 1, 3, 3)
    assert data[143:149] == struct.pack("<BBI", 4, 0, 8)
    assert data[149:163] == struct.pack("<BBIII", 5, 2, 0, 4, 0)
    assert data[163:168] == bytes(5)
    assert data[168:184] == REQUEST.tensors[0].data
    assert data[184:192] == b"\x01\x00\x01" + bytes(5)
    assert data[192:200] == REQUEST.tensors[2].data
    assert data[200:] == struct.pack("<I", zlib.crc32(data[:200]))


def test_the_protocol_page_shows_the_golden_request() -> None:
    page = (GOLDEN.parent.parent / "docs" / "protocol.md").read_text(encoding="utf-8")
    rows = re.findall(r"^[0-9a-f]{4}:((?: [0-9a-f]{2})+)$", page, re.MULTILINE)
    assert bytes.fromhex("".join(rows)) == (GOLDEN / "request-v0.bin").read_bytes()


def test_tensor_data_is_not_copied_and_is_aligned() -> None:
    message = encode_request(REQUEST)
    first = decode_request(message).tensors[0].data
    assert isinstance(first, memoryview)
    assert first.obj is message
    assert np.frombuffer(first, "<f4").flags.aligned


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    for decode in (decode_request, decode_reply):
        with pytest.raises(WireError):
            decode(data)


@settings(deadline=None)
@given(st.sampled_from([(b"MS\x00\x01\x00", decode_request), (b"MS\x00\x02\x00", decode_reply)]), st.binary())
def test_random_bodies_are_refused_or_canonical(start, body: bytes) -> None:  # type: ignore[no-untyped-def]
    prefix, decode = start
    message = seal(prefix + body)
    try:
        found = decode(message)
    except WireError:
        return
    assert (encode_request if decode is decode_request else encode_reply)(found) == message


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([(encode_request(REQUEST), decode_request), (encode_reply(REPLY), decode_reply)]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=3),
    st.booleans(),
)
def test_flipped_bits_are_refused_or_canonical(start, flips, resealed: bool) -> None:  # type: ignore[no-untyped-def]
    message, decode = start
    damaged = bytearray(message)
    for place, bits in flips:
        damaged[int(place * len(damaged))] ^= bits
    data = seal(bytes(damaged[:-4])) if resealed else bytes(damaged)
    try:
        found = decode(data)
    except WireError:
        return
    # What is taken has exactly one encoding, this one.
    assert (encode_request if decode is decode_request else encode_reply)(found) == data


@pytest.mark.parametrize("resealed", [False, True])
def test_every_truncation_and_extension_is_refused(resealed: bool) -> None:
    for message, decode in ((encode_request(REQUEST), decode_request), (encode_reply(REPLY), decode_reply)):
        body = message[:-4]
        for end in range(len(body)):
            with pytest.raises(WireError):
                decode(seal(body[:end]) if resealed else message[:end])
        with pytest.raises(WireError):
            decode(seal(body + b"\0") if resealed else message + b"\0")


def test_another_version_is_refused_with_those_spoken() -> None:
    with pytest.raises(WireError, match="wire version 7; spoken here: 0"):
        decode_request(patched(encode_request(REQUEST), 2, b"\x07"))


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (0, b"XS", "not midstream's|begins with"),
        (3, b"\x02", "is a reply, needed a request"),
        (3, b"\x09", "unknown kind 9"),
        (4, b"\x80", "flags 0x80"),
        (5, b"\x41", "65 tensors"),
        (6, b"\x00", "codec name"),
        (60, struct.pack("<I", 33), "33 features"),
        (64, struct.pack("<d", math.nan), "score is nan"),
        (72, b"r\xc3", "UTF-8|ASCII"),
        (75, b"\xff", "cut id of 3 bytes is not UTF-8"),
        (86, struct.pack("<d", math.inf), "'entropy' is inf"),
        (115, b"\x0c", "dtype code 12"),
        (116, b"\x09", "9 dimensions"),
        (117, struct.pack("<I", 2**32 - 1), "bytes; 67108864 are allowed"),
        (129, struct.pack("<I", 2**32 - 1), "bytes; 67108864 are allowed"),
        (163, b"\x01", "padding"),
    ],
)
def test_a_hostile_field_is_named(at: int, value: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        decode_request(patched(encode_request(REQUEST), at, value))


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (7, b"\x07", "unknown status 7"),
        (24, struct.pack("<d", -1.0), "queue time is -1.0 ms"),
        (32, struct.pack("<d", math.nan), "compute time is nan"),
        (40, struct.pack("<I", 1025), "1025 bytes of message"),
    ],
)
def test_a_hostile_field_of_a_reply_is_named(at: int, value: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        decode_reply(patched(encode_reply(REPLY), at, value))


def test_an_empty_tensor_of_huge_dimensions_is_refused() -> None:
    tensor = EncodedTensor((0, 2**31, 2**31), np.dtype(np.uint8), b"")
    message = encode_request(dataclasses.replace(REQUEST, tensors=(tensor,)))
    with pytest.raises(WireError, match="are allowed"):
        decode_request(message)


def test_limits_are_checked() -> None:
    message = encode_request(REQUEST)
    assert decode_request(message, Limits(len(message), 16)) == REQUEST
    with pytest.raises(WireError, match=f"message of {len(message)} bytes is larger than the 203"):
        decode_request(message, Limits(203, 16))
    with pytest.raises(WireError, match=r"tensor 0 of shape .* needs 16 bytes; 15 are allowed"):
        decode_request(message, Limits(len(message), 15))


def test_a_flipped_bit_is_named_as_damage() -> None:
    message = bytearray(encode_request(REQUEST))
    message[170] ^= 1
    with pytest.raises(WireError, match="CRC-32"):
        decode_request(bytes(message))


@pytest.mark.parametrize(
    "change",
    [
        {"request_id": b"short"},
        {"bundle_digest": bytes(31)},
        {"cut": "c" * 256},
        {"cut": "\ud800"},
        {"codec": ""},
        {"codec": "ü"},
        {"codec": "r" * 33},
        {"deadline_ms": -1},
        {"deadline_ms": 2**32},
        {"score": math.inf},
        {"features": tuple((f"f{n}", 0.0) for n in range(33))},
        {"features": (("a", 0.0), ("a", 1.0))},
        {"features": (("a", math.nan),)},
        {"features": (("a" * 33, 0.0),)},
        {"tensors": (EncodedTensor((), np.dtype(np.bool_), b"\0"),) * 65},
        {"tensors": (EncodedTensor((1,) * 9, np.dtype(np.bool_), b"\0"),)},
        {"tensors": (EncodedTensor((2**32,), np.dtype(np.bool_), b"\0"),)},
        {"tensors": (EncodedTensor((1,), np.dtype(np.complex64), bytes(8)),)},
        {"tensors": (EncodedTensor((1,), np.dtype(">f4"), bytes(4)),)},
    ],
)
def test_what_the_format_cannot_carry_is_not_encoded(change) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(WireError):
        encode_request(dataclasses.replace(REQUEST, **change))


def test_a_long_explanation_is_cut_at_a_whole_character() -> None:
    reply = decode_reply(encode_reply(dataclasses.replace(REPLY, message="a" + "ü" * 1000)))
    assert reply.message == "a" + "ü" * 511


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / "request-v0.bin").write_bytes(encode_request(REQUEST))
    (GOLDEN / "reply-v0.bin").write_bytes(encode_reply(REPLY))
