"""Inputs of the user's: what stands beside a picture or sound, and the pieces of a sound."""

from __future__ import annotations

import wave
from pathlib import Path

import cv2
import numpy as np
import pytest

from midstream.errors import InputError
from midstream.inputs import AudioInput, ImageInput
from midstream.samples import InputTypes, calibration_samples
from midstream.tensors import TensorSpec

FLOAT32, INT64 = np.dtype(np.float32), np.dtype(np.int64)
SOUND = InputTypes((TensorSpec("x", FLOAT32, (1, 1000)),), {"x": AudioInput(16_000)})


def write_ramp(path: Path, frames: int) -> Path:
    """A sound whose samples say where they are."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.arange(frames, dtype="<i2").tobytes())
    return path


def starts(path: Path, pieces: int) -> list[int]:
    found = list(calibration_samples(path, SOUND, {"x": (1, 1000)}, pieces=pieces))
    assert all(sample["x"].shape == (1, 1000) for sample in found)
    return [round(float(sample["x"][0, 0]) * (1 << 15)) for sample in found]


@pytest.mark.parametrize(
    ("frames", "pieces", "wanted"),
    [
        (5000, 1, [0]),
        (5000, 3, [0, 2000, 4000]),
        (5999, 16, [0, 1249, 2499, 3749, 4999]),
        (1000, 16, [0]),
        (1999, 16, [0]),
        (300, 16, [0]),
    ],
)
def test_pieces_of_a_sound_are_spread_over_it(tmp_path: Path, frames: int, pieces: int, wanted: list[int]) -> None:
    assert starts(write_ramp(tmp_path / "a.wav", frames), pieces) == wanted


@pytest.mark.parametrize("blank", [True, False])
def test_inputs_beside_a_picture_are_made_up_or_blank(tmp_path: Path, blank: bool) -> None:
    assert cv2.imwrite(str(tmp_path / "a.png"), np.full((8, 8, 3), 255, np.uint8))
    specs = (TensorSpec("x", FLOAT32, (1, 8, 8, 3)), TensorSpec("state", FLOAT32, (4,)), TensorSpec("n", INT64, (9,)))
    types = InputTypes(specs, {"x": ImageInput("NHWC", "RGB", (1 / 255,), (0.0,))})
    shapes = {"x": (1, 8, 8, 3), "state": (4,), "n": (9,)}
    (found,) = calibration_samples(tmp_path, types, shapes, blank=blank)
    assert list(found) == ["x", "state", "n"]
    assert np.allclose(found["x"], 1.0)
    assert (found["state"].dtype, found["n"].dtype) == (FLOAT32, INT64)
    assert bool(found["state"].any() or found["n"].any()) != blank


def test_an_empty_stack_holds_no_samples(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((0, 1, 1000), np.float32))
    assert not list(calibration_samples(tmp_path / "a.npz", SOUND, {"x": (1, 1000)}))


def test_a_file_that_does_not_fit_ends_it_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 1, 1000), np.float32))
    np.savez(tmp_path / "b.npz", x=np.zeros((1, 999), np.float32))
    samples = calibration_samples(tmp_path, SOUND, {"x": (1, 1000)})
    assert [next(samples)["x"].shape for _ in range(2)] == [(1, 1000)] * 2
    with pytest.raises(InputError, match=r"b\.npz"):
        next(samples)


def test_a_folder_of_two_kinds_is_refused_and_nothing_is_left_out_silently(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((1, 4), np.float32))
    (tmp_path / "b.png").write_bytes(b"")
    types = InputTypes((TensorSpec("x", np.dtype(np.float32), (1, 4)),))
    with pytest.raises(InputError, match=r"holds both arrays \(a\.npz\) and media \(b\.png\); give a folder of one"):
        list(calibration_samples(tmp_path, types, {"x": (1, 4)}))
