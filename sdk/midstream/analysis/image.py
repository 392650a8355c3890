"""What a picture's grey levels tell of its complexity."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from midstream.analysis.histogram import LEVELS, entropy_bits
from midstream.errors import InputError
from midstream.tensors import Tensor

MAX_SIDE = 640

_CHANNELS = (1, 3, 4)
_SOBEL_GAIN = 8
# A smaller step is sensor noise; without these floors every speck in a dark picture is an edge.
_MIN_CANNY = (20.0, 40.0)


def image_features(picture: Tensor) -> dict[str, float]:
    """Features of a picture's grey levels of 0–255, shrunk to at most ``MAX_SIDE`` pixels on the long side.

    - ``entropy``: Shannon entropy of the grey histogram in bits, 0–8.
    - ``edge_density``: the share of pixels on a Canny edge, 0–1; the thresholds are 0.67 and 1.33 times the
      median grey level, but at least 20 and 40, at most 255.
    - ``gradient_mean``: mean of abs(dx) + abs(dy), Sobel 3×3, in grey levels a pixel.
    - ``laplacian_variance``: variance of the Laplacian in squared grey levels; small where blurred.

    Takes uint8, or floats: those that stay within 0…1 are stretched to 0…255, those within 0…255 are taken as
    grey levels, and any others (a normalised tensor) are stretched from their own range to 0…255. Shapes are
    H×W, H×W×C and C×H×W with C = 1, 3 (RGB) or 4 (alpha is ignored), and these with a batch of 1 in front;
    where both the first and the last axis could be channels, it is the last. Raises InputError on anything
    else, and on NaN or infinite pixels.
    """
    grey = _shrunk(_grey(_levels(_channels_last(picture))))
    counts = cv2.calcHist([grey], [0], None, [LEVELS], [0, LEVELS]).ravel()
    dx = cv2.Sobel(grey, cv2.CV_16S, 1, 0, borderType=cv2.BORDER_REPLICATE)
    dy = cv2.Sobel(grey, cv2.CV_16S, 0, 1, borderType=cv2.BORDER_REPLICATE)
    median = float(np.searchsorted(np.cumsum(counts), grey.size / 2))
    low = max(_MIN_CANNY[0], 0.67 * median)
    high = max(_MIN_CANNY[1], min(255.0, 1.33 * median))
    laplacian = cv2.Laplacian(grey, cv2.CV_16S)
    mean = cv2.mean(laplacian)[0]
    return {
        "entropy": entropy_bits(counts),
        "edge_density": cv2.countNonZero(cv2.Canny(dx, dy, low, high)) / grey.size,
        "gradient_mean": (cv2.norm(dx, cv2.NORM_L1) + cv2.norm(dy, cv2.NORM_L1)) / (_SOBEL_GAIN * grey.size),
        "laplacian_variance": max(0.0, cv2.norm(laplacian, cv2.NORM_L2SQR) / grey.size - mean * mean),
    }


def _channels_last(picture: Tensor) -> Tensor:
    planes = picture[0] if picture.ndim == 4 and picture.shape[0] == 1 else picture
    if planes.ndim == 2:
        return planes
    if planes.ndim == 3 and planes.shape[2] in _CHANNELS:
        return planes
    if planes.ndim == 3 and planes.shape[0] in _CHANNELS:
        return planes.transpose(1, 2, 0)
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
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError("the image to analyze has NaN or infinite pixels; all must be finite")
    if low >= 0.0 and high <= 255.0:
        levels = np.asarray(planes, dtype=np.float32) * (255.0 if high <= 1.0 else 1.0)
    else:
        # Halves, so that the range of huge pixels cannot overflow.
        span = high / 2 - low / 2
        if span == 0.0:
            return np.zeros(planes.shape, dtype=np.uint8)
        levels = (np.asarray(planes, dtype=np.float64) / 2 - low / 2) / span * 255.0
    return np.ascontiguousarray(np.rint(levels), dtype=np.uint8)


def _grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[2] == 1:
        return pixels[..., 0]
    code = cv2.COLOR_RGB2GRAY if pixels.shape[2] == 3 else cv2.COLOR_RGBA2GRAY
    return np.asarray(cv2.cvtColor(pixels, code), dtype=np.uint8)


def _shrunk(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = grey.shape
    ratio = MAX_SIDE / max(height, width)
    if ratio >= 1.0:
        return grey
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
