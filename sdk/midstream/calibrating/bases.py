"""The Karhunen-Loève basis of a tensor's channels, from what crossed for some inputs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from midstream.ladder import Basis, channel_rows

_CHANNELS = range(4, 513)
# A component with less than this part of σ is below half of the smallest step that is ever taken.
_LEAST_DEVIATION = 0.0625 / 4
_POSITIONS_PER_CHANNEL = 4


class Covariance:
    """Sums over positions, taken up tensor by tensor in double precision."""

    def __init__(self, axis: int, channels: int) -> None:
        self.axis = axis
        self.channels = channels
        self._count = 0
        self._sum = np.zeros(channels)
        self._products = np.zeros((channels, channels))

    def add(self, values: NDArray[np.float32]) -> None:
        """One more tensor; what is not finite is left out."""
        rows = channel_rows(values, self.axis)
        rows = rows[np.isfinite(rows).all(1)]
        self._count += len(rows)
        self._sum += rows.sum(0, dtype=np.float64)
        # A product in single precision is exact enough for directions, and many times as fast.
        self._products += rows.T @ rows

    def basis(self) -> Basis | None:
        """None where there were too few positions to tell the channels apart, or nothing varies."""
        if self._count < _POSITIONS_PER_CHANNEL * self.channels:
            return None
        mean = self._sum / self._count
        covariance = self._products / self._count - np.outer(mean, mean)
        if not np.isfinite(covariance).all():
            return None
        variances, vectors = np.linalg.eigh(covariance)
        power = float(np.clip(variances, 0, None).sum()) / self.channels
        large = variances[::-1] > _LEAST_DEVIATION**2 * power
        if power <= 0 or not large.any():
            return None
        chosen = vectors[:, ::-1][:, large].T
        return Basis(self.axis, mean.astype(np.float32), np.ascontiguousarray(chosen, np.float32))


def channel_axis(shape: tuple[int, ...], engine: str) -> int | None:
    """Where a tensor has its channels: last in LiteRT and in sequences, after the batch in ONNX's pictures."""
    if len(shape) < 3:
        return None
    axis = 1 if engine == "onnx" and len(shape) >= 4 else -1
    return axis if shape[axis] in _CHANNELS else None
