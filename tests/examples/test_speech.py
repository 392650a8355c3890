"""Speech in recordings, and none in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from midstream.bundle import Bundle
from midstream.media import read_audio


@pytest.fixture(scope="module")
def listen(bundle_of: Callable[[Any], Bundle]) -> Callable[[np.ndarray], list[float]]:
    from models import SPEECH
    from speech import first_state, windows

    bundle = bundle_of(SPEECH)

    def probabilities(sound: np.ndarray) -> list[float]:
        state, found = first_state(), []
        for window in windows(sound):
            outputs = bundle.run({"input": window, "state": state})
            state = np.asarray(outputs["stateN"], np.float32)
            found.append(float(outputs["output"].item()))
        return found

    return probabilities


def test_speech_is_heard(listen: Callable[[np.ndarray], list[float]], assets: Path) -> None:
    from speech import SAMPLE_RATE, spans

    files = sorted((assets / "sounds").glob("espeak_*.wav"))
    assert files, "espeak-ng made no sounds; install it, then run scripts/assets.py again"
    for file in files:
        sound, _ = read_audio(file, SAMPLE_RATE)
        spoken = sum(end - begin for begin, end in spans(listen(sound)))
        assert spoken > 0.5 * len(sound) / SAMPLE_RATE, file.name


def test_silence_and_noise_are_no_speech(listen: Callable[[np.ndarray], list[float]]) -> None:
    from speech import SAMPLE_RATE, spans

    noise = np.random.default_rng(1).normal(0.0, 0.05, SAMPLE_RATE).astype(np.float32)
    for sound in (np.zeros(SAMPLE_RATE, np.float32), noise):
        assert spans(listen(sound)) == []


def test_windows_overlap_by_their_context() -> None:
    from speech import CONTEXT, WINDOW, windows

    sound = np.arange(1, 2 * WINDOW + 11, dtype=np.float32)
    first, second, last = windows(sound)
    assert first.shape == (1, CONTEXT + WINDOW)
    assert not first[0, :CONTEXT].any()
    assert (second[0, :CONTEXT] == first[0, -CONTEXT:]).all()
    assert last[0, CONTEXT : CONTEXT + 10].tolist() == sound[-10:].tolist()
    assert not last[0, CONTEXT + 10 :].any()


def test_a_span_ends_only_below_the_lower_probability() -> None:
    from speech import spans

    assert spans([0.1, 0.6, 0.4, 0.6, 0.3, 0.4, 0.9]) == [(0.032, 0.128), (0.192, 0.224)]
