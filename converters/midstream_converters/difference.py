"""How far two answers are apart."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from midstream.tensors import Tensor


def max_abs_error(expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> float:
    """The largest difference over all outputs; 0.0 only for the same bits in the same shapes, NaN equal to NaN."""
    worst = 0.0
    for name, want in expected.items():
        have = got.get(name)
        if have is None or have.shape != want.shape or have.dtype != want.dtype:
            return float("inf")
        if np.array_equal(_bits(want), _bits(have)):
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            left, right = want.astype(np.float64), have.astype(np.float64)
            same = (left == right) | (np.isnan(left) & np.isnan(right))
            difference = np.where(same, 0.0, np.abs(left - right))
        if not np.all(np.isfinite(difference)):
            return float("inf")
        # Bits that differ where values do not (-0.0 and 0.0, kinds of NaN) still count, as the least there is.
        worst = max(worst, float(difference.max(initial=0.0)), float(np.finfo(np.float64).tiny))
    return worst


def _bits(tensor: Tensor) -> Tensor:
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
