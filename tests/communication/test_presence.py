from __future__ import annotations

import dataclasses
import json
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.communication.presence import (
    MAX_PRESENCE_BYTES,
    Presence,
    decode_presence,
    encode_presence,
    encode_within,
)
from midstream.errors import WireError

DIGEST = bytes(range(32))
PRESENCE = Presence(
    gateway_id="gw-1",
    bundles=(DIGEST, bytes(32)),
    speed_factor=2.5,
    wire_versions=(1,),
    tail_ms={DIGEST.hex(): {"whole": 40.125, "c12": 7.5, "größer": 0.0}},
    knows=("zstd",),
    bases={DIGEST.hex(): "0123456789abcdef"},
    pools=("attic", "p" * 64),
)
BODY = json.loads(encode_presence(PRESENCE))

times = st.floats(0, 1e6).map(lambda ms: round(ms, 3))
presences = st.builds(
    Presence,
    st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    st.lists(st.binary(min_size=32, max_size=32), max_size=4).map(tuple),
    st.floats(1e-12, 1e6),
    st.lists(st.integers(0, 255), max_size=15).map(lambda versions: (1, *versions)),
    st.dictionaries(
        st.binary(min_size=32, max_size=32).map(bytes.hex),
        st.dictionaries(st.text(min_size=1, max_size=20), times, max_size=10),
        max_size=4,
    ),
    st.lists(st.text(min_size=1, max_size=32), max_size=16).map(tuple),
    st.dictionaries(st.binary(min_size=32, max_size=32).map(bytes.hex), st.text(min_size=1, max_size=32), max_size=4),
    st.lists(st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True), max_size=16).map(tuple),
)


def dump(**changes: object) -> bytes:
    return json.dumps({**BODY, **changes}).encode()


@settings(deadline=None)
@given(presences)
def test_a_presence_survives(presence: Presence) -> None:
    assert decode_presence(encode_presence(presence)) == presence


def test_times_are_sent_to_the_microsecond() -> None:
    presence = dataclasses.replace(PRESENCE, tail_ms={DIGEST.hex(): {"c1": 2 / 3}})
    found = decode_presence(encode_presence(presence))
    assert found is not None
    assert found.tail_ms[DIGEST.hex()]["c1"] == 0.667


def test_an_empty_payload_says_gone() -> None:
    assert decode_presence(b"") is None


def test_keys_of_a_later_release_are_ignored() -> None:
    assert decode_presence(dump(colour="red", more=[1, {"a": 2}])) == PRESENCE


