"""Codes in 8 bits: what they stand for, what they would lose, and those that somebody else has made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from midstream.communication.codecs import decode, encode
from midstream.communication.codecs.coding import decode_codes
from midstream.communication.codecs.steps import Stepped, dequantise, holds, keeps, kept_share, quantise
from midstream.communication.wire import EncodedTensor
from midstream.errors import CodecError
from midstream.ladder import Settings
from midstream.tensors import Tensor, TensorSpec

PLENTY = 1 << 20


def noise(size: int = 4096, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


def made(values: NDArray[np.float32]) -> Stepped:
    stepped = quantise(values.reshape(-1), 0.0)
    assert stepped is not None
    return stepped


def spec_of(tensor: Tensor, name: str = "x") -> TensorSpec:
    return TensorSpec(name, tensor.dtype, tensor.shape)


@settings(deadline=None)
@given(
    scale=st.floats(1e-25, 1e25),
    offset=st.floats(-3, 3),
    size=st.integers(1, 300),
    seed=st.integers(0, 99),
)
def test_values_come_back_within_half_a_step_and_zero_stays(scale: float, offset: float, size: int, seed: int) -> None:
    values = ((noise(size, seed) + np.float32(offset)) * np.float32(scale)).astype(np.float32)
    values[0] = 0
    if values.any():
        stepped = made(values)
        back = dequantise(stepped)
        assert back[0] == 0
        assert np.abs(back - values).max() <= 0.5001 * stepped.step
        assert stepped.step == pytest.approx((max(values.max(), 0.0) - min(values.min(), 0.0)) / 255, rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 5, 4095])
@pytest.mark.parametrize("multiple", [0.0, 0.25])
def test_what_is_not_finite_is_seen_wherever_it_lies(bad: float, place: int, multiple: float) -> None:
    values = noise()
    theirs = replace(made(values), step=made(values).step if np.isnan(bad) else np.inf)
    values[place] = bad
    assert quantise(values, multiple) is None
    assert not holds(theirs, values)


@pytest.mark.parametrize("step", [0.0, 1e-36, np.inf, np.nan])
def test_codes_of_a_step_that_is_none_do_not_hold(step: float) -> None:
    values = noise()
    assert holds(made(values), values)
    assert not holds(replace(made(values), step=step), values)


@settings(deadline=None)
@given(sparse=st.floats(0, 1), outlier=st.sampled_from([1.0, 30.0, 1e4]), least=st.floats(0, 1))
def test_what_is_kept_is_told_alike_both_ways(sparse: float, outlier: float, least: float) -> None:
    values = noise(70_000)
    values[np.random.default_rng(1).random(values.size) < sparse] = 0
    values[-1] = outlier
    stepped = made(values)
    share = kept_share(stepped, values)
    if abs(share - least) > 1e-4:
        assert keeps(stepped, values, least) == (share >= least)


@pytest.mark.parametrize("value", [0.0, -2.5])
def test_what_is_all_one_value_is_not_quantised(value: float) -> None:
    assert quantise(np.full(100, value, np.float32), 0.25) is None


def test_codes_made_elsewhere_are_sent_as_they_are() -> None:
    values = noise().reshape(1, 16, 16, 16)
    theirs = replace(made(values), codes=made(values).codes ^ np.uint8(1))
    (plain,) = encode("int8", {"x": values}, {}, Settings(entropy="none"))
    (given_,) = encode("int8", {"x": values}, {}, Settings(entropy="none"), {"x": theirs})
    assert bytes(given_.data) != bytes(plain.data)
    assert bytes(given_.data).endswith(theirs.codes.tobytes())
    back = decode("int8", [given_], [spec_of(values)], {}, PLENTY)["x"]
    assert np.array_equal(back.reshape(-1), dequantise(theirs))


def test_codes_made_elsewhere_are_of_no_use_to_another_codec() -> None:
    # A device may decide again for another codec once a head that codes has run.
    values = noise()
    for codec in ("raw", "lossless", "f16", "step1"):
        assert encode(codec, {"x": values}, {}, made={"x": made(values)}) == encode(codec, {"x": values}, {})


def test_codes_made_elsewhere_are_not_sent_where_they_would_do_harm() -> None:
    values = noise()
    values[7] = np.nan
    (sent,) = encode("int8", {"x": values}, {}, made={"x": made(noise())})
    assert sent == encode("int8", {"x": values}, {})[0]
    assert decode("int8", [sent], [spec_of(values)], {}, PLENTY)["x"].tobytes() == values.tobytes()
    outlier = noise()
    outlier[0] = 1e6
    (exact,) = encode("int8", {"x": outlier}, {}, made={"x": made(outlier)})
    assert decode("int8", [exact], [spec_of(outlier)], {}, PLENTY)["x"].tobytes() == outlier.tobytes()


@pytest.mark.parametrize("last_first", [False, True])
def test_codes_are_read_as_they_were_made(last_first: bool) -> None:
    values = noise().reshape(2, 8, 256)
    how = Settings(last_first=frozenset(["x"]) if last_first else frozenset())
    encoded = encode("int8", {"x": values}, {}, how)
    found = decode_codes("int8", encoded, [spec_of(values)], PLENTY)
    assert found is not None
    wanted = made(values)
    assert (found["x"].step, found["x"].zero) == (wanted.step, wanted.zero)
    assert np.array_equal(found["x"].codes, wanted.codes)


def test_there_are_codes_only_where_all_tensors_have_them() -> None:
    values, other, few = noise(), noise(seed=1), np.arange(3)
    specs = [spec_of(values), spec_of(other, "y")]
    assert decode_codes("int8", encode("int8", {"x": values, "y": other}, {}), specs, PLENTY) is not None
    assert decode_codes("step0.25", encode("step0.25", {"x": values, "y": other}, {}), specs, PLENTY) is None
    other[0] = np.inf
    assert decode_codes("int8", encode("int8", {"x": values, "y": other}, {}), specs, PLENTY) is None
    assert decode_codes("int8", encode("int8", {"x": few}, {}), [spec_of(few)], PLENTY) is None
    half = noise().astype(np.float16)
    assert decode_codes("int8", encode("int8", {"x": half}, {}), [spec_of(half)], PLENTY) is None


def test_wider_codes_are_no_codes_of_8_bits() -> None:
    data = b"\x50" + np.float32(1).tobytes() + (256).to_bytes(2, "little") + bytes(16)
    encoded = [EncodedTensor((8,), np.dtype(np.float32), data)]
    spec = TensorSpec("x", np.dtype(np.float32), (8,))
    assert decode_codes("int8", encoded, [spec], PLENTY) is None
    assert np.array_equal(decode("int8", encoded, [spec], {}, PLENTY)["x"], np.full(8, -256, np.float32))


@pytest.mark.filterwarnings("error")
def test_a_step_with_which_values_become_infinite_is_decoded_quietly() -> None:
    encoded = [EncodedTensor((2,), np.dtype(np.float32), b"\x10" + np.float32(3e38).tobytes() + b"\0\0\xff")]
    spec = TensorSpec("x", np.dtype(np.float32), (2,))
    assert decode("int8", encoded, [spec], {}, PLENTY)["x"].tolist() == [0.0, np.inf]


def test_codes_are_checked_before_they_are_read() -> None:
    values = noise()
    encoded = encode("int8", {"x": values}, {})
    with pytest.raises(CodecError, match=f"{values.nbytes} bytes in all came; 100 are allowed"):
        decode_codes("int8", encoded, [spec_of(values)], 100)
    with pytest.raises(CodecError, match="1 tensors came, needed 0"):
        decode_codes("int8", encoded, [], PLENTY)
    short = [EncodedTensor(values.shape, values.dtype, bytes(encoded[0].data[:4]))]
    with pytest.raises(CodecError, match="too few for a step"):
        decode_codes("int8", short, [spec_of(values)], PLENTY)


@pytest.mark.parametrize("codec", ["int8", "step0.25", "f16", "bf16", "klt0.25"])
def test_a_tensor_without_axes_travels_exact(codec: str) -> None:
    value = np.array(5.1, np.float32)
    found = decode(codec, encode(codec, {"x": value}, {}), [spec_of(value)], {}, PLENTY)["x"]
    assert (found.shape, found.tobytes()) == ((), value.tobytes())
