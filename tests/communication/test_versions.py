"""Devices and gateways of different wire versions: here they are made up, but for version 1."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.communication.checksum import sealed
from midstream.communication.versions import (
    VersionNotice,
    common_version,
    decode_notice,
    disagreement,
    encode_notice,
    is_notice,
)
from midstream.errors import WireError

from .golden import FOLDER, ID, NOTICE
from .golden import files as golden_files

versions = st.lists(st.integers(0, 255), min_size=1, max_size=16, unique=True).map(sorted).map(tuple)


@pytest.mark.parametrize(
    ("there", "here", "highest"),
    [((1,), (1,), 1), ((1, 2, 3), (1, 2), 2), ((0, 1), (1, 2), 1), ((2, 3), (1,), None), ((), (1,), None)],
)
def test_the_highest_common_version_is_taken(
    there: tuple[int, ...], here: tuple[int, ...], highest: int | None
) -> None:
    assert common_version(there, here) == highest


def test_who_has_to_be_updated_is_said() -> None:
    assert disagreement("attic", (2, 3), (1,)) == (
        "gateway attic speaks wire version 2, 3, this device 1: update midstream on this device"
    )
    assert disagreement("attic", (1,), (2,)).endswith("this device 2: update midstream on the gateway")
    assert "wire version none" in disagreement("attic", (), (1,))


@settings(deadline=None)
@given(st.binary(min_size=16, max_size=16), versions)
def test_a_notice_survives(request_id: bytes, spoken: tuple[int, ...]) -> None:
    payload = encode_notice(VersionNotice(request_id, spoken))
    assert is_notice(payload)
    assert decode_notice(payload) == VersionNotice(request_id, spoken)


def test_the_golden_notice_lies_as_documented() -> None:
    data = (FOLDER / "versions.bin").read_bytes()
    assert encode_notice(NOTICE) == data
    assert data == sealed(b"MS" + bytes([2, 0, 0, 2]) + ID + bytes([1, 2]))
    assert decode_notice(data) == NOTICE


def test_nothing_else_is_a_notice() -> None:
    assert not any(is_notice(data) for name, data in golden_files().items() if name != "versions.bin")
    assert not any(map(is_notice, (b"", b"MS", b"MS\1")))


@pytest.mark.parametrize(
    "body",
    [
        b"MS" + bytes([2, 0, 1, 2]) + ID + bytes([1, 2]),
        b"MS" + bytes([3, 0, 0, 2]) + ID + bytes([1, 2]),
        b"MS" + bytes([2, 0, 0, 3]) + ID + bytes([1, 2]),
        b"MS" + bytes([1, 0, 0, 2]) + ID + bytes([2, 1]),
        b"MS" + bytes([1, 0, 0, 2]) + ID + bytes([1, 1]),
        b"MS" + bytes([1, 0, 0, 0]) + ID,
        b"MS" + bytes([16, 0, 0, 17]) + ID + bytes(range(17)),
        b"MS" + bytes([2, 1, 0, 2]) + ID + bytes([1, 2]),
    ],
)
def test_a_hostile_notice_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        decode_notice(sealed(body))


def test_a_damaged_notice_is_refused() -> None:
    payload = encode_notice(NOTICE)
    for at in range(len(payload)):
        with pytest.raises(WireError):
            decode_notice(payload[:at])
        with pytest.raises(WireError):
            decode_notice(payload[:at] + bytes([payload[at] ^ 4]) + payload[at + 1 :])


@pytest.mark.parametrize("spoken", [(), (2, 1), (1, 1), (256,), tuple(range(17))])
def test_what_a_notice_cannot_say_is_not_encoded(spoken: tuple[int, ...]) -> None:
    with pytest.raises(WireError):
        encode_notice(VersionNotice(ID, spoken))
