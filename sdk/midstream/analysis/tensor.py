"""What can be said of an input that is neither picture nor sound."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from midstream.analysis.histogram import LEVELS, entropy_bits
from midstream.errors import InputError
from midstream.tensors import Tensor


def tensor_features(tensor: Tensor) -> dict[str, float]:
    """Features of real numbers of any shape, at least one element.

    - ``elements``: how many there are.
    - ``length``: of the longest axis: the steps of a window, the words of a sentence; 1 without axes.
    - ``sparsity``: the share of zeros, 0–1.
    - ``entropy``: bits, 0–8, over 256 equal steps from the smallest to the largest element; 0 for a constant.
    - ``std``: the standard deviation, in the tensor's own unit.

    Raises InputError on NaN or infinite elements, and on a dtype that does not hold real numbers.
    """
    if tensor.dtype.kind not in "biuf" or tensor.dtype.itemsize > 8:
        raise InputError(
            f"the tensor to analyze has dtype {tensor.dtype}; booleans, integers and floats are understood"
        )
    values = tensor.astype(np.float64).ravel()
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError("the tensor to analyze has NaN or infinite elements; all must be finite")
    # Relative to the peak, so that neither the range nor the squares can overflow.
    peak = max(abs(low), abs(high)) or 1.0
    relative = values / peak
    return {
        "elements": float(values.size),
        "length": float(max(tensor.shape, default=1)),
        "sparsity": 1.0 - float(np.count_nonzero(values)) / values.size,
        "entropy": entropy_bits(_histogram(relative, low / peak, high / peak)),
        "std": min(1.0, float(relative.std())) * peak,
    }


def _histogram(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.intp]:
    if high <= low:
        return np.array([values.size])
    steps = ((values - low) / (high - low) * LEVELS).astype(np.intp)
    return np.bincount(np.minimum(steps, LEVELS - 1), minlength=LEVELS)
