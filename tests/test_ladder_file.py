"""The codec ladder as a file: every value survives, damaged and hostile ones are one error."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream.errors import BundleError
from midstream.ladder import (
    ENTROPIES,
    FEWEST_KEPT,
    UNCALIBRATED,
    Basis,
    Ladder,
    MeasuredRung,
    Place,
    ReplySize,
    Settings,
    SizeModel,
)
from midstream.ladder_file import ladder_from_bytes, ladder_to_bytes
from midstream.seal import seal

BASIS = Basis(-1, np.array([0.5, -1.0], np.float32), np.array([[0.6, 0.8]], np.float32))
SIZE = SizeModel(4.0, {"entropy": 0.5}, 10.0, 90.0, 0.1)
RAW = MeasuredRung("raw", True, "zlib-rle", 1.0, 512.0, 0.0, 0.01, 0.02)
STEP = MeasuredRung("step0.25", False, "none", 0.98, 40.0, 0.2, 0.3, 0.4, {"conv": 0.125}, SIZE)
KLT = replace(STEP, codec="klt0.5", entropy="zstd", size=None)
LADDER = Ladder(
    "ab" * 32,
    "x86_64 onnx",
    3.5,
    "auto",
    24,
    True,
    0.9,
    (
        Place(None, 256.0, (RAW, replace(RAW, codec="lossless"))),
        Place("c1", 512.0, (RAW, STEP, KLT), {"conv": BASIS}, frozenset({"conv"})),
    ),
    ReplySize(40.0, 0.5, SIZE),
)

NAMES = st.text(max_size=8)
SIZES, TIMES, SHARES = st.floats(0, 2.0**40), st.floats(0, 1e9), st.floats(0, 1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def bases(draw: st.DrawFn) -> Basis:
    channels = draw(st.integers(1, 5))
    numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
    rows = draw(st.integers(1, channels))
    values = draw(st.lists(numbers, min_size=channels * (rows + 1), max_size=channels * (rows + 1)))
    array = np.array(values, np.float32)
    return Basis(draw(st.sampled_from([1, -1])), array[:channels], array[channels:].reshape(rows, channels))


RANGES = st.tuples(st.floats(1e-3, 2.0**40), st.floats(1e-3, 2.0**40)).map(sorted)
MODELS = RANGES.flatmap(
    lambda ends: st.builds(SizeModel, FINITE, st.dictionaries(NAMES, FINITE), st.just(ends[0]), st.just(ends[1]), TIMES)
)
RUNGS = st.builds(
    MeasuredRung, NAMES, st.booleans(), st.sampled_from(ENTROPIES), SHARES, SIZES, TIMES, TIMES, TIMES,
    st.dictionaries(NAMES, SHARES), st.none() | MODELS,
)  # fmt: skip
PLACES = st.builds(
    Place,
    st.none() | NAMES,
    SIZES,
    st.lists(RUNGS, max_size=3, unique_by=lambda rung: rung.codec).map(tuple),
    st.dictionaries(NAMES, bases(), max_size=2),
    st.frozensets(NAMES, max_size=2),
)
LADDERS = st.builds(
    Ladder, NAMES, NAMES, st.floats(1e-3, 1e9), NAMES, st.integers(0, 2**53), st.booleans(), SHARES,
    st.lists(PLACES, max_size=3, unique_by=lambda place: place.cut).map(tuple),
)  # fmt: skip


def plain(ladder: Ladder) -> Any:
    """What can be compared of it: a basis by its numbers."""
    return replace(
        ladder,
        places=tuple(
            replace(
                place,
                bases={name: (b.axis, b.mean.tolist(), b.vectors.tolist()) for name, b in place.bases.items()},  # type: ignore[misc]
            )
            for place in ladder.places
        ),
    )


@given(LADDERS)
def test_a_ladder_survives_and_is_canonical(ladder: Ladder) -> None:
    content = ladder_to_bytes(ladder)
    found = ladder_from_bytes(content, "codecs.json")
    assert plain(found) == plain(ladder)
    assert ladder_to_bytes(found) == content
    assert found.bases_id == ladder.bases_id


def test_a_ladder_says_how_to_encode() -> None:
    assert LADDER.settings("c1", "step0.25") == Settings("none", {"conv": BASIS}, frozenset({"conv"}), {"conv": 0.125})
    assert LADDER.settings("c1", "int8") == Settings(
        bases={"conv": BASIS}, last_first=frozenset({"conv"}), kept={"conv": FEWEST_KEPT}
    )
    assert LADDER.settings("c9", "int8") == UNCALIBRATED
    assert LADDER.rung("c1", "klt0.5") == KLT
    assert LADDER.rung("c9", "klt0.5") is LADDER.rung("c1", "int8") is LADDER.place("c9") is None
    assert LADDER.bases("c9") == {}
    assert LADDER.bases("c1") == {"conv": BASIS}


def test_what_two_ladders_share_is_their_bases_alone() -> None:
    def with_basis(basis: Basis, name: str = "conv", cut: str = "c1") -> str:
        return replace(LADDER, places=(Place(cut, 1.0, (), {name: basis}),)).bases_id

    known = with_basis(BASIS)
    assert len(known) == 16
    assert known == LADDER.bases_id == replace(LADDER, metric="other", samples=3).bases_id
    others = {
        with_basis(replace(BASIS, axis=1)),
        with_basis(replace(BASIS, mean=BASIS.mean + 1)),
        with_basis(replace(BASIS, vectors=-BASIS.vectors)),
        with_basis(BASIS, name="other"),
        with_basis(BASIS, cut="c2"),
    }
    assert len({known, *others}) == 6


@pytest.mark.parametrize("axis", [1, -1])
def test_a_basis_puts_rows_back_where_they_were(axis: int) -> None:
    basis = Basis(axis, np.zeros(3, np.float32), np.eye(3, dtype=np.float32))
    shape = (2, 3, 4, 5) if axis == 1 else (2, 4, 5, 3)
    values = np.arange(120, dtype=np.float32).reshape(shape)
    assert basis.fits(shape)
    assert not basis.fits((2, 4, 4, 4))
    assert not basis.fits((3,))
    rows = basis.rows(values)
    assert rows.shape == (40, 3)
    assert np.array_equal(basis.tensor(rows, shape), values)


def test_any_flipped_byte_is_seen() -> None:
    content = ladder_to_bytes(LADDER)
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 1
        with pytest.raises(
            BundleError, match=r"codecs\.json .*calibrate the bundle again|codecs\.json has bundle format"
        ):
            ladder_from_bytes(bytes(damaged), "codecs.json")
    for cut in (0, 1, len(content) // 2, len(content) - 1):
        with pytest.raises(BundleError, match="is damaged"):
            ladder_from_bytes(content[:cut], "codecs.json")


def resealed(change: Callable[[Any], object]) -> bytes:
    body = json.loads(ladder_to_bytes(LADDER))["body"]
    change(body)
    return seal(body)


def put(value: Any, *path: Any) -> Callable[[Any], None]:
    def change(body: Any) -> None:
        for key in path[:-1]:
            body = body[key]
        body[path[-1]] = value

    return change


def packed(*values: float) -> str:
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


RUNG, BASE = ("places", 1, "rungs", 1), ("places", 1, "bases", "conv")


@pytest.mark.parametrize(
    "change",
    [
        put(None, "bundle"),
        put(7, "machine"),
        put(0, "whole_ms"),
        put(1e-300, "whole_ms"),
        put(-1.0, "whole_ms"),
        put(1e300, "whole_ms"),
        put(10**400, "whole_ms"),
        put(2.5, "samples"),
        put(-1, "samples"),
        put(True, "samples"),
        put(1 << 70, "samples"),
        put(1, "held_out"),
        put(1.5, "min_agreement"),
        put(None, "places"),
        put([7], "places"),
        put("c1", "places", 0, "cut"),
        put(7, "places", 0, "cut"),
        put(-1.0, "places", 0, "raw_bytes"),
        put("conv", "places", 1, "last_first"),
        put(None, "places", 1, "rungs"),
        put("raw", *RUNG, "codec"),
        put(None, *RUNG, "codec"),
        put("no", *RUNG, "lossless"),
        put("gzip", *RUNG, "entropy"),
        put([], *RUNG, "entropy"),
        put(1.01, *RUNG, "agreement"),
        put(1e300, *RUNG, "payload_bytes"),
        put("40", *RUNG, "payload_bytes"),
        put(1e12, *RUNG, "encode_ms"),
        put(None, *RUNG, "decode_ms"),
        put({"conv": 2.0}, *RUNG, "kept"),
        put([], *RUNG, "kept"),
        put({}, *RUNG, "size"),
        put(0, *RUNG, "size", "low"),
        put(1000.0, *RUNG, "size", "low"),
        put(1e300, *RUNG, "size", "high"),
        put("x", *RUNG, "size", "weights", "entropy"),
        put(10**400, *RUNG, "size", "weights", "entropy"),
        put(None, *RUNG, "size", "intercept"),
        put(2, *BASE, "axis"),
        put(True, *BASE, "axis"),
        put(-1.0, *BASE, "axis"),
        put("", *BASE, "mean"),
        put(packed(1.0, 2.0, 3.0), *BASE, "mean"),
        put(packed(*[1.0] * 5000), *BASE, "mean"),
        put(packed(1.0, np.nan), *BASE, "mean"),
        put("AAAA", *BASE, "mean"),
        put("*", *BASE, "vectors"),
        put("é", *BASE, "vectors"),
        put("", *BASE, "vectors"),
        put(packed(1.0), *BASE, "vectors"),
        put(packed(*[1.0] * 6), *BASE, "vectors"),
        put(packed(np.inf, 1.0), *BASE, "vectors"),
        put(None, *BASE),
    ],
)
def test_a_sealed_ladder_that_means_nothing_is_refused(change: Callable[[Any], None]) -> None:
    with pytest.raises(BundleError, match=r"codecs\.json does not read .*; calibrate the bundle again$"):
        ladder_from_bytes(resealed(change), "codecs.json")


@pytest.mark.parametrize("version", [0, 1, 99])
def test_another_format_says_what_to_do(version: int) -> None:
    remedy = "install the release that wrote it, or with this one calibrate the bundle again"
    with pytest.raises(BundleError, match=f"format version {version}; .*{remedy}"):
        ladder_from_bytes(resealed(put(version, "format")), "codecs.json")


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"null", b"{}", b'{"body":[],"sha256":""}\n'])
def test_what_is_no_ladder_at_all_is_damaged(content: bytes) -> None:
    with pytest.raises(BundleError, match=r"codecs\.json is damaged"):
        ladder_from_bytes(content, "codecs.json")
