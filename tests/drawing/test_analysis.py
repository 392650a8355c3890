from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from midstream.drawing.analysis import Bar, Row, render, write_rows
from midstream.errors import InputError

BARS = [Bar("entropy", "7.5 bit", 0.94), Bar("beyond", "900", 9.0)]
PICTURE = Row("a $picture$.png", np.zeros((30, 40, 3), np.uint8), BARS)
SOUND = Row("a.wav", np.random.default_rng(0).normal(-40, 10, (64, 90)), BARS, seconds=3.0, top_hz=8000.0)


def test_a_page_tells_names_and_values() -> None:
    drawn = render([PICTURE, SOUND], "svg").decode()
    for text in ("a $picture$.png", "a.wav", "entropy", "7.5 bit", "beyond", "900", "up to 8000 Hz"):
        assert text in drawn


def test_the_same_rows_give_the_same_bytes() -> None:
    assert render([PICTURE], "svg") == render([PICTURE], "svg")


def test_a_png_is_a_picture(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.png", [PICTURE, Row("silence.wav", np.full((64, 1), -100.0), [], 0.01, 4000.0)])
    pixels = cv2.imread(str(tmp_path / "a.png"))
    assert pixels is not None and pixels.std() > 10


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.svg or \.png"):
        write_rows(tmp_path / "a.pdf", [PICTURE])