def test_of_a_gateway_of_other_versions_only_these_are_read() -> None:
    later = {"gateway": "gw-2", "wire_versions": [2, 3], "bundles": {"of": "another kind"}, "speed_factor": "high"}
    assert decode_presence(json.dumps(later).encode()) == Presence("gw-2", wire_versions=(2, 3))
    with pytest.raises(WireError, match="'bundles' of type dict"):
        decode_presence(json.dumps(BODY | later | {"wire_versions": [1, 2]}).encode())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gateway": 7}, "'gateway' of type int"),
        ({"gateway": "a/b"}, "cannot be part of a topic"),
        ({"bundles": None}, "'bundles' of type NoneType"),
        ({"knows": "zstd"}, "'knows' of type str"),
        ({"knows": ["z"] * 17}, "17 entries in 'knows'"),
        ({"knows": [7]}, "'knows' what is not a name"),
        ({"knows": ["z" * 33]}, "'knows' what is not a name"),
        ({"bases": []}, "'bases' of type list"),
        ({"bases": {"zstd": "0"}}, "'bases' what is not a digest"),
        ({"bases": {DIGEST.hex(): ""}}, "'bases' what is not a name"),
        ({"bundles": ["ab"]}, "digest of 64"),
        ({"bundles": [7]}, "digest of 64"),
        ({"bundles": ["AB" * 32]}, "digest of 64"),
        ({"bundles": ["00" * 32] * 65}, "65 entries in 'bundles'"),
        ({"speed_factor": 0}, "speed_factor = 0.0"),
        ({"speed_factor": True}, "speed_factor of type bool"),
        ({"speed_factor": -1}, "speed_factor = -1.0"),
        ({"speed_factor": "1"}, "speed_factor of type str"),
        ({"speed_factor": 10**400}, "speed_factor = inf"),
        ({"speed_factor": 1e-13}, "speed_factor = 1e-13"),
        ({"speed_factor": 1.1e12}, "speed_factor = 1100000000000.0"),
        ({"tail_ms": {DIGEST.hex(): {"c1": 1e308}}}, "tail_ms of cut 'c1' = 1e\\+308"),
        ({"speed_factor": None}, "speed_factor of type NoneType"),
        ({"pools": "attic"}, "'pools' of type str"),
        ({"pools": [7]}, "'pools' what is not a string"),
        ({"pools": ["a/b"]}, "cannot be part of a topic"),
        ({"pools": ["a"] * 17}, "17 entries in 'pools'"),
        ({"wire_versions": [256]}, "wire_versions"),
        ({"wire_versions": [1.0]}, "wire_versions"),
        ({"wire_versions": [1] * 17}, "17 entries"),
        ({"tail_ms": []}, "'tail_ms' of type list"),
        ({"tail_ms": {"ab": {}}}, "digest of 64"),
        ({"tail_ms": {"00" * 32: []}}, "of type list"),
        ({"tail_ms": {"00" * 32: {"c": -1}}}, "tail_ms of cut 'c'"),
        ({"tail_ms": {"00" * 32: {"": 1}}}, "cut of 0 characters"),
        ({"tail_ms": {"00" * 32: {f"c{n}": 1 for n in range(257)}}}, "257 entries"),
    ],
)
def test_a_hostile_field_is_named(change: dict[str, object], reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        decode_presence(dump(**change))


@pytest.mark.parametrize("key", sorted(BODY))
def test_every_field_is_needed(key: str) -> None:
    with pytest.raises(WireError, match=key):
        decode_presence(json.dumps({name: value for name, value in BODY.items() if name != key}).encode())


@pytest.mark.parametrize(
    "payload",
    [
        b"nonsense",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'{"load": NaN}',
        b'{"load": 1, "load": 2}',
        b"9" * 60_000,
        b'{"load": 1e999' + b" " * 10,
        bytes(10),
    ],
)
def test_what_is_not_a_json_object_is_refused(payload: bytes) -> None:
    with pytest.raises(WireError):
        decode_presence(payload)


@pytest.mark.parametrize(
    "payload",
    [
        b"[" * 60_000,
        b'{"a":' * 12_000,
        b'["\\"]' + b"[" * 60_000,
        b'"' + b"\\" * 60_000,
        b'"\\' * 30_000,
        b'""[' * 20_000,
        b'"a' * 30_000 + b"\\",
    ],
)
def test_a_bomb_is_refused_at_once(payload: bytes) -> None:
    before = time.process_time()
    with pytest.raises(WireError):
        decode_presence(payload)
    assert time.process_time() - before < 0.5


def test_sizes_are_bounded() -> None:
    with pytest.raises(WireError, match="presence has 65537 bytes; 65536 are allowed"):
        decode_presence(b" " * (MAX_PRESENCE_BYTES + 1))
    full = {bytes([n]).hex() * 32: {f"c{cut}": 1.5 for cut in range(256)} for n in range(64)}
    with pytest.raises(WireError, match="Serve fewer bundles, or announce the tail times of fewer cuts"):
        encode_presence(dataclasses.replace(PRESENCE, tail_ms=full))


@pytest.mark.parametrize(
    "change",
    [
        {"gateway_id": "a b"},
        {"speed_factor": math.nan},
        {"speed_factor": -0.5},
        {"bundles": (b"short",)},
        {"bundles": (bytes(32),) * 65},
        {"tail_ms": {"zz": {}}},
    ],
)
def test_a_presence_that_cannot_be_read_is_not_written(change: dict[str, object]) -> None:
    with pytest.raises(WireError):
        encode_presence(dataclasses.replace(PRESENCE, **change))  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ),
    st.sampled_from(sorted(BODY)),
)
def test_random_payloads_raise_wire_errors_only(data: bytes, value: object, key: str) -> None:
    for payload in (data or b"x", json.dumps(value).encode(), dump(**{key: value})):
        try:
            assert isinstance(decode_presence(payload), Presence)
        except WireError:
            continue


@settings(deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 255))
def test_flipped_bits_raise_wire_errors_only(place: int, bits: int) -> None:
    damaged = bytearray(encode_presence(PRESENCE))
    damaged[place % len(damaged)] ^= bits
    try:
        assert isinstance(decode_presence(bytes(damaged)), Presence)
    except WireError:
        return


def test_of_what_would_be_too_large_the_last_cuts_are_left_out() -> None:
    times = {"whole": 1.0, **{f"c{number}": float(number) for number in range(250)}}
    presence = dataclasses.replace(PRESENCE, tail_ms={f"{number:064x}": times for number in range(64)})
    with pytest.raises(WireError, match="times of fewer cuts"):
        encode_presence(presence)
    for limit in (10 * MAX_PRESENCE_BYTES, 20_000, 8_000):
        payload = encode_within(presence, limit)
        assert len(payload) <= min(limit, MAX_PRESENCE_BYTES)
        found = decode_presence(payload)
        assert found is not None
        assert found.bundles == presence.bundles
        for kept in found.tail_ms.values():
            assert list(kept.items()) == list(times.items())[: len(kept)]
        assert len(kept) >= (1 if limit == 8_000 else 7)
    assert encode_within(PRESENCE, MAX_PRESENCE_BYTES) == encode_presence(PRESENCE)
    with pytest.raises(WireError, match="Serve fewer bundles"):
        encode_within(presence, 4_000)
