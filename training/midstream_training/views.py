"""What the networks see of inputs: views and features, made by the SDK's own code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from midstream.analysis.audio import audio_features
from midstream.analysis.image import picture_features, prepared
from midstream.analysis.views import picture_view, sound_view
from midstream.complexity import FEATURES
from midstream.complexity import Trained as Kind
from midstream_training.sources import SAMPLE_RATE

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Seen:
    """Of inputs: views, and features in the order of `midstream.complexity.FEATURES`."""

    views: Floats
    features: Floats

    def part(self, rows: NDArray[np.bool_]) -> Seen:
        """Some of them."""
        return Seen(self.views[rows], self.features[rows])


def seen(kind: Kind, inputs: Iterable[NDArray[np.generic]]) -> Seen:
    """Pictures as uint8, seconds of sound at 16 kHz."""
    views, rows = [], []
    for array in inputs:
        if kind == "image":
            pixels, grey = prepared(array)
            views.append(picture_view(grey)[0])
            found = picture_features(pixels, grey, "RGB")
        else:
            views.append(sound_view(np.asarray(array, np.float32), SAMPLE_RATE)[0])
            found = audio_features(array, SAMPLE_RATE)
        rows.append([found[name] for name in FEATURES[kind]])
    return Seen(np.array(views, np.float32), np.array(rows, np.float32))
