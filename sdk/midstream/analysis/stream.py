"""Pictures one after another: what moved since the one before."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from midstream.analysis.analyze import Analysis, checked_array
from midstream.analysis.image import Colour, Grey, picture_features, prepared, shrunk
from midstream.analysis.score import image_score
from midstream.tensors import Tensor

THUMBNAIL_SIDE = 64


@dataclass(slots=True)
class ImageStream:
    """The frames of one camera, in order. Holds nothing but the last frame's thumbnail; not for several threads."""

    colour: Colour = "RGB"
    _last: Grey | None = field(default=None, init=False, repr=False)

    def analyze(self, frame: Tensor) -> Analysis:
        """As `midstream.analyze` of an image, with ``motion`` among the features. Raises InputError alike."""
        pixels, grey = prepared(checked_array(frame, "image"), self.colour)
        features = picture_features(pixels, grey, self.colour)
        small = thumbnail(grey)
        features["motion"] = motion(self._last, small)
        self._last = small
        return Analysis("image", image_score(features), features)


def thumbnail(grey: Grey) -> Grey:
    """Grey levels, at most 64 pixels on the long side: small enough that a sensor's noise averages out."""
    return shrunk(grey, THUMBNAIL_SIDE)


def motion(before: Grey | None, now: Grey) -> float:
    """Mean absolute difference of two thumbnails in grey levels, 0–255, less what all pixels changed by.

    So a lamp or the camera's exposure is not motion. 0 without a frame before, and where its shape was another.
    """
    if before is None or before.shape != now.shape:
        return 0.0
    change = cv2.subtract(now, before, dtype=cv2.CV_32F)
    common = float(np.median(change))
    return float(np.abs(change - common).mean())
