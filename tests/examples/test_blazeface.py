"""Faces in photographs, and boxes that lie where the faces are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from midstream.bundle import Bundle
from midstream.inputs import prepare_image
from midstream.media import read_image

# The astronaut's face, from chin to hair line, in the photograph's pixels.
EYES, CHIN = (204, 100), (225, 165)


@pytest.fixture(scope="module")
def look(bundle_of: Callable[[Any], Bundle]) -> Callable[[np.ndarray], list[Any]]:
    from blazeface import find_faces, to_square
    from models import FACES

    bundle = bundle_of(FACES)

    def find(frame: np.ndarray) -> list[Any]:
        tensor = prepare_image(to_square(frame), bundle.inputs[0], bundle.image_inputs["input"])
        return find_faces(bundle.run({"input": tensor}), frame.shape[:2])

    return find


def holds(box: tuple[float, float, float, float], point: tuple[float, float]) -> bool:
    left, top, right, bottom = box
    return left <= point[0] <= right and top <= point[1] <= bottom


def test_one_face_is_found_where_it_is(look: Callable[[np.ndarray], list[Any]], assets: Path) -> None:
    (face,) = look(read_image(assets / "pictures" / "astronaut.png"))
    assert face.score > 0.9
    assert holds(face.box, EYES)
    assert holds(face.box, CHIN)
    assert 70 < face.box[2] - face.box[0] < 130


@pytest.mark.parametrize("right", [0, 300])
@pytest.mark.parametrize("below", [0, 300])
def test_boxes_are_in_the_pixels_of_a_frame_that_is_not_square(
    look: Callable[[np.ndarray], list[Any]], assets: Path, right: int, below: int
) -> None:
    photograph = read_image(assets / "pictures" / "astronaut.png")
    frame = np.zeros((512 + below, 512 + right, 3), np.uint8)
    frame[below:, right:] = photograph
    (face,) = look(frame)
    assert holds(face.box, (EYES[0] + right, EYES[1] + below))


@pytest.mark.parametrize("name", ["chelsea.png", "china.jpg", "page.png", "rocket.jpg"])
def test_no_face_is_found_where_there_is_none(look: Callable[[np.ndarray], list[Any]], assets: Path, name: str) -> None:
    assert look(read_image(assets / "pictures" / name)) == []


def raw_outputs(boxes: dict[int, tuple[tuple[float, float, float, float], float]]) -> dict[str, np.ndarray]:
    """The model's outputs with these offsets and logits at these anchors, and surely nothing elsewhere."""
    regressors = np.zeros((1, 896, 16), np.float32)
    logits = np.full((1, 896, 1), -1e4, np.float32)
    for anchor, (offsets, logit) in boxes.items():
        regressors[0, anchor, :4] = offsets
        logits[0, anchor, 0] = logit
    return {"regressors": regressors, "classificators": logits}


def test_the_first_and_the_last_anchor_lie_in_opposite_corners() -> None:
    from blazeface import find_faces

    faces = find_faces(raw_outputs({0: ((0, 0, 8, 8), 2.0), 895: ((0, 0, 16, 16), 1.0)}), (128, 128))
    assert faces[0].box == pytest.approx((0, 0, 8, 8))
    assert faces[1].box == pytest.approx((112, 112, 128, 128))
    assert faces[0].score == pytest.approx(1 / (1 + np.exp(-2.0)))


def test_boxes_of_one_face_are_averaged_by_their_scores() -> None:
    from blazeface import find_faces

    # Both anchors of a cell; the second box lies 4 pixels further right.
    outputs = raw_outputs({0: ((20, 20, 40, 40), 100.0), 1: ((24, 20, 40, 40), 0.0)})
    (face,) = find_faces(outputs, (128, 128))
    assert face.score == pytest.approx(1.0)
    assert face.box[0] == pytest.approx(4 + (0.0 * 1.0 + 4.0 * 0.5) / 1.5)


def test_what_is_less_sure_than_the_threshold_is_left_out() -> None:
    from blazeface import find_faces

    assert find_faces(raw_outputs({5: ((0, 0, 30, 30), -0.1)}), (128, 128)) == []
