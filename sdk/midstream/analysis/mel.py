"""The mel scale and filterbank of Slaney's Auditory Toolbox, to the definition librosa uses by default.

Linear below 1000 Hz (200/3 Hz a mel), logarithmic above (a factor of 6.4 in 27 mel); triangles of equal area
(``librosa.filters.mel(htk=False, norm="slaney")``). Beside it the window of the spectra that it weighs.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_HZ_A_MEL = 200.0 / 3.0
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _HZ_A_MEL
_LOG_STEP = np.log(6.4) / 27.0


@lru_cache(maxsize=8)
def mel_filterbank(sample_rate: int, frame: int, bands: int) -> NDArray[np.float32]:
    """Weights, bands × (frame // 2 + 1), of the mel bands from 0 Hz to sample_rate / 2 in a power spectrum.

    The array is shared between callers and not writable. A band narrower than a bin may be all zero.
    """
    top = _to_mel(sample_rate / 2)
    corners = _to_hz(np.linspace(0.0, top, bands + 2))
    bins = np.linspace(0.0, sample_rate / 2, frame // 2 + 1)
    ramps = corners[:, np.newaxis] - bins
    widths = np.diff(corners)[:, np.newaxis]
    rising = -ramps[:-2] / widths[:-1]
    falling = ramps[2:] / widths[1:]
    weights = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (corners[2:] - corners[:-2]))[:, np.newaxis]
    filters: NDArray[np.float32] = weights.astype(np.float32)
    filters.flags.writeable = False
    return filters


@lru_cache(maxsize=8)
def cosine_basis(bands: int, count: int) -> NDArray[np.float32]:
    """The first ``count`` rows of the orthonormal DCT-II of ``bands`` values; shared and not writable."""
    orders, places = np.arange(count)[:, np.newaxis], np.arange(bands) + 0.5
    rows = np.sqrt(2.0 / bands) * np.cos(np.pi * orders * places / bands)
    rows[:1] /= np.sqrt(2.0)
    basis: NDArray[np.float32] = rows.astype(np.float32)
    basis.flags.writeable = False
    return basis


def _to_mel(hz: float) -> float:
    if hz < _BREAK_HZ:
        return hz / _HZ_A_MEL
    return float(_BREAK_MEL + np.log(hz / _BREAK_HZ) / _LOG_STEP)


def _to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    above = _BREAK_HZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, mel * _HZ_A_MEL, above)


@lru_cache(maxsize=16)
def hann_window(frame: int) -> NDArray[np.float32]:
    """A periodic Hann window of so many samples, as of spectra of frames that overlap by half; read-only."""
    window: NDArray[np.float32] = (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(frame) / frame)).astype(np.float32)
    window.flags.writeable = False
    return window
