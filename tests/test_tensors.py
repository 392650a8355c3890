from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from midstream.errors import InputError
from midstream.tensors import CARRIED_DTYPES, Tensor, TensorSpec, check_tensors, nbytes

FLOAT32 = np.dtype(np.float32)
X = TensorSpec("x", FLOAT32, (1, None, 3))
Y = TensorSpec("y", np.dtype(np.int8), (2,), scale=0.5, zero_point=-3)
GOOD: dict[str, Tensor] = {"x": np.ones((1, 4, 3), np.float32), "y": np.zeros(2, np.int8)}

SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)


def test_a_spec_reads_like_a_declaration() -> None:
    assert str(X) == "x: float32[1, ?, 3]"
    assert str(TensorSpec("threshold", FLOAT32, ())) == "threshold: float32[]"


def test_every_carried_dtype_is_one_that_numpy_has_under_this_name() -> None:
    assert len(CARRIED_DTYPES) == 12
    for name in CARRIED_DTYPES:
        assert np.dtype(name).name == name
        assert not np.dtype(name).hasobject


@pytest.mark.parametrize(
    ("wanted", "given_shape", "fits"),
    [
        ((1, None, 3), (1, 9, 3), True),
        ((1, None, 3), (1, 0, 3), True),
        ((1, None, 3), (2, 9, 3), False),
        ((1, None, 3), (1, 9), False),
        ((1, None, 3), (1, 9, 3, 1), False),
        ((), (), True),
        ((), (1,), False),
        ((0,), (0,), True),
        ((0,), (1,), False),
    ],
)
def test_which_shapes_fit(wanted: tuple[int | None, ...], given_shape: tuple[int, ...], fits: bool) -> None:
    assert TensorSpec("x", FLOAT32, wanted).accepts(given_shape) is fits


@settings(deadline=None)
@given(SHAPES, st.data())
def test_a_shape_fits_itself_however_many_sizes_are_free(shape: tuple[int, ...], data: st.DataObject) -> None:
    free = data.draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
    spec = TensorSpec("x", FLOAT32, tuple(None if loose else n for n, loose in zip(shape, free, strict=True)))
    assert spec.accepts(shape)
    assert not spec.accepts((*shape, 1))
    for axis, loose in enumerate(free):
        other = (*shape[:axis], shape[axis] + 1, *shape[axis + 1 :])
        assert spec.accepts(other) is loose


def test_sizes_that_were_seen_otherwise_are_free() -> None:
    spec = TensorSpec("x", FLOAT32, (1, None, 3), 0.5, 7)
    assert spec.loosened() == spec.loosened((1, 9, 3)) == spec
    assert spec.loosened((1, 9, 3), (2, 8, 3)) == TensorSpec("x", FLOAT32, (None, None, 3), 0.5, 7)
    assert spec.loosened((1, 9)).shape == (None, None)


@settings(deadline=None)
@given(SHAPES, st.lists(SHAPES, max_size=3))
def test_a_loosened_spec_takes_whatever_came_last(shape: tuple[int, ...], seen: list[tuple[int, ...]]) -> None:
    loose = TensorSpec("x", FLOAT32, shape).loosened(*seen)
    assert loose.accepts((seen or [shape])[-1])


@settings(deadline=None)
@given(st.sampled_from(sorted(CARRIED_DTYPES)), SHAPES)
def test_bytes_are_those_of_the_array(dtype: str, shape: tuple[int, ...]) -> None:
    assert nbytes(np.dtype(dtype), shape) == np.zeros(shape, dtype).nbytes


def test_bytes_do_not_overflow() -> None:
    assert nbytes(np.dtype(np.float64), (2**31, 2**31, 2**31)) == 2**96


@settings(deadline=None)
@given(st.data())
def test_what_was_checked_is_in_order_contiguous_and_the_same(data: st.DataObject) -> None:
    arrays = data.draw(
        st.lists(hnp.arrays(st.sampled_from(sorted(CARRIED_DTYPES)).map(np.dtype), SHAPES), min_size=1, max_size=4)
    )
    named = {f"t{number}": array.T if number % 2 else array for number, array in enumerate(arrays)}
    specs = [TensorSpec(name, array.dtype, array.shape) for name, array in named.items()]
    mixed = dict(data.draw(st.permutations(list(named.items()))))
    checked = check_tensors(specs, mixed, "this model")
    assert list(checked) == list(named)
    for name, array in checked.items():
        assert array.flags.c_contiguous
        assert (array.dtype, array.shape) == (named[name].dtype, named[name].shape)
        assert array.tobytes() == named[name].tobytes()


def test_what_is_contiguous_already_is_not_copied() -> None:
    checked = check_tensors([X, Y], GOOD, "this model")
    assert all(np.shares_memory(checked[name], GOOD[name]) for name in GOOD)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"z": np.zeros(1)}, r"this model has no input named 'z'; it takes x: float32\[1, \?, 3\], y: int8\[2\]"),
        ({"x": None}, "input 'x' of this model is a NoneType, not a numpy array of float32"),
        ({"x": 1.0}, "is a float, not a numpy array"),
        ({"x": np.float32(1)}, "is a float32, not a numpy array"),
        ({"x": np.ones((1, 4, 3))}, r"'x' .* has dtype float64, needed float32; convert it with .astype\('float32'\)"),
        ({"x": np.ones((1, 4, 3), ">f4")}, "has dtype >f4, needed float32"),
        ({"y": np.zeros(2, np.uint8)}, "'y' .* has dtype uint8, needed int8"),
        ({"x": np.ones((1, 4, 2), np.float32)}, r"has shape \[1, 4, 2\], needed \[1, \?, 3\]"),
        ({"x": np.ones((4, 3), np.float32)}, r"has shape \[4, 3\], needed \[1, \?, 3\]"),
        ({"y": np.zeros((2, 1), np.int8)}, r"has shape \[2, 1\], needed \[2\]"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        check_tensors([X, Y], GOOD | change, "this model")


@pytest.mark.parametrize("name", ["x", "y"])
def test_what_is_missing_is_named(name: str) -> None:
    rest = {key: value for key, value in GOOD.items() if key != name}
    with pytest.raises(InputError, match=f"input '{name}' of this model is missing; it takes x: float32"):
        check_tensors([X, Y], rest, "this model")


def test_a_model_without_inputs_takes_none() -> None:
    assert check_tensors([], {}, "this model") == {}
    with pytest.raises(InputError, match="no input named 'x'"):
        check_tensors([], GOOD, "this model")
