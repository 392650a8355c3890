"""Text in pictures: from PP-OCR's detection model to lines, and from its recognition model to what they say.

Detection gives a probability for each pixel to lie in the shrunken middle of a text line (M. Liao et al., "Real-time
Scene Text Detection with Differentiable Binarization", 2020); recognition gives for every few columns of a line the
probabilities of 6,623 characters, a space and "nothing new" (CTC). Both take (pixel - 127.5) / 127.5 in the order BGR.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

PIXEL_IN_TEXT = 0.3
LINE_IN_TEXT = 0.5
# Lines were shrunk for training; this much of area / perimeter brings back what was lost.
GROW = 1.6
MIN_SIDE_PIXELS = 3
MAX_CONTOURS = 200
# Below this ratio of its sides a box does not tell which way its text runs; it is taken to run across.
SQUARE = 1.5
LINE_HEIGHT = 48
LINE_WIDTH_STEP = 160
MAX_LINE_WIDTH = 1280
# What the recognition model was trained to see beside a short line: 0 after normalisation.
PADDING = (127, 127, 127)
BLANK = 0


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text: its corners in the picture, from its first character's top clockwise, and how sure, 0–1."""

    corners: NDArray[np.float32]
    score: float

    @property
    def size(self) -> tuple[float, float]:
        """Width along the text, and height, in pixels."""
        top_left, top_right, _, bottom_left = self.corners
        return float(np.linalg.norm(top_right - top_left)), float(np.linalg.norm(bottom_left - top_left))


@dataclass(frozen=True, slots=True)
class Fitted:
    """A picture brought to another size undistorted, with black to its right or below; 1 pixel became ``scale``."""

    pixels: Picture
    scale: float


def fit(frame: Picture, size: tuple[int, int]) -> Fitted:
    """The frame (H×W×3) as large as it fits into this height and width."""
    scale = min(size[0] / frame.shape[0], size[1] / frame.shape[1])
    height, width = round(frame.shape[0] * scale), round(frame.shape[1] * scale)
    resized = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    padded = cv2.copyMakeBorder(resized, 0, size[0] - height, 0, size[1] - width, cv2.BORDER_CONSTANT)
    return Fitted(np.asarray(padded, dtype=np.uint8), scale)


