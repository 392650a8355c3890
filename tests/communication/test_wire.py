"""Wire format version 1: requests and replies."""

from __future__ import annotations

import dataclasses
import math
import re
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.communication.checksum import crc32c, sealed
from midstream.communication.wire import (
    DTYPES,
    EncodedTensor,
    Limits,
    Priority,
    Reply,
    Request,
    Runner,
    Stage,
    Status,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
    forwarded,
)
from midstream.errors import WireError, WireVersionError

from .golden import FOLDER, PARTIAL, REPLY, REQUEST

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
ids = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
cuts = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40), max_size=7, unique=True)
onwards = cuts.flatmap(
    lambda found: st.tuples(*(st.builds(Stage, st.just(cut), st.sampled_from(Runner), ids) for cut in found))
)
requests = st.builds(
    Request,
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=32, max_size=32),
    st.sampled_from(["", "this one"]),
    names,
    st.integers(0, 2**32 - 1),
    numbers,
    st.lists(st.tuples(names, numbers), max_size=32, unique_by=lambda feature: feature[0]).map(tuple),
    tensors,
    st.sampled_from(Priority),
    onwards.filter(lambda stages: all(stage.cut != "this one" for stage in stages)),
    st.booleans(),
)


def numbered(reply: Reply, first: int) -> Reply:
    """The reply with outputs for its tensors, and partial where it can be."""
    outputs = tuple(range(first, first + 3 * len(reply.tensors), 3))
    partial = reply.partial and reply.status is Status.OK and bool(outputs)
    return dataclasses.replace(reply, outputs=outputs, partial=partial)


replies = st.builds(
    numbered,
    st.builds(
        Reply,
        st.binary(min_size=16, max_size=16),
        st.sampled_from(Status),
        tensors,
        names,
        st.floats(0, 1e9),
        st.floats(0, 1e9),
        st.text(st.characters(codec="utf-8"), max_size=200),
        partial=st.booleans(),
    ),
    st.integers(0, 60_000),
)


def patched(message: bytes, at: int, value: bytes) -> bytes:
    """The message with other bytes at ``at`` and a CRC that is right again."""
    return sealed(message[:at] + value + message[at + len(value) : -4])


@settings(deadline=None)
@given(requests)
def test_a_request_survives(request: Request) -> None:
    assert decode_request(encode_request(request)) == request


@settings(deadline=None)
@given(replies)
def test_a_reply_survives(reply: Reply) -> None:
    assert decode_reply(encode_reply(reply)) == reply


def test_the_checksum_is_castagnolis() -> None:
    # The check value of CRC-32C in RFC 3720's successor catalogues, and one of RFC 3720 itself, B.4.
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"6789", crc32c(b"12345")) == crc32c(memoryview(b"123456789"))


def test_golden_request() -> None:
    data = (FOLDER / "request-v1.bin").read_bytes()
    assert encode_request(REQUEST) == data
    assert decode_request(data) == REQUEST


@pytest.mark.parametrize(("name", "reply"), [("reply-v1.bin", REPLY), ("partial-v1.bin", PARTIAL)])
def test_golden_replies(name: str, reply: Reply) -> None:
    data = (FOLDER / name).read_bytes()
    assert encode_reply(reply) == data
    assert decode_reply(data) == reply


def test_the_golden_request_lies_as_documented() -> None:
    data = (FOLDER / "request-v1.bin").read_bytes()
    assert data[:8] == b"MS" + bytes([1, 1, 1, 4, 3, 0])
    assert data[8:24] == REQUEST.request_id
    assert data[24:56] == REQUEST.bundle_digest
    assert struct.unpack_from("<IBBd", data, 56) == (250, 2, 2, 37.5)
    assert data[70:73] == b"raw"
    assert data[73:89] == b"\x03c12\x00" + b"\x03c40\x02\x05attic"
    assert data[89:105] == b"\x07entropy" + struct.pack("<d", 6.25)
    assert data[105:126] == b"\x0cedge_density" + struct.pack("<d", 0.125)
    assert data[126:144] == struct.pack("<BBIIII", 10, 3, 1, 2, 2, 16)
    assert data[144:154] == struct.pack("<BBII", 0, 1, 3, 3)
    assert data[154:160] == struct.pack("<BBI", 4, 0, 8)
    assert data[160:174] == struct.pack("<BBIII", 5, 2, 0, 4, 0)
    assert data[174:176] == bytes(2)
    assert data[176:192] == REQUEST.tensors[0].data
    assert data[192:200] == b"\x01\x00\x01" + bytes(5)
    assert data[200:208] == REQUEST.tensors[2].data
    assert data[208:] == struct.pack("<I", crc32c(data[:208]))


def test_the_protocol_page_shows_the_golden_request() -> None:
    page = (FOLDER.parent.parent / "docs" / "protocol.md").read_text(encoding="utf-8")
    rows = re.findall(r"^[0-9a-f]{4}:((?: [0-9a-f]{2})+)$", page, re.MULTILINE)
    assert bytes.fromhex("".join(rows)) == (FOLDER / "request-v1.bin").read_bytes()


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
@given(st.sampled_from([(b"MS\x01\x01\x00", decode_request), (b"MS\x01\x02\x00", decode_reply)]), st.binary())
def test_random_bodies_are_refused_or_canonical(start, body: bytes) -> None:  # type: ignore[no-untyped-def]
    prefix, decode = start
    message = sealed(prefix + body)
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
    data = sealed(bytes(damaged[:-4])) if resealed else bytes(damaged)
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
                decode(sealed(body[:end]) if resealed else message[:end])
        with pytest.raises(WireError):
            decode(sealed(body + b"\0") if resealed else message + b"\0")


