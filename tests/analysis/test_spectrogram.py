from __future__ import annotations

import numpy as np
import pytest

from midstream.analysis.sound import ArraySound
from midstream.analysis.spectrogram import BANDS, spectrogram


def test_a_rising_tone_rises() -> None:
    time = np.arange(5 * 16_000) / 16_000
    sound = 0.5 * np.sin(2 * np.pi * (200 * time + 300 * time**2))
    levels = spectrogram(ArraySound(sound, 16_000), 10)
    assert levels.shape == (BANDS, 10)
    loudest = levels.argmax(axis=0)
    assert np.all(np.diff(loudest) > 0)


@pytest.mark.parametrize("length", [1, 100, 16_000])
def test_a_short_or_silent_sound_has_one(length: int) -> None:
    levels = spectrogram(ArraySound(np.zeros(length), 16_000), 50)
    assert levels.shape[1] == min(50, 1 + max(0, length - 512) // 256)
    assert np.all(levels == -100.0)
