"""What a picture's levels tell of its complexity."""

from __future__ import annotations

import math
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from midstream.analysis.histogram import LEVELS, entropy_bits
from midstream.errors import InputError
from midstream.tensors import Tensor

Colour = Literal["RGB", "BGR"]
Grey = NDArray[np.uint8]
Pixels = NDArray[np.uint8]

MAX_SIDE = 640
EDGE_SIDE = 256
COLOUR_SIDE = 160

_CHANNELS = (1, 3, 4)
_SOBEL_GAIN = 8
_AXES: tuple[Literal["x", "y"], ...] = ("x", "y")
# A smaller step is sensor noise; without these floors every speck in a dark picture is an edge.
_MIN_CANNY = (20.0, 40.0)
_TO_GREY = {
    ("RGB", 3): cv2.COLOR_RGB2GRAY,
    ("RGB", 4): cv2.COLOR_RGBA2GRAY,
    ("BGR", 3): cv2.COLOR_BGR2GRAY,
    ("BGR", 4): cv2.COLOR_BGRA2GRAY,
}


def image_features(picture: Tensor, colour: Colour = "RGB") -> dict[str, float]:
    """Features of a picture of any usual dtype and layout.

    Of its grey levels of 0–255, shrunk to at most ``MAX_SIDE`` pixels on the long side:

    - ``entropy``: Shannon entropy of the histogram in bits, 0–8; of every second row where there are more than
      ``EDGE_SIDE``.
    - ``gradient_mean``: mean of abs(dx) + abs(dy), Sobel 3×3, in grey levels a pixel.
    - ``laplacian_variance``: variance of the Laplacian in squared grey levels; small where blurred (Pech-Pacheco
      et al. 2000, doi:10.1109/ICPR.2000.903548).
    - ``spatial_frequency``: root mean square of the differences between neighbours, along rows and columns
      together, in grey levels, 0–361 (Eskicioglu and Fisher 1995, doi:10.1109/26.477498).

    Of the same at most ``EDGE_SIDE`` pixels long, so that a camera's resolution hardly changes it:

    - ``edge_density``: the share of pixels on a Canny edge, 0–1; the thresholds are 0.67 and 1.33 times the
      median grey level, but at least 20 and 40, at most 255.
    - ``step_density``: the share of pairs of neighbours, along rows and columns, of unlike level, 0–1; small where
      strong compression has left flat blocks, or nothing is.

    Of every k-th pixel of every k-th row, at most ``COLOUR_SIDE`` of them on the long side:

    - ``entropy_red``, ``entropy_green``, ``entropy_blue``: as ``entropy``, of one channel; all alike where grey.
    - ``colourfulness``: 0 where grey, 15 slightly, 45 quite, above 80 highly colourful, at most 298
      (Hasler and Süsstrunk 2003, doi:10.1117/12.477378).

    Takes uint8, or floats: those that stay within 0…1 are stretched to 0…255, those within 0…255 are taken as
    grey levels, and any others (a normalised tensor) are stretched from their own range to 0…255. Shapes are
    H×W, H×W×C and C×H×W with C = 1, 3 or 4 (alpha is ignored), and these with a batch of 1 in front; where both
    the first and the last axis could be channels, it is the last. ``colour`` is the order of the first three
    channels. Raises InputError on anything else, and on NaN or infinite pixels.
    """
    return picture_features(*prepared(picture, colour), colour)


def prepared(picture: Tensor, colour: Colour = "RGB") -> tuple[Pixels, Grey]:
    """The picture as uint8, H×W or H×W×C, and its grey levels, at most ``MAX_SIDE`` on the long side."""
    if colour not in ("RGB", "BGR"):
        raise InputError(f"the colour order {colour!r} is not known; give 'RGB' or 'BGR'")
    pixels = _pixels(picture)
    return pixels, shrunk(_grey(pixels, colour), MAX_SIDE)


