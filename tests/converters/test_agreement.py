"""What counts as the same answer, for outputs of every kind."""

from __future__ import annotations

import numpy as np
import pytest

from midstream.agreement import NEAR
from midstream.tensors import Tensor
from midstream_converters.agreement import Comparison


def compared(*pairs: tuple[object, object], dtype: str = "float32") -> Comparison:
    """One output's values before and after, input by input."""
    comparison = Comparison()
    for before, after in pairs:
        comparison.add({"y": np.asarray(before, dtype)}, {"y": np.asarray(after, dtype)})
    return comparison


def test_of_one_vector_the_largest_value_is_the_answer() -> None:
    moved = compared(([[0.0, 10.0, -7.0]], [[4.0, 5.0, -9.0]]), ([[3.0, 2.0, 1.0]], [[2.0, 3.0, 1.0]]))
    (change,) = moved.changes()
    assert (change.name, change.kind, change.agreement) == ("y", "scores", 0.5)
    assert moved.agreement() == 0.5
    assert change.max_difference == pytest.approx(5 / 17)
    assert change.mean_difference == pytest.approx((4 + 5 + 2 + 1 + 1 + 0) / 6 / 17)


def test_of_shares_every_place_must_have_the_same_largest() -> None:
    before = [[[0.9, 0.1], [0.2, 0.8]]]
    assert compared((before, [[[0.6, 0.4], [0.1, 0.9]]])).agreement() == 1.0
    assert compared((before, [[[0.4, 0.6], [0.1, 0.9]]])).agreement() == 0.0
    assert compared((before, before)).changes()[0].kind == "scores"


def test_other_values_stay_while_they_are_near() -> None:
    before = np.array([[[-10.0, 90.0], [0.0, 50.0]]])
    step = NEAR * 100
    comparison = compared((before, before + 0.99 * step), (before, before - 1.01 * step))
    (change,) = comparison.changes()
    assert (change.kind, change.agreement) == ("values", 0.5)
    assert change.max_difference == pytest.approx(1.01 * NEAR)


def test_vectors_that_are_scores_for_one_input_only_are_values() -> None:
    shares, plain = np.full((1, 2, 2), 0.5), np.array([[[3.0, 1.0], [0.0, 2.0]]])
    assert compared((shares, shares), (plain, plain)).changes()[0].kind == "values"


@pytest.mark.parametrize(("after", "agreement"), [([3, 4], 1.0), ([3, 5], 0.0)])
def test_integers_must_be_equal(after: list[int], agreement: float) -> None:
    comparison = compared(([3, 4], after), dtype="int64")
    assert comparison.changes()[0].kind == "exact"
    assert comparison.agreement() == agreement


def test_an_input_keeps_its_answer_where_every_output_does() -> None:
    comparison = Comparison()
    good: dict[str, Tensor] = {"a": np.array([[1.0, 0.0]]), "b": np.array([7])}
    comparison.add(good, good)
    comparison.add(good, good | {"b": np.array([8])})
    comparison.add(good, good | {"a": np.array([[0.0, 1.0]])})
    assert comparison.samples == 3
    assert comparison.agreement() == pytest.approx(1 / 3)
    assert [change.agreement for change in comparison.changes()] == pytest.approx([2 / 3, 2 / 3])


@pytest.mark.parametrize("after", [np.zeros((1, 3)), np.full((1, 2), np.nan), np.full((1, 2), np.inf)])
def test_another_shape_or_no_number_is_another_answer_without_a_difference(after: Tensor) -> None:
    comparison = Comparison()
    comparison.add({"y": np.array([[1.0, 0.0]])}, {"y": after})
    (change,) = comparison.changes()
    assert change.max_difference is None
    assert change.mean_difference is None
    assert compared(([[[1.0]]], [[[np.nan]]])).agreement() == 0.0


def test_an_output_of_one_value_is_measured_by_it() -> None:
    (change,) = compared(([[8.0]], [[8.2]])).changes()
    assert (change.kind, change.agreement) == ("values", 1.0)
    assert change.max_difference == pytest.approx(0.025, rel=1e-3)
    assert compared(([[0.0]], [[0.0]])).changes()[0].max_difference == 0.0


def test_no_values_at_all_are_the_same_answer() -> None:
    (change,) = compared((np.zeros((0, 4)), np.zeros((0, 4)))).changes()
    assert change.agreement == 1.0
