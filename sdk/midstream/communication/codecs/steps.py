"""Uniform quantisation of floats: zero stays zero, and the smallest and largest value stay in range.

real = (code − zero) · step, with codes of one byte where they fit and else of two, and a step of

    max(multiple · σ, (max − min) / 65535)

where σ is the root mean square of the tensor, and min and max include zero. A multiple of 0 stands for plain 8-bit
quantisation: a step of (max − min) / 255.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from midstream.tensors import Tensor

NARROW_CODES, WIDE_CODES = np.dtype(np.uint8), np.dtype(np.uint16)
_NARROW_LEVELS, _WIDE_LEVELS = 255, 65_535
# Below this a step has too few bits of its own to be divided by.
_SMALLEST_STEP = 1e-35
# Codes are looked at in pieces: in most tensors the first one shows that enough is kept.
_PIECES = 8


@dataclass(frozen=True, slots=True)
class Stepped:
    """A tensor's codes, flat."""

    step: float
    zero: int
    codes: NDArray[np.unsignedinteger]

    @classmethod
    def of(cls, codes: Tensor, scale: Tensor, zero: Tensor) -> Stepped:
        """As a slice hands it on: uint8 codes of the tensor's shape, a float32 and a uint8 without axes."""
        return cls(float(scale), int(zero), cast("NDArray[np.uint8]", codes.reshape(-1)))

    def carriers(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """The reverse, of 8-bit codes."""
        codes = np.ascontiguousarray(self.codes).reshape(shape)
        return codes, np.array(self.step, np.float32), np.array(self.zero, np.uint8)


def quantise(values: NDArray[np.float32], multiple: float) -> Stepped | None:
    """The codes of a flat, non-empty array; None where it cannot be quantised and has to travel exact.

    That is where a value is not finite, or where all are denormal or all are the same.
    """
    # Unlike OpenCV's, these hand on what is not a number.
    low, high = float(values.min()), float(values.max())
    with np.errstate(all="ignore"):
        power = float(np.dot(values, values)) if multiple else 0.0
    if low == high or not math.isfinite(power + high - low):
        return None
    low, high = min(low, 0.0), max(high, 0.0)
    finest = (high - low) / (_WIDE_LEVELS if multiple else _NARROW_LEVELS)
    step = float(np.float32(max(multiple * math.sqrt(power / values.size), finest)))
    if step < _SMALLEST_STEP:
        return None
    zero = round(-low / step)
    if zero + round(high / step) > _NARROW_LEVELS and multiple:
        codes = _wide(values, step, zero)
    else:
        zero = min(_NARROW_LEVELS, zero)
        row = values.reshape(1, -1)
        codes = np.asarray(cv2.convertScaleAbs(row, alpha=1.0 / step, beta=zero), np.uint8).reshape(-1)
    return Stepped(step, zero, codes)


def holds(stepped: Stepped, values: NDArray[np.float32]) -> bool:
    """Whether 8-bit codes that a runtime made of these values by their minimum and maximum may stand for them.

    An infinite value makes an infinite step; what is not a number a runtime passes over, and makes codes of it too.
    Where this says no, the answer is `quantise`'s.
    """
    varied = stepped.codes.min() != stepped.codes.max()
    return bool(varied) and _SMALLEST_STEP <= stepped.step < math.inf and not math.isnan(float(values.max()))


def _wide(values: NDArray[np.float32], step: float, zero: int) -> NDArray[np.unsignedinteger]:
    scaled = values * np.float32(1.0 / step)
    np.rint(scaled, out=scaled)
    scaled += np.float32(zero)
    return np.clip(scaled, 0, _WIDE_LEVELS, out=scaled).astype(np.uint16)


def keeps(stepped: Stepped, values: NDArray[np.float32], least: float) -> bool:
    """Whether at least this share of what is not zero does not become zero."""
    other, piece = 0, -(-values.size // _PIECES)
    for start in range(0, values.size, piece):
        other += int(np.count_nonzero(stepped.codes[start : start + piece] != stepped.zero))
        if other >= least * values.size:
            return True
    return other >= least * cv2.countNonZero(values.reshape(1, -1))


def kept_share(stepped: Stepped, values: NDArray[np.float32]) -> float:
    """The share of what is not zero that does not become zero."""
    there = cv2.countNonZero(values.reshape(1, -1))
    return float(np.count_nonzero(stepped.codes != stepped.zero) / there) if there else 1.0


def dequantise(stepped: Stepped) -> NDArray[np.float32]:
    """The values that the codes stand for, flat."""
    values = stepped.codes.astype(np.float32)
    if stepped.zero:
        values -= np.float32(stepped.zero)
    # A sender may give a step with which they become infinite.
    with np.errstate(over="ignore"):
        values *= np.float32(stepped.step)
    return values