def picture_features(pixels: Pixels, grey: Grey, colour: Colour) -> dict[str, float]:
    """What `image_features` answers, of what `prepared` gives."""
    counts = _counts(grey[::2] if len(grey) > EDGE_SIDE else grey)
    small = shrunk(grey, EDGE_SIDE)
    return {
        "entropy": entropy_bits(counts),
        "edge_density": _edge_density(small, _median(counts)),
        "step_density": _step_density(small),
        "gradient_mean": _gradient_mean(grey),
        "laplacian_variance": _laplacian_variance(grey),
        "spatial_frequency": _spatial_frequency(grey),
        **_colour_features(pixels, colour),
    }


def shrunk(grey: Grey, side: int) -> Grey:
    """At most ``side`` pixels on the long side: halved, each pixel the mean of four, then by straight lines.

    An odd last row or column is left out of a half. Where it is too thin for that, each is the mean of what it covers.
    """
    while max(grey.shape) >= 2 * side and min(grey.shape) >= 2:
        height, width = grey.shape[0] // 2, grey.shape[1] // 2
        grey = _resized(grey[: 2 * height, : 2 * width], (width, height), cv2.INTER_AREA)
    ratio = side / max(grey.shape)
    if ratio >= 1.0:
        return grey
    height, width = (max(1, round(length * ratio)) for length in grey.shape)
    return _resized(grey, (width, height), cv2.INTER_LINEAR if ratio > 0.5 else cv2.INTER_AREA)


def _resized(grey: Grey, size: tuple[int, int], interpolation: int) -> Grey:
    return np.asarray(cv2.resize(grey, size, interpolation=interpolation), dtype=np.uint8)


def _pixels(picture: Tensor) -> Pixels:
    """H×W or H×W×C, uint8."""
    planes = picture[0] if picture.ndim == 4 and picture.shape[0] == 1 else picture
    if planes.ndim == 2 or (planes.ndim == 3 and planes.shape[2] in _CHANNELS):
        levels = _levels(planes)
        return levels[..., 0] if planes.ndim == 3 and planes.shape[2] == 1 else levels
    if planes.ndim == 3 and planes.shape[0] in _CHANNELS:
        levels = _levels(planes)
        return levels[0] if len(levels) == 1 else np.asarray(cv2.merge(list(levels)), dtype=np.uint8)
    raise InputError(
        f"the image to analyze has shape {list(picture.shape)}; H×W, H×W×C and C×H×W with 1, 3 or 4 "
        "channels are understood, also with a batch of 1 in front"
    )


