"""Packs."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.communication.checksum import crc32c, sealed
from midstream.communication.chunks import Reassembler, split
from midstream.communication.packs import (
    MAX_PACK_BYTES,
    MAX_PACKED,
    decode_pack,
    encode_pack,
    is_pack,
    packed_bytes,
    request_id_of,
)
from midstream.communication.wire import decode_request, encode_reply, encode_request, with_deadline
from midstream.errors import WireError

from . import golden
from .golden import FOLDER, pack_parts
from .golden import numbered as renumbered

REQUEST = encode_request(golden.REQUEST)
REPLY = encode_reply(golden.REPLY)
PACK = pack_parts()


def numbered(number: int, message: bytes = REQUEST) -> bytes:
    return renumbered(number, message)


messages = st.lists(st.binary(min_size=28, max_size=200), min_size=2, max_size=MAX_PACKED, unique_by=request_id_of)


@settings(deadline=None)
@given(messages)
def test_a_pack_survives(parts: list[bytes]) -> None:
    pack = encode_pack(parts)
    assert is_pack(pack)
    assert len(pack) == packed_bytes(parts)
    assert [bytes(part) for part in decode_pack(pack)] == parts


def test_golden_pack() -> None:
    data = (FOLDER / "pack-v1.bin").read_bytes()
    assert encode_pack(PACK) == data
    assert [bytes(part) for part in decode_pack(data)] == list(PACK)


def test_the_golden_pack_lies_as_documented() -> None:
    data = (FOLDER / "pack-v1.bin").read_bytes()
    assert data[:6] == b"MS" + bytes([1, 3, 0, 3])
    assert data[6:18] == struct.pack("<III", 212, 211, 212)
    assert data[18:24] == bytes(6)
    assert data[24:236] == PACK[0]
    assert data[236:240] == bytes(4)
    assert data[240:451] == PACK[1]
    assert data[451:456] == bytes(5)
    assert data[456:668] == PACK[2]
    assert data[668:] == struct.pack("<I", crc32c(data[:668]))


def test_one_damaged_message_leaves_the_others_readable() -> None:
    first, second, third = decode_pack(encode_pack(PACK))
    assert decode_request(first).request_id == (1).to_bytes(16, "big")
    assert decode_request(third).request_id == request_id_of(third)
    with pytest.raises(WireError, match="CRC-32C"):
        decode_request(second)


def test_replies_are_packed_the_same_way() -> None:
    replies = [numbered(number, REPLY) for number in range(5)]
    assert [bytes(part) for part in decode_pack(encode_pack(replies))] == replies


def test_tensor_data_in_a_pack_is_not_copied_and_is_aligned() -> None:
    pack = encode_pack(PACK)
    tensor = decode_request(decode_pack(pack)[2]).tensors[0]
    assert isinstance(tensor.data, memoryview)
    assert tensor.data.obj is pack
    assert (pack.index(tensor.data, 456)) % 8 == 0


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"MS\1\3\0\0", "pack of 0 messages; 2 to 64"),
        (b"MS\1\3\0\1" + struct.pack("<I", 204) + bytes(6) + REQUEST, "pack of 1 messages"),
        (b"MS\1\3\0\x41" + bytes(4 * 65), "pack of 65 messages"),
        (b"MS\1\3\0\x40" + bytes(4 * 63), "ends inside its table of lengths"),
        (
            b"MS\1\3\0\2" + struct.pack("<II", 2**32 - 1, 204) + bytes(2),
            "ends inside its messages: 4294967295 bytes needed",
        ),
        (b"MS\1\3\0\2" + struct.pack("<II", 204, 27) + bytes(2) + bytes(204 + 4 + 27), "message of 27 bytes"),
        (b"MS\1\3\0\2" + struct.pack("<II", 32, 32) + b"\0\1" + bytes(64), "padding before messages is not zero"),
        (b"MS\1\3\0\2" + struct.pack("<II", 32, 32) + bytes(66), "two messages of the same request id"),
        (b"MS\1\3\1\2", "flags 0x01"),
        (b"MS\7\3\0\2", "wire version 7"),
        (b"XS\0\3\0\2", "not midstream's"),
        (REQUEST[:-4], "is a request, needed a pack"),
    ],
)
def test_a_hostile_pack_is_refused_and_named(body: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        decode_pack(sealed(body))


def test_what_is_too_much_is_refused_before_memory_is_taken_for_it() -> None:
    data = bytes(MAX_PACK_BYTES + 1)
    tracemalloc.start()
    with pytest.raises(WireError, match=f"pack of {len(data)} bytes; {MAX_PACK_BYTES} are allowed"):
        decode_pack(data)
    assert tracemalloc.get_traced_memory()[1] < 10_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [REQUEST],
        [REQUEST, REQUEST],
        [numbered(number) for number in range(65)],
        [numbered(1), numbered(2)[:27]],
        [numbered(1) + bytes(MAX_PACK_BYTES - 228), numbered(2)],
    ],
)
def test_what_a_pack_cannot_carry_is_not_encoded(parts: list[bytes]) -> None:
    with pytest.raises(WireError):
        encode_pack(parts)


def test_packs_are_not_nested() -> None:
    inner = encode_pack(PACK)
    (first, second) = decode_pack(encode_pack([inner, numbered(9)]))
    with pytest.raises(WireError, match="is a pack, needed a request"):
        decode_request(first)
    assert decode_request(second).request_id == (9).to_bytes(16, "big")


@pytest.mark.parametrize("resealed", [False, True])
def test_every_truncation_and_extension_is_refused(resealed: bool) -> None:
    pack = encode_pack(PACK)
    body = pack[:-4]
    for end in range(len(body)):
        with pytest.raises(WireError):
            decode_pack(sealed(body[:end]) if resealed else pack[:end])
    with pytest.raises(WireError):
        decode_pack(sealed(body + b"\0") if resealed else pack + b"\0")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=3),
    st.floats(0, 1),
    st.booleans(),
)
def test_flipped_bits_are_refused_or_canonical(flips: list[tuple[float, int]], within: float, resealed: bool) -> None:
    pack = bytearray(encode_pack(PACK))
    for place, bits in flips:
        pack[int(place * within * len(pack))] ^= bits
    data = sealed(bytes(pack[:-4])) if resealed else bytes(pack)
    try:
        found = decode_pack(data)
    except WireError:
        return
    assert encode_pack([bytes(part) for part in found]) == data


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused_or_canonical(body: bytes) -> None:
    data = sealed(b"MS\1\3\0" + body)
    try:
        found = decode_pack(data)
    except WireError:
        return
    assert encode_pack([bytes(part) for part in found]) == data
    with pytest.raises(WireError):
        decode_pack(body)


def test_requests_and_replies_are_no_packs() -> None:
    assert not any(map(is_pack, (REQUEST, REPLY, b"", b"MS\1")))


def test_a_pack_travels_as_one_chunk() -> None:
    pack = encode_pack([numbered(number) + bytes(788) for number in range(60)])
    (chunk,) = split(pack, bytes(16))
    assert Reassembler(MAX_PACK_BYTES).add("d", chunk) == pack


@pytest.mark.parametrize("deadline_ms", [0, 1, 2**32 - 1])
def test_the_time_that_remains_is_all_that_changes(deadline_ms: int) -> None:
    before, after = decode_request(REQUEST), decode_request(with_deadline(REQUEST, deadline_ms))
    assert after.deadline_ms == deadline_ms
    assert (after.request_id, after.cut, after.features) == (before.request_id, before.cut, before.features)
    assert [bytes(tensor.data) for tensor in after.tensors] == [bytes(tensor.data) for tensor in before.tensors]
