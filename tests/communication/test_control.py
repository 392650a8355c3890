"""Control messages: chunks asked for again, cancelled, taken."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.communication.checksum import sealed
from midstream.communication.control import (
    MAX_CONTROL_BYTES,
    Cancel,
    Control,
    Missing,
    Taken,
    decode_control,
    encode_control,
)
from midstream.errors import WireError, WireVersionError

from .golden import CANCEL, FOLDER, ID, MISSING, TAKEN

progresses = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(sorted)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[tuple[int, int], ...]:
    """Ascending, apart."""
    found, at = [], -2
    for _ in range(draw(st.integers(1, 64))):
        first = at + draw(st.integers(2, 500))
        at = first + draw(st.integers(0, 500))
        found.append((first, at))
    return tuple(found)


ids, tags = st.binary(min_size=16, max_size=16), st.binary(min_size=4, max_size=4)
controls = st.one_of(
    st.builds(Cancel, ids),
    st.builds(lambda message_id, tag, progress: Taken(message_id, tag, *progress), ids, tags, progresses),
    st.builds(
        lambda message_id, tag, progress, gaps: Missing(message_id, tag, *progress, gaps),
        ids,
        tags,
        progresses,
        ranges(),
    ),
)


@settings(deadline=None)
@given(controls)
def test_a_control_message_survives(control: Control) -> None:
    payload = encode_control(control)
    assert len(payload) <= MAX_CONTROL_BYTES
    assert decode_control(payload) == control


@pytest.mark.parametrize(
    ("name", "control"), [("missing-v1.bin", MISSING), ("cancel-v1.bin", CANCEL), ("taken-v1.bin", TAKEN)]
)
def test_golden_control_messages(name: str, control: Control) -> None:
    data = (FOLDER / name).read_bytes()
    assert encode_control(control) == data
    assert decode_control(data) == control


def body(code: int, count: int, rest: bytes = b"") -> bytes:
    return struct.pack("<2sBBBBH16s", b"MS", 1, 4, 0, code, count, ID) + rest


PROGRESS = b"tag!" + struct.pack("<HH", 1, 2)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (body(0, 0), "unknown code 0"),
        (body(4, 0), "unknown code 4"),
        (body(2, 1), "has 1 ranges of chunks; only MISSING"),
        (body(3, 1, PROGRESS), "has 1 ranges of chunks; only MISSING"),
        (body(2, 0, b"!"), "1 bytes after its last field"),
        (body(3, 0, PROGRESS[:-1]), "ends inside its header"),
        (body(3, 0, b"tag!" + struct.pack("<HH", 3, 2)), "3 chunks of 2 cannot have come"),
        (body(3, 0, b"tag!" + struct.pack("<HH", 0, 2)), "0 chunks of 2 cannot have come"),
        (body(1, 0, PROGRESS), "0 ranges"),
        (body(1, 65, PROGRESS + bytes(4 * 65)), "is larger than the"),
        (body(1, 2, PROGRESS + struct.pack("<HH", 1, 1)), "ends inside its ranges"),
        (body(1, 1, PROGRESS + struct.pack("<HH", 2, 1)), "not ascending"),
        (body(1, 2, PROGRESS + struct.pack("<HHHH", 1, 1, 2, 2)), "not ascending, apart"),
        (body(1, 2, PROGRESS + struct.pack("<HHHH", 5, 6, 1, 2)), "not ascending"),
        (b"MS\1\4\1" + body(2, 0)[5:], "flags 0x01"),
        (b"MS\1\1" + body(2, 0)[4:], "is a request, needed a control message"),
    ],
)
def test_a_hostile_control_message_is_refused_and_named(message: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        decode_control(sealed(message))


def test_another_version_is_told_apart() -> None:
    with pytest.raises(WireVersionError, match="version 9"):
        decode_control(sealed(b"MS\x09" + body(2, 0)[3:]))


@settings(max_examples=300, deadline=None)
@given(controls, st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=3), st.booleans())
def test_flipped_bits_are_refused_or_canonical(control: Control, flips: list[tuple[float, int]], again: bool) -> None:
    damaged = bytearray(encode_control(control))
    for place, bits in flips:
        damaged[int(place * len(damaged))] ^= bits
    payload = sealed(bytes(damaged[:-4])) if again else bytes(damaged)
    try:
        found = decode_control(payload)
    except WireError:
        return
    assert encode_control(found) == payload


@pytest.mark.parametrize("resealed", [False, True])
@pytest.mark.parametrize("control", [MISSING, TAKEN, CANCEL])
def test_every_truncation_and_extension_is_refused(control: Control, resealed: bool) -> None:
    payload = encode_control(control)
    for end in range(len(payload) - 4):
        with pytest.raises(WireError):
            decode_control(sealed(payload[:end]) if resealed else payload[:end])
    with pytest.raises(WireError):
        decode_control(sealed(payload[:-4] + b"\0") if resealed else payload + b"\0")


@pytest.mark.parametrize(
    "control",
    [
        Cancel(b"short"),
        Taken(ID, b"tag", 1, 1),
        Taken(ID, b"tag!", 2, 1),
        Taken(ID, b"tag!", 1, 65536),
        Missing(ID, b"tag!", 1, 2, ()),
        Missing(ID, b"tag!", 1, 2, tuple((at, at) for at in range(0, 130, 2))),
        Missing(ID, b"tag!", 1, 2, ((0, 65536),)),
        Missing(ID, b"tag!", 1, 2, ((1, 1), (1, 2))),
    ],
)
def test_what_the_format_cannot_carry_is_not_encoded(control: Control) -> None:
    with pytest.raises(WireError):
        encode_control(control)
