"""Single precision in two bytes: IEEE half precision, and bfloat16, the upper half of a float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from midstream.tensors import Tensor

_HALF = np.uint32(0x7FFF)
_SIXTEEN = np.uint32(16)


def to_float16(tensor: Tensor) -> NDArray[np.float16] | None:
    """Rounded to the nearest; None where a finite value would become infinite."""
    with np.errstate(over="ignore"):
        halves = tensor.astype(np.float16)
    return None if np.isinf(halves).any() else halves


def to_bfloat16(tensor: Tensor) -> NDArray[np.uint16] | None:
    """The bits of the nearest bfloat16, ties to even; None where a finite value would become infinite."""
    bits = np.ascontiguousarray(tensor, np.float32).view(np.uint32)
    rounded = ((bits + _HALF + ((bits >> _SIXTEEN) & np.uint32(1))) >> _SIXTEEN).astype(np.uint16)
    return None if ((rounded & np.uint16(0x7F80)) == 0x7F80).any() else rounded


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Exact."""
    return (bits.astype(np.uint32) << _SIXTEEN).view(np.float32)
