"""The trained score: both engines agree, it stays in range, and it takes what the analysis takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import midstream
from midstream import complexity
from midstream.analysis import analyze as classical
from midstream.analysis.sound import ArraySound
from midstream.analysis.views import picture_view, sound_view
from midstream.inputs import AudioInput, ImageInput
from midstream.media import read_audio, read_image

RATE = 16_000
RNG = np.random.default_rng(0)
PICTURES = {
    "noise": RNG.integers(0, 256, (480, 640, 3), dtype=np.uint8),
    "flat": np.full((240, 320), 128, np.uint8),
    "one pixel": np.zeros((1, 1, 3), np.uint8),
    "slope": np.tile(np.arange(256, dtype=np.uint8), (64, 1)),
}
SOUNDS = {
    "noise": (0.1 * RNG.standard_normal(3 * RATE)).astype(np.float32),
    "silence": np.zeros(RATE, np.float32),
    "one sample": np.ones(1, np.float32),
    "a chunk": (0.1 * RNG.standard_normal(576)).astype(np.float32),
}


@pytest.mark.parametrize("name", PICTURES)
def test_both_engines_give_pictures_one_score(name: str) -> None:
    scores = [complexity.analyze_image(PICTURES[name], engine=engine).score for engine in ("litert", "onnx")]
    assert scores[0] == pytest.approx(scores[1], abs=0.05)
    assert 0 <= scores[0] <= 100


@pytest.mark.parametrize("name", SOUNDS)
@pytest.mark.parametrize("rate", [8000, RATE, 44_100])
def test_both_engines_give_sounds_one_score(name: str, rate: int) -> None:
    sound = SOUNDS[name]
    scores = [complexity.analyze_sound(ArraySound(sound, rate), engine).score for engine in ("litert", "onnx")]
    assert scores[0] == pytest.approx(scores[1], abs=0.05)
    assert 0 <= scores[0] <= 100


@pytest.mark.parametrize("analyzed", [midstream.analyze, classical])
def test_frames_of_opencv_are_taken_as_they_are(analyzed: Callable[..., midstream.Analysis]) -> None:
    frame = np.random.default_rng(1).integers(0, [256, 128, 32], (48, 64, 3), dtype=np.uint8)
    assert analyzed(frame[..., ::-1], "image", colour="BGR") == analyzed(frame, "image")
    assert analyzed(frame, "image", colour="BGR") != analyzed(frame, "image")
    with pytest.raises(midstream.InputError, match="colour order 'GBR' is not known"):
        analyzed(frame, "image", colour="GBR")


def test_features_are_the_classical_ones_and_the_score_is_not(assets: Path) -> None:
    picture = read_image(assets / "pictures" / "chelsea.png")
    trained, plain = midstream.analyze(picture, "image"), classical(picture, "image")
    assert trained.features == plain.features
    assert trained.score != plain.score
    sound, rate = read_audio(assets / "sounds" / "espeak_command.wav")
    heard = midstream.analyze(sound, "audio", rate)
    assert heard.features == classical(sound, "audio", rate).features
    assert heard == midstream.analyze(sound, "audio", rate)


def test_noise_is_more_and_blur_is_less(assets: Path) -> None:
    import cv2

    picture = read_image(assets / "pictures" / "chelsea.png")
    noisy = np.clip(picture + np.random.default_rng(1).normal(0, 25, picture.shape), 0, 255).astype(np.uint8)
    soft = np.asarray(cv2.GaussianBlur(picture, (0, 0), 6.0), np.uint8)
    scores = [midstream.analyze(each, "image").score for each in (soft, picture, noisy)]
    assert scores == sorted(scores)


def test_tensors_keep_the_formula() -> None:
    tensor = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert midstream.analyze(tensor, "tensor") == classical(tensor, "tensor")


def test_without_an_engine_the_formula_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complexity, "installed_engines", lambda: ())
    assert midstream.analyze(PICTURES["noise"], "image") == classical(PICTURES["noise"], "image")
    assert midstream.analyze(SOUNDS["noise"], "audio", RATE) == classical(SOUNDS["noise"], "audio", RATE)


def test_an_engine_that_is_not_there_gives_way_to_one_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complexity, "installed_engines", lambda: ("onnx",))
    wanted = complexity.analyze_image(PICTURES["slope"], engine="litert").score
    assert wanted == complexity.analyze_image(PICTURES["slope"], engine="onnx").score


def test_whole_inputs_are_scored_as_what_is_in_them() -> None:
    frame = PICTURES["noise"]
    tensor = (frame[np.newaxis, ..., ::-1] / np.float32(255)).astype(np.float32)
    meaning = ImageInput("NHWC", "BGR", (1 / 255,))
    found = complexity.analyze_inputs({"x": tensor}, {"x": meaning})
    assert found == complexity.analyze_image(frame)
    chunk = SOUNDS["a chunk"][np.newaxis]
    heard = complexity.analyze_inputs({"y": chunk}, {"y": AudioInput(RATE)})
    assert heard == midstream.analyze(chunk[0], "audio", RATE)
    assert complexity.analyze_inputs({"z": np.zeros((2, 3), np.float32)}, {}) is not None


@pytest.mark.parametrize(
    ("array", "kind", "rate"),
    [
        (np.zeros((0, 4, 3), np.uint8), "image", None),
        (np.full((4, 4), np.nan, np.float32), "image", None),
        (np.zeros((2, 3, 4, 5), np.uint8), "image", None),
        (np.zeros(0, np.float32), "audio", RATE),
        (np.full(100, np.inf, np.float32), "audio", RATE),
        (np.zeros(100, np.float32), "audio", None),
        (np.zeros(3, np.float32), "smell", None),
        ([1, 2, 3], "image", None),
    ],
)
def test_bad_inputs_are_refused_as_by_the_analysis(array: np.ndarray, kind: str, rate: int | None) -> None:
    with pytest.raises(midstream.InputError):
        midstream.analyze(array, kind, rate)


def test_a_long_sound_is_heard_in_seconds_evenly_spread() -> None:
    rate = 1000
    loud = np.random.default_rng(2).normal(0, 0.1, 180 * rate).astype(np.float32)
    heard = complexity._Heard(ArraySound(loud, rate))
    parts = [heard.read(count) for count in (1, 999, 70 * rate, 109 * rate)]
    assert np.array_equal(np.concatenate(parts), loud.astype(np.float64))
    assert len(heard.views()) == complexity.MAX_SECONDS_HEARD
    samples = ArraySound(loud, rate).read(4 * rate)[3 * rate :]
    assert np.array_equal(heard.views()[1], sound_view(samples, rate))


def test_views_have_the_networks_shapes() -> None:
    assert picture_view(PICTURES["flat"]).shape == (1, 128, 128, 1)
    for length in (1, 100, 700, RATE, RATE + 1):
        view = sound_view(np.ones(length, np.float32), RATE)
        assert view.shape == (1, 31, 40)
        assert np.isfinite(view).all()


def test_a_tone_is_in_its_band_at_every_rate() -> None:
    bands = set()
    for rate in (8000, RATE, 48_000):
        tone = np.sin(2 * np.pi * 1000 * np.arange(rate) / rate).astype(np.float32)
        bands.add(int(sound_view(tone, rate).mean(axis=(0, 1)).argmax()))
    assert len(bands) == 1


def test_the_networks_are_small() -> None:
    folder = Path(complexity.__file__).with_name("models")
    files = {path.name: path.stat().st_size for path in folder.iterdir() if path.suffix in (".tflite", ".onnx")}
    networks = ("complexity_image", "complexity_audio", "forecast")
    assert files.keys() == {f"{network}.{form}" for network in networks for form in ("tflite", "onnx")}
    assert max(files.values()) < 200_000
