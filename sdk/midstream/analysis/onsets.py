"""Where sounds begin: sudden rises of the spectrum.

The onset strength of a frame is the mean over mel bands of by how many dB each rose since the frame before (spectral
flux; Dixon 2006, "Onset detection revisited"). An onset is a frame whose strength is the highest within 2 frames to
either side, 3 dB or more above the median of its stretch, and 50 ms or more after the onset before.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_AROUND = 2
_ABOVE_MEDIAN_DB = 3.0
_APART_SECONDS = 0.05
# What is softer than the loudest band of a stretch by more than this rises unheard.
_RANGE_DB = 60.0


class Onsets:
    """Counts the onsets of a sound that comes in stretches, ``hop_seconds`` from frame to frame."""

    def __init__(self, hop_seconds: float) -> None:
        self.count = 0
        self._apart = _APART_SECONDS / hop_seconds
        self._last: NDArray[np.float32] | None = None

    def add(self, log_mel: NDArray[np.float32]) -> None:
        """The next stretch, frames × mel bands in dB."""
        floor = log_mel.max() - np.float32(_RANGE_DB)
        before = log_mel[:1] if self._last is None else self._last
        heard = np.maximum(np.concatenate([before, log_mel]), floor)
        self._last = log_mel[-1:]
        strength = np.maximum(heard[1:] - heard[:-1], np.float32(0.0)).mean(axis=1)
        padded = np.pad(strength, _AROUND)
        highest = np.max([padded[step : step + len(strength)] for step in range(2 * _AROUND + 1)], axis=0)
        onsets = (strength >= highest) & (strength >= np.median(strength) + _ABOVE_MEDIAN_DB)
        previous = -math.inf
        for place in np.flatnonzero(onsets).tolist():
            if place - previous >= self._apart:
                self.count += 1
                previous = place
