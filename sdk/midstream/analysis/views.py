"""What the trained models of the complexity score are shown: a picture's thumbnail, a second's log-mel frames."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from midstream.analysis.image import Grey, shrunk
from midstream.analysis.mel import hann_window, mel_filterbank

THUMBNAIL_SIDE = 128
STEPS, BANDS = 31, 40

_STEP_SECONDS = 0.032
_TOP_RATE, _TOP_FRAME = 16_000, 512
_FLOOR = 1e-10

Floats = NDArray[np.float32]


def picture_view(grey: Grey) -> Floats:
    """Grey levels of 0–1, batch 1 × 128 × 128 × 1: at most 256 pixels on the long side, then stretched to a square."""
    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    small = cv2.resize(shrunk(grey, 2 * THUMBNAIL_SIDE), side, interpolation=cv2.INTER_LINEAR)
    return (np.asarray(small, np.float32) * np.float32(1 / 255))[np.newaxis, ..., np.newaxis]


def sound_view(samples: NDArray[np.floating], sample_rate: int) -> Floats:
    """Batch 1 × 31 steps of 32 ms × 40 mel bands of 0–8 kHz: mean power of two frames in units of 100 dB, -1 or more.

    Mono samples of -1…1, about a second of them; what is shorter is repeated, step by step. Bands above half of the
    sample rate, where nothing can be, are at the floor.
    """
    frame = round(_STEP_SECONDS * sample_rate)
    power = _power(samples, frame)
    steps = power[: len(power) // 2 * 2].reshape(-1, 2, power.shape[1]).mean(axis=1) if len(power) > 1 else power
    bins = _TOP_FRAME // 2 + 1
    heard = np.zeros((len(steps), bins), np.float32)
    heard[:, : min(bins, steps.shape[1])] = steps[:, :bins]
    bands = heard @ mel_filterbank(_TOP_RATE, _TOP_FRAME, BANDS).T
    levels = np.float32(0.1) * np.log10(np.maximum(bands, np.float32(_FLOOR)))
    return np.ascontiguousarray(np.resize(levels, (1, STEPS, BANDS)), dtype=np.float32)


def _power(samples: NDArray[np.floating], frame: int) -> Floats:
    """Of frames that overlap by half, scaled to what a frame of 512 samples would have."""
    centred = np.asarray(samples - samples.mean(), np.float32)
    padded = np.pad(centred, (0, max(0, frame - centred.size)))
    spectra = np.fft.rfft(sliding_window_view(padded, frame)[:: max(1, frame // 2)] * hann_window(frame))
    scale = np.float32((_TOP_FRAME / frame) ** 2)
    return np.asarray((spectra.real**2 + spectra.imag**2) * scale, np.float32)
