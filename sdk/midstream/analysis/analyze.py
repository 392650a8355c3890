"""How complex an input is: a feature vector and a score of 0–100. All of it is pure, over arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from midstream.analysis.audio import audio_features, sound_features
from midstream.analysis.image import Colour, image_features
from midstream.analysis.score import audio_score, image_score, tensor_score
from midstream.analysis.sound import Sound
from midstream.analysis.tensor import tensor_features
from midstream.errors import InputError
from midstream.tensors import Tensor

Kind = Literal["image", "audio", "tensor"]


@dataclass(frozen=True, slots=True)
class Analysis:
    """What was found in one input.

    ``score`` is the complexity, 0–100, higher = more complex. ``features`` are finite numbers by name; which
    ones there are depends on ``kind``: see `image_features`, `audio_features` and `tensor_features`.
    """

    kind: Kind
    score: float
    features: dict[str, float]


def analyze(array: Tensor, kind: Kind, sample_rate: int | None = None, *, colour: Colour = "RGB") -> Analysis:
    """The feature vector and complexity score of one input.

    - ``"image"``: uint8 or float, H×W, H×W×1, H×W×3 or H×W×4, also channels first, also with a batch of 1 in front;
      floats of 0…1 or of 0…255. ``colour`` is the order of the channels: "RGB", or "BGR" as OpenCV's cameras give.
    - ``"audio"``: int16 or float of -1…1, mono or with channels on the shorter axis; needs ``sample_rate``
      in Hz, which the other kinds do not look at, as they do not at ``colour``.
    - ``"tensor"``: real numbers of any shape.

    Raises InputError where the array is empty, has NaN or infinite elements, or a dtype, shape or order that is not
    listed.
    """
    checked = checked_array(array, kind)
    if kind == "image":
        return analyze_image(checked, colour)
    if kind == "audio":
        features = audio_features(checked, sample_rate)
        return Analysis(kind, audio_score(features), features)
    features = tensor_features(checked)
    return Analysis(kind, tensor_score(features), features)


def analyze_image(picture: Tensor, colour: Colour = "RGB") -> Analysis:
    """The same of a picture, whose channels are in this order: "RGB", or "BGR" as OpenCV's cameras give."""
    features = image_features(checked_array(picture, "image"), colour)
    return Analysis("image", image_score(features), features)


def analyze_sound(sound: Sound) -> Analysis:
    """The same of a sound that is read as it goes, of any length: see `midstream.media.open_audio`."""
    features = sound_features(sound)
    return Analysis("audio", audio_score(features), features)


def checked_array(array: Tensor, kind: Kind) -> Tensor:
    """The array; raises InputError where it is none, is empty, or its kind is not known."""
    if not isinstance(array, np.ndarray):
        raise InputError(f"the input to analyze is a {type(array).__name__}, not a numpy array")
    if kind not in ("image", "audio", "tensor"):
        raise InputError(f"input kind {kind!r} is not known; give 'image', 'audio' or 'tensor'")
    if array.size == 0:
        raise InputError(f"the {kind} to analyze is empty: its shape is {list(array.shape)}")
    return array
