from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream.communication.load import (
    MAX_LOAD_BYTES,
    LoadReport,
    LoadThrottle,
    decode_load,
    encode_load,
    rounded,
)
from midstream.errors import WireError

DIGEST = bytes(range(32)).hex()
REPORT = LoadReport("gw-1", "a1b2", 7, 3, 12.5, 0.75, 512 << 20, {DIGEST: {"whole": 40.5, "c12": 2.0}})
BODY = json.loads(encode_load(REPORT))

times = st.floats(0, 1e6).map(lambda ms: round(ms, 3))
reports = st.builds(
    LoadReport,
    st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    st.text(min_size=1, max_size=32),
    st.integers(0, 2**53 - 1),
    st.integers(0, 2**53 - 1),
    times,
    st.floats(0, 1e3),
    st.none() | st.integers(0, 2**53 - 1),
    st.dictionaries(
        st.binary(min_size=32, max_size=32).map(bytes.hex),
        st.dictionaries(st.text(min_size=1, max_size=20), times, max_size=10),
        max_size=4,
    ),
)


def dump(**changes: object) -> bytes:
    return json.dumps({**BODY, **changes}).encode()


@settings(deadline=None)
@given(reports)
def test_a_report_survives(report: LoadReport) -> None:
    assert decode_load(encode_load(report)) == report


def test_an_empty_payload_says_gone_and_keys_of_a_later_release_are_ignored() -> None:
    assert decode_load(b"") is None
    assert decode_load(dump(colour="red")) == REPORT


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gateway": 7}, "load report has 'gateway' of type int"),
        ({"gateway": "a/b"}, "cannot be part of a topic"),
        ({"run": ""}, "'run' what is not a name"),
        ({"run": 7}, "'run' what is not a name"),
        ({"sequence": -1}, "'sequence' what is not a number"),
        ({"sequence": 1.0}, "'sequence' what is not a number"),
        ({"sequence": True}, "'sequence' what is not a number"),
        ({"sequence": 2**53}, "'sequence' what is not a number"),
        ({"queue_length": None}, "'queue_length' what is not a number"),
        ({"wait_ms": -1}, "wait_ms = -1.0"),
        ({"load": "high"}, "load of type str"),
        ({"free_bytes": -1}, "'free_bytes' what is not a number"),
        ({"free_bytes": None}, "'free_bytes' what is not a number"),
        ({"waits_ms": []}, "'waits_ms' of type list"),
        ({"waits_ms": {"ab": {}}}, "digest of 64"),
        ({"waits_ms": {DIGEST: {"c": -1}}}, "waits_ms of cut 'c'"),
    ],
)
def test_a_hostile_field_is_named(change: dict[str, object], reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        decode_load(dump(**change))


@pytest.mark.parametrize("key", sorted(set(BODY) - {"free_bytes"}))
def test_every_field_but_the_memory_is_needed(key: str) -> None:
    with pytest.raises(WireError, match=key):
        decode_load(json.dumps({name: value for name, value in BODY.items() if name != key}).encode())


@pytest.mark.parametrize(
    "payload", [b"nonsense", b"[]", b"[" * 10_000, b" " * (MAX_LOAD_BYTES + 1), b'{"load": NaN}', bytes(10)]
)
def test_what_is_no_report_is_refused(payload: bytes) -> None:
    with pytest.raises(WireError):
        decode_load(payload)


@pytest.mark.parametrize(
    "change",
    [
        {"gateway_id": "a b"},
        {"run": ""},
        {"wait_ms": math.nan},
        {"load": -0.5},
        {"sequence": -1},
        {"waits_ms": {"zz": {}}},
        {"waits_ms": {f"{n:064x}": {f"cut {c}": 1.5 for c in range(100)} for n in range(20)}},
    ],
)
def test_a_report_that_cannot_be_read_is_not_written(change: dict[str, object]) -> None:
    with pytest.raises(WireError):
        encode_load(dataclasses.replace(REPORT, **change))  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 255))
def test_flipped_bits_raise_wire_errors_only(place: int, bits: int) -> None:
    damaged = bytearray(encode_load(REPORT))
    damaged[place % len(damaged)] ^= bits
    try:
        assert isinstance(decode_load(bytes(damaged)), LoadReport)
    except WireError:
        return


def test_the_wait_at_a_tail_is_its_own_where_it_is_told() -> None:
    assert REPORT.wait_at(DIGEST, "c12") == 2.0
    assert REPORT.wait_at(DIGEST, "c13") == REPORT.wait_at("ff" * 32, "c12") == 12.5


def test_only_a_later_report_of_the_same_run_or_another_run_follows() -> None:
    assert REPORT.follows(None)
    assert not REPORT.follows(REPORT)
    assert dataclasses.replace(REPORT, sequence=8).follows(REPORT)
    assert not dataclasses.replace(REPORT, sequence=6).follows(REPORT)
    assert dataclasses.replace(REPORT, sequence=0, run="again").follows(REPORT)


@pytest.mark.parametrize(
    ("change", "after_s"),
    [
        ({}, 30.0),
        ({"wait_ms": 13.0}, 1.0),
        ({"wait_ms": 14.5}, 0.1),
        ({"wait_ms": 0.0}, 0.1),
        ({"queue_length": 4}, 1.0),
        ({"load": 0.9}, 1.0),
        ({"load": 0.5}, 0.1),
        ({"free_bytes": 496 << 20}, 1.0),
        ({"free_bytes": 256 << 20}, 0.1),
        ({"free_bytes": None}, 0.1),
        ({"waits_ms": {}}, 0.1),
        ({"waits_ms": {DIGEST: {"whole": 40.5, "c12": 9.0}}}, 0.1),
        ({"waits_ms": {DIGEST: {"whole": 40.6, "c12": 2.0}}}, 1.0),
        ({"run": "another"}, 0.0),
    ],
)
def test_news_is_published_soon_and_the_rest_seldom(change: dict[str, object], after_s: float) -> None:
    throttle = LoadThrottle().after(REPORT, 100.0)
    report = dataclasses.replace(REPORT, sequence=8, **change)  # type: ignore[arg-type]
    assert throttle.due_s(report) == pytest.approx(100.0 + after_s)
    assert LoadThrottle().due_s(report) <= 0.0


def test_what_changes_all_the_time_is_rounded() -> None:
    report = rounded(LoadReport("gw", "r", 0, 0, 1.26, 0.333, (100 << 20) + 5))
    assert (report.wait_ms, report.load, report.free_bytes) == (1.3, 0.33, 96 << 20)
    assert rounded(LoadReport("gw", "r")).free_bytes is None