def test_another_version_is_refused_with_those_spoken() -> None:
    with pytest.raises(WireVersionError, match="wire version 7; spoken here: 1"):
        decode_request(patched(encode_request(REQUEST), 2, b"\x07"))


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (0, b"XS", "not midstream's|begins with"),
        (3, b"\x02", "is a reply, needed a request"),
        (3, b"\x09", "unknown kind 9"),
        (4, b"\x81", "flags 0x80"),
        (5, b"\x41", "65 tensors"),
        (6, b"\x00", "codec name"),
        (7, b"\x03", "unknown priority class 3"),
        (60, b"\x21", "33 features"),
        (61, b"\x00", "0 stages"),
        (61, b"\x09", "9 stages"),
        (62, struct.pack("<d", math.nan), "score is nan"),
        (70, b"r\xc3", "UTF-8|ASCII"),
        (74, b"\xff", "cut id of 3 bytes is not UTF-8"),
        (77, b"\x01", "somebody else than its receiver"),
        (79, b"c12", "begins where another one does"),
        (82, b"\x00", "unknown kind 0"),
        (82, b"\x03", "unknown kind 3"),
        (83, b"\x00", "cannot be part of a topic"),
        (84, b"at/ic", "cannot be part of a topic"),
        (83, b"\x41", "cannot be part of a topic|not UTF-8"),
        (97, struct.pack("<d", math.inf), "'entropy' is inf"),
        (126, b"\x0c", "dtype code 12"),
        (127, b"\x09", "9 dimensions"),
        (128, struct.pack("<I", 2**32 - 1), "bytes; 67108864 are allowed"),
        (140, struct.pack("<I", 2**32 - 1), "bytes; 67108864 are allowed"),
        (174, b"\x01", "padding"),
    ],
)
def test_a_hostile_field_is_named(at: int, value: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        decode_request(patched(encode_request(REQUEST), at, value))


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (4, b"\x02", "flags 0x02"),
        (4, b"\x05", "flags 0x04"),
        (7, b"\x08", "unknown status 8"),
        (24, struct.pack("<d", -1.0), "queue time is -1.0 ms"),
        (24, struct.pack("<d", 1.1e12), "queue time is 1100000000000.0 ms"),
        (32, struct.pack("<d", math.nan), "compute time is nan"),
        (40, struct.pack("<H", 1025), "1025 bytes of message"),
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
    with pytest.raises(WireError, match=f"message of {len(message)} bytes is larger than the 211"):
        decode_request(message, Limits(211, 16))
    with pytest.raises(WireError, match=r"tensor 0 of shape .* needs 16 bytes; 15 are allowed"):
        decode_request(message, Limits(len(message), 15))


def test_a_flipped_bit_is_named_as_damage() -> None:
    message = bytearray(encode_request(REQUEST))
    message[180] ^= 1
    with pytest.raises(WireError, match="CRC-32C"):
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
        {"onward": tuple(Stage(f"c{n}", Runner.GATEWAY, "gw") for n in range(8))},
        {"onward": (Stage("", Runner.GATEWAY, "gw"),)},
        {"onward": (Stage("c12", Runner.GATEWAY, "gw"),)},
        {"onward": (Stage("c40", Runner.GATEWAY, "g/w"),)},
        {"onward": (Stage("c40", Runner.GATEWAY, ""),)},
        {"onward": (Stage("c" * 256, Runner.GATEWAY, "gw"),)},
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


@pytest.mark.parametrize(
    "change",
    [
        {"outputs": ()},
        {"outputs": (0, 1)},
        {"outputs": (65536,)},
        {"outputs": (-1,)},
        {"partial": True, "status": Status.BUSY},
        {"partial": True, "tensors": (), "outputs": ()},
    ],
)
def test_a_reply_that_contradicts_itself_is_not_encoded(change) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(WireError):
        encode_reply(dataclasses.replace(REPLY, **change))


def test_outputs_that_do_not_ascend_are_refused() -> None:
    twice = dataclasses.replace(REPLY, tensors=REPLY.tensors * 2, outputs=(2, 5))
    message = encode_reply(twice)
    at = message.index(struct.pack("<HH", 2, 5))
    for order in ((5, 2), (2, 2)):
        with pytest.raises(WireError, match="names the outputs"):
            decode_reply(patched(message, at, struct.pack("<HH", *order)))


def test_a_request_is_passed_on_stage_by_stage() -> None:
    stages = (Stage("c40", Runner.POOL, "attic"), Stage("c55", Runner.GATEWAY, "cellar"))
    request = dataclasses.replace(REQUEST, onward=stages)
    second = (EncodedTensor((2,), np.dtype(np.int8), b"ab"),)
    first_hop, onward = forwarded(request, "lossless", second, 200)
    assert first_hop == stages[0]
    assert onward == dataclasses.replace(
        request, cut="c40", codec="lossless", tensors=second, deadline_ms=200, onward=stages[1:]
    )
    assert decode_request(encode_request(onward)) == onward
    second_hop, last = forwarded(onward, "raw", second, 100)
    assert (second_hop, last.cut, last.onward, last.priority) == (stages[1], "c55", (), Priority.CRITICAL)
    with pytest.raises(WireError, match="has no further stage: answer it"):
        forwarded(last, "raw", (), 50)
