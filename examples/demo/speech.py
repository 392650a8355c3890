"""Speech in sound: from a recording to the windows Silero VAD takes, and from its probabilities to spans of speech.

The model hears 512 new samples at 16 kHz, 32 ms, after the last 64 of the window before, and hands on a state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
WINDOW = 512
CONTEXT = 64
WINDOW_S = WINDOW / SAMPLE_RATE
STATE_SHAPE = (2, 1, 128)
# Speech begins at the first and ends below the second probability.
BEGINS, ENDS = 0.5, 0.35


def windows(sound: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """The sound (mono, 16 kHz, -1…1) as float32 [1, 576] each; silence comes before it and fills the last."""
    padded = np.pad(sound, (CONTEXT, -len(sound) % WINDOW)).astype(np.float32)
    for start in range(0, len(padded) - CONTEXT, WINDOW):
        yield padded[np.newaxis, start : start + CONTEXT + WINDOW]


def first_state() -> NDArray[np.float32]:
    """The state before the first window."""
    return np.zeros(STATE_SHAPE, np.float32)


def spans(probabilities: Sequence[float]) -> list[tuple[float, float]]:
    """From when to when there is speech, in seconds, given each window's probability."""
    found: list[tuple[float, float]] = []
    begun: int | None = None
    for index, probability in enumerate([*probabilities, 0.0]):
        if begun is None and probability >= BEGINS:
            begun = index
        elif begun is not None and probability < ENDS:
            found.append((round(begun * WINDOW_S, 3), round(index * WINDOW_S, 3)))
            begun = None
    return found
