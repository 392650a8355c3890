"""What BlazeFace's short range model says of a picture: its two output tensors as faces in the picture's pixels.

The model looks at 128×128 pixels with a grid of 896 anchors, two on each cell of 8 pixels and six on each of 16. For
every anchor it gives a score, and a box as an offset from the anchor's centre. Formulas: V. Bazarevsky et al.,
"BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs", 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

MODEL_PIXELS = 128
# Of each layer of the model's head: pixels a cell, anchors a cell.
GRID = ((8, 2), (16, 6))
THRESHOLD = 0.5
SAME_FACE_OVERLAP = 0.3
_LOGIT_LIMIT = 100.0


@dataclass(frozen=True, slots=True)
class Face:
    """A face: left, top, right and bottom in the picture's pixels, and how sure the model is, 0–1."""

    box: tuple[float, float, float, float]
    score: float


def to_square(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame (H×W×3) with black below or to the right of it, so that the model sees it undistorted."""
    height, width = frame.shape[:2]
    side = max(height, width)
    padded = cv2.copyMakeBorder(frame, 0, side - height, 0, side - width, cv2.BORDER_CONSTANT)
    return np.asarray(padded, dtype=np.uint8)


def find_faces(
    outputs: Mapping[str, NDArray[np.generic]], frame_size: tuple[int, int], threshold: float = THRESHOLD
) -> list[Face]:
    """The faces, surest first, in a frame of this height and width that went through `to_square`.

    ``outputs`` are the model's: "regressors", float32 [1, 896, 16], and "classificators", float32 [1, 896, 1].
    """
    logits = outputs["classificators"].reshape(-1).astype(np.float64)
    scores = 1.0 / (1.0 + np.exp(-np.clip(logits, -_LOGIT_LIMIT, _LOGIT_LIMIT)))
    sure = scores >= threshold
    boxes = _boxes(outputs["regressors"][0, :, :4].astype(np.float64))[sure]
    height, width = frame_size
    edges = np.array([width, height, width, height], dtype=np.float64)
    faces = []
    for box, score in _merged(boxes, scores[sure]):
        left, top, right, bottom = np.clip(box * max(height, width), 0.0, edges).tolist()
        faces.append(Face((left, top, right, bottom), score))
    return faces


def draw_faces(frame: NDArray[np.uint8], faces: list[Face]) -> NDArray[np.uint8]:
    """A copy of the RGB frame with a box and a score for every face."""
    drawn = frame.copy()
    thick = max(1, round(max(frame.shape[:2]) / 300))
    for face in faces:
        left, top, right, bottom = (round(edge) for edge in face.box)
        cv2.rectangle(drawn, (left, top), (right, bottom), (0, 220, 60), thick)
        place = (left, top - 3 * thick if top > 12 * thick else bottom + 12 * thick)
        cv2.putText(drawn, f"{face.score:.2f}", place, cv2.FONT_HERSHEY_SIMPLEX, 0.3 * thick, (0, 220, 60), thick)
    return drawn


def _anchors() -> NDArray[np.float64]:
    """Centres x, y of the anchors in the order of the outputs, as shares of the picture's side."""
    layers = []
    for stride, count in GRID:
        cells = MODEL_PIXELS // stride
        rows, columns = np.divmod(np.arange(cells * cells), cells)
        centres = (np.stack([columns, rows], axis=1) + 0.5) / cells
        layers.append(np.repeat(centres, count, axis=0))
    return np.concatenate(layers)


_ANCHORS = _anchors()


def _boxes(offsets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Left, top, right, bottom as shares of the side; offsets are centre x, y, width, height in model pixels."""
    centres = _ANCHORS + offsets[:, :2] / MODEL_PIXELS
    halves = offsets[:, 2:] / MODEL_PIXELS / 2
    return np.concatenate([centres - halves, centres + halves], axis=1)


def _merged(boxes: NDArray[np.float64], scores: NDArray[np.float64]) -> list[tuple[NDArray[np.float64], float]]:
    """One box a face: the mean, weighted by score, of the surest box and all that overlap it."""
    left = np.argsort(-scores, kind="stable")
    faces = []
    while left.size:
        best = left[0]
        same = _overlap(boxes[best], boxes[left]) > SAME_FACE_OVERLAP
        same[0] = True
        group = left[same]
        faces.append((np.average(boxes[group], axis=0, weights=scores[group]), float(scores[best])))
        left = left[~same]
    return faces


def _overlap(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of one box with others."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    common = np.prod(np.clip(high - low, 0.0, None), axis=1)
    area = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - common
    return np.asarray(common / np.maximum(area, 1e-12), dtype=np.float64)
