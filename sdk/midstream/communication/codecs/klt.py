"""Channels decorrelated by the Karhunen-Loève transform, then quantised with one step.

The basis is found offline (`midstream.calibrating.bases`): the eigenvectors of the covariance of a tensor's channels
(N. Ahmed, K. Rao, *Orthogonal Transforms for Digital Signal Processing*, 1975, section 9). As it is orthonormal, one
step for all coefficients spends the bits where the variance is (reverse water-filling; T. Cover, J. Thomas, *Elements
of Information Theory*, section 10.3.3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from midstream.ladder import Basis

NARROW_CODES, WIDE_CODES = np.dtype(np.int8), np.dtype(np.int16)
_NARROW_LIMIT, _WIDE_LIMIT = 127, 32_767


@dataclass(frozen=True, slots=True)
class Transformed:
    """Codes of a tensor's coefficients, K × positions, int8 where they fit; ``kept`` is the share that is not zero."""

    step: float
    kept: float
    codes: NDArray[np.signedinteger]


def transform(values: NDArray[np.float32], basis: Basis, multiple: float) -> Transformed | None:
    """The codes of a non-empty tensor; the step is max(multiple · σ, largest coefficient / 32767).

    σ is the root mean square of the tensor without the basis's mean. None where the tensor has to travel exact: a value
    is not finite, or all are the same.
    """
    with np.errstate(all="ignore"):
        centred = basis.rows(values) - basis.mean
        flat = centred.reshape(-1)
        power = float(np.dot(flat, flat))
        coefficients = basis.vectors @ centred.T
        largest = float(np.abs(coefficients).max())
    if not math.isfinite(power) or not math.isfinite(largest) or values.min() == values.max():
        return None
    step = float(np.float32(max(multiple * math.sqrt(power / flat.size), largest / _WIDE_LIMIT)))
    if step < np.finfo(np.float32).tiny:
        return None
    coefficients *= np.float32(1.0 / step)
    codes = np.rint(coefficients, out=coefficients)
    narrow = np.abs(codes).max() <= _NARROW_LIMIT
    kept = np.count_nonzero(codes) / codes.size
    whole = codes.clip(-_WIDE_LIMIT, _WIDE_LIMIT)
    return Transformed(step, kept, whole.astype(np.int8) if narrow else whole.astype(np.int16))


def restore(transformed: Transformed, basis: Basis, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The tensor of this shape that the codes stand for."""
    coefficients = transformed.codes.astype(np.float32)
    coefficients *= np.float32(transformed.step)
    rows = coefficients.T @ basis.vectors
    rows += basis.mean
    return basis.tensor(rows, shape)
