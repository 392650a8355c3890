from __future__ import annotations

import numpy as np
import pytest

from midstream.analysis import analyze
from midstream.tensors import Tensor


def features(tensor: Tensor) -> dict[str, float]:
    return analyze(tensor, kind="tensor").features


def test_features_of_a_small_tensor() -> None:
    found = features(np.array([[0, 0, 4, 0], [4, 0, 4, 4]], dtype=np.int8))
    assert found == {"elements": 8.0, "length": 4.0, "sparsity": 0.5, "entropy": 1.0, "std": 2.0}


def test_entropy_does_not_depend_on_the_unit() -> None:
    values = np.random.default_rng(0).normal(size=(4, 1000))
    assert features(values)["entropy"] == pytest.approx(features(values * 1e300)["entropy"])
    assert features(values * 1e300)["std"] == pytest.approx(1e300 * values.std())


def test_zeros_are_no_complexity() -> None:
    found = analyze(np.zeros((3, 4), np.float32), kind="tensor")
    assert found.score == 0.0
    assert found.features == {"elements": 12.0, "length": 4.0, "sparsity": 1.0, "entropy": 0.0, "std": 0.0}


def test_the_largest_range_does_not_overflow() -> None:
    limit = np.finfo(np.float64).max
    found = features(np.array([-limit, limit, 0.0]))
    assert found["std"] == pytest.approx(limit * np.sqrt(2 / 3))
    assert found["entropy"] == pytest.approx(np.log2(3))
