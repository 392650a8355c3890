"""The inputs to calibrate with, from files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import midstream.calibrating.inputs as inputs
from midstream.bundle import Bundle
from midstream.calibrating import MAX_INPUTS, read_inputs
from midstream.errors import InputError

MODELS = Path(__file__).resolve().parent.parent / "models"
DIGITS = MODELS / "digits_calibration.npz"
SHAPE = (1, 8, 8, 1)


def name_of(bundle: Bundle) -> str:
    (spec,) = bundle.inputs
    return spec.name


def test_all_inputs_of_a_file_are_read_or_as_many_as_are_asked_for(digits: Bundle) -> None:
    assert len(read_inputs(digits, DIGITS)) == 48
    few = read_inputs(digits, DIGITS, 5)
    assert [sample[name_of(digits)].shape for sample in few] == [SHAPE] * 5


def test_reading_ends_at_the_limits(digits: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = np.zeros((MAX_INPUTS + 50, *SHAPE), np.float32)
    np.savez(tmp_path / "a.npz", **{name_of(digits): many})
    (tmp_path / "b.npz").write_bytes(b"never opened")
    assert len(read_inputs(digits, tmp_path)) == MAX_INPUTS
    monkeypatch.setattr(inputs, "MAX_INPUT_BYTES", 3 * 256)
    assert len(read_inputs(digits, tmp_path)) == 3
    # One input is always taken.
    monkeypatch.setattr(inputs, "MAX_INPUT_BYTES", 1)
    assert len(read_inputs(digits, tmp_path)) == 1


def test_no_samples_and_nothing_there_are_told(digits: Bundle, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{name_of(digits): np.zeros((0, *SHAPE), np.float32)})
    with pytest.raises(InputError, match=r"calibration data .*a\.npz holds no samples"):
        read_inputs(digits, tmp_path / "a.npz")
    with pytest.raises(InputError, match="nowhere does not exist"):
        read_inputs(digits, tmp_path / "nowhere")
    (tmp_path / "b.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"b\.npz"):
        read_inputs(digits, tmp_path)


def test_inputs_of_several_sizes_come_from_several_files(made: Callable[[str], Bundle], tmp_path: Path) -> None:
    bundle = made("digits_any_size.tflite")
    for size in (8, 12):
        np.savez(tmp_path / f"{size}.npz", **{name_of(bundle): np.zeros((1, size, size, 1), np.float32)})
    found = read_inputs(bundle, tmp_path)
    assert sorted(sample[name_of(bundle)].shape for sample in found) == [(1, 8, 8, 1), (1, 12, 12, 1)]
