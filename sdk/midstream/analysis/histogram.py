"""How evenly values are spread over 256 levels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEVELS = 256
MAX_ENTROPY = 8.0


def entropy_bits(counts: NDArray[np.generic]) -> float:
    """Shannon entropy in bits: 0 where all elements share one level, 8 where they fill 256 equally."""
    present = counts[np.nonzero(counts)].astype(np.float64)
    shares = present / present.sum()
    return min(MAX_ENTROPY, max(0.0, float(-(shares * np.log2(shares)).sum())))
