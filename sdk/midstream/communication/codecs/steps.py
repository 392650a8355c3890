"""Uniform quantisation of floats: zero stays zero, and the smallest and largest value stay in range.

real = (code − zero) · step, with codes of one byte where they fit and else of two, and a step of

    max(multiple · σ, (max − min) / 65535)

where σ is the root mean square of the tensor, and min and max include zero. A multiple of 0 stands for plain 8-bit
quantisation: a step of (max − min) / 255.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

NARROW, WIDE = 1, 2
CODE_DTYPES: dict[int, np.dtype[np.unsignedinteger]] = {NARROW: np.dtype(np.uint8), WIDE: np.dtype(np.uint16)}
_LEVELS = {NARROW: 255, WIDE: 65_535}
# Below this a step has too few bits of its own to be divided by.
_SMALLEST_STEP = 1e-35


@dataclass(frozen=True, slots=True)
class Stepped:
    """A tensor's codes, flat; ``kept`` is the share of values other than zero whose code is not that of zero."""

    step: float
    zero: int
    kept: float
    codes: NDArray[np.unsignedinteger]


def quantise(values: NDArray[np.float32], multiple: float) -> Stepped | None:
    """The codes of a flat, non-empty array; None where it cannot be quantised and has to travel exact.

    That is where a value is not finite, or where all are denormal or all are the same.
    """
    row = values.reshape(1, -1)
    with np.errstate(all="ignore"):
        power = float(np.dot(values, values))
    if not math.isfinite(power):
        return None
    low, high, _, _ = cv2.minMaxLoc(row)
    if low == high:
        return None
    low, high = min(low, 0.0), max(high, 0.0)
    finest = (high - low) / _LEVELS[WIDE if multiple else NARROW]
    step = float(np.float32(max(multiple * math.sqrt(power / values.size), finest)))
    if step < _SMALLEST_STEP:
        return None
    zero = round(-low / step)
    if zero + round(high / step) > _LEVELS[NARROW] and multiple:
        codes = _wide(values, step, zero)
    else:
        zero = min(_LEVELS[NARROW], zero)
        codes = np.asarray(cv2.convertScaleAbs(row, alpha=1.0 / step, beta=zero), np.uint8).reshape(-1)
    return Stepped(step, zero, _kept(codes, zero, row), codes)


def _wide(values: NDArray[np.float32], step: float, zero: int) -> NDArray[np.unsignedinteger]:
    scaled = values * np.float32(1.0 / step)
    np.rint(scaled, out=scaled)
    scaled += np.float32(zero)
    return np.clip(scaled, 0, _LEVELS[WIDE], out=scaled).astype(np.uint16)


def _kept(codes: NDArray[np.unsignedinteger], zero: int, row: NDArray[np.float32]) -> float:
    other = cv2.countNonZero(codes.reshape(1, -1)) if zero == 0 else np.count_nonzero(codes != zero)
    return float(other / max(1, cv2.countNonZero(row)))


def dequantise(stepped: Stepped) -> NDArray[np.float32]:
    """The values that the codes stand for, flat."""
    values = stepped.codes.astype(np.float32)
    if stepped.zero:
        values -= np.float32(stepped.zero)
    values *= np.float32(stepped.step)
    return values
