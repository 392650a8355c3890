"""Lines of text in a photographed page, and what they say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from midstream.bundle import Bundle
from midstream.inputs import prepare_image
from midstream.media import read_image

WORDS = {"Region-based", "segmentation", "determine", "markers", "coins", "background.", "unambiguously", "histogram"}


def run(bundle: Bundle, pixels: np.ndarray) -> np.ndarray:
    """The one output of a model for a picture as large as it is."""
    (spec,) = bundle.inputs
    (output,) = bundle.run({spec.name: prepare_image(pixels, spec, bundle.image_inputs[spec.name])}).values()
    return np.asarray(output, np.float32)


@pytest.fixture(scope="module")
def page(assets: Path) -> np.ndarray:
    return read_image(assets / "pictures" / "page.png")


@pytest.fixture(scope="module")
def lines(bundle_of: Callable[[Any], Bundle], page: np.ndarray) -> list[Any]:
    from models import DETECTION, DETECTION_SIZE
    from text import find_lines, fit

    fitted = fit(page, DETECTION_SIZE)
    return find_lines(run(bundle_of(DETECTION), fitted.pixels), fitted.scale)


def test_all_lines_of_the_page_are_found_in_reading_order(lines: list[Any], page: np.ndarray) -> None:
    assert len(lines) == 7
    middles = [float(line.corners[:, 1].mean()) for line in lines]
    assert middles == sorted(middles)
    for line in lines:
        width, height = line.size
        assert width > 4 * height
        assert line.corners.min() > -10
        assert (line.corners.max(axis=0) < np.array(page.shape[1::-1]) + 10).all()


def test_the_words_of_the_page_are_read(
    bundle_of: Callable[[Any], Bundle], lines: list[Any], page: np.ndarray, assets: Path
) -> None:
    from models import RECOGNITION
    from text import cut_out, read_characters, read_line

    characters = read_characters(assets / "models" / RECOGNITION.file)
    read = [read_line(run(bundle_of(RECOGNITION), cut_out(page, line)), characters) for line in lines]
    assert set(" ".join(words for words, _ in read).split()) >= WORDS
    assert min(sure for _, sure in read) > 0.9


def test_a_page_without_text_has_no_lines(bundle_of: Callable[[Any], Bundle], assets: Path) -> None:
    from models import DETECTION, DETECTION_SIZE
    from text import find_lines, fit

    fitted = fit(read_image(assets / "pictures" / "china.jpg"), DETECTION_SIZE)
    assert find_lines(run(bundle_of(DETECTION), fitted.pixels), fitted.scale) == []


def marked(*boxes: tuple[tuple[float, float], tuple[float, float], float]) -> np.ndarray:
    """A probability map with these turned rectangles (centre, size, degrees) filled."""
    mask = np.zeros((200, 200), np.uint8)
    for box in boxes:
        cv2.fillPoly(mask, [np.rint(cv2.boxPoints(box)).astype(np.int32)], 1)
    return mask.astype(np.float32)[np.newaxis, np.newaxis]


def test_two_lines_side_by_side_come_left_first_and_before_the_one_below() -> None:
    from text import find_lines

    boxes = ((150.0, 42.0), (60.0, 12.0), 0.0), ((50.0, 40.0), (60.0, 12.0), 0.0), ((50.0, 120.0), (60.0, 12.0), 0.0)
    found = [tuple(line.corners.mean(axis=0).round(-1)) for line in find_lines(marked(*boxes), 1.0)]
    assert found == [(50, 40), (150, 40), (50, 120)]


@pytest.mark.parametrize(
    ("degrees", "direction"), [(0, (1, 0)), (20, (0.94, 0.34)), (-20, (0.94, -0.34)), (90, (0, 1))]
)
def test_corners_begin_where_the_text_does(degrees: float, direction: tuple[float, float]) -> None:
    from text import find_lines

    (line,) = find_lines(marked(((100.0, 100.0), (120.0, 16.0), degrees)), 1.0)
    top_left, top_right, _, bottom_left = line.corners
    along = (top_right - top_left) / np.linalg.norm(top_right - top_left)
    assert along == pytest.approx(direction, abs=0.06)
    below = (bottom_left - top_left) / np.linalg.norm(bottom_left - top_left)
    assert below == pytest.approx((-direction[1], direction[0]), abs=0.06)


def test_a_turned_line_is_cut_out_straight() -> None:
    from text import LINE_HEIGHT, LINE_WIDTH_STEP, Line, cut_out

    straight = np.zeros((200, 200, 3), np.uint8)
    straight[90:110, 40:100] = (255, 0, 0)
    straight[90:110, 100:160] = (0, 0, 255)
    turn = cv2.getRotationMatrix2D((100, 100), -30, 1.0)
    corners = np.array([[40, 90], [160, 90], [160, 110], [40, 110]], np.float32) @ turn[:, :2].T + turn[:, 2]
    cut = cut_out(cv2.warpAffine(straight, turn, (200, 200)), Line(corners.astype(np.float32), 1.0))
    assert cut.shape == (LINE_HEIGHT, 2 * LINE_WIDTH_STEP, 3)
    assert cut[24, 72].argmax() == 0
    assert cut[24, 216].argmax() == 2


def test_repeats_and_blanks_are_no_characters() -> None:
    from text import read_line

    steps = np.array([0, 1, 1, 0, 1, 2, 2, 0])
    probabilities = np.full((1, 8, 3), 0.1, np.float32)
    probabilities[0, np.arange(8), steps] = 0.8
    assert read_line(probabilities, ("", "a", "b")) == ("aab", pytest.approx(0.8))
    assert read_line(probabilities[:, :1], ("", "a", "b")) == ("", 0.0)