def find_lines(probability: NDArray[np.floating], scale: float, limit: int | None = None) -> list[Line]:
    """The lines of text in reading order, in pixels of the picture before `fit`; the largest ``limit`` of them.

    ``probability`` is the detection model's output, float32 [1, 1, H, W].
    """
    inside = np.asarray(probability[0, 0], dtype=np.float32)
    mask = cv2.dilate((inside > PIXEL_IN_TEXT).astype(np.uint8), np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    lines = []
    for contour in contours[:MAX_CONTOURS]:
        centre, (width, height), angle = cv2.minAreaRect(contour)
        if min(width, height) < MIN_SIDE_PIXELS:
            continue
        score = _mean_inside(inside, contour)
        if score < LINE_IN_TEXT:
            continue
        grown = GROW * width * height / (width + height)
        corners = _corners(np.asarray(centre), width + grown, height + grown, math.radians(angle))
        lines.append(Line((corners / scale).astype(np.float32), score))
    lines.sort(key=lambda line: -math.prod(line.size))
    return _in_reading_order(lines[:limit])


def cut_out(frame: Picture, line: Line) -> Picture:
    """The line, straightened, ``LINE_HEIGHT`` pixels high and padded to a multiple of ``LINE_WIDTH_STEP`` in width."""
    width, height = line.size
    inked = min(max(1, math.ceil(LINE_HEIGHT * width / max(height, 1.0))), MAX_LINE_WIDTH)
    target = np.array([[0, 0], [inked, 0], [inked, LINE_HEIGHT], [0, LINE_HEIGHT]], dtype=np.float32)
    warp = cv2.getPerspectiveTransform(line.corners, target)
    straight = cv2.warpPerspective(
        frame, warp, (inked, LINE_HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    padding = -inked % LINE_WIDTH_STEP
    padded = cv2.copyMakeBorder(straight, 0, 0, 0, padding, cv2.BORDER_CONSTANT, value=PADDING)
    return np.asarray(padded, dtype=np.uint8)


def read_characters(model: Path) -> tuple[str, ...]:
    """What each class of the recognition model stands for, as its file's metadata says: nothing, characters, space."""
    for entry in onnx.load(str(model), load_external_data=False).metadata_props:
        if entry.key == "character":
            return ("", *entry.value.splitlines(), " ")
    raise SystemExit(f"{model} has no 'character' in its metadata; it is not a recognition model of rapidocr")


def read_line(probabilities: NDArray[np.floating], characters: Sequence[str]) -> tuple[str, float]:
    """What a line says and how sure that is, 0–1: the likeliest class of each step, repeats and blanks left out.

    ``probabilities`` are the recognition model's output, float32 [1, steps, classes].
    """
    steps = np.asarray(probabilities[0], dtype=np.float32)
    classes = steps.argmax(axis=1)
    kept = classes != BLANK
    kept[1:] &= classes[1:] != classes[:-1]
    if not kept.any():
        return "", 0.0
    return "".join(characters[index] for index in classes[kept]), float(steps.max(axis=1)[kept].mean())


def draw_lines(frame: Picture, lines: Sequence[Line], texts: Sequence[str], zoom: int = 2) -> Picture:
    """The RGB frame ``zoom`` times as large, with the lines' outlines, and beside it what they say."""
    left = cv2.resize(frame, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    right = np.full_like(left, 255)
    for line, text in zip(lines, texts, strict=True):
        corners = np.rint(line.corners * zoom).astype(np.int32)
        cv2.polylines(left, [corners], isClosed=True, color=(0, 170, 60), thickness=2)
        wide, high = (zoom * side for side in line.size)
        size = _font_scale(text, wide, high)
        start = (int(corners[:, 0].min()), int(min(corners[:, 1].max(), len(right)) - 0.25 * high))
        # OpenCV's own letters are ASCII only.
        ascii_text = text.encode("ascii", "replace").decode()
        cv2.putText(right, ascii_text, start, cv2.FONT_HERSHEY_SIMPLEX, size, (20, 20, 20), 1, cv2.LINE_AA)
    return np.asarray(np.hstack([left, right]), dtype=np.uint8)


def _font_scale(text: str, width: float, height: float) -> float:
    (wide, high), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)
    return min(width / max(wide, 1), 0.6 * height / max(high, 1))


def _mean_inside(values: NDArray[np.float32], outline: NDArray[np.generic]) -> float:
    """The mean within an outline, not within its box: the box of a line on a curved page holds much that is no text."""
    mask = np.zeros(values.shape, np.uint8)
    cv2.drawContours(mask, [outline.astype(np.int32)], -1, 1, cv2.FILLED)
    return float(cv2.mean(values, mask)[0])


def _corners(centre: NDArray[np.floating], width: float, height: float, angle: float) -> NDArray[np.float64]:
    """The corners of a turned rectangle, so that its text reads along the longer side, rightwards or else downwards."""
    axis = np.array([math.cos(angle), math.sin(angle)])
    sides = [(width, axis), (height, np.array([-axis[1], axis[0]]))]
    if max(width, height) < SQUARE * min(width, height):
        sides.sort(key=lambda side: -abs(side[1][0]))
    else:
        sides.sort(key=lambda side: -side[0])
    (long, along), (short, _) = sides
    if along[np.abs(along).argmax()] < 0:
        along = -along
    right, down = along * long / 2, np.array([-along[1], along[0]]) * short / 2
    return np.stack([centre - right - down, centre + right - down, centre + right + down, centre - right + down])


def _in_reading_order(lines: Sequence[Line]) -> list[Line]:
    """Rows from top to bottom, each from left to right: a line belongs to a row whose first one it overlaps by half."""
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: float(line.corners[:, 1].mean())):
        middle = float(line.corners[:, 1].mean())
        if rows and abs(middle - float(rows[-1][0].corners[:, 1].mean())) < line.size[1] / 2:
            rows[-1].append(line)
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: float(line.corners[:, 0].min()))]
