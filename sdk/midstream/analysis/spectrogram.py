"""A sound as a picture of time and pitch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from midstream.analysis.audio import frame_length, frame_spectra, in_bands, stretches
from midstream.analysis.mel import mel_filterbank
from midstream.analysis.sound import Sound

BANDS = 64

_POWER_FLOOR = 1e-10


def spectrogram(sound: Sound, columns: int) -> NDArray[np.float64]:
    """Mel bands × at most ``columns`` equal parts of the sound, low bands first: mean power in dB, at least -100."""
    frame = frame_length(sound.sample_rate)
    frames = 1 + max(0, sound.length - frame) // (frame // 2)
    columns = min(columns, frames)
    filters = mel_filterbank(sound.sample_rate, frame, BANDS)
    sums, counts = np.zeros((columns, len(filters))), np.zeros(columns)
    done = 0
    for _, samples in stretches(sound, frame):
        spectra = frame_spectra(samples - samples.mean(), frame)
        power = in_bands(spectra.real**2 + spectra.imag**2, filters)
        places = (done + np.arange(len(power))) * columns // frames
        np.add.at(sums, places, power)
        np.add.at(counts, places, 1)
        done += len(power)
    return np.asarray(10.0 * np.log10(np.maximum(sums / counts[:, np.newaxis], _POWER_FLOOR)).T, dtype=np.float64)
