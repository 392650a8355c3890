"""Fitting an encoded size to the features of inputs."""

from __future__ import annotations

import numpy as np
import pytest

from midstream.calibrating.sizes import fit_size, spread


def made(count: int, noise: float = 0.0) -> tuple[list[dict[str, float]], list[int]]:
    rng = np.random.default_rng(1)
    features = [{"entropy": float(rng.uniform(0, 2)), "flat": 3.0} for _ in range(count)]
    sizes = [round(float(np.exp(5 + found["entropy"] + noise * rng.standard_normal()))) for found in features]
    return features, sizes


def test_a_size_that_follows_from_features_is_found() -> None:
    features, sizes = made(60)
    model = fit_size(features, sizes)
    assert model is not None
    assert model.weights["entropy"] == pytest.approx(1.0, abs=0.1)
    # What never changes tells nothing.
    assert model.weights["flat"] == pytest.approx(0.0, abs=1e-9)
    assert (model.low, model.high) == (min(sizes), max(sizes))
    assert model.error < 0.05
    assert model.error < spread(sizes) / 5


def test_the_error_is_that_on_inputs_it_was_not_fitted_to() -> None:
    features, sizes = made(60, noise=0.3)
    model = fit_size(features, sizes)
    assert model is not None
    assert 0.15 < model.error < 0.45


@pytest.mark.parametrize("count", [0, 1, 14])
def test_few_inputs_fit_nothing(count: int) -> None:
    assert fit_size(*made(count)) is None


def test_sizes_that_follow_from_nothing_keep_the_constant() -> None:
    features, _ = made(40)
    sizes = np.random.default_rng(2).integers(400, 600, 40).tolist()
    assert fit_size(features, sizes) is None


def test_features_that_are_missing_or_no_numbers_fit_nothing() -> None:
    features, sizes = made(40)
    assert fit_size([], sizes) is None
    assert fit_size([{"a": 1.0}, *features[1:]], sizes) is None
    assert fit_size([*features[1:], {"entropy": float("nan"), "flat": 3.0}], sizes) is None
    assert fit_size(features, [0, *sizes[1:]]) is None


def test_a_spread_is_the_mean_share_by_which_the_mean_is_wrong() -> None:
    assert spread([100, 100]) == 0.0
    assert spread([50, 150]) == pytest.approx((50 / 50 + 50 / 150) / 2)
    # Where nothing crosses, as no box was found, nothing is divided by it.
    assert spread([0, 0]) == 0.0
    assert spread([0, 10]) == pytest.approx((5 + 0.5) / 2)
