"""The basis of a tensor's channels."""

from __future__ import annotations

import numpy as np
import pytest

from midstream.calibrating.bases import Covariance, channel_axis


def alike(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Channels, the last axis, that are one signal in different sizes, with a little noise and a mean."""
    rng = np.random.default_rng(seed)
    signal = rng.standard_normal((*shape[:-1], 1)) * np.arange(1, shape[-1] + 1)
    return (signal + 0.001 * rng.standard_normal(shape) + 7).astype(np.float32)


def test_channels_that_are_one_signal_need_one_direction() -> None:
    found = Covariance(-1, 4)
    for seed in range(3):
        found.add(alike((1, 8, 8, 4), seed))
    basis = found.basis()
    assert basis is not None
    assert basis.vectors.shape == (1, 4)
    assert basis.mean == pytest.approx([7, 7, 7, 7], abs=1.5)
    assert abs(basis.vectors[0]) == pytest.approx(np.arange(1, 5) / np.linalg.norm(np.arange(1, 5)), abs=1e-3)


@pytest.mark.parametrize("axis", [1, -1])
def test_directions_are_orthonormal_and_ordered_by_variance(axis: int) -> None:
    values = np.random.default_rng(0).standard_normal((1, 20, 20, 6)).astype(np.float32) * np.arange(
        1, 7, dtype=np.float32
    )
    found = Covariance(axis, 6)
    found.add(values if axis == -1 else np.moveaxis(values, -1, 1))
    basis = found.basis()
    assert basis is not None
    assert basis.vectors @ basis.vectors.T == pytest.approx(np.eye(6), abs=1e-5)
    deviations = (basis.vectors @ (values.reshape(-1, 6) - basis.mean).T).std(1)
    assert np.all(np.diff(deviations) < 0)


def test_what_is_not_finite_is_left_out() -> None:
    values = alike((1, 8, 8, 4))
    clean, dirty = Covariance(-1, 4), Covariance(-1, 4)
    clean.add(values[:, 1:])
    values[0, 0] = np.nan
    dirty.add(values)
    first, second = clean.basis(), dirty.basis()
    assert first is not None
    assert second is not None
    assert first.digest == second.digest


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((1, 8, 8, 4), np.float32),
        np.full((1, 8, 8, 4), 3.0, np.float32),
        np.full((1, 8, 8, 4), np.nan, np.float32),
        np.random.default_rng(0).standard_normal((1, 3, 5, 4)).astype(np.float32),
    ],
)
def test_too_few_positions_or_no_variance_give_none(values: np.ndarray) -> None:
    found = Covariance(-1, 4)
    found.add(values)
    assert found.basis() is None


@pytest.mark.parametrize(
    ("shape", "engine", "axis"),
    [
        ((1, 16, 8, 8), "onnx", 1),
        ((1, 8, 8, 16), "litert", -1),
        ((1, 8, 16), "onnx", -1),
        ((1, 16), "onnx", None),
        ((1, 3, 8, 8), "onnx", None),
        ((1, 8, 8, 513), "litert", None),
        ((), "onnx", None),
    ],
)
def test_where_the_channels_are(shape: tuple[int, ...], engine: str, axis: int | None) -> None:
    assert channel_axis(shape, engine) == axis