def _levels(planes: Tensor) -> NDArray[np.uint8]:
    if planes.dtype == np.uint8:
        return np.ascontiguousarray(planes, dtype=np.uint8)
    if planes.dtype.kind != "f" or planes.dtype.itemsize > 8:
        raise InputError(f"the image to analyze has dtype {planes.dtype}; uint8 and float are understood")
    low, high = float(planes.min()), float(planes.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError("the image to analyze has NaN or infinite pixels; all must be finite")
    if low >= 0.0 and high <= 255.0:
        flat = np.ascontiguousarray(planes, dtype=np.float32).reshape(1, -1)
        rounded = cv2.convertScaleAbs(flat, alpha=255.0 if high <= 1.0 else 1.0)
        return np.asarray(rounded, dtype=np.uint8).reshape(planes.shape)
    # Halves, so that the range of huge pixels cannot overflow.
    span = high / 2 - low / 2
    if span == 0.0:
        return np.zeros(planes.shape, dtype=np.uint8)
    levels = (np.asarray(planes, dtype=np.float64) / 2 - low / 2) / span * 255.0
    return np.ascontiguousarray(np.rint(levels), dtype=np.uint8)


def _grey(pixels: Pixels, colour: Colour) -> Grey:
    if pixels.ndim == 2:
        return pixels
    return np.asarray(cv2.cvtColor(pixels, _TO_GREY[colour, pixels.shape[2]]), dtype=np.uint8)


def _counts(plane: Grey) -> NDArray[np.float32]:
    return np.asarray(cv2.calcHist([plane], [0], None, [LEVELS], [0, LEVELS]), dtype=np.float32).ravel()


def _median(counts: NDArray[np.float32]) -> float:
    return float(np.searchsorted(np.cumsum(counts), counts.sum() / 2))


def _slope(grey: Grey, along: Literal["x", "y"]) -> cv2.typing.MatLike:
    dx, dy = (1, 0) if along == "x" else (0, 1)
    return cv2.Sobel(grey, cv2.CV_16S, dx, dy, borderType=cv2.BORDER_REPLICATE)


def _gradient_mean(grey: Grey) -> float:
    # One slope after the other: both at once make the allocator give memory back and fault it in again, 1 ms a picture.
    total = sum(cv2.norm(_slope(grey, along), cv2.NORM_L1) for along in _AXES)
    return total / (_SOBEL_GAIN * grey.size)


def _laplacian_variance(grey: Grey) -> float:
    laplacian = cv2.Laplacian(grey, cv2.CV_16S)
    mean = cv2.mean(laplacian)[0]
    return max(0.0, cv2.norm(laplacian, cv2.NORM_L2SQR) / grey.size - mean * mean)


def _edge_density(grey: Grey, median: float) -> float:
    low = max(_MIN_CANNY[0], 0.67 * median)
    high = max(_MIN_CANNY[1], min(255.0, 1.33 * median))
    return cv2.countNonZero(cv2.Canny(_slope(grey, "x"), _slope(grey, "y"), low, high)) / grey.size


def _step_density(grey: Grey) -> float:
    neighbours = [pair for pair in ((grey[:, 1:], grey[:, :-1]), (grey[1:], grey[:-1])) if pair[0].size]
    steps = sum(cv2.countNonZero(cv2.compare(one, other, cv2.CMP_NE)) for one, other in neighbours)
    return steps / max(1, sum(one.size for one, _ in neighbours))


def _spatial_frequency(grey: Grey) -> float:
    rows = cv2.norm(grey[:, 1:], grey[:, :-1], cv2.NORM_L2SQR) if grey.shape[1] > 1 else 0.0
    columns = cv2.norm(grey[1:], grey[:-1], cv2.NORM_L2SQR) if grey.shape[0] > 1 else 0.0
    return math.sqrt((rows + columns) / grey.size)


def _colour_features(pixels: Pixels, colour: Colour) -> dict[str, float]:
    # What is said of single pixels needs no mean of neighbours: every k-th will do.
    step = -(-max(pixels.shape[:2]) // COLOUR_SIDE)
    if pixels.ndim == 2:
        entropy = entropy_bits(_counts(np.ascontiguousarray(pixels[::step, ::step])))
        return {"entropy_red": entropy, "entropy_green": entropy, "entropy_blue": entropy, "colourfulness": 0.0}
    first, green, third = (np.ascontiguousarray(pixels[::step, ::step, channel]) for channel in range(3))
    red, blue = (first, third) if colour == "RGB" else (third, first)
    return {
        "entropy_red": entropy_bits(_counts(red)),
        "entropy_green": entropy_bits(_counts(green)),
        "entropy_blue": entropy_bits(_counts(blue)),
        "colourfulness": _colourfulness(red, green, blue),
    }


def _colourfulness(red: Grey, green: Grey, blue: Grey) -> float:
    """sqrt(σ²rg + σ²yb) + 0.3 sqrt(μ²rg + μ²yb) with rg = R - G and yb = (R + G) / 2 - B.

    Squares of rg and yb are summed by way of the channels' distances: 4 yb² = 2 (R - B)² + 2 (G - B)² - (R - G)².
    """
    size = red.size
    apart = cv2.norm(red, green, cv2.NORM_L2SQR)
    squares = 2.0 * (cv2.norm(red, blue, cv2.NORM_L2SQR) + cv2.norm(green, blue, cv2.NORM_L2SQR)) - apart
    r, g, b = (cv2.mean(plane)[0] for plane in (red, green, blue))
    means = (r - g) ** 2 + ((r + g) / 2 - b) ** 2
    variances = max(0.0, (apart + squares / 4) / size - means)
    return math.sqrt(variances) + 0.3 * math.sqrt(means)
