from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from midstream.analysis import ImageStream, analyze_image
from midstream.analysis.stream import motion, thumbnail
from midstream.errors import InputError


def frame(left: int = 0, light: int = 0) -> NDArray[np.uint8]:
    """A bright square on a dark ground."""
    picture = np.full((240, 320, 3), 40 + light, dtype=np.uint8)
    picture[80:160, 40 + left : 120 + left] = 200 + light
    return picture


def test_motion_is_what_changed_since_the_frame_before() -> None:
    stream = ImageStream()
    first, still, slow, fast = (
        stream.analyze(picture).features["motion"] for picture in (frame(), frame(), frame(10), frame(110))
    )
    assert first == still == 0.0
    # 10 columns of 80 rows on either side changed by 160 levels.
    assert slow == pytest.approx(2 * 10 * 80 * 160 / (240 * 320), rel=0.05)
    assert fast > 3 * slow


def test_light_and_sensor_noise_are_hardly_motion() -> None:
    rng = np.random.default_rng(0)
    stream = ImageStream()
    stream.analyze(frame())
    assert stream.analyze(frame(light=30)).features["motion"] == 0.0
    noisy = np.clip(frame(light=30) + rng.normal(0, 4, frame().shape), 0, 255).astype(np.uint8)
    assert stream.analyze(noisy).features["motion"] < 1.0


def test_the_rest_is_as_of_a_single_picture() -> None:
    stream = ImageStream(colour="BGR")
    found, alone = stream.analyze(frame()), analyze_image(frame(), colour="BGR")
    assert found.features == alone.features | {"motion": 0.0}
    assert found.score == alone.score


def test_another_size_begins_anew() -> None:
    stream = ImageStream()
    stream.analyze(frame())
    assert stream.analyze(frame()[:100]).features["motion"] == 0.0
    assert motion(None, thumbnail(frame()[..., 0])) == 0.0


def test_what_is_no_picture_is_refused_and_forgotten() -> None:
    stream = ImageStream()
    stream.analyze(frame())
    for bad in (np.zeros((0, 3), np.uint8), np.full((4, 4), np.nan), [1]):
        with pytest.raises(InputError):
            stream.analyze(bad)  # type: ignore[arg-type]
    assert stream.analyze(frame(10)).features["motion"] > 0.0
